"""Moran's I of every gene, prediction against truth."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flag_st.metrics.policy import centred, pearson
from flag_st.metrics.ssc import morans_i, neighbour_graph
from flag_st.paper.figures import style
from flag_st.paper.tissue import Shown, Tissue

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import SubFigure


def moran_table(tissue: Tissue, shown: Sequence[Shown], k: int = 8) -> "pandas.DataFrame":
    """Moran's I of the genes whose truth varies: method, kind, gene, truth, prediction.

    ``k`` is the number of neighbours of a spot.
    """
    import pandas as pd

    graph, truth = neighbour_graph(tissue.position, k), centred(tissue.truth)
    genes = np.array(tissue.genes)[truth.varies]
    y = morans_i(truth, graph, truth.varies)[truth.varies]
    parts = []
    for panel in shown:
        p = morans_i(centred(panel.values), graph, truth.varies)[truth.varies]
        names = {"method": panel.method, "kind": panel.kind, "gene": genes}
        parts.append(pd.DataFrame({**names, "truth": y, "prediction": p}))
    return pd.concat(parts, ignore_index=True)


#: A page is wide enough for this number of panels.
COLUMNS = 6


def height(panels: int) -> float:
    """Inches that ``draw`` needs."""
    return 0.5 + 1.9 * -(-panels // COLUMNS)


def draw(figure: "SubFigure", table: "pandas.DataFrame", title: str) -> None:
    """Draw one panel per prediction; genes below the line are predicted rougher than they are."""
    figure.suptitle(title, fontsize=9, x=0.01, ha="left", weight="bold")
    groups = list(table.groupby(["method", "kind"], sort=False))
    rows = style.rows_of(groups, COLUMNS)
    grid = figure.subplots(len(rows), len(rows[-1]), squeeze=False, sharex=True, sharey=True)
    low, high = (
        table[["truth", "prediction"]].min().min(),
        table[["truth", "prediction"]].max().max(),
    )
    for axes in grid.flat:
        axes.set_axis_off()
    places = [axes for line, row in zip(grid, rows, strict=True) for axes in line[: len(row)]]
    for axes, ((method, kind), part) in zip(places, groups, strict=True):
        axes.set_axis_on()
        y, p = part["truth"].to_numpy(), part["prediction"].to_numpy()
        axes.plot([low, high], [low, high], color="black", lw=0.6, ls=":")
        axes.plot(y, p, "o", ms=2.5, alpha=0.6, color=style.colour(0), mec="none")
        r = pearson(y, p)
        ssc = f"SSC {r:.2f}" if np.isfinite(r) else "SSC undefined"
        bias = f"bias {(p - y).mean():+.2f}"
        axes.set_title(f"{style.heading(method, kind)}\n{ssc}\n{bias}", fontsize=7)
        axes.set_aspect("equal", adjustable="box")
    figure.supxlabel("Moran's I, truth", fontsize=8)
    figure.supylabel("Moran's I, prediction", fontsize=8)
