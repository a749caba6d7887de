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
    import seaborn.objects as so

    figure.suptitle(title, fontsize=9, x=0.01, ha="left", weight="bold")
    groups = table.groupby(["method", "kind"], sort=False)
    panels = {(method, kind): _heading(method, kind, part) for (method, kind), part in groups}
    shown = table.assign(
        panel=[panels[of] for of in zip(table["method"], table["kind"], strict=True)]
    )
    rows = style.rows_of(list(panels), COLUMNS)
    plot = (
        so.Plot(shown, x="truth", y="prediction")
        .facet("panel", wrap=len(rows[-1]))
        .add(so.Dots(pointsize=2.5, alpha=0.6, fillalpha=0.6, stroke=0, color=style.colour(0)))
        .label(x="", y="")
    )
    style.draw(plot, figure)
    values = table[["truth", "prediction"]].to_numpy()
    ends = (values.min(), values.max())
    for axes in figure.axes:
        axes.plot(ends, ends, color="black", lw=0.6, ls=":")
        axes.set_aspect("equal", adjustable="box")
        axes.title.set_fontsize(7)
    figure.supxlabel("Moran's I, truth", fontsize=8)
    figure.supylabel("Moran's I, prediction", fontsize=8)


def _heading(method: str, kind: str, part: "pandas.DataFrame") -> str:
    """The title of a panel: what it shows, SSC and bias."""
    y, p = part["truth"].to_numpy(), part["prediction"].to_numpy()
    r = pearson(y, p)
    ssc = f"SSC {r:.2f}" if np.isfinite(r) else "SSC undefined"
    return f"{style.heading(method, kind)}\n{ssc}\nbias {(p - y).mean():+.2f}"
