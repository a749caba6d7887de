"""Faults of the table of counts: its names, its values, and whether its positions are numbers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.core.errors import Faults, FlagError
from flag_st.data.array_places import array_places
from flag_st.data.barcodes import plain
from flag_st.data.under_tissue import under_tissue

if TYPE_CHECKING:
    import pandas as pd

#: How many values of a count matrix are read at a time.
BLOCK = 1 << 22
#: Sums of fewer spots than this may be alike by chance; sums within this share are the same.
FEW, EQUAL = 20, 0.01
#: The remedy for anything but raw counts.
RAW = "put raw counts of the spots under tissue in X"


@dataclass(frozen=True)
class Table:
    """What the table of counts says of the N spots that are used.

    Attributes:
        path: its file.
        obs: the table of the spots; its index holds their names.
        position: (N, 2) x and y in pixels of level 0, or None if they are faulty or not asked for.
        scales: the scale factors of ``uns['spatial']``.
    """

    path: Path
    obs: "pd.DataFrame"
    position: np.ndarray | None = None
    scales: Mapping[str, float] = field(default_factory=dict)

    @property
    def spots(self) -> list[str]:
        """The N names."""
        return [str(name) for name in self.obs.index]

    def part(self, keep: np.ndarray) -> "Table":
        """The table of the spots ``keep`` (N,) bool."""
        position = None if self.position is None else self.position[keep]
        return Table(self.path, self.obs[keep], position, self.scales)


def check_table(
    path: Path, faults: Faults, unique_genes: bool, min_counts: int = 1, placed: bool = True
) -> Table:
    """Check the counts and return what the table says of its spots that are used.

    Args:
        path: the h5ad.
        faults: faults and notes are added to it.
        unique_genes: whether a repeated gene symbol is a fault.
        min_counts: spots under tissue are used if they have as many counts.
        placed: whether the section has an image, and thus positions.
    """
    import h5py

    with h5py.File(path, "r") as file:
        obs, var, position = _tables(path, file)
        check_repeats(path, plain(obs.index), "barcode", faults)
        if unique_genes:
            check_repeats(path, var.index.astype(str), "gene", faults)
        depth = _counts(path, file, (len(obs), len(var)), faults)
        table = Table(path, obs, None, _scales(file))
    keep = under_tissue(obs, path)
    if number := int((~keep).sum()):
        faults.notes.append(
            f"{path}: {number} of {len(keep)} spots lie beside the tissue (in_tissue 0) and are left out"
        )
    if depth is not None:
        keep &= _deep_enough(path, depth, keep, min_counts, faults)
    table = table.part(keep)
    if not placed:
        return table
    if why := array_places(table.obs)[1]:
        faults.notes.append(
            f"{path}: array_row and array_col are not used, and neighbours are found by the positions alone: {why}"
        )
    found = _positions(path, position, keep, table.spots, faults)
    return Table(path, table.obs, found, table.scales)


def _tables(path: Path, file) -> tuple["pd.DataFrame", "pd.DataFrame", Any]:
    """The tables of spots and genes, and whatever stands where the positions belong."""
    import anndata
    import h5py
    from anndata.io import read_elem

    if isinstance(file["obs"], h5py.Dataset):  # written before anndata 0.7
        table = anndata.read_h5ad(path)
        return table.obs, table.var, table.obsm.get("spatial")
    obs, var = (read_elem(file[key]) for key in ("obs", "var"))
    there = "spatial" in file.get("obsm", {})
    return obs, var, read_elem(file["obsm/spatial"]) if there else None


def _scales(file) -> dict[str, float]:
    """The scale factors of the only library in ``uns['spatial']``; empty if there is none."""
    known = file.get("uns/spatial")
    libraries = [v for v in known.values() if hasattr(v, "keys")] if hasattr(known, "keys") else []
    factors = libraries[0].get("scalefactors") if len(libraries) == 1 else None
    if factors is None or not hasattr(factors, "keys"):
        return {}
    numbers = {k: v[()] for k, v in factors.items() if getattr(v, "shape", None) == ()}
    return {
        k: float(v)
        for k, v in numbers.items()
        if isinstance(v, int | float | np.number) and np.isfinite(v) and v > 0
    }


def _deep_enough(
    path: Path, depth: np.ndarray, under: np.ndarray, wanted: int, faults: Faults
) -> np.ndarray:
    """(N,) bool: the spots with at least ``wanted`` counts, of which ``under`` says if they are under tissue."""
    enough = depth >= wanted
    if not (enough & under).any():
        faults.add(
            f"{path}: none of {len(depth)} spots has {wanted} counts (most: {depth[under].max():.0f})",
            remedy="lower min_counts or leave the slide out",
        )
    elif number := int((under & ~enough).sum()):
        faults.notes.append(
            f"{path}: {number} of {under.sum()} spots have fewer counts than min_counts, {wanted}, and are left out"
        )
    return enough


def _counts(path: Path, file, shape: tuple[int, int], faults: Faults) -> np.ndarray | None:
    """The sum of counts of each spot (N,); None if they are faulty."""
    if 0 in shape:
        faults.add(f"{path} is empty: {shape[0]} spots, {shape[1]} genes", remedy=RAW)
        return None
    store = _matrix(path, file)
    sparse = hasattr(store, "keys")
    stated = store.attrs.get("shape", store.attrs.get("h5sparse_shape")) if sparse else store.shape
    found = tuple(map(int, stated))
    if found != shape:
        raise ValueError(f"X has shape {found} for {shape[0]} spots and {shape[1]} genes")
    values = store["data"] if sparse else store
    bad, total = dict.fromkeys(("NaN or infinite", "negative", "non-integer"), 0), 0.0
    rows = max(1, BLOCK // (1 if sparse else shape[1]))
    for start in range(0, len(values), rows):
        block = values[start : start + rows]
        finite = np.isfinite(block)
        bad["NaN or infinite"] += int((~finite).sum())
        block = block[finite]
        bad["negative"] += int((block < 0).sum())
        bad["non-integer"] += int((block != np.floor(block)).sum())
        total += float(block.sum(dtype=np.float64))
    for kind, number in bad.items():
        if number:
            faults.add(f"{path}: {number} {kind} values in X", remedy=RAW)
    if any(bad.values()):
        return None
    if total == 0:
        faults.add(f"{path}: all counts are 0", remedy=RAW)
        return None
    sums = _sums(store, shape)
    middle = np.median(sums)
    if len(sums) >= FEW and (np.abs(sums - middle) <= EQUAL * middle).mean() > 0.9:
        faults.add(
            f"{path}: the counts of nearly all spots have the same sum, as normalised values that were rounded have",
            remedy=RAW,
        )
        return None
    return sums


def _sums(store: Any, shape: tuple[int, int]) -> np.ndarray:
    """(N,) sums of the counts of each spot."""
    from anndata.io import read_elem
    from scipy.sparse import csc_matrix, csr_matrix

    if not hasattr(store, "keys"):
        rows = max(1, BLOCK // shape[1])
        starts = range(0, shape[0], rows)
        return np.concatenate([store[i : i + rows].sum(1, dtype=np.float64) for i in starts])
    if "h5sparse_format" in store.attrs:
        kind = {"csr": csr_matrix, "csc": csc_matrix}[_text(store.attrs["h5sparse_format"])]
        parts = tuple(store[key][:] for key in ("data", "indices", "indptr"))
        return np.asarray(kind(parts, shape=shape).sum(1, dtype=np.float64)).ravel()
    return np.asarray(read_elem(store).sum(1, dtype=np.float64)).ravel()


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _matrix(path: Path, file) -> Any:
    """The group or dataset of X.

    Raises:
        FlagError: there is no X; the other places that may hold counts are named.
    """
    store = file.get("X")
    if store is not None and (hasattr(store, "keys") or store.shape is not None):
        return store
    places = [f"layers['{name}']" for name in file.get("layers", {})]
    places += ["raw.X"] if "X" in file.get("raw", {}) else []
    there = f"; it has {', '.join(places)}" if places else ""
    raise FlagError(f"{path} has no matrix X{there}", remedy=RAW)


def _positions(
    path: Path, found: Any, keep: np.ndarray, spots: Sequence[str], faults: Faults
) -> np.ndarray | None:
    """(N, 2) positions of the spots ``keep``, whose names are ``spots``; None if they are faulty."""
    remedy = "store the (x, y) spot centres in level-0 pixels as obsm['spatial'] (N, 2)"
    if found is None:
        faults.add(f"{path} has no obsm['spatial']", remedy=remedy)
        return None
    position = np.asarray(found)
    if position.shape != (len(keep), 2) or position.dtype.kind not in "iuf":
        fault = f"{path}: obsm['spatial'] has shape {position.shape} and type {position.dtype}"
        faults.add(fault, remedy=remedy)
        return None
    position = position[keep].astype(np.float64)
    bad = ~np.isfinite(position).all(1)
    if bad.any():
        some = np.asarray(spots)[bad][0]
        fault = f"{path}: NaN or infinite position of {bad.sum()} spots, such as {some}"
        faults.add(fault, remedy=remedy)
        return None
    return position


def check_repeats(path: Path, names: Iterable[str], what: str, faults: Faults) -> None:
    distinct, number = np.unique(np.asarray(list(names), dtype=str), return_counts=True)
    repeated = distinct[number > 1]
    if len(repeated):
        remedy = "make them unique"
        if what == "gene":
            remedy += (
                ", or have them numbered: prepare: {unique_genes: false} in the cohort's entry"
            )
        some = ", ".join(repeated[:3])
        faults.add(f"{path}: {len(repeated)} {what}s repeat, such as {some}", remedy=remedy)
