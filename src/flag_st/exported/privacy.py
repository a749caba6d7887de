"""Whether arrays give away single spots: an exported model must hold none."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from flag_st.data.slide import Slide

#: A column that agrees so well with one of the slides' columns is that column, whatever its unit.
SAME = 0.999
#: Unit of expression → base of its logarithm, from which counts are recovered.
BASES = {"log1p": np.e, "log2p1": 2.0}
#: Rows agree if their numbers do in half precision.
STORED = np.float16


def spots_in(arrays: Mapping[str, np.ndarray], slides: Sequence[Slide]) -> str | None:
    """The name of an array that holds expression or features of spots, or None.

    An array holds spots if one of its rows is that of a spot, as it is or as whole counts, or if it has
    as many rows as there are spots and one of its columns is a column of theirs, scaled and shifted. A
    few rows that are scaled or otherwise changed are not recognised.

    Args:
        arrays: what a method has learned.
        slides: the slides that it was fitted to, with their expression.
    """
    truth = np.concatenate([s.truth for s in slides])  # (M, G)
    tables = [truth, np.concatenate([s.features for s in slides])]
    if base := BASES.get(slides[0].unit):
        tables.append(np.rint(base**truth - 1))  # (M, G), exact for counts
    known = [_keys(table) for table in tables]
    for name, array in arrays.items():
        if not np.issubdtype(array.dtype, np.number) or array.ndim < 2 or not array.size:
            continue
        for rows in _as_rows(array):
            for table, keys in zip(tables, known, strict=True):
                if rows.shape[1] == table.shape[1] and _keys(rows) & keys:
                    return name
                if len(rows) == len(table) and _same_column(rows, table):
                    return name
    return None


def _as_rows(array: np.ndarray) -> Iterator[np.ndarray]:
    """The array as a matrix whose rows are one of its axes' vectors, or one of its axes itself."""
    yield array.reshape(-1, array.shape[-1])
    yield array.reshape(len(array), -1)
    yield array.reshape(len(array), -1).T


def _keys(table: np.ndarray) -> set[bytes]:
    """Rows as bytes in half precision. A row of one value tells nothing, and neither does its key."""
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(table.astype(STORED))
    return {row.tobytes() for row in rows[(rows != rows[:, :1]).any(1)]}


def _same_column(rows: np.ndarray, table: np.ndarray) -> bool:
    """Whether some column of ``rows`` (M, C) is one of ``table`` (M, G), scaled and shifted."""
    a, b = (_standardised(x) for x in (rows, table))
    return bool(a.size and b.size and abs(a.T @ b).max() / len(a) > SAME)


def _standardised(table: np.ndarray) -> np.ndarray:
    table = table.astype(np.float64)
    varies = table.std(0) > 1e-9
    table = table[:, varies] - table[:, varies].mean(0)
    return table / table.std(0)
