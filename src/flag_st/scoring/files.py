"""``flag-st score``: one prediction file against one truth file, no matter who made them."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.metrics.base import Metric
from flag_st.scoring.slides import Pair, columns, score_slide
from flag_st.scoring.units import check_unit, scales_apart

if TYPE_CHECKING:
    import anndata

log = logging.getLogger(__name__)

#: Names of the layers that hold draws.
DRAW = re.compile(r"draw_\d+")


def score_files(
    truth_path: str | Path, prediction_path: str | Path, metrics: Mapping[str, Metric]
) -> dict[str, dict[str, float]]:
    """Score one prediction file against one truth file of the same spots and genes.

    Args:
        truth_path: AnnData with X (N, G), dense or sparse, in the unit of the prediction, and
            ``obsm['spatial']``; ``uns['transform']`` names the unit (log1p if absent). A slide's
            ``spots.h5ad`` will do as well: its counts are then transformed to the prediction's unit.
        prediction_path: AnnData whose X is the point estimate and whose layers ``draw_0``, … are the
            draws, if any; ``uns['unit']`` names the unit, if it is known.
        metrics: name → metric.

    Returns:
        metric → {"point": value, "draw": mean over draws} or {"ensemble": value}; without draws
        there is no "draw", and the ensemble is the point estimate alone.

    Raises:
        FlagError: a file is missing or unreadable, or spots, genes or units differ.
    """
    truth, prediction = _read(truth_path), _read(prediction_path)
    for path, table in ((truth_path, truth), (prediction_path, prediction)):
        if table.X is None:
            raise FlagError(f"{path} has no matrix X", remedy="put the expression into X")
    if "spatial_um" in truth.obsm:
        truth = _predicted_part(truth, truth_path, prediction)
    check_unit(truth, prediction, truth_path)
    for what in ("obs_names", "var_names"):
        _check_same(truth, prediction, what, truth_path, prediction_path)
    if "spatial" not in truth.obsm:
        raise FlagError(
            f"{truth_path} has no obsm['spatial'], which neighbours are found by",
            remedy="put the spot coordinates (N, 2) there",
        )
    if not np.isfinite(np.asarray(truth.obsm["spatial"], dtype=np.float64)).all():
        raise FlagError(
            f"{truth_path}: obsm['spatial'] holds NaN or infinite values",
            remedy="leave out the spots whose place is unknown, in both files",
        )
    prediction = prediction[truth.obs_names, truth.var_names]
    if warning := scales_apart(truth, prediction, truth_path):
        log.warning("%s", warning)
    # Other layers, such as draw_mean, are no draws.
    layers = sorted((n for n in prediction.layers if DRAW.fullmatch(n)), key=lambda n: int(n[5:]))
    point = _dense(prediction.X)
    pair = Pair(
        slide=str(truth.uns.get("slide", Path(truth_path).stem)),
        genes=tuple(truth.var_names),
        truth=_dense(truth.X),
        point=point,
        draws=np.array([_dense(prediction.layers[n]) for n in layers]).reshape(-1, *point.shape),
        position=np.asarray(truth.obsm["spatial"], dtype=np.float64)[:, :2],
        facts={"transform": str(truth.uns.get("transform", "log1p"))},
    )
    columns(metrics)
    result: dict[str, dict[str, float]] = {}
    for _, estimator, metric, gene, value in score_slide(pair, metrics, {}, each_draw=False):
        if not gene:
            result.setdefault(metric, {})[estimator] = value
    return result


def _read(path: str | Path) -> "anndata.AnnData":
    import anndata

    if not Path(path).is_file():
        raise FlagError(f"{path} does not exist")
    try:
        return anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError) as error:
        raise FlagError(f"{path} is not a readable h5ad file ({error})") from None


def _predicted_part(
    slide: "anndata.AnnData", path: str | Path, prediction: "anndata.AnnData"
) -> "anndata.AnnData":
    """The predicted spots and genes of a prepared slide, in the prediction's unit."""
    import anndata

    from flag_st.data.slide import read_expression

    spots, genes = prediction.obs_names, prediction.var_names
    unit = str(prediction.uns.get("unit", "log1p"))
    part = anndata.AnnData(
        read_expression(path, np.asarray(spots), list(genes), unit),
        obsm={"spatial": slide[spots].obsm["spatial_um"]},
        uns={"slide": str(slide.uns.get("slide", Path(path).parent.name)), "transform": unit},
    )
    part.obs_names, part.var_names = spots, genes
    return part


def _check_same(truth, prediction, what: str, truth_path, prediction_path) -> None:
    """Refuse two tables unless both hold the same names, each of them once."""
    kind = {"obs_names": "spots", "var_names": "genes"}[what]
    have, want = getattr(prediction, what), getattr(truth, what)
    for path, names in ((truth_path, want), (prediction_path, have)):
        if not names.is_unique:
            twice = sorted(set(names[names.duplicated()]))[:3]
            raise FlagError(f"{path}: {kind} named more than once, such as {', '.join(twice)}")
    for path, other, missing in (
        (prediction_path, truth_path, want.difference(have)),
        (truth_path, prediction_path, have.difference(want)),
    ):
        if len(missing):
            raise FlagError(
                f"{path} lacks {len(missing)} {kind} of {other}, such as {', '.join(missing[:3])}",
                remedy="give two files of the same spots and genes, in any order",
            )


def _dense(matrix) -> np.ndarray:
    return matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix)
