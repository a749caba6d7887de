"""Row and column of each spot on the array, as tables of counts state them."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["array_row", "array_col"]


def array_places(obs: "pd.DataFrame") -> tuple[dict[str, np.ndarray], str]:
    """The columns ``array_row`` and ``array_col`` as whole numbers, or why they cannot be used.

    Some tables hold text, or places that were refined by hand, which are no longer whole. They are
    rounded, and left out where a place is missing or two spots would share a cell: neighbours are then
    found by the positions alone.

    Args:
        obs: the table of N spots.

    Returns:
        name → (N,) int64, which is empty unless all places are known; and what is wrong with columns that
        are there, or an empty text.
    """
    import pandas as pd

    there = [column for column in COLUMNS if column in obs]
    if len(there) < 2:
        return {}, f"there is no {(set(COLUMNS) - set(there)).pop()}" if there else ""
    numbers = obs[COLUMNS].astype(object).apply(pd.to_numeric, errors="coerce").to_numpy(float)
    unknown = ~np.isfinite(numbers).all(1)
    if unknown.any():
        return (
            {},
            f"{unknown.sum()} of {len(obs)} spots have no number there, such as {obs.index[unknown][0]}",
        )
    cells = np.rint(numbers).astype(np.int64)  # (N, 2)
    distinct = len(np.unique(cells, axis=0))
    if distinct < len(cells):
        return (
            {},
            f"the {len(cells)} spots have {distinct} places when these are rounded to whole numbers",
        )
    return dict(zip(COLUMNS, cells.T, strict=True)), ""
