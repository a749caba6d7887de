"""Correlations between the expression of spots, and how they depend on the number of genes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.core.seeds import numpy_generator
from flag_st.paper.figures import style
from flag_st.paper.tissue import Tissue

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def spot_correlations(
    found: Iterable[tuple[Mapping[str, Any], Tissue]], sizes: Sequence[int]
) -> "pandas.DataFrame":
    """Quantiles of the correlation between pairs of spots over the first genes of the panel.

    Genes are in the order of the panel, best first, so that smaller panels are parts of larger ones.
    Where correlations concentrate, the standard deviation ``sd`` over pairs shrinks. ``sd_shuffled``
    is that of a simulation in which spots differ by chance alone, as App. E assumes: the values of
    every gene are shuffled over the spots. It falls as 1/√G, and whatever ``sd`` has beyond it comes
    from the tissue.

    Args:
        found: test slides with their keys (``predictions.tissues``).
        sizes: numbers of genes; those beyond the panel are cut to its size.
    """
    import pandas as pd

    rows = []
    for key, tissue in found:
        shuffled = numpy_generator("concentration", tissue.slide).permuted(tissue.truth, axis=0)
        for size in sorted({min(size, len(tissue.genes)) for size in sizes}):
            values, null = (between_spots(t[:, :size]) for t in (tissue.truth, shuffled))
            shares = dict(zip(map(str, QUANTILES), np.quantile(values, QUANTILES), strict=True))
            facts = {"cohort": key["cohort"], "slide": tissue.slide, "genes": size}
            spread = {"sd": values.std(ddof=1), "sd_shuffled": null.std(ddof=1)}
            rows.append({**facts, **shares, **spread})
    return pd.DataFrame(rows)


def between_spots(y: np.ndarray) -> np.ndarray:
    """Correlations of all pairs of rows of (N, G), without pairs in which a row is constant."""
    with np.errstate(invalid="ignore"):
        matrix = np.corrcoef(y)  # (N, N)
    values = matrix[np.triu_indices(len(matrix), 1)]
    return values[np.isfinite(values)]


def draw(table: "pandas.DataFrame") -> "Figure":
    """One panel per cohort: the median over slides of each quantile and standard deviation."""
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
        shuffled = middle["sd_shuffled"]
        axes.plot(shuffled.index, shuffled, "d:", ms=3, color=style.colour(2), label="sd, shuffled")
        axes.set(xscale="log", xlabel="genes", title=cohort, ylabel="correlation of spots")
        axes.set_xticks(list(middle.index), [f"{g:g}" for g in middle.index])
        axes.minorticks_off()
    grid[0, 0].legend()
    return figure
