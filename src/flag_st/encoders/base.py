"""What an image encoder is: it owns weights, transform, pixel size, precision and pooling."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import numpy as np

from flag_st.core.fitted import Fitted


class Encoder(Fitted, ABC):
    """Turns patches into feature vectors.

    Class attributes:
        um_per_px, size: the patch that the encoder wants; prepare_slide cuts 224 px at 0.5 µm/px.
        fits: True if ``fit`` must see training patches, so that features belong to one split;
            ``arrays``, ``restore``, ``save`` and ``load`` are then those of ``Fitted``.
    """

    um_per_px: ClassVar[float] = 0.5
    size: ClassVar[int] = 224

    @abstractmethod
    def open(self, device: str) -> None:
        """Load weights onto ``device``; called once, before ``fit``, ``load`` and ``encode``."""

    def fit(
        self,
        patches: Sequence[np.ndarray],
        seed: int,
        progress: Callable[..., Iterable] = lambda items, **_: items,
        log: Callable[[dict[str, float]], None] = lambda row: None,
    ) -> None:
        """Learn from the training slides' patches alone, for encoders with ``fits``.

        Args:
            patches: one (N, 224, 224, 3) uint8 array or HDF5 dataset a slide.
            log: takes rows of the training history.
        """

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
