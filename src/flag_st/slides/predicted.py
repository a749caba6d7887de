"""A slide with its prediction and the verdicts on it, as the output files see it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.data.slide import UNITS, Slide
from flag_st.intervals.calibration import Calibration
from flag_st.intervals.neighbourhoods import neighbourhoods
from flag_st.methods.base import Prediction
from flag_st.slides.gene_sets import GeneSets
from flag_st.slides.trust import LIKE, REFUSE, Trust

if TYPE_CHECKING:
    from scipy.sparse import csr_array

#: Longest side in pixels of the picture of a slide, and of its thumbnail on pages.
PICTURE, THUMBNAIL = 4000, 1000
#: Level in percent of the intervals in the files.
LEVEL = 90
#: Spots whose spread is computed at a time.
BLOCK = 4096


@dataclass(frozen=True)
class Predicted:
    """One predicted slide.

    Attributes:
        slide: N spots without expression; positions in µm from the image's top left corner.
        prediction: S draws and the point estimate of all G genes.
        facts: of the model: ``method``, ``unit``, ``seed`` and ``genes``.
        shown: the genes that pictures and overlays show; tables hold all.
        trust: the verdicts.
        intervals: calibrated on the model's validation slides.
        array: (N, 2) row and column of each spot.
        pitch_um, spot_um: distance of the spots and their diameter.
        pixel_um: of level 0 of the image, whose ``size`` (width, height) is in its pixels.
        qupath_origin: where QuPath's coordinates begin, in pixels of level 0 (``SlideImage``).
        picture: (h, w, 3) uint8, the whole slide reduced.
        origin: what the prediction was made from and how, for the files' headers.
        sets: gene sets to be scored, or None.
    """

    slide: Slide
    prediction: Prediction
    facts: Mapping[str, Any]
    shown: Sequence[str]
    trust: Trust
    intervals: Calibration
    array: np.ndarray
    pitch_um: float
    spot_um: float
    pixel_um: float
    size: tuple[int, int]
    qupath_origin: tuple[int, int]
    picture: np.ndarray
    origin: Mapping[str, Any]
    sets: GeneSets | None = None

    @property
    def genes(self) -> list[str]:
        return list(self.facts["genes"])

    @property
    def unit(self) -> str:
        """Name of the unit of all values."""
        return UNITS[self.facts["unit"]][0]

    @property
    def back(self) -> str:
        """How to return from the unit to counts."""
        return UNITS[self.facts["unit"]][1]

    @cached_property
    def point(self) -> np.ndarray:
        """(N, G) float32 point estimate."""
        return self.prediction.point.astype(np.float32)

    @cached_property
    def spread(self) -> np.ndarray | None:
        """(N, G) float32 standard deviation over draws; None if there is one draw."""
        samples = self.prediction.samples
        if len(samples) < 2:
            return None
        # In blocks, because double precision takes several times the memory of all draws.
        return np.concatenate(
            [
                samples[:, i : i + BLOCK].std(0, ddof=1, dtype=np.float64).astype(np.float32)
                for i in range(0, samples.shape[1], BLOCK)
            ]
        )

    @cached_property
    def set_point(self) -> np.ndarray:
        """(N, L) float32 scores of the scored gene sets by the point estimate; L = 0 without sets."""
        if self.sets is None:
            return np.empty((len(self.slide), 0), dtype=np.float32)
        return self.sets.score(self.prediction.point).astype(np.float32)

    @cached_property
    def set_spread(self) -> np.ndarray | None:
        """(N, L) float32 standard deviation of these scores over draws; None if there is one draw."""
        samples = self.prediction.samples
        if len(samples) < 2 or self.sets is None:
            return None
        scores = np.stack([self.sets.score(draw).astype(np.float32) for draw in samples])
        return scores.std(0, ddof=1, dtype=np.float64).astype(np.float32)

    @cached_property
    def interval(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Lower and upper end of the interval of ``LEVEL`` %, (N, G) float32 each.

        None if there is a single draw of a method that draws, since its spread is then unknown.
        """
        if len(self.prediction.samples) < 2 and self.intervals.spot.draws > 1:
            return None
        return self.intervals.spot.interval(self.prediction, LEVEL)

    @cached_property
    def weights(self) -> "csr_array":
        """(N, N) weights of the means over neighbourhoods."""
        return neighbourhoods(self.slide.position)

    @cached_property
    def mean(self) -> np.ndarray:
        """(N, G) float32 means of the point estimate over neighbourhoods."""
        return (self.weights @ self.prediction.point).astype(np.float32)

    @cached_property
    def mean_interval(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The same as ``interval``, of the means over neighbourhoods."""
        if self.interval is None:
            return None
        return self.intervals.neighbourhood.interval(self.prediction, LEVEL, weights=self.weights)

    @cached_property
    def ranks(self) -> np.ndarray | None:
        """(N, G) uint8, the verdict on every gene at every spot as its place in ``VERDICTS``.

        It is that on the gene, unless the interval here is as wide as can be said without the slide: then
        the neighbourhood's interval counts, and if it is as wide, too, or the spot is unlike the training
        slides, nothing is to be trusted. None where ``interval`` is None.
        """
        if self.interval is None or self.mean_interval is None:
            return None
        both = self.intervals
        spot = both.spot.informative(*self.interval, LEVEL)  # (N, G)
        around = both.neighbourhood.informative(*self.mean_interval, LEVEL)  # (N, G)
        genes = self.trust.certificate.ranks  # (G,)
        like = (self.trust.spots["verdict"] == LIKE).to_numpy() & (self.trust.verdict != REFUSE)
        ranks = ((genes > 0) & around & like[:, None]).astype(np.uint8)
        ranks[(genes > 1) & spot & like[:, None]] = 2
        return ranks

    @property
    def genes_by_verdict(self) -> dict[str, np.ndarray]:
        """Shares (N,) of the genes that can be trusted at a spot, and at a coarser scale only."""
        if self.ranks is None:
            return {}
        return {"trust": (self.ranks == 2).mean(1), "coarser": (self.ranks == 1).mean(1)}

    @property
    def spots_by_verdict(self) -> dict[str, np.ndarray]:
        """Shares (G,) of the spots at which a gene can be trusted, and at a coarser scale only."""
        if self.ranks is None:
            return {}
        return {"trust": (self.ranks == 2).mean(0), "coarser": (self.ranks == 1).mean(0)}

    @property
    def guarantee(self) -> str:
        """What the intervals are good for, in a sentence."""
        return self.intervals.spot.sentence(LEVEL)

    @cached_property
    def thumbnail(self) -> np.ndarray:
        """(h, w, 3) uint8, the picture reduced to ``THUMBNAIL`` pixels."""
        from PIL import Image

        small = Image.fromarray(self.picture)
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        return np.asarray(small)

    def columns(self) -> list[int]:
        """The places of the shown genes among all genes."""
        return [self.genes.index(gene) for gene in self.shown]
