"""The files of one Space Ranger run (versions 1 to 4): where they are, and what they hold."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flag_st.core.errors import Faults, FlagError
from flag_st.core.io import read_json

if TYPE_CHECKING:
    import pandas as pd

MATRIX = "filtered_feature_bc_matrix"
SCALES = "scalefactors_json.json"
#: Space Ranger 1, from 2 on, and for Visium HD.
POSITIONS = ("tissue_positions_list.csv", "tissue_positions.csv", "tissue_positions.parquet")
#: The columns of the positions. In Space Ranger 1 the file has no header, but the same columns.
COLUMNS = (
    "barcode",
    "in_tissue",
    "array_row",
    "array_col",
    "pxl_row_in_fullres",
    "pxl_col_in_fullres",
)
HIRES = "tissue_hires"
BINS = re.compile(r"square_(\d{3})um")
#: What the readers of tables raise on damaged files and on files of another format.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError)


@dataclass(frozen=True)
class Run:
    """The files of one section.

    Attributes:
        folder: folder of the section, beside whose files an image may lie.
        matrix: counts as an HDF5 file, or as a folder in Matrix Market format.
        positions, scales: tables of positions and scale factors.
        hires: the reduced picture ``tissue_hires_image.png``, which need not exist.
    """

    folder: Path
    matrix: Path
    positions: Path
    scales: Path
    hires: Path

    def files(self) -> list[Path]:
        """All files that exist, those of a matrix folder one by one."""
        matrix = sorted(self.matrix.iterdir()) if self.matrix.is_dir() else [self.matrix]
        return [p for p in (*matrix, self.positions, self.scales, self.hires) if p.is_file()]


def outs(folder: Path) -> Path:
    """The folder itself or its ``outs``, whichever has Space Ranger's output."""
    return folder / "outs" if (folder / "outs").is_dir() else folder


def is_run(folder: Path) -> bool:
    """Whether a folder looks like the output of Space Ranger."""
    return any((outs(folder) / name).is_dir() for name in ("spatial", "binned_outputs"))


def find_run(folder: Path, bin_um: int | None) -> Run:
    """Look for the files of a section.

    Args:
        folder: ``outs`` or its parent or, for Visium HD, the folder of one size of bins.
        bin_um: size of the bins of Visium HD in µm.

    Raises:
        FlagError: the folder or some of the files do not exist, or the size of bins is to be chosen.
    """
    if not folder.is_dir():
        raise FlagError(
            f"no folder {folder}",
            remedy="name the folder that holds outs/ or spatial/ in the column folder of the slide sheet",
        )
    home = _binned(outs(folder), bin_um)
    faults, spatial = Faults(), home / "spatial"
    matrix = faults.attempt(_matrix, home)
    positions = [spatial / name for name in POSITIONS if (spatial / name).is_file()]
    if len(positions) != 1:
        found = f"holds {len(positions)} of {', '.join(POSITIONS)}; one is wanted"
        faults.add(f"{spatial} {found}", remedy="restore the folder as Space Ranger wrote it")
    scales = spatial / SCALES
    if not scales.is_file():
        remedy = "restore it: it tells to which image the positions refer"
        faults.add(f"{spatial} has no {SCALES}", remedy=remedy)
    faults.raise_if_any(str(folder))
    return Run(outs(folder), matrix, positions[0], scales, spatial / f"{HIRES}_image.png")


def _binned(home: Path, bin_um: int | None) -> Path:
    """The folder of the chosen bins of Visium HD; ``home`` itself for other technologies."""
    sizes = {int(m[1]): p for p in home.glob("binned_outputs/*") if (m := BINS.fullmatch(p.name))}
    if sizes and bin_um not in sizes:
        raise FlagError(
            f"{home} is of Visium HD and has no bins of {bin_um} µm"
            if bin_um
            else f"{home} is of Visium HD, whose bins must be chosen",
            choices=sorted(sizes),
            remedy="set bin_um in the cohort's params, such as bin_um: 16",
        )
    if (home / "segmented_outputs").is_dir() and not sizes:
        raise FlagError(
            f"{home} has segmented cells (segmented_outputs) and no bins",
            remedy="run Space Ranger with bins: cells have no array to prove their positions with",
        )
    return sizes[bin_um] if sizes and bin_um else home


def _matrix(home: Path) -> Path:
    """The filtered matrix; 10x Genomics puts the name of a data set before that of the file."""
    files = sorted(home.glob(f"*{MATRIX}.h5")) or [
        p for p in sorted(home.glob(f"*{MATRIX}")) if p.is_dir()
    ]
    if len(files) != 1:
        raise FlagError(
            f"{home} holds {len(files)} matrices {MATRIX}.h5 or {MATRIX}/; one is wanted",
            remedy="copy the filtered matrix there; the raw one holds spots beside the tissue",
        )
    return files[0]


def read_matrix(path: Path):
    """AnnData of all features: counts (N, F), ``var`` with ``gene_ids`` and ``feature_types``.

    Raises:
        FlagError: the file is damaged or of another format, or names a barcode twice.
    """
    import warnings

    try:
        with warnings.catch_warnings():
            # Names may repeat; whether that is a fault is for the cohort's `prepare` to say.
            warnings.filterwarnings("ignore", message="Variable names are not unique")
            warnings.filterwarnings("ignore", message="Observation names are not unique")
            table = _read_mtx(path) if path.is_dir() else _read_h5(path)
    except FlagError:
        raise
    except UNREADABLE as error:
        raise FlagError(
            f"{path} is damaged or no matrix of Space Ranger ({error})",
            remedy="copy it again from Space Ranger's output",
        ) from None
    _once(table.obs_names, path)
    return table


