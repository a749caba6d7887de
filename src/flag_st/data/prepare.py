"""Turn one slide into two files: raw counts of its spots, and the H&E patches around them."""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flag_st.core.hdf5 import write_table
from flag_st.core.io import CONTRACT, read_json, writing
from flag_st.data.array_places import array_places
from flag_st.data.barcodes import plain
from flag_st.data.check_slide import Wanted, check_counts, check_slide
from flag_st.data.field import SIZE, UM_PER_PX
from flag_st.data.hest_layout import PIXEL_KEY, THUMBNAIL, THUMBNAIL_SCALE, WIDTH_KEY
from flag_st.data.labels import read_labels
from flag_st.data.patch_file import Form, copy_patches, cut_patches
from flag_st.data.patients import patient_of, without_gaps
from flag_st.data.slide_files import SlideFiles
from flag_st.data.under_tissue import under_tissue
from flag_st.slides.files import open_reader

#: Longest side of the thumbnail, in pixels.
THUMBNAIL_PX = 1000
#: Columns of ``obs`` that may hold the experts' domains if there is no label file.
DOMAINS = ("domain", "pathologist_label")
ENSEMBL_COLUMNS = ("ensembl", "gene_ids", "gene_id", "ensembl_id", "ensembl_ids", "feature_id")


def prepare(
    files: SlideFiles,
    slide: str,
    out_spots: str | Path,
    out_patches: str | Path,
    patient: str = "",
    *,
    size: int = SIZE,
    um_per_px: float = UM_PER_PX,
    min_counts: int = 1,
    patches_from: str = "auto",
    unique_genes: bool = True,
    pixel_scale: float = 1.0,
    check_places: bool = True,
    progress: Callable[..., Iterable] = lambda items, **_: items,
) -> None:
    """Check the files of a slide, then write its spots and its patches in the same order.

    Args:
        files: the files, in HEST-1k layout.
        slide: id of the slide.
        out_spots: h5ad of raw counts (N, all genes), positions and a thumbnail.
        out_patches: HDF5 in HEST's form: ``img`` (N, size, size, 3), ``coords``, ``barcode``.
        patient: donor; if empty, the metadata's.
        size, um_per_px: edge of a patch in pixels, and its resolution. Patches are centred on
            their spots.
        min_counts: spots with a lower total count are left out.
        patches_from: ``wsi`` cuts patches from the slide image, ``hest`` copies them from the
            patch file, and ``auto`` does the latter if there is such a file, because its makers
            chose the spots.
        unique_genes: refuse repeated gene symbols; if false they are numbered (TBCE, TBCE-1), as
            HEST's Visium slides need.
        pixel_scale: the metadata's pixel size is multiplied by it, where that is known to be wrong.
        check_places: whether spots must lie on tissue, and not match the picture better elsewhere.
        progress: goes through an iterable and reports from time to time how far it is.

    Raises:
        FlagError: the files have faults; all are named, and nothing is written.
    """
    want = Wanted(
        size, um_per_px, patches_from, unique_genes, pixel_scale, check_places, min_counts
    )
    check_slide(files, slide, **vars(want)).raise_if_any(f"slide {slide}")
    facts = read_json(files.metadata)
    pixel = float(facts[PIXEL_KEY]) * pixel_scale
    table, rows = used_spots(files, min_counts, patches_from)
    form = Form(slide, pixel, size, um_per_px)
    with writing(out_patches) as temporary:
        if rows is not None:
            assert files.patches is not None
            copy_patches(files.patches, rows, table, temporary, form, progress)
        else:
            assert files.wsi is not None, "check_slide refuses a slide without an image"
            cut_patches(files.wsi, table, temporary, form, progress)
        image, scale = _thumbnail(files.wsi, table, temporary, facts)
        table = _contract(table, pixel, files.labels)
        table.uns = {"contract": CONTRACT, "slide": slide, "patient": patient or patient_of(facts)}
        table.uns |= {"pixel_size_um": pixel, "image": image, "image_scale": scale}
        write_table(out_spots, table, "gzip")


def prepare_counts(
    path: str | Path,
    slide: str,
    out: str | Path,
    patient: str = "",
    *,
    min_counts: int = 1,
    unique_genes: bool = True,
) -> None:
    """Check the counts of a section without an image, then write them as ``spots.h5ad`` has them.

    There are no positions, since there is no image that they refer to.

    Args:
        path: h5ad of raw counts (N, all genes).
        slide, patient, min_counts, unique_genes: as for ``prepare``.
        out: h5ad of raw counts.

    Raises:
        FlagError: the file has faults; all are named, and nothing is written.
    """
    import anndata
    import pandas as pd

    check_counts(Path(path), unique_genes, min_counts).raise_if_any(f"section {slide}")
    table = _read_table(Path(path), min_counts)
    spots, genes = (
        pd.Index(names.astype(str), dtype=object) for names in (table.obs_names, table.var_names)
    )
    result = anndata.AnnData(
        X=table.X,
        obs=pd.DataFrame(index=spots),
        var=pd.DataFrame({"ensembl": _ensembl(table.var)}, index=genes),
        uns={"contract": CONTRACT, "slide": slide, "patient": patient},
    )
    write_table(out, result, "gzip")


