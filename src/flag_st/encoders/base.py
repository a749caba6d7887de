"""What an image encoder is: it owns weights, transform, pixel size, precision and pooling."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar

import numpy as np


class Encoder(ABC):
    """Turns patches into feature vectors.

    Class attributes:
        um_per_px, size: the patch that the encoder wants; prepare_slide cuts 224 px at 0.5 µm/px.
    """

    um_per_px: ClassVar[float] = 0.5
    size: ClassVar[int] = 224

    @abstractmethod
    def open(self, device: str) -> None:
        """Load weights onto ``device``; called once, before ``encode``."""

    @abstractmethod
    def encode(
        self,
        patches: np.ndarray,
        progress: Callable[..., Iterable] = lambda items, **_: items,
    ) -> np.ndarray:
        """(N, 224, 224, 3) uint8 array or HDF5 dataset, read in blocks → (N, D) float32."""

    def digest(self) -> str:
        """Identifies the weights; stored with the features."""
        return "none"
