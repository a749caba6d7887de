"""A slide with its prediction and the verdicts on it, as the output files see it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from flag_st.data.slide import UNITS, Slide
from flag_st.methods.base import Prediction
from flag_st.slides.trust import Trust

#: Longest side in pixels of the picture of a slide, and of its thumbnail on pages.
PICTURE, THUMBNAIL = 4000, 1000
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
        array: (N, 2) row and column of each spot.
        pitch_um, spot_um: distance of the spots and their diameter.
        pixel_um: of level 0 of the image, whose ``size`` (width, height) is in its pixels.
        qupath_origin: where QuPath's coordinates begin, in pixels of level 0 (``SlideImage``).
        picture: (h, w, 3) uint8, the whole slide reduced.
        origin: what the prediction was made from and how, for the files' headers.
    """

    slide: Slide
    prediction: Prediction
    facts: Mapping[str, Any]
    shown: Sequence[str]
    trust: Trust
    array: np.ndarray
    pitch_um: float
    spot_um: float
    pixel_um: float
    size: tuple[int, int]
    qupath_origin: tuple[int, int]
    picture: np.ndarray
    origin: Mapping[str, Any]

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
    def thumbnail(self) -> np.ndarray:
        """(h, w, 3) uint8, the picture reduced to ``THUMBNAIL`` pixels."""
        from PIL import Image

        small = Image.fromarray(self.picture)
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        return np.asarray(small)

    def columns(self) -> list[int]:
        """The places of the shown genes among all genes."""
        return [self.genes.index(gene) for gene in self.shown]
