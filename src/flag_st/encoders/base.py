"""What an image encoder is: it owns its weights, transform, pixel size, precision and pooling."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.fitted import Fitted


class Encoder(Fitted, ABC):
    """Turns patches into feature vectors.

    Patches are 224 px wide and show 112 µm of tissue, or as many µm as the encoder's entry says
    (``field_um``).

    Class attributes:
        fits: True if ``fit`` must see training patches, so that the features belong to one split;
            ``arrays``, ``restore``, ``save`` and ``load`` are then those of ``Fitted``.
        apart: True if the features of a patch are made on the CPU and no other patch changes a bit
            of them, so that several processes may share the patches of a slide.
    """

    apart: ClassVar[bool] = False

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
        """Learn from the patches of the training slides alone, for encoders with ``fits``.

        Args:
            patches: one (N, 224, 224, 3) uint8 array or HDF5 dataset per slide.
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


def check_features(features: np.ndarray, patches: int, encoder: str) -> None:
    """Refuse what is not one row of finite numbers per patch.

    Args:
        features: what ``encode`` returned for so many ``patches``.
        encoder: name of its entry, for the message.

    Raises:
        FlagError: naming the encoder, and what is wrong.
    """
    shape, remedy = np.shape(features), f"correct the encoder {encoder}; nothing was written"
    if len(shape) != 2 or shape[0] != patches:
        raise FlagError(
            f"encoder {encoder} returned an array of shape {shape} for {patches} patches; "
            f"encode must return one row per patch, ({patches}, D)",
            remedy=remedy,
        )
    if bad := int((~np.isfinite(features)).any(1).sum()):
        raise FlagError(
            f"encoder {encoder} returned NaN or infinite features for {bad} of {patches} patches",
            remedy=remedy,
        )
