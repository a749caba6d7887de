"""Spots on tissue: what is shown, how large, and where."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.io import check_contract
from flag_st.data.slide import read_expression
from flag_st.data.spatial import pitch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

#: Pitch and spot diameter in µm of the arrays in use: Visium, legacy ST, its second generation.
ARRAYS = ((100.0, 55.0), (200.0, 100.0), (150.0, 110.0))
#: Spots drawn as vectors up to here; more become pixels inside the vector file.
VECTOR_SPOTS = 20_000
SCALE_BARS = (100, 200, 500, 1000, 2000, 5000)


@dataclass(frozen=True)
class Tissue:
    """One section: its picture, spots and truth.

    Attributes:
        slide: its name.
        image: (H, W, 3) uint8 thumbnail.
        extent: left, right, bottom, top of the picture in µm, for ``imshow``.
        spots: (N,) barcodes.
        position: (N, 2) spot centres in µm, x then y.
        diameter: of a spot, in µm.
        genes: G names.
        truth: (N, G) in ``unit``.
        unit: of the expression, a key of ``flag_st.data.slide.TRANSFORMS``.
    """

    slide: str
    image: np.ndarray
    extent: tuple[float, float, float, float]
    spots: np.ndarray
    position: np.ndarray
    diameter: float
    genes: tuple[str, ...]
    truth: np.ndarray
    unit: str


@dataclass(frozen=True)
class Shown:
    """One prediction of a slide: (N, G) ``values`` in the order of a ``Tissue``, and its name."""

    method: str
    kind: str
    values: np.ndarray


def read_tissue(
    path: str | Path, genes: Sequence[str], unit: str, spot_um: float | None = None
) -> Tissue:
    """The section of a ``spots.h5ad``, with the truth of the panel ``genes``."""
    import anndata

    table = anndata.read_h5ad(path, backed="r")
    check_contract(table.uns.get("contract"), path, "spot file")
    pixel, scale = float(table.uns["pixel_size_um"]), float(table.uns["image_scale"])
    image = np.asarray(table.uns["image"])
    height, width = (side / scale * pixel for side in image.shape[:2])
    position = np.asarray(table.obsm["spatial_um"], dtype=np.float64)
    spots = table.obs_names.to_numpy().astype(str)
    return Tissue(
        slide=str(table.uns["slide"]),
        image=image,
        extent=(0.0, width, height, 0.0),
        spots=spots,
        position=position,
        diameter=spot_um or spot_diameter(position),
        genes=tuple(genes),
        truth=read_expression(path, spots, genes, unit).astype(np.float64),
        unit=unit,
    )


def spot_diameter(position: np.ndarray) -> float:
    """Diameter in µm of the array whose pitch the spots have, else 0.55 of their distance."""
    if len(position) < 2:
        return ARRAYS[0][1]
    distance = pitch(position)
    for known, diameter in ARRAYS:
        if abs(distance / known - 1) < 0.15:
            return diameter
    return 0.55 * distance


def read_shown(path: str | Path, tissue: Tissue, label: str, draw: int | None = None) -> Shown:
    """The point estimate of a prediction file, or draw ``draw``, joined to ``tissue`` by spot."""
    table, rows, columns = _joined(path, tissue)
    if draw is None:
        values = table.X
        kind = "point estimate" if int(table.uns["draws"]) > 1 else "prediction"
    else:
        values, kind = table.layers[f"draw_{draw}"], "one draw"
    return Shown(label, kind, np.asarray(values, dtype=np.float64)[rows][:, columns])


def read_spread(path: str | Path, tissue: Tissue, label: str) -> Shown:
    """Standard deviation over the draws of a prediction file, joined to ``tissue`` by spot."""
    table, rows, columns = _joined(path, tissue)
    draws = [table.layers[f"draw_{k}"] for k in range(int(table.uns["draws"]))]
    spread = np.std(draws, axis=0, dtype=np.float64, ddof=1) if len(draws) > 1 else draws[0] * 0.0
    return Shown(label, "spread", spread[rows][:, columns])


def _joined(path: str | Path, tissue: Tissue):
    """A prediction file, and where it holds the spots and genes of ``tissue``."""
    import anndata

    table = anndata.read_h5ad(path)
    check_contract(table.uns.get("contract"), path, "prediction file")
    rows = table.obs_names.get_indexer(tissue.spots)
    columns = table.var_names.get_indexer(tissue.genes)
    if (rows < 0).any() or (columns < 0).any():
        raise FlagError(
            f"{path} lacks spots or genes of slide {tissue.slide}",
            remedy=f"delete {path} and run the same command again",
        )
    return table, rows, columns


def spatial_genes(tissue: Tissue, wanted: Sequence[str] | None, count: int) -> list[str]:
    """``wanted`` genes that the panel holds, else the ``count`` of highest Moran's I in the truth."""
    from flag_st.metrics.policy import centred
    from flag_st.metrics.ssc import morans_i, neighbour_graph

    if chosen := [gene for gene in wanted or () if gene in tissue.genes]:
        return chosen[:count]
    values = centred(tissue.truth)
    score = morans_i(values, neighbour_graph(tissue.position), values.varies)
    # By value, then by name: equal truth must give an equal choice.
    order = sorted(
        range(len(score)), key=lambda g: (-np.nan_to_num(score[g], nan=-9), tissue.genes[g])
    )
    return [tissue.genes[g] for g in order[:count]]


def colour_range(truth: np.ndarray) -> tuple[float, float]:
    """1st and 99th percentile of a gene's truth; never an empty range."""
    low, high = np.percentile(truth, (1, 99))
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1.0)


def draw_image(axes: "Axes", tissue: Tissue, alpha: float = 1.0) -> None:
    """The picture, framed to the spots with a margin of one pitch, in true proportions."""
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
    """Discs of the spots' true size over the faint picture; returns what a colour bar needs."""
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
    """A bar of a round number of µm under the picture, about a fifth of it wide."""
    left, right = sorted(axes.get_xlim())
    length = min(SCALE_BARS, key=lambda bar: abs(bar - (right - left) / 5))
    text = f"{length / 1000:g} mm" if length >= 1000 else f"{length} µm"
    share = length / (right - left)
    axes.plot(
        [0, share], [-0.03, -0.03], transform=axes.transAxes, color="black", lw=2, clip_on=False
    )
    axes.text(0, -0.05, text, transform=axes.transAxes, ha="left", va="top", fontsize=7)
