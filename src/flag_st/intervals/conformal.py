"""Conformal intervals: the draws say where a prediction is uncertain, calibration slides say by how much.

The spread of the draws is the model's own opinion. On slides that it was not trained on, its errors are
compared with this opinion, and the interval of each gene is made wider or narrower until it holds the truth
as often as it says. This is exact for spots like those of the calibration slides. Spots of one patient are
alike, however, so that for a new patient the number of patients counts: with K of them, an interval of
level c holds at least c K/(K + 1) of the spots of a new patient's slide on average (Lee, Barber and Willett,
Distribution-free inference with hierarchical data, 2023, where each patient has the weight 1/(K + 1)).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.fitted import Learned, require
from flag_st.intervals.neighbourhoods import averaged
from flag_st.methods.base import Prediction

if TYPE_CHECKING:
    from scipy.sparse import csr_array

#: The levels, in percent, that are calibrated.
LEVELS = (50, 80, 90, 95)
#: Draws that agree up to this are no opinion on the uncertainty.
NO_SPREAD = 1e-6
#: Spots whose intervals are computed at a time.
BLOCK = 4096
NAMES = ("factors", "joint", "floor", "spans", "patients", "draws")


@dataclass(frozen=True)
class Seen:
    """A calibration slide, which the method was not trained on, with its prediction.

    Attributes:
        patient: its donor; slides whose donor is unknown ("") count as those of one patient.
        truth: (N, G) in the panel's unit.
        prediction: of the same spots and genes.
        position: (N, 2) in µm.
    """

    patient: str
    truth: np.ndarray
    prediction: Prediction
    position: np.ndarray


@dataclass(frozen=True)
class Conformal(Learned):
    """Intervals from point - f · below to point + f · above; below 0, where no expression is, they are cut.

    ``below`` and ``above`` are the deviations of the draws to either side of the point estimate, each plus
    the floor. A method without draws has the floor alone, and its intervals have the same width everywhere.

    Attributes:
        factors: (L, G) f for every level and gene.
        joint: (L,) what all f of a level are multiplied by for intervals that hold for all genes of a spot
            at once.
        floor: (G,) mean spread of the draws on the calibration slides; 1 without spread.
        spans: (L, G) how wide the interval is that holds this share of the truth of all calibration
            slides and is the same for every spot. It is what can be said without looking at a slide.
        patients: how many patients the calibration slides are of; 0 if training saw some of them, too.
            A new patient is then unlike them, and nothing is guaranteed.
        draws: how many draws were calibrated.
    """

    factors: np.ndarray
    joint: np.ndarray
    floor: np.ndarray
    spans: np.ndarray
    patients: int
    draws: int

    @classmethod
    def fit(cls, slides: Sequence[Seen], met: bool = False) -> "Conformal":
        """Calibrate.

        Args:
            slides: that the method was not trained on.
            met: whether it was trained on other slides of one of these patients.

        Raises:
            FlagError: there is no slide, or slides have different numbers of draws.
        """
        counts = {len(slide.prediction.samples) for slide in slides}
        if len(counts) != 1:
            raise FlagError(
                f"intervals are calibrated on slides with as many draws each, not {sorted(counts)}",
                remedy="choose a split that has validation slides",
            )
        weights, patients = _weights(slides)  # (M,)
        floor = np.mean([_spread(slide.prediction).mean(0) for slide in slides], axis=0)  # (G,)
        floor = np.where(floor > NO_SPREAD, floor, 1.0)
        errors = np.concatenate([_errors(slide, floor) for slide in slides])  # (M, G)
        factors = np.stack([_quantile(errors, weights, c / 100) for c in LEVELS])  # (L, G)
        joint = [
            _quantile(_worst(errors, f)[:, None], weights, c / 100)[0]
            for c, f in zip(LEVELS, factors, strict=True)
        ]
        truth = np.concatenate([slide.truth for slide in slides]).astype(np.float64)  # (M, G)
        spans = np.stack([_span(truth, weights, c / 100) for c in LEVELS])  # (L, G)
        return cls(factors, np.asarray(joint), floor, spans, 0 if met else patients, counts.pop())

    def interval(
        self,
        prediction: Prediction,
        level: int,
        joint: bool = False,
        weights: "csr_array | None" = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends, (N, G) float32 each, in the panel's unit.

        Args:
            prediction: of the method that was calibrated.
            level: in percent, one of ``LEVELS``.
            joint: for all genes of a spot at once.
            weights: (N, N), of ``neighbourhoods``: the intervals are those of the means.

        Raises:
            FlagError: the level was not calibrated, or there is a single draw where several were calibrated.
        """
        row = _row(level)
        if self.draws > 1 and len(prediction.samples) < 2:
            raise FlagError(
                f"these intervals were calibrated on {self.draws} draws, and one draw has no spread",
                remedy="make two draws or more",
            )
        factor = self.factors[row] * (self.joint[row] if joint else 1.0)  # (G,)
        lower, upper = (np.empty(prediction.point.shape, np.float32) for _ in range(2))
        # In blocks, because double precision takes several times the memory of all draws.
        for start in range(0, len(lower), BLOCK):
            rows = slice(start, start + BLOCK)
            if weights is None:
                part = Prediction(prediction.samples[:, rows], prediction.point[rows])
            else:
                part = averaged(prediction, weights[rows])
            below, above = _deviations(part, self.floor)
            lower[rows] = np.maximum(part.point - factor * below, 0)
            upper[rows] = part.point + factor * above
        return lower, upper

    def informative(self, lower: np.ndarray, upper: np.ndarray, level: int) -> np.ndarray:
        """(N, G) bool: intervals that are narrower than what can be said without looking at a slide."""
        return (upper - lower) < self.spans[_row(level)]

    def guaranteed(self, level: int) -> float:
        """The share that an interval of this level holds at least of a new patient's spots, on average."""
        return level / 100 * self.patients / (self.patients + 1)

    def sentence(self, level: int) -> str:
        """How far an interval of this level can be relied on."""
        held = (
            f"They hold the truth in {level} % of the spots of slides like these; for a new patient"
        )
        if not self.patients:
            return (
                f"{level} % intervals were calibrated on slides of patients whom training saw, too. "
                f"{held} nothing is guaranteed."
            )
        patients = f"{self.patients} patient" + "s" * (self.patients != 1)
        return (
            f"{level} % intervals were calibrated on spots of {patients}. {held} no more than "
            f"{100 * self.guaranteed(level):.0f} % are guaranteed, on average over patients."
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything by name, as ``restore`` takes it."""
        counts = {name: np.asarray([getattr(self, name)]) for name in ("patients", "draws")}
        return {
            "factors": self.factors,
            "joint": self.joint,
            "floor": self.floor,
            "spans": self.spans,
            **counts,
        }

    @classmethod
    def restore(cls, arrays: Mapping[str, np.ndarray]) -> "Conformal":
        """The inverse of ``arrays``.

        Raises:
            FlagError: something is missing.
        """
        require(arrays, NAMES, "calibration")
        counts = {name: int(arrays[name][0]) for name in ("patients", "draws")}
        return cls(arrays["factors"], arrays["joint"], arrays["floor"], arrays["spans"], **counts)


def _row(level: int) -> int:
    if level not in LEVELS:
        raise FlagError(f"intervals of {level} % were not calibrated", choices=LEVELS)
    return LEVELS.index(level)


def _weights(slides: Sequence[Seen]) -> tuple[np.ndarray, int]:
    """(M,) weights of all spots, equal in sum for every patient and 1 in all; the number of patients."""
    names = np.concatenate([np.full(len(slide.truth), i) for i, slide in enumerate(slides)])
    patients = np.asarray([slide.patient for slide in slides])[names]
    known, place, count = np.unique(patients, return_inverse=True, return_counts=True)
    return 1 / (len(known) * count[place]), len(known)


def _spread(prediction: Prediction) -> np.ndarray:
    """(N, G) standard deviation over draws; 0 for one draw."""
    return prediction.samples.std(0, dtype=np.float64)


def _deviations(prediction: Prediction, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Root mean square deviation of the draws below and above the point, (N, G) each, plus the floor."""
    below, above = (np.zeros(prediction.point.shape) for _ in range(2))
    for draw in prediction.samples if len(prediction.samples) > 1 else ():
        off = draw - prediction.point
        below += np.minimum(off, 0) ** 2
        above += np.maximum(off, 0) ** 2
    count = len(prediction.samples)
    return np.sqrt(below / count) + floor, np.sqrt(above / count) + floor


def _errors(slide: Seen, floor: np.ndarray) -> np.ndarray:
    """(N, G) errors in multiples of the deviation to their side: f must reach them to cover the truth."""
    off = slide.truth - slide.prediction.point
    below, above = _deviations(slide.prediction, floor)
    return np.where(off < 0, -off / below, off / above)


def _worst(errors: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """(M,) the largest error of each spot over genes, in multiples of the gene's factor."""
    scale = np.where(factors > 0, factors, errors.max(0))
    return (errors / np.where(scale > 0, scale, 1.0)).max(1)


def _quantile(errors: np.ndarray, weights: np.ndarray, level: float) -> np.ndarray:
    """(G,) the smallest error of each column that has the share ``level`` at or below it.

    The share is of all spots and the new one, which is what makes it exact for few spots.
    """
    return _at(errors, weights, min(level * (1 + 1 / len(errors)), 1.0))


def _at(values: np.ndarray, weights: np.ndarray, share: float) -> np.ndarray:
    """(G,) the smallest value of each column that has ``share`` of the weight (M,) at or below it."""
    order = np.argsort(values, axis=0, kind="stable")
    reached = np.cumsum(weights[order], axis=0)  # (M, G)
    place = np.minimum((reached < share - 1e-9).sum(0), len(values) - 1)
    return np.take_along_axis(values, np.take_along_axis(order, place[None], 0), 0)[0]


def _span(truth: np.ndarray, weights: np.ndarray, level: float) -> np.ndarray:
    """(G,) width of the central interval of each column that holds the share ``level`` of it."""
    ends = [_at(truth, weights, (1 + sign * level) / 2) for sign in (-1, 1)]
    return ends[1] - ends[0]
