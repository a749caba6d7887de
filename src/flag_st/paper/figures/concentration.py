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
#: The quantiles that are ends of bands; the other columns are lines with these names.
BANDS = (0.05, 0.25, 0.75, 0.95)
LINES = {"0.5": "median, 50 %, 90 %", "sd": "sd", "sd_shuffled": "sd, shuffled"}


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
    import seaborn.objects as so

    middle = table.drop(columns="slide").groupby(["cohort", "genes"], sort=False).median()
    long = middle.rename(columns=LINES).melt(list(map(str, BANDS)), ignore_index=False)
    bands = long[long["variable"] == "median, 50 %, 90 %"]
    sizes = so.Continuous(trans="log").tick(at=sorted(table["genes"].unique()), minor=0)
    lines = list(LINES.values())
    plot = (
        so.Plot(long.reset_index(), x="genes", y="value", color="variable")
        .facet("cohort")
        .share(y=False)
        .add(so.Band(alpha=0.15), data=bands.reset_index(), ymin="0.05", ymax="0.95", legend=False)
        .add(so.Band(alpha=0.3), data=bands.reset_index(), ymin="0.25", ymax="0.75", legend=False)
        .add(so.Line(pointsize=3), marker="variable", linestyle="variable")
        .scale(
            x=sizes.label(like="{x:g}"),
            color=style.colours(lines),
            marker=so.Nominal(["o", "s", "d"], order=lines),
            linestyle=so.Nominal(["-", "--", ":"], order=lines),
        )
        .label(y="correlation of spots", color="", marker="", linestyle="")
    )
    width = min(style.WIDTH, 2.6 * table["cohort"].nunique() + 0.8)
    return style.draw(plot, style.blank(2.6, width))
