"""Intervals at the two scales at which a prediction is read: of spots, and of means over neighbourhoods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flag_st.core.fitted import Learned, inside, nested
from flag_st.intervals.conformal import Conformal, Seen
from flag_st.intervals.neighbourhoods import averaged, neighbourhoods


@dataclass(frozen=True)
class Calibration(Learned):
    """Both are calibrated on the same slides, the second on means of what was predicted and measured.

    Means need intervals of their own: those of the spots say nothing on how far errors of neighbours
    are alike, and thus on how much of them is left in a mean.

    Attributes:
        spot: of single spots.
        neighbourhood: of the means over a spot and its neighbours (``intervals.neighbourhoods``).
    """

    spot: Conformal
    neighbourhood: Conformal

    @classmethod
    def fit(cls, slides: Sequence[Seen], met: bool = False) -> "Calibration":
        """Calibrate; arguments and errors are those of ``Conformal.fit``."""
        scales = slides, [coarser(slide) for slide in slides]
        return cls(*(Conformal.fit(scale, met) for scale in scales))

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything by name, as ``restore`` takes it."""
        return {
            **nested("spot", self.spot.arrays()),
            **nested("neighbourhood", self.neighbourhood.arrays()),
        }

    @classmethod
    def restore(cls, arrays: Mapping[str, np.ndarray]) -> "Calibration":
        """The inverse of ``arrays``.

        Raises:
            FlagError: something is missing.
        """
        return cls(*(Conformal.restore(inside(name, arrays)) for name in ("spot", "neighbourhood")))


def coarser(slide: Seen) -> Seen:
    """The slide with the means over neighbourhoods in the place of its spots."""
    weights = neighbourhoods(slide.position)
    made = averaged(slide.prediction, weights)
    return Seen(slide.patient, weights @ slide.truth, made, slide.position)
