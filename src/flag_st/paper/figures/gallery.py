"""Gene maps of one section side by side: picture, truth and predictions."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.metrics.policy import pearson
from flag_st.paper.figures.maps import (
    VECTOR_SPOTS,
    colour_range,
    draw_image,
    draw_spots,
    scale_bar,
)
from flag_st.paper.figures.style import SEQUENTIAL, heading
from flag_st.paper.tissue import Shown, Tissue

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import SubFigure


#: A page is wide enough for this number of predictions beside the truth.
COLUMNS = 5


def height(tissue: Tissue, genes: int, shown: int, width: float) -> float:
    """Inches that ``gallery`` needs in a figure ``width`` inches wide."""
    span = np.ptp(tissue.position, axis=0) + 5 * tissue.diameter
    panel = width / (2.6 + shown)
    return genes * (panel * span[1] / span[0] + 0.28) + 0.8


def gallery(
    figure: "SubFigure", tissue: Tissue, shown: Sequence[Shown], genes: Sequence[str], title: str
) -> None:
    """Draw genes in rows; columns are the picture (once), the truth and every prediction.

    Each row has one colour scale. Below each prediction is its correlation with the truth over the
    spots drawn.
    """
    columns = 1 + len(shown)
    figure.suptitle(title, fontsize=9, x=0.01, ha="left", weight="bold")
    grid = figure.add_gridspec(len(genes), columns + 2, width_ratios=[1.25, *[1.0] * columns, 0.06])
    picture = figure.add_subplot(grid[0, 0])
    draw_image(picture, tissue)
    picture.set_title("H&E")
    scale_bar(picture, tissue)
    raster = len(tissue.position) * len(genes) * columns > VECTOR_SPOTS
    for row, gene in enumerate(genes):
        place = tissue.genes.index(gene)
        truth = tissue.truth[:, place]
        limits = colour_range(truth)
        for column, panel in enumerate([None, *shown]):
            axes = figure.add_subplot(grid[row, 1 + column])
            values = truth if panel is None else panel.values[:, place]
            discs = draw_spots(axes, tissue, values, limits, SEQUENTIAL)
            discs.set_rasterized(raster)
            if row == 0:
                head = "truth" if panel is None else heading(panel.method, panel.kind)
                axes.set_title(head, fontsize=7)
            if panel is None:
                axes.set_ylabel(gene, fontsize=8, style="italic")
            else:
                r = pearson(truth, values)
                axes.set_xlabel(f"r = {r:.2f}" if np.isfinite(r) else "r undefined", fontsize=7)
        bar = figure.colorbar(discs, cax=figure.add_subplot(grid[row, -1]), extend="both")
        bar.ax.tick_params(labelsize=6, length=2)
        bar.outline.set_linewidth(0.4)


def numbers(
    tissue: Tissue, shown: Sequence[Shown], genes: Sequence[str], **facts: str
) -> "pandas.DataFrame":
    """What ``gallery`` draws, with one row per spot, gene and panel."""
    import pandas as pd

    parts = []
    for gene in genes:
        place = tissue.genes.index(gene)
        panels = [("truth", "", tissue.truth)] + [(s.method, s.kind, s.values) for s in shown]
        for method, kind, values in panels:
            table: dict[str, Any] = {
                "slide": tissue.slide,
                "gene": gene,
                "method": method,
                "kind": kind,
            }
            table |= {"spot": tissue.spots, "x_um": tissue.position[:, 0]}
            table |= {"y_um": tissue.position[:, 1], "value": values[:, place]}
            parts.append(pd.DataFrame({**facts, **table}))
    return pd.concat(parts, ignore_index=True)
