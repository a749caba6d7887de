"""Sections as users bring them: Space Ranger's folders and scanpy's h5ad, written from nothing."""

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import tifffile
from PIL import Image
from scipy.io import mmwrite
from scipy.sparse import csc_matrix, csr_matrix

from flag_st.data.check_cohort import check_cohort
from flag_st.data.slide_files import SlideFiles
from flag_st.sources.base import Source

POSITIONS = ("in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres")


@dataclass
class Own:
    """One section, all of whose facts a test can change before it is written.

    ``position`` is x and y in pixels; ``barcodes`` and ``in_tissue`` are those of the whole array, and
    ``counts`` (N, G) of the first N of the barcodes of ``matrix_barcodes``.
    """

    barcodes: list[str]
    matrix_barcodes: list[str]
    in_tissue: np.ndarray
    cells: np.ndarray  # (A, 2) row and column
    position: np.ndarray  # (A, 2)
    counts: np.ndarray  # (N, G)
    genes: list[str]
    ids: list[str]
    size: tuple[int, int]  # of the image
    pixel_um: float  # true
    types: list[str] = field(default_factory=list)
    scales: dict = field(default_factory=dict)
    image_um: float | None = None  # what the image states
    hires: bool = True


def visium(rows: int = 8, columns: int = 10, pixel_um: float = 5.0, genes: int = 6) -> Own:
    """A small hexagonal array, upright and off the middle of its image, on random tissue."""
    random = np.random.default_rng(0)
    cells = np.array([(r, 2 * c + r % 2) for r in range(rows) for c in range(columns)])  # (A, 2)
    position = np.column_stack(
        [200 + 50 * cells[:, 1], 300 + 50 * np.sqrt(3) * cells[:, 0]]
    )  # (A, 2) µm
    position = position / pixel_um
    size = (int(position[:, 0].max() + 60), int(position[:, 1].max() + 40))
    barcodes = [f"{'ACGT'[i % 4] * 4}{i:04d}-1" for i in range(len(cells))]
    in_tissue = (cells[:, 0] > 0).astype(int)
    names = [f"Gene{i}" for i in range(genes)]
    matrix = [b for b, t in zip(barcodes, in_tissue, strict=True) if t]
    own = Own(
        barcodes=barcodes,
        matrix_barcodes=list(reversed(matrix)),
        in_tissue=in_tissue,
        cells=cells,
        position=position,
        counts=random.poisson(2.0, (len(matrix), genes)),
        genes=names,
        ids=[f"ENSG{i:011d}" for i in range(genes)],
        size=size,
        pixel_um=pixel_um,
    )
    own.scales = scales_of(own, 65.0, 0.2)
    return own


def scales_of(own: Own, spot_um: float, hires: float) -> dict[str, float]:
    return {
        "spot_diameter_fullres": spot_um / own.pixel_um,
        "tissue_hires_scalef": hires,
        "fiducial_diameter_fullres": 1.6 * spot_um / own.pixel_um,
        "tissue_lowres_scalef": 0.3 * hires,
    }


def picture(own: Own) -> np.ndarray:
    """(H, W, 3) uint8: pink tissue with noise around the spots under it, and every one of these darker."""
    random = np.random.default_rng(1)
    pixels = random.integers(180, 250, (own.size[1], own.size[0], 3)).astype(np.uint8)
    under = own.position[own.in_tissue == 1].round().astype(int)
    if len(under):
        (left, top), (right, bottom) = np.maximum(under.min(0) - 10, 0), under.max(0) + 10
        pixels[top:bottom, left:right, 1] -= 70
    for x, y in own.position[own.in_tissue == 1].round().astype(int):
        if 4 <= x < own.size[0] - 4 and 4 <= y < own.size[1] - 4:
            pixels[y - 4 : y + 4, x - 4 : x + 4] = (150, 90, 160)
    return pixels


def write_image(path: Path, pixels: np.ndarray, um: float | None) -> None:
    """A tiled TIFF that OpenSlide reads as it is, or a flat picture, by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".tif":
        Image.fromarray(pixels).save(path)
        return
    resolution = {} if um is None else {"resolution": (1e4 / um,) * 2}
    unit = {} if um is None else {"resolutionunit": "CENTIMETER"}
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", **resolution, **unit)


def write_run(own: Own, folder: Path, image: Path | None, style: str = "csv") -> Path:
    """Write Space Ranger's folder; ``style`` is ``list`` (version 1), ``csv`` or ``parquet``."""
    spatial = folder / "spatial"
    spatial.mkdir(parents=True, exist_ok=True)
    write_h5(own, folder / "filtered_feature_bc_matrix.h5")
    (spatial / "scalefactors_json.json").write_text(json.dumps(own.scales))
    table = positions(own)
    if style == "list":
        table.to_csv(spatial / "tissue_positions_list.csv", header=False, index=False)
    elif style == "csv":
        table.to_csv(spatial / "tissue_positions.csv", index=False)
    else:
        table.to_parquet(spatial / "tissue_positions.parquet")
    pixels = picture(own)
    if own.hires and "tissue_hires_scalef" in own.scales:
        small = [max(1, round(s * own.scales["tissue_hires_scalef"])) for s in own.size]
        Image.fromarray(pixels).resize(small).save(spatial / "tissue_hires_image.png")
    if image is not None:
        write_image(image, pixels, own.image_um)
    return folder