def _read_h5(path: Path):
    import scanpy

    return scanpy.read_10x_h5(path, gex_only=False)


def _read_mtx(path: Path):
    """The Matrix Market folder, compressed (as Space Ranger writes it) or not.

    scanpy reads an uncompressed folder only with the file names of Cell Ranger 2 (``genes.tsv``).
    """
    import anndata
    import pandas as pd
    from scipy.io import mmread
    from scipy.sparse import csr_matrix

    def file(*names: str) -> Path:
        there = [path / f"{n}{end}" for n in names for end in ("", ".gz")]
        if not (there := [p for p in there if p.is_file()]):
            raise FlagError(f"{path} has no {names[0]}", remedy="copy the whole folder again")
        return there[0]

    def lines(*names: str) -> "pd.DataFrame":
        # Gene symbols such as NA are names and no missing values.
        return pd.read_csv(file(*names), sep="\t", header=None, dtype=str, keep_default_na=False)

    barcodes, features = lines("barcodes.tsv"), lines("features.tsv", "genes.tsv")
    counts = csr_matrix(mmread(file("matrix.mtx"))).T.tocsr()  # (N, F); the file is (F, N)
    if counts.shape != (len(barcodes), len(features)) or features.shape[1] < 2:
        raise ValueError(
            f"a matrix of {counts.shape} for {len(barcodes)} barcodes and {len(features)} features"
        )
    var = pd.DataFrame({"gene_ids": features[0].to_numpy()}, index=features[1].to_numpy())
    var["feature_types"] = features[2].to_numpy() if features.shape[1] > 2 else "Gene Expression"
    return anndata.AnnData(counts, obs=pd.DataFrame(index=barcodes[0].to_numpy()), var=var)


def read_positions(path: Path) -> "pd.DataFrame":
    """All spots of the array, under tissue or not: the columns of ``COLUMNS``, barcodes as index.

    Raises:
        FlagError: the file is damaged, lacks a column, names a barcode twice, or holds something other
            than numbers.
    """
    import numpy as np
    import pandas as pd

    try:
        table = _read_rows(path)
        if missing := [c for c in COLUMNS if c not in table]:
            raise FlagError(
                f"{path} has no column {', '.join(missing)}; it has {', '.join(map(str, table))}",
                remedy="restore the file as Space Ranger wrote it",
            )
        numbers = table[list(COLUMNS[1:])].apply(pd.to_numeric, errors="coerce").astype(float)
    except UNREADABLE as error:
        raise FlagError(
            f"{path} is damaged or no table of positions ({error})", remedy="copy it again"
        ) from None
    numbers.index = pd.Index(table["barcode"].astype(str), dtype=object)
    bad = ~np.isfinite(numbers).all(axis=1)
    if bad.any():
        raise FlagError(
            f"{path}: {bad.sum()} lines hold no numbers, such as that of {numbers.index[bad][0]}",
            remedy="restore the file as Space Ranger wrote it",
        )
    if not len(numbers):
        raise FlagError(f"{path} holds no spot", remedy="restore it as Space Ranger wrote it")
    if strange := sorted(set(numbers["in_tissue"]) - {0.0, 1.0}):
        raise FlagError(f"{path}: in_tissue is {strange[0]:g}", choices=(0, 1))
    _once(numbers.index, path)
    return numbers


def _read_rows(path: Path) -> "pd.DataFrame":
    import pandas as pd

    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    # Whether there is a header shows in the file alone: other programs write one under either name.
    with open(path, encoding="utf-8-sig") as handle:
        first = handle.readline().strip().split(",")
    headed = not any(re.fullmatch(r"-?\d+(\.\d+)?", cell) for cell in first[1:])
    if not headed and len(first) != len(COLUMNS):
        raise FlagError(
            f"{path} has {len(first)} columns and no header, wanted {', '.join(COLUMNS)}",
            remedy="restore the file as Space Ranger wrote it; in_tissue is its second column",
        )
    names = None if headed else list(COLUMNS)
    table = pd.read_csv(
        path,
        header=0 if headed else None,
        names=names,
        encoding="utf-8-sig",
        float_precision="round_trip",  # as written: pandas' faster parser is off by the last bit
    )
    return table.rename(columns=str.strip)


def read_scales(path: Path) -> dict[str, float]:
    """The scale factors, all of which are positive numbers.

    Raises:
        FlagError: the file is no such JSON, or lacks the diameter of spots or the scale of the pictures.
    """
    facts = read_json(path)
    wanted = ("spot_diameter_fullres", f"{HIRES}_scalef")
    known = facts if isinstance(facts, dict) else {}
    scales = {k: float(v) for k, v in known.items() if isinstance(v, int | float) and v > 0}
    if missing := [k for k in wanted if k not in scales]:
        raise FlagError(
            f"{path} has no {', '.join(missing)}, or it is no positive number",
            remedy="restore the file as Space Ranger wrote it",
        )
    return scales


def _once(barcodes, path: Path) -> None:
    repeated = barcodes[barcodes.duplicated()]
    if len(repeated):
        raise FlagError(
            f"{path} names {len(set(repeated))} barcodes twice, such as {repeated[0]}",
            remedy="restore the file as Space Ranger wrote it; sections must not be joined in one file",
        )


def size_of(path: Path) -> tuple[int, int]:
    """Width and height in pixels of a reduced picture, whose pixel size does not matter.

    Raises:
        FlagError: it is damaged.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError) as error:
        raise FlagError(f"{path} is damaged ({error})", remedy="copy it again") from None
