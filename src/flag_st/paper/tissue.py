"""One tissue section as tables and figures see it: picture, spots, truth and predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.io import check_contract
from flag_st.data.slide import read_expression
from flag_st.data.spatial import pitch

#: Pitch and spot diameter in µm of known arrays: Visium, legacy ST and its second generation.
ARRAYS = ((100.0, 55.0), (200.0, 100.0), (150.0, 110.0))


@dataclass(frozen=True)
class Tissue:
    """One section with its truth.

    Attributes:
        slide: its name.
        image: (H, W, 3) uint8 thumbnail.
        extent: left, right, bottom and top of the picture in µm, as ``imshow`` takes them.
        spots: (N,) barcodes.
        position: (N, 2) spot centres in µm, x then y.
        diameter: of a spot in µm.
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
    """A prediction of a slide.

    Attributes:
        method: its label.
        kind: ``prediction``, ``point estimate``, ``one draw`` or ``spread``.
        values: (N, G), with spots and genes in the order of the ``Tissue``.
    """

    method: str
    kind: str
    values: np.ndarray


def read_tissue(
    path: str | Path, genes: Sequence[str], unit: str, spot_um: float | None = None
) -> Tissue:
    """The section in a ``spots.h5ad``, with the truth of the panel ``genes`` in ``unit``.

    ``spot_um`` is the spot diameter, for arrays whose pitch does not tell it.
    """
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
    """Diameter in µm of the array whose pitch the spots have; 0.55 times an unknown pitch."""
    if len(position) < 2:
        return ARRAYS[0][1]
    distance = pitch(position)
    for known, diameter in ARRAYS:
        if abs(distance / known - 1) < 0.15:
            return diameter
    return 0.55 * distance


def read_shown(path: str | Path, tissue: Tissue, label: str, draw: int | None = None) -> Shown:
    """The point estimate in a prediction file, or draw ``draw``, joined to ``tissue`` by spot."""
    table, rows, columns = _joined(path, tissue)
    if draw is None:
        values = table.X
        kind = "point estimate" if int(table.uns["draws"]) > 1 else "prediction"
    else:
        values, kind = table.layers[f"draw_{draw}"], "one draw"
    return Shown(label, kind, np.asarray(values, dtype=np.float64)[rows][:, columns])


def read_spread(path: str | Path, tissue: Tissue, label: str) -> Shown:
    """Standard deviation over the draws in a prediction file, joined to ``tissue`` by spot."""
    table, rows, columns = _joined(path, tissue)
    draws = [table.layers[f"draw_{k}"] for k in range(int(table.uns["draws"]))]
    spread = np.std(draws, axis=0, dtype=np.float64, ddof=1) if len(draws) > 1 else draws[0] * 0.0
    return Shown(label, "spread", spread[rows][:, columns])


def _joined(path: str | Path, tissue: Tissue):
    """A prediction file, and the places of the spots and genes of ``tissue`` in it."""
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
    """Up to ``count`` genes: those ``wanted`` that the panel holds, or those of highest Moran's I."""
    from flag_st.metrics.policy import centred
    from flag_st.metrics.ssc import morans_i, neighbour_graph

    if chosen := [gene for gene in wanted or () if gene in tissue.genes]:
        return chosen[:count]
    values = centred(tissue.truth)
    score = morans_i(values, neighbour_graph(tissue.position), values.varies)
    # By value and then by name, so that equal truths give equal choices.
    order = sorted(
        range(len(score)), key=lambda g: (-np.nan_to_num(score[g], nan=-9), tissue.genes[g])
    )
    return [tissue.genes[g] for g in order[:count]]