def positions(own: Own) -> pd.DataFrame:
    table = pd.DataFrame({"barcode": own.barcodes, "in_tissue": own.in_tissue})
    table["array_row"], table["array_col"] = own.cells.T
    table["pxl_row_in_fullres"], table["pxl_col_in_fullres"] = (
        own.position[:, 1],
        own.position[:, 0],
    )
    return table


def write_h5(own: Own, path: Path) -> None:
    """The matrix as Space Ranger writes it: features by barcodes, compressed by columns."""
    counts = csc_matrix(np.asarray(own.counts).T)  # (G, N)
    text = [np.array(v, dtype="S40") for v in (own.ids, own.genes, own.types or kinds(own))]
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(own.matrix_barcodes, dtype="S40")
        group["data"], group["indices"], group["indptr"] = (
            counts.data,
            counts.indices,
            counts.indptr,
        )
        group["shape"] = np.array(counts.shape, dtype=np.int32)
        for name, values in zip(("id", "name", "feature_type"), text, strict=True):
            group[f"features/{name}"] = values
        group["features/genome"] = np.array(["GRCh38"] * len(own.genes), dtype="S10")


def kinds(own: Own) -> list[str]:
    return ["Gene Expression"] * len(own.genes)


def write_mtx(own: Own, folder: Path, packed: bool) -> None:
    """The matrix as a Matrix Market folder, compressed or not."""
    folder.mkdir(parents=True)
    rows = zip(own.ids, own.genes, own.types or kinds(own), strict=True)
    texts = {
        "barcodes.tsv": "".join(f"{b}\n" for b in own.matrix_barcodes),
        "features.tsv": "".join("\t".join(row) + "\n" for row in rows),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    mmwrite(folder / "matrix.mtx", csc_matrix(np.asarray(own.counts).T))
    for path in list(folder.iterdir()) if packed else ():
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def table_of(own: Own) -> anndata.AnnData:
    """The section as ``scanpy.read_visium`` returns it: the spots under tissue, in the matrix's order."""
    rows = [own.barcodes.index(b) for b in own.matrix_barcodes]
    obs = pd.DataFrame(
        {"in_tissue": own.in_tissue[rows], "array_row": own.cells[rows, 0]},
        index=own.matrix_barcodes,
    )
    obs["array_col"] = own.cells[rows, 1]
    hires = np.zeros(
        [max(1, round(s * own.scales["tissue_hires_scalef"])) for s in own.size[::-1]] + [3]
    )
    return anndata.AnnData(
        csr_matrix(np.asarray(own.counts, dtype=np.float32)),
        obs=obs,
        var=pd.DataFrame({"gene_ids": own.ids}, index=own.genes),
        obsm={"spatial": own.position[rows]},
        uns={
            "spatial": {"library": {"images": {"hires": hires}, "scalefactors": dict(own.scales)}}
        },
    )


def fetched(source: Source, tmp_path: Path, slide: str = "S1") -> anndata.AnnData:
    files = source.fetch(slide, tmp_path / "raw")
    assert check_cohort({slide: files}, {}, {}).messages == []
    table = anndata.read_h5ad(files.st)
    table.uns["metadata"] = json.loads(files.metadata.read_text())
    table.uns["wsi"] = str(files.wsi)
    return table


def truth(own: Own) -> dict[str, np.ndarray]:
    """Barcode → x and y in µm."""
    return dict(zip(own.barcodes, own.position * own.pixel_um, strict=True))


def assert_same(table: anndata.AnnData, own: Own, tolerance_um: float = 1.0) -> None:
    """The same spots, counts and positions in µm as were written."""
    assert list(table.obs_names) == own.matrix_barcodes
    np.testing.assert_array_equal(table.X.toarray(), own.counts)
    um = table.obsm["spatial"] * table.uns["metadata"]["pixel_size_um_estimated"]
    wanted = np.array([truth(own)[b] for b in table.obs_names])
    assert np.abs(um - wanted).max() < tolerance_um


def her2st_section(her2st: Path, name: str) -> tuple[Own, SlideFiles]:
    """A real section of legacy ST as Space Ranger would write it, and its files."""
    metadata = her2st / f"metadata/{name}.json"
    files = SlideFiles(her2st / f"st/{name}.h5ad", metadata, her2st / f"wsis/{name}.tif")
    facts = json.loads(metadata.read_text())
    table = anndata.read_h5ad(files.st)
    own = Own(
        barcodes=list(table.obs_names),
        matrix_barcodes=list(table.obs_names),
        in_tissue=np.ones(len(table), int),
        # HEST calls the horizontal number of legacy ST the row.
        cells=table.obs[["array_col", "array_row"]].to_numpy(),
        position=np.asarray(table.obsm["spatial"], float),
        counts=table.X.toarray().astype(int),
        genes=list(table.var_names),
        ids=list(table.var_names),
        size=(facts["fullres_px_width"], facts["fullres_px_height"]),
        pixel_um=facts["pixel_size_um_estimated"],
        hires=False,
    )
    own.scales = scales_of(own, 130.0, 0.1)
    return own, files