def used_spots(
    files: SlideFiles, min_counts: int = 1, patches_from: str = "auto"
) -> tuple[Any, np.ndarray | None]:
    """AnnData of the spots that are used of a slide without faults; arguments as for ``prepare``.

    Returns:
        the table, and the row (N,) of each spot in the patch file; None if patches are cut from the image.
    """
    import h5py

    table = _read_table(files.st, min_counts)
    if patches_from == "wsi" or files.patches is None:
        return table, None
    with h5py.File(files.patches, "r") as file:
        rows = {b: i for i, b in enumerate(plain(file["barcode"].asstr()[:].ravel()))}
    where = np.array([rows.get(b, -1) for b in plain(table.obs_names)])  # (N,)
    return table[where >= 0].copy(), where[where >= 0]


def _read_table(path: Path, min_counts: int) -> Any:
    """AnnData of the spots under tissue with at least ``min_counts`` counts; X is CSR float32."""
    import anndata
    from scipy.sparse import csr_matrix

    table = anndata.read_h5ad(path)
    table.var_names_make_unique()
    depth = np.asarray(table.X.sum(axis=1, dtype=np.float64)).ravel()  # (N,)
    table = table[(depth >= min_counts) & under_tissue(table.obs, path)].copy()
    table.X = csr_matrix(table.X, dtype=np.float32)
    table.X.sort_indices()
    table.X.eliminate_zeros()
    return table


def _contract(table: Any, pixel: float, labels: Path | None) -> Any:
    """Only what the contract names, so that no later step relies on a cohort's own columns."""
    import anndata
    import pandas as pd

    symbols = pd.Index(table.var_names.astype(str).to_numpy(dtype=object))
    spots = pd.Index(table.obs_names.astype(str).to_numpy(dtype=object))
    position = np.asarray(table.obsm["spatial"], dtype=np.float64)  # (N, 2)
    kept: dict[str, Any] = array_places(table.obs)[0]
    if labels is not None:
        kept["domain"] = pd.Categorical(read_labels(labels, spots).astype(object))
    elif named := next((c for c in DOMAINS if c in table.obs), None):
        kept["domain"] = pd.Categorical(np.array(without_gaps(table.obs[named]), dtype=object))
    result = anndata.AnnData(
        X=table.X,
        obs=pd.DataFrame(kept, index=spots),
        var=pd.DataFrame({"ensembl": _ensembl(table.var)}, index=symbols),
        obsm={"spatial": position, "spatial_um": position * pixel},
    )
    return result


def _ensembl(var: Any) -> np.ndarray:
    """(G,) Ensembl ids without their version, "" where unknown."""
    name = next((c for c in ENSEMBL_COLUMNS if c in var), None)
    values = [""] * len(var) if name is None else var[name].astype(str)
    known = re.compile(r"(ENS[A-Z]*G\d+)(\.\d+)?")
    found = [known.fullmatch(v) for v in values]
    return np.array([m[1] if m else "" for m in found], dtype=object)


def _thumbnail(
    wsi: Path | None, table: Any, patches: Path, facts: dict
) -> tuple[np.ndarray, float]:
    """(H, W, 3) uint8 image of the whole slide, and its pixels per pixel of level 0."""
    if wsi is not None:
        with open_reader(wsi) as slide:
            thumbnail = slide.thumbnail(THUMBNAIL_PX)
            return thumbnail, thumbnail.shape[1] / slide.size[0]
    stored, scale = _stored_thumbnail(table.uns.get("spatial"))
    if scale is None and stored is not None and (width := facts.get(WIDTH_KEY)):
        scale = stored.shape[1] / float(width)
    if stored is not None and scale:
        picture = Image.fromarray(stored)
        width = picture.width
        picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        return np.asarray(picture), float(scale) * picture.width / width
    return _mosaic(patches)


def _stored_thumbnail(libraries: Any) -> tuple[np.ndarray | None, float | None]:
    """(h, w, 3) uint8 that ``uns['spatial']`` holds, and its scale; None for what it does not hold.

    Other tools put flags and text beside the libraries, and pictures in gray or of other shapes.
    """
    for library in libraries.values() if isinstance(libraries, Mapping) else ():
        images, scales = (
            library.get(key) if isinstance(library, Mapping) else None
            for key in ("images", "scalefactors")
        )
        if not isinstance(images, Mapping) or THUMBNAIL not in images:
            continue
        stored = np.asarray(images[THUMBNAIL])
        if stored.ndim != 3 or stored.shape[2] not in (3, 4) or stored.dtype.kind not in "uf":
            continue
        stored = stored[..., :3]
        if stored.dtype != np.uint8:
            stored = np.clip(stored * (255 if stored.max() <= 1 else 1), 0, 255).astype(np.uint8)
        return stored, scales.get(THUMBNAIL_SCALE) if isinstance(scales, Mapping) else None
    return None, None


def _mosaic(path: Path) -> tuple[np.ndarray, float]:
    """A thumbnail made of the patches, in their places on white, and its scale."""
    import h5py

    with h5py.File(path, "r") as file:
        corner, images = file["coords"][:], file["img"]
        edge = int(images.attrs["patch_size_src"])
        scale = THUMBNAIL_PX / float(corner.max() + edge)
        side = max(1, round(edge * scale))
        width, height = np.ceil((corner.max(0) + edge) * scale).astype(int).tolist()
        canvas = Image.new("RGB", (width, height), (255, 255, 255))
        for place, pixels in zip(corner, images, strict=True):
            small = Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX)
            canvas.paste(small, tuple(np.round(place * scale).astype(int).tolist()))
    return np.asarray(canvas), scale
