"""Reading an h5ad of scanpy's convention for Visium: raw counts, genes, positions and scale factors."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flag_st.core.errors import FlagError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from scipy.sparse import csr_matrix

#: Columns of ``var`` that may hold gene symbols where the index holds Ensembl ids.
SYMBOLS = ("gene_symbols", "gene_symbol", "symbol", "SYMBOL", "gene_name", "feature_name", "name")
ENSEMBL_ID = re.compile(r"(ENS[A-Z]*G\d+)(\.\d+)?")


def read_table(path: Path) -> Any:
    """The AnnData of a file.

    Raises:
        FlagError: the file is not there or damaged, or names a barcode twice.
    """
    import warnings

    import anndata

    if not path.is_file():
        raise FlagError(f"no file {path}", remedy="correct the column file of the slide sheet")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*names are not unique")
            table = anndata.read_h5ad(path)
    except Exception as error:  # anndata raises whatever the damaged part happens to cause
        raise FlagError(
            f"{path} is damaged or no h5ad ({error})", remedy="write it again with write_h5ad"
        ) from None
    return check_spots(table, path)


def check_spots(table: Any, path: Path) -> Any:
    """The table itself.

    Raises:
        FlagError: it has no spot, or names a barcode twice.
    """
    repeated = table.obs_names[table.obs_names.duplicated()]
    if len(repeated):
        raise FlagError(
            f"{path} names {len(set(repeated))} barcodes twice, such as {repeated[0]}",
            remedy="write one table per section",
        )
    if not len(table):
        raise FlagError(f"{path} holds no spot", remedy="write the spots under tissue")
    return table


def under_tissue(table: Any, path: Path) -> tuple[Any, dict[str, Any]]:
    """The spots under tissue, all of them if the file does not say, and how many others there are."""
    from flag_st.data import under_tissue as flags

    keep = flags.under_tissue(table.obs, path)
    number = int((~keep).sum())
    told = {"spots beside the tissue (in_tissue 0)": number} if number else {}
    return (table[keep].copy() if number else table), told


def choose_counts(table: Any, name: str | None, path: Path) -> tuple["csr_matrix", "pd.DataFrame"]:
    """The raw counts (N, G) and the table of their genes.

    Args:
        table: of N spots.
        name: ``X``, ``raw`` or ``layers/NAME``, or None to look for them.
        path: the file, for messages.

    Raises:
        FlagError: there are no counts at the place that is named, or in no place, or different ones in
            several.
    """
    from scipy.sparse import csr_matrix

    from flag_st.sources.section import count_faults

    places = {f"layers/{key}": (table.layers[key], table.var) for key in table.layers}
    places |= {} if table.X is None else {"X": (table.X, table.var)}
    places |= {} if table.raw is None else {"raw": (table.raw.X, table.raw.var)}
    if name is not None and name not in places:
        raise FlagError(f"{path} has no {name}", choices=sorted(places))
    looked = {key: places[key] for key in ([name] if name else places)}
    found, reasons = {}, []
    for key, (values, genes) in looked.items():
        counts = csr_matrix(values)
        if faults := count_faults(counts.data, f"{path}: {key}").messages:
            reasons += faults
        else:
            found[key] = (counts, genes)
    if not found:
        raise FlagError(
            f"{path} holds no raw counts: {' '.join(reasons) or 'it has no X, raw or layers.'}",
            remedy="write the raw counts into X, or into a layer that is named by counts: layers/NAME",
        )
    # The first place with the most genes: `raw` may hold genes that were filtered out of X.
    best = max(found, key=lambda key: len(found[key][1]))
    if not all(_same(found[best], other) for other in found.values()):
        raise FlagError(
            f"{path} holds different counts in {' and '.join(sorted(found))}",
            choices=sorted(found),
            remedy="say which are the raw ones: counts: X (or another of these) in the cohort's params",
        )
    return found[best]


def _same(
    one: tuple["csr_matrix", "pd.DataFrame"], other: tuple["csr_matrix", "pd.DataFrame"]
) -> bool:
    """Whether the counts of ``other`` are those of ``one`` for its genes."""
    if one[0].shape == other[0].shape:
        return (one[0] != other[0]).nnz == 0
    if not (one[1].index.is_unique and other[1].index.isin(one[1].index).all()):
        return False
    return (one[0][:, one[1].index.get_indexer(other[1].index)] != other[0]).nnz == 0


def gene_names(var: "pd.DataFrame") -> "pd.DataFrame":
    """Table whose index holds the symbols of G genes, and ``gene_ids`` their Ensembl ids if known.

    Ensembl ids lose their version, with which one gene would have another name in every annotation. A gene
    without a symbol keeps its id.
    """
    import pandas as pd

    from flag_st.data.prepare import ENSEMBL_COLUMNS

    names = var.index.astype(str)
    matches = [ENSEMBL_ID.fullmatch(name) for name in names]
    if sum(m is not None for m in matches) * 2 > len(names):
        ids = [m[1] if m else name for m, name in zip(matches, names, strict=True)]
        column = next((c for c in SYMBOLS if c in var), None)
        known = [""] * len(ids) if column is None else var[column].astype(object)
        symbols = [s if isinstance(s, str) and s else i for s, i in zip(known, ids, strict=True)]
        return pd.DataFrame({"gene_ids": ids}, index=symbols)
    column = next((c for c in ENSEMBL_COLUMNS if c in var), None)
    return pd.DataFrame(
        {} if column is None else {"gene_ids": var[column].astype(str).tolist()}, index=names
    )


def positions(table: Any, path: Path) -> "np.ndarray":
    """(N, 2) x and y in pixels.

    The columns ``pxl_row_in_fullres`` and ``pxl_col_in_fullres`` of ``obs`` are not read: scanpy's reader
    had the two names exchanged for years, while its ``obsm`` was right.

    Raises:
        FlagError: there are none, or some are no numbers.
    """
    import numpy as np

    remedy = "store x and y in pixels of the full-resolution image as obsm['spatial'] (N, 2)"
    if "spatial" not in table.obsm:
        raise FlagError(f"{path} has no obsm['spatial']", remedy=remedy)
    found = np.asarray(table.obsm["spatial"])
    if found.ndim != 2 or found.shape[1] != 2 or found.dtype.kind not in "iuf":
        raise FlagError(
            f"{path}: obsm['spatial'] has shape {found.shape} and type {found.dtype}", remedy=remedy
        )
    bad = ~np.isfinite(found).all(1)  # (N,)
    if bad.any():
        some = table.obs_names[bad][0]
        raise FlagError(
            f"{path}: {bad.sum()} spots have no position, such as {some}", remedy=remedy
        )
    return found.astype(np.float64)


def array_of(table: Any) -> "np.ndarray | None":
    """(N, 2) row and column of each spot on the array; None if the file has none or they are no numbers."""
    import numpy as np
    import pandas as pd

    columns = ["array_row", "array_col"]
    if any(c not in table.obs for c in columns):
        return None
    cells = table.obs[columns].astype(object).apply(pd.to_numeric, errors="coerce").to_numpy(float)
    return cells if np.isfinite(cells).all() else None


def library(table: Any, path: Path) -> Mapping[str, Any]:
    """The entry of the section in ``uns['spatial']``; empty if there is none.

    Raises:
        FlagError: the file holds more than one section.
    """
    known = table.uns.get("spatial")
    known = (
        {k: v for k, v in known.items() if isinstance(v, Mapping)}
        if isinstance(known, Mapping)
        else {}
    )
    named = (
        sorted(set(table.obs["library_id"].astype(str)))
        if "library_id" in table.obs
        else sorted(known)
    )
    if len(named) > 1:
        raise FlagError(
            f"{path} holds {len(named)} sections: {', '.join(named)}",
            remedy="write one h5ad per section, with its own entry of uns['spatial']",
        )
    # After a file was cut down to one section, the entries of the others may still be there.
    return known.get(named[0], {}) if named else {}


def scale_factors(entry: Mapping[str, Any]) -> dict[str, float]:
    """The scale factors of a library that are positive numbers."""
    import numpy as np

    known = entry.get("scalefactors")
    numbers = known.items() if isinstance(known, Mapping) else ()
    return {k: float(v) for k, v in numbers if isinstance(v, int | float | np.number) and v > 0}


def told_size(
    entry: Mapping[str, Any], scales: Mapping[str, float]
) -> tuple[tuple[float, float] | None, float]:
    """Width and height of the full-resolution image that the reduced picture tells, and their error."""
    import numpy as np

    pictures, scale = entry.get("images"), scales.get("tissue_hires_scalef")
    hires = pictures.get("hires") if isinstance(pictures, Mapping) else None
    if scale is None or hires is None or np.ndim(hires) < 2:
        return None, 0.0
    height, width = np.shape(hires)[:2]
    return (width / scale, height / scale), 2 / scale
