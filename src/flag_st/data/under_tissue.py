"""Which spots of a section lie under tissue, as Space Ranger's column ``in_tissue`` says."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flag_st.core.errors import FlagError

if TYPE_CHECKING:
    import pandas as pd


def under_tissue(obs: "pd.DataFrame", path: Path) -> np.ndarray:
    """(N,) bool: the spots under tissue, which are all spots if the table does not say.

    Args:
        obs: the table of N spots.
        path: its file, for messages.

    Raises:
        FlagError: the column holds something other than 0 and 1, or 0 alone.
    """
    import pandas as pd

    if "in_tissue" not in obs:
        return np.ones(len(obs), dtype=bool)
    text = obs["in_tissue"].astype(str).replace({"True": "1", "False": "0"})
    flags = pd.to_numeric(text, errors="coerce").to_numpy(dtype=float)
    strange = ~np.isin(flags, (0, 1))
    if strange.any():
        some = f"{text[strange].iloc[0]}, such as that of {obs.index[strange][0]}"
        fault = f"{path}: in_tissue of {strange.sum()} spots is {some}"
        raise FlagError(fault, choices=(0, 1), remedy="join the table of positions again")
    if len(flags) and not flags.any():
        raise FlagError(f"{path}: in_tissue is 0 for every spot", remedy="detect the tissue again")
    return flags == 1
