"""Whether the map of a gene can be trusted, by what the validation slides showed.

A gene's verdict is ``TRUST`` if two things are shown at the scale of spots, else ``COARSER`` if they are shown
of the means over neighbourhoods, else ``DO_NOT``:

* prediction and truth correlate by more than ``CORRELATION`` over the spots of a slide;
* the prediction explains some of the variance within a slide, which means that its error is smaller than if
  every spot were given the slide's mean.

Both are about the differences between the spots of a slide, whose mean is taken from truth and prediction:
an error that all spots of a slide share is left to the intervals.

A thing is shown if the lower end of a one-sided interval of ``CONFIDENCE`` is above its limit. With several
patients, it is Student's over patients, each of whom counts the same. With a single patient it is that of a
jackknife which leaves out one square of tissue at a time, since spots near each other are alike; it is then
about this patient alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flag_st.core.fitted import Learned, require
from flag_st.data.spatial import compact_tiles
from flag_st.intervals.calibration import coarser
from flag_st.intervals.conformal import Seen

#: The verdicts, from the worst to the best; their place in this order is how files number them.
VERDICTS = DO_NOT, COARSER, TRUST = "do not", "at a coarser scale only", "trust"
#: With this correlation, of two spots that are drawn at random the one with the higher prediction has the
#: higher truth in two of three cases: 1/2 + arcsin(r) / π for a normal distribution.
CORRELATION = 0.5
#: The share of the variance within a slide that must be explained, at the least.
EXPLAINED = 0.0
#: A gene below a limit is taken to be above it in at most one case of twenty.
CONFIDENCE = 0.95
#: A slide is cut into so many parts, of which the jackknife leaves out one at a time. Few large parts are
#: independent even if structures of the tissue are large; many small ones tell their variance better. The
#: largest of the variances counts, with the degrees of freedom of the fewest parts.
PARTS = (4, 8, 16)
#: A single slide with fewer spots than this shows nothing.
SPOTS = 4 * max(PARTS)
#: Correlations of 1 and errors of 0 are moved by this much, so that their logarithms are finite.
TINY = 1e-9
#: Variance up to which a gene counts as constant.
CONSTANT = 1e-12
NAMES = ("correlation", "explained", "patients")


@dataclass(frozen=True)
class Certificate(Learned):
    """What was shown of each gene.

    Attributes:
        correlation, explained: (2, G) lower ends for spots and for means over neighbourhoods; NaN for a
            gene of which nothing can be said.
        patients: how many patients the slides are of, where unknown donors count as one; 0 if training
            saw some of them, too.
    """

    correlation: np.ndarray
    explained: np.ndarray
    patients: int

    @classmethod
    def fit(cls, slides: Sequence[Seen], met: bool = False) -> "Certificate":
        """Judge the genes by slides that the method was not trained on.

        Args:
            slides: with truth.
            met: whether the method was trained on other slides of one of these patients.
        """
        scales = slides, [coarser(slide) for slide in slides]
        low = np.stack([lower_ends(one) for one in scales], 1)  # (2, 2, G)
        explained = 1 - np.exp(-low[1])
        patients = 0 if met else len({slide.patient for slide in slides})
        return cls(np.tanh(low[0]), explained, patients)

    @property
    def ranks(self) -> np.ndarray:
        """(G,) int, the places of the verdicts in ``VERDICTS``."""
        shown = (self.correlation > CORRELATION) & (self.explained > EXPLAINED)  # (2, G)
        return np.select([shown[0], shown[1]], [2, 1], 0)

    @property
    def verdicts(self) -> np.ndarray:
        """(G,) text."""
        return np.asarray(VERDICTS)[self.ranks]

    def sentence(self) -> str:
        """What the verdicts rest on."""
        if not self.patients:
            return (
                "The verdicts on genes rest on validation slides of patients whom training saw, too; nothing "
                "is shown of a new patient."
            )
        if self.patients == 1:
            return (
                "The verdicts on genes rest on the validation slides of one patient; nothing is shown of "
                "how they change from patient to patient."
            )
        return f"The verdicts on genes rest on the validation slides of {self.patients} patients."

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything by name, as ``restore`` takes it."""
        known = {"correlation": self.correlation, "explained": self.explained}
        return {**known, "patients": np.asarray([self.patients])}

    @classmethod
    def restore(cls, arrays: Mapping[str, np.ndarray]) -> "Certificate":
        """The inverse of ``arrays``.

        Raises:
            FlagError: something is missing.
        """
        require(arrays, NAMES, "certificate")
        return cls(arrays["correlation"], arrays["explained"], int(arrays["patients"][0]))


