"""Correlations between the expression of spots, and how they change with the number of genes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.paper import style
from flag_st.paper.maps import Tissue

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def spot_correlations(
    found: Iterable[tuple[Mapping[str, Any], Tissue]], sizes: Sequence[int]
) -> "pandas.DataFrame":
    """Quantiles of the correlation between pairs of spots over the first genes of the panel.

    Genes are in the order of the panel, best first, so that smaller panels are parts of larger.
    Standard deviation over pairs is what shrinks where correlations concentrate.
    """
    import pandas as pd

    rows = []
    for key, tissue in found:
        for size in sorted({min(size, len(tissue.genes)) for size in sizes}):
            matrix = np.corrcoef(tissue.truth[:, :size])  # (N, N)
            values = matrix[np.triu_indices(len(matrix), 1)]
            values = values[np.isfinite(values)]
            shares = dict(zip(map(str, QUANTILES), np.quantile(values, QUANTILES), strict=True))
            facts = {"cohort": key["cohort"], "slide": tissue.slide, "genes": size}
            rows.append({**facts, **shares, "sd": values.std(ddof=1)})
    return pd.DataFrame(rows)


def draw(table: "pandas.DataFrame") -> "Figure":
    """A panel a cohort: median over slides of each quantile, and of the standard deviation."""
    import matplotlib.pyplot as plt

    cohorts = list(dict.fromkeys(table["cohort"]))
    figure, grid = plt.subplots(
        1, len(cohorts), figsize=(min(style.WIDTH, 2.6 * len(cohorts) + 0.8), 2.4), squeeze=False
    )
    for axes, cohort in zip(grid[0], cohorts, strict=True):
        part = table[table["cohort"] == cohort].drop(columns=["cohort", "slide"])
        middle = part.groupby("genes").median()
        colour = style.colour(0)
        axes.fill_between(middle.index, middle["0.05"], middle["0.95"], color=colour, alpha=0.15)
        axes.fill_between(middle.index, middle["0.25"], middle["0.75"], color=colour, alpha=0.3)
        axes.plot(middle.index, middle["0.5"], "o-", ms=3, color=colour, label="median, 50 %, 90 %")
        axes.plot(middle.index, middle["sd"], "s--", ms=3, color=style.colour(1), label="sd")
        axes.set(xscale="log", xlabel="genes", title=cohort, ylabel="correlation of spots")
        axes.set_xticks(list(middle.index), [f"{g:g}" for g in middle.index])
        axes.minorticks_off()
    grid[0, 0].legend()
    return figure
