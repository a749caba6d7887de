"""What a metric is, and the cases that it judges."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class Case:
    """One unit of analysis: a slide, or all test slides pooled.

    Attributes:
        truth, prediction: (N, G) float64 in the panel's unit.
        position: (N, 2) in µm; None for pooled slides, whose spots have no common space.
        genes: G names.
        draws: (S, N, G) for metrics that judge the whole ensemble, else None.
        cache: known facts about the slide, and what metrics keep for its other predictions
            (``flag_st.metrics.policy``).
    """

    truth: np.ndarray
    prediction: np.ndarray
    position: np.ndarray | None
    genes: tuple[str, ...]
    draws: np.ndarray | None = None
    cache: dict = field(default_factory=dict, compare=False)


class Metric(ABC):
    """A metric turns a case into named values.

    Class attributes:
        columns: the values that it returns, name → (label, direction); the direction is +1 if
            higher is better, -1 if lower is better, and 0 if neither is.
        pooled: whether it is also defined for pooled slides.
        ensemble: whether it judges all draws at once, as CRPS does, instead of one prediction.
        downstream: whether it repeats an analysis of expression with scanpy. This is costly, so that
            it is computed only for the experiments that ask for it, by a rule of its own
            (``evaluate_downstream``), and for no draw but the first.
        calibrated: whether it judges intervals that were calibrated on the validation slides, which a
            rule of its own makes (``calibrate``).
    """

    columns: ClassVar[dict[str, tuple[str, int]]]
    pooled: ClassVar[bool] = True
    ensemble: ClassVar[bool] = False
    downstream: ClassVar[bool] = False
    calibrated: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, case: Case) -> dict[str, float | np.ndarray]:
        """Name → one value for the case (a float) or one per gene (an array of length G)."""
