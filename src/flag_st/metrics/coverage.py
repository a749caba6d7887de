"""Calibration of the draws: coverage and width of central intervals, spread against skill."""

from typing import ClassVar

import numpy as np

from flag_st.core.seeds import numpy_generator
from flag_st.metrics import policy
from flag_st.metrics.base import Case, Metric

LEVELS, BINS = (50, 80, 90), 10


def pit(truth: np.ndarray, draws: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(N, G) randomised probability integral transform, uniform on (0, 1) for calibrated draws.

    The truth's rank among S draws, ties broken at random (counts are discrete and about half of
    them zero), spread evenly over its 1/(S + 1).
    """
    below, equal = (np.zeros(truth.shape, dtype=np.int32) for _ in range(2))
    for draw in draws:
        below += draw < truth
        equal += draw == truth
    rank = below + np.floor(generator.random(truth.shape) * (equal + 1))
    return (rank + generator.random(truth.shape)) / (len(draws) + 1)


class Coverage(Metric):
    """Share of the truth inside central intervals of the draws, with their mean width.

    An interval of level c reaches from the (S + 1)(1 - c)/2-th lowest draw to the same from the
    top, so it needs S >= 2/(1 - c) - 1 draws (3, 9 and 19) and is undefined with fewer. The
    ``range`` of all draws has level (S - 1)/(S + 1). Ranks are randomised: calibrated draws have
    exact coverage, whatever the ties. ``spread_skill`` is 1 for calibrated draws, below 1 if they
    are too narrow.
    """

    columns: ClassVar = {
        **{f"coverage_{c}": (f"coverage of {c} % intervals", 0) for c in LEVELS},
        "coverage_range": ("coverage of the range of draws", 0),
        "coverage_range_nominal": ("nominal coverage of the range", 0),
        **{f"width_{c}": (f"width of {c} % intervals", -1) for c in LEVELS},
        "width_range": ("width of the range of draws", -1),
        "spread_skill": ("spread / skill", 0),
        "pit_deviation": ("deviation of the PIT from uniform", -1),
        **{f"pit_{b}": (f"PIT, tenth {b}", 0) for b in range(1, BINS + 1)},
    }
    ensemble = True

    def __call__(self, case: Case) -> dict[str, float | np.ndarray]:
        truth, _ = policy.checked(case)
        draws = policy.draws_of(case)
        result: dict[str, float | np.ndarray] = dict.fromkeys(self.columns, float("nan"))
        count = len(draws)
        if count < 2:
            return result
        generator = numpy_generator("pit", case.cache.get("slide", ""))
        u = pit(truth, draws, generator)
        ordered = np.sort(draws, axis=0)  # (S, N, G)
        tails = {str(c): (1 - c / 100) / 2 for c in LEVELS} | {"range": 1 / (count + 1)}
        for name, tail in tails.items():
            if tail * (count + 1) > 1 - 1e-9:
                result[f"coverage_{name}"] = float(((u >= tail) & (u <= 1 - tail)).mean())
                result[f"width_{name}"] = _width(ordered, tail)
        result["coverage_range_nominal"] = (count - 1) / (count + 1)
        result["spread_skill"] = _spread_skill(truth, draws)
        shares = np.histogram(u, bins=BINS, range=(0, 1))[0] / u.size
        result["pit_deviation"] = float(np.abs(shares - 1 / BINS).sum())
        return result | {f"pit_{b}": float(s) for b, s in enumerate(shares, 1)}


def _width(ordered: np.ndarray, tail: float) -> float:
    """Mean distance of the order statistics at ``tail`` and 1 - ``tail``, interpolated."""
    ends = ordered.mean(axis=(1, 2), dtype=np.float64)  # (S,)
    place, last = tail * (len(ends) + 1) - 1, len(ends) - 1
    lower, upper = np.interp([place, last - place], np.arange(len(ends)), ends)
    return float(upper - lower)


def _spread_skill(truth: np.ndarray, draws: np.ndarray) -> float:
    """sqrt((S + 1)/S · mean variance of the draws) / RMSE of their mean."""
    count = len(draws)
    mean = draws.mean(axis=0, dtype=np.float64)
    variance = sum(((draw - mean) ** 2).mean() for draw in draws) / (count - 1)
    error = ((mean - truth) ** 2).mean()
    return float(np.sqrt((count + 1) / count * variance / error)) if error > 0 else float("nan")
