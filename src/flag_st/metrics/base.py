"""What a metric is, and the one policy for degenerate cases."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np


@dataclass(frozen=True)
class Case:
    """One unit of analysis: a slide, or all test slides pooled.

    Attributes:
        truth, prediction: (N, G) float64 in the panel's unit.
        position: (N, 2) µm; None for pooled cases, where neighbours make no sense.
        genes: G names.
        draws: (S, N, G) where a metric judges the whole ensemble, else None.
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
        columns: what it returns, name → (label, direction); direction is +1 (higher is better),
            -1 (lower is better) or 0 (neither).
        pooled: whether it is also defined on slides pooled.
        ensemble: judges all draws at once (CRPS …) instead of one prediction.
    """

    columns: ClassVar[dict[str, tuple[str, int]]]
    pooled: ClassVar[bool] = True
    ensemble: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, case: Case) -> dict[str, float | np.ndarray]:
        """Floats are values of the case; arrays of length G are values of its genes."""
