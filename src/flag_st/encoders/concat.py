"""Several encoders side by side."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.core.fitted import inside, nested
from flag_st.encoders.base import Encoder


class Concat(Encoder):
    """The features of each part, one after another (Stem: UNI and CONCH, D = 1024 + 512).

    It learns if one of its parts does; its entry then says ``fits: true``. All parts read the same patches,
    whose field of view is that of its entry.

    Args:
        parts: name → entry of the form ``{use: ..., params: {...}}``, as in config/encoders.yaml.
            They have names so that an overlay can change one part and leave the others.
    """

    def __init__(self, parts: Mapping[str, Mapping[str, Any]]):
        if not parts:
            raise FlagError("an encoder made of no parts", remedy="name entries in params.parts")
        self.parts = {n: registry.build(p["use"], p.get("params")) for n, p in parts.items()}
        self.fits = any(part.fits for part in self.parts.values())

    def open(self, device: str) -> None:
        for part in self.parts.values():
            part.open(device)

    def fit(
        self,
        patches: Sequence[np.ndarray],
        seed: int,
        progress: Callable[..., Iterable] = lambda items, **_: items,
        log: Callable[[dict[str, float]], None] = lambda row: None,
    ) -> None:
        """Fit each part that learns, as it would be fitted alone."""
        for part in self.parts.values():
            if part.fits:
                part.fit(patches, seed, progress, log)

    def encode(
        self,
        patches: np.ndarray,
        progress: Callable[..., Iterable] = lambda items, **_: items,
    ) -> np.ndarray:
        """(N, 224, 224, 3) uint8 → (N, sum of the parts' D) float32."""
        found = [part.encode(patches, progress) for part in self.parts.values()]
        return np.concatenate(found, axis=1)  # (N, D)

    def digest(self) -> str:
        digests = "\n".join(part.digest() for part in self.parts.values())
        return hashlib.sha256(digests.encode()).hexdigest()

    def arrays(self) -> dict[str, np.ndarray]:
        parts = [nested(name, part.arrays()) for name, part in self.parts.items()]
        return {key: array for arrays in parts for key, array in arrays.items()}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        for name, part in self.parts.items():
            if part.fits:
                part.restore(inside(name, arrays))
