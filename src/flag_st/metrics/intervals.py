"""Intervals that were calibrated on validation slides: what they cover, and what the spread is worth."""

from typing import ClassVar

import numpy as np

from flag_st.intervals.calibration import Calibration
from flag_st.intervals.conformal import LEVELS
from flag_st.intervals.neighbourhoods import neighbourhoods
from flag_st.methods.base import Prediction
from flag_st.metrics import policy
from flag_st.metrics.base import Case, Metric

TENTHS = 10


class Intervals(Metric):
    """Coverage and width of calibrated intervals, and the error of the predictions that look certain.

    The share of the truth inside is given for genes one by one and for all genes of a spot at once, and for
    the means over neighbourhoods, which pooled slides do not have. An interval is informative if it is
    narrower than one that is the same for every spot and slide. The
    risk is the mean squared error of the spots with the narrowest intervals of each gene, from a tenth of
    them to all, over that of all: it falls below 1 if the spread knows where the errors are. Without a
    calibration, as for a control that sees the truth, nothing is defined.
    """

    columns: ClassVar = {
        **{f"calibrated_{c}": (f"coverage of calibrated {c} % intervals", 0) for c in LEVELS},
        **{f"calibrated_width_{c}": (f"width of calibrated {c} % intervals", -1) for c in LEVELS},
        "calibrated_joint_90": ("coverage of 90 % intervals, all genes at once", 0),
        "calibrated_gene_low_90": ("coverage of 90 % intervals, lowest tenth of genes", 0),
        "calibrated_guarantee_90": ("guaranteed coverage of 90 % intervals", 0),
        **{
            f"calibrated_neighbourhood_{c}": (f"coverage of {c} % intervals of neighbourhoods", 0)
            for c in LEVELS
        },
        **{
            f"calibrated_neighbourhood_width_{c}": (
                f"width of {c} % intervals of neighbourhoods",
                -1,
            )
            for c in LEVELS
        },
        "calibrated_informative_90": ("informative 90 % intervals", 1),
        "calibrated_90_gene": ("coverage of calibrated 90 % intervals", 0),
        **{f"risk_{t}": (f"relative error, most certain {10 * t} %", -1) for t in range(1, TENTHS)},
    }
    ensemble, calibrated = True, True

    def __call__(self, case: Case) -> dict[str, float | np.ndarray]:
        policy.checked(case), policy.draws_of(case)
        calibration: Calibration | None = case.cache.get("calibration")
        result: dict[str, float | np.ndarray] = dict.fromkeys(self.columns, float("nan"))
        result["calibrated_90_gene"] = np.full(len(case.genes), np.nan)
        if calibration is None:
            return result
        result |= of_spots(case, calibration)
        if case.position is not None:
            result |= of_neighbourhoods(case, calibration)
        return result


def of_spots(case: Case, calibration: Calibration) -> dict[str, float | np.ndarray]:
    """All columns but those of neighbourhoods."""
    truth, point = policy.checked(case)
    prediction, spot = Prediction(policy.draws_of(case), point), calibration.spot
    result: dict[str, float | np.ndarray] = {"calibrated_guarantee_90": spot.guaranteed(90)}
    for level in LEVELS:
        lower, upper = spot.interval(prediction, level)
        inside = (truth >= lower) & (truth <= upper)  # (N, G)
        result[f"calibrated_{level}"] = float(inside.mean())
        result[f"calibrated_width_{level}"] = float((upper - lower).mean())
        if level == 90:
            shares = inside.mean(0)
            result["calibrated_90_gene"] = shares
            result["calibrated_gene_low_90"] = float(np.quantile(shares, 0.1))
            informative = spot.informative(lower, upper, level)
            result["calibrated_informative_90"] = float(informative.mean())
            result |= risks(upper - lower, (truth - point) ** 2)
    lower, upper = spot.interval(prediction, 90, joint=True)
    result["calibrated_joint_90"] = float(((truth >= lower) & (truth <= upper)).all(1).mean())
    return result


def of_neighbourhoods(case: Case, calibration: Calibration) -> dict[str, float]:
    """Coverage and width of the intervals of means over a spot and its neighbours."""
    truth, point = policy.checked(case)
    prediction, result = Prediction(policy.draws_of(case), point), {}

    def means() -> tuple:
        weights = neighbourhoods(policy.position_of(case))
        return weights, weights @ truth

    weights, mean = policy.of_truth(case, "neighbourhoods", means)
    for level in LEVELS:
        lower, upper = calibration.neighbourhood.interval(prediction, level, weights=weights)
        inside = (mean >= lower) & (mean <= upper)  # (N, G)
        result[f"calibrated_neighbourhood_{level}"] = float(inside.mean())
        result[f"calibrated_neighbourhood_width_{level}"] = float((upper - lower).mean())
    return result


def risks(width: np.ndarray, error: np.ndarray) -> dict[str, float]:
    """Mean error of the spots with the narrowest intervals of each gene over that of all its spots.

    Args:
        width, error: (N, G); a gene without error is left out, and so is one whose widths are all equal.
    """
    told = (error.mean(0) > 0) & (np.ptp(width, axis=0) > 0)  # (G,)
    if not told.any():
        return {}
    order = np.argsort(width[:, told], axis=0, kind="stable")
    ordered = np.take_along_axis(error[:, told], order, 0) / error[:, told].mean(0)
    counts = [max(1, round(len(error) * t / TENTHS)) for t in range(1, TENTHS)]
    return {f"risk_{t}": float(ordered[:n].mean()) for t, n in enumerate(counts, 1)}