def lower_ends(slides: Sequence[Seen]) -> np.ndarray:
    """(2, G) lower ends of Fisher's z of the correlation and of the log of variance over error.

    A slide on which a gene is constant says nothing of it. A gene that is left with one patient is judged
    by that one. NaN where nothing can be said.
    """
    found = [_of_slide(slide) for slide in slides]
    values, variances = (np.stack(parts) for parts in zip(*found, strict=True))  # (V, 2, G) each
    patients = np.asarray([slide.patient for slide in slides])
    rows = [patients == name for name in np.unique(patients)]
    means = np.stack([_mean(values[here]) for here in rows])  # (K, 2, G)
    count = np.isfinite(means).sum(0)  # (2, G)
    between = _mean((means - _mean(means)) ** 2) / np.maximum(count - 1, 1)
    within = _mean(variances) / np.maximum(np.isfinite(variances).sum(0), 1)
    variance = np.where(count > 1, between, within)  # of the mean
    freedom = np.where(count > 1, count - 1, PARTS[0] - 1)
    low = _mean(means) - _student(freedom) * np.sqrt(variance)
    return np.where(np.isfinite(low), low, np.nan)


def _student(freedom: np.ndarray) -> np.ndarray:
    # Importing scipy.stats costs more than most commands do without it.
    from scipy.stats import t

    return t.ppf(CONFIDENCE, freedom)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean of (n, ...) over the first axis of what is no NaN; NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(0)
    total = np.where(known, values, 0).sum(0)
    return np.where(count, total / np.maximum(count, 1), np.nan)


def _of_slide(slide: Seen) -> tuple[np.ndarray, np.ndarray]:
    """(2, G) statistics of a slide, without the bias of small samples, and the variance of each.

    Both are the jackknife's. The variance is infinite for a slide with fewer spots than ``SPOTS``.
    """
    truth, point = (
        values.astype(np.float64) - values.mean(0, dtype=np.float64)
        for values in (slide.truth, slide.prediction.point)
    )
    whole = _statistics(_sums(truth, point))  # (2, G)
    if len(truth) < SPOTS:
        return whole, np.where(np.isnan(whole), np.nan, np.inf)
    centres, variances = [], []
    for count in PARTS:
        tiles = compact_tiles(slide.position, -(-len(truth) // count))
        sums = np.stack([_sums(truth[tile], point[tile]) for tile in tiles])  # (B, 6, G)
        without = np.stack([_statistics(sums.sum(0) - one) for one in sums])  # (B, 2, G)
        centres.append(len(tiles) * whole - (len(tiles) - 1) * without.mean(0))
        variances.append((len(tiles) - 1) * without.var(0))
    return np.mean(centres, 0), np.max(variances, 0)


def _sums(truth: np.ndarray, point: np.ndarray) -> np.ndarray:
    """(6, G) the sums that ``_statistics`` needs, of (n, G) values."""
    terms = (np.ones_like(truth), truth, point, truth**2, point**2, truth * point)
    return np.stack([term.sum(0) for term in terms])


def _statistics(sums: np.ndarray) -> np.ndarray:
    """(2, G) Fisher's z of the correlation, and log of variance over error; NaN for a constant truth.

    A constant prediction correlates by 0, and its error is the variance.
    """
    count, *others = sums
    t, p, tt, pp, tp = (one / count for one in others)  # (G,) each
    truth, point, both = tt - t**2, pp - p**2, tp - t * p
    varies, moves = truth > CONSTANT, point > CONSTANT
    scale = np.sqrt(np.where(varies & moves, truth * point, np.inf))
    z = np.arctanh(np.clip(both / scale, TINY - 1, 1 - TINY))
    error = np.maximum(truth + point - 2 * both, TINY * truth)
    ratio = np.log(np.where(varies, truth, 1) / np.where(varies, error, 1))
    return np.where(varies, np.stack([z, ratio]), np.nan)  # (2, G)
