"""One policy for degenerate cases, and what the metrics of one case share.

The policy, the same for every metric and every method:

* truth constant on the case: the gene is dropped (NaN) and counted in ``n_constant_truth``;
* prediction constant while truth varies: counted in ``n_constant_prediction`` and scored as
  no skill (PCC 0, its correlations 0, Moran's I at its expectation -1/(N-1)), never left out,
  since leaving it out would reward collapsed genes;
* NaN or infinity in a prediction: ``FlagError``;
* too few spots or genes: the value is undefined, which is NaN and not an error.

Keys of ``Case.cache``, all optional. Given by the caller:

===============  ==========================================================================
slide            name, for messages and random streams
transform        unit of the expression, a key of ``flag_st.data.slide.TRANSFORMS`` (log1p)
train_variance   (G,) variance of each gene over the spots of the training slides
domains          (N,) names of reference domains; "" means unlabelled
calibration      ``flag_st.intervals.calibration.Calibration`` of the run
grid             (N, 2) integer array coordinates, row then column
===============  ==========================================================================

Made here and by metrics: ``truth``, a dict of everything that depends only on truth and position.
The cases of one slide (point, each draw, ensemble) share this dict, so that it is computed once.
Everything else in the cache belongs to one prediction and must not be shared.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.metrics.base import Case

#: Fewest spots for a correlation; fewest spots and genes for a structure metric (GSC, SSC, …).
MIN_SPOTS, MIN_SPOTS_STRUCTURE, MIN_GENES = 3, 30, 10
#: A column counts as constant below this sd, or below this share of the truth's sd.
SD_ABSOLUTE, SD_RELATIVE = 1e-8, 1e-6


@dataclass(frozen=True)
class Centred:
    """Columns minus their mean, with their standard deviation.

    Attributes:
        values: (N, G) float64.
        sd: (G,) with N - 1 in the denominator.
        varies: (G,) bool, not constant.
    """

    values: np.ndarray
    sd: np.ndarray
    varies: np.ndarray

    def standardised(self, columns: np.ndarray) -> np.ndarray:
        """(N, columns) z-scores; constant columns are all zero."""
        scale = np.where(self.varies, self.sd, np.inf)[columns]
        return self.values[:, columns] / scale


def of_truth(case: Case, key: Hashable, make: Callable[[], Any]) -> Any:
    """What ``make`` returns, computed once for all cases that share the truth."""
    shared = case.cache.setdefault("truth", {})
    return _once(shared, key, make)


def of_prediction(case: Case, key: Hashable, make: Callable[[], Any]) -> Any:
    """What ``make`` returns, computed once for this case."""
    return _once(case.cache, ("prediction", key), make)


def _once(cache: dict, key: Hashable, make: Callable[[], Any]) -> Any:
    if key not in cache:
        cache[key] = make()
    return cache[key]


#: What to do about a truth, and about a prediction, that is not finite.
MEASURED = (
    "leave out the genes or spots that were not measured, from the truth and from the prediction"
)
FAILED = "the method failed on this slide: read its training history and train it again"


def check_finite(values: np.ndarray, what: str, case: Case, remedy: str = FAILED) -> None:
    """Refuse NaN and infinity in (…, N, G) ``values``, naming how many genes and spots have them.

    Raises:
        FlagError: a method that fails on a slide is reported, not imputed.
    """
    if np.isfinite(values).all():
        return
    bad = ~np.isfinite(values).reshape(-1, *values.shape[-2:]).all(axis=0)  # (N, G)
    slide = case.cache.get("slide", "")
    where = f" of slide {slide}" if slide else ""
    raise FlagError(
        f"{what}{where} is NaN or infinite in {int(bad.any(0).sum())} of {bad.shape[1]} genes"
        f" (such as {case.genes[int(bad.any(0).argmax())]})"
        f" and {int(bad.any(1).sum())} of {bad.shape[0]} spots",
        remedy=remedy,
    )


def checked(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction (N, G) as float64, both known to be finite."""

    def truth() -> np.ndarray:
        check_finite(case.truth, "the truth", case, MEASURED)
        return np.asarray(case.truth, dtype=np.float64)

    def prediction() -> np.ndarray:
        check_finite(case.prediction, "the prediction", case)
        return np.asarray(case.prediction, dtype=np.float64)

    return of_truth(case, "values", truth), of_prediction(case, "values", prediction)


def draws_of(case: Case) -> np.ndarray:
    """(S, N, G) draws, known to be finite; their type is kept, since they are many."""

    def draws() -> np.ndarray:
        assert case.draws is not None, "only a metric that says `ensemble` is given draws"
        check_finite(case.draws, "a draw", case)
        return case.draws

    return of_prediction(case, "draws", draws)


def position_of(case: Case) -> np.ndarray:
    """(N, 2) in µm, for metrics that are not computed for pooled slides."""
    assert case.position is not None, "only a metric that says `pooled` is given no positions"
    return case.position


def truth_of(case: Case) -> Centred:
    return of_truth(case, "centred", lambda: centred(checked(case)[0]))


def prediction_of(case: Case) -> Centred:
    floor = SD_RELATIVE * truth_of(case).sd
    return of_prediction(case, "centred", lambda: centred(checked(case)[1], floor))


def centred(values: np.ndarray, floor: np.ndarray | float = 0.0) -> Centred:
    """Centre in two passes: one-pass sums lose digits if the mean is far above the sd."""
    values = values - values.mean(axis=0)
    sd = np.sqrt((values**2).sum(axis=0) / max(len(values) - 1, 1))
    return Centred(values, sd, sd >= np.maximum(floor, SD_ABSOLUTE))


def usable(case: Case) -> np.ndarray:
    """(G,) bool: genes whose truth varies; the same for every method."""
    return truth_of(case).varies


def collapsed(case: Case) -> np.ndarray:
    """(G,) bool: genes whose prediction is constant although their truth varies."""
    return usable(case) & ~prediction_of(case).varies


def structure_defined(case: Case) -> bool:
    """Whether there are enough spots and genes for GSC, SSC and other structure metrics."""
    return len(case.truth) >= MIN_SPOTS_STRUCTURE and int(usable(case).sum()) >= MIN_GENES


def pearson(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Pearson correlation of two vectors under the policy: 0 for a constant prediction."""
    y = centred(np.asarray(truth, dtype=np.float64)[:, None])
    p = centred(np.asarray(prediction, dtype=np.float64)[:, None], SD_RELATIVE * y.sd)
    if len(truth) < MIN_SPOTS or not y.varies[0]:
        return float("nan")
    if not p.varies[0]:
        return 0.0
    return float((y.values * p.values).sum() / (y.sd[0] * p.sd[0] * (len(truth) - 1)))


def spearman(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Spearman correlation of two vectors under the policy: 0 for a constant prediction."""
    # Every table of scores needs pandas; importing scipy.stats costs more than most scores.
    import pandas as pd

    one, two = (pd.Series(values).rank().to_numpy() for values in (truth, prediction))
    return pearson(one, two)
