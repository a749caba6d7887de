"""Drawing spots on their tissue, at their true size and place."""

from typing import TYPE_CHECKING

import numpy as np

from flag_st.paper.tissue import Tissue

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

#: Up to this number, spots are drawn as vectors; more become pixels inside the vector file.
VECTOR_SPOTS = 20_000
#: Lengths in µm that a scale bar may have.
SCALE_BARS = (100, 200, 500, 1000, 2000, 5000)


def colour_range(truth: np.ndarray) -> tuple[float, float]:
    """1st and 99th percentile of the truth of a gene; the range is never empty."""
    low, high = np.percentile(truth, (1, 99))
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1.0)


def draw_image(axes: "Axes", tissue: Tissue, alpha: float = 1.0) -> None:
    """Show the picture in true proportions, cropped to the spots with a margin around them."""
    axes.imshow(tissue.image, extent=tissue.extent, alpha=alpha, interpolation="antialiased")
    margin = 2.5 * tissue.diameter
    (left, top), (right, bottom) = tissue.position.min(0) - margin, tissue.position.max(0) + margin
    axes.set(xlim=(left, right), ylim=(bottom, top), aspect="equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_spots(
    axes: "Axes",
    tissue: Tissue,
    values: np.ndarray,
    limits: tuple[float, float],
    cmap: "str | Colormap",
):
    """Draw discs of the spots' true size over the faint picture; return what a colour bar needs."""
    from matplotlib.collections import EllipseCollection

    draw_image(axes, tissue, alpha=0.25)
    size = np.full(len(tissue.position), tissue.diameter)
    discs = EllipseCollection(
        size,
        size,
        np.zeros(len(size)),
        units="xy",
        offsets=tissue.position,
        offset_transform=axes.transData,
        array=values,
        cmap=cmap,
        clim=limits,
        linewidths=0,
    )
    axes.add_collection(discs)
    return discs


def scale_bar(axes: "Axes", tissue: Tissue) -> None:
    """Draw a bar of a round number of µm below the picture, about a fifth as wide as it."""
    left, right = sorted(axes.get_xlim())
    length = min(SCALE_BARS, key=lambda bar: abs(bar - (right - left) / 5))
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length} µm"
    share = length / (right - left)
    axes.plot(
        [0, share], [-0.03, -0.03], transform=axes.transAxes, color="black", lw=2, clip_on=False
    )
    axes.text(0, -0.05, text, transform=axes.transAxes, ha="left", va="top", fontsize=7)
