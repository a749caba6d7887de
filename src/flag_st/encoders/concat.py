"""Several encoders side by side."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from flag_st import registry
from flag_st.encoders.base import Encoder
from flag_st.errors import FlagError
from flag_st.gene_models.fitted import inside, nested


class Concat(Encoder):
    """The features of each part, one after another (Stem: UNI and CONCH, D = 1024 + 512).

    It learns if one of its parts does: its entry then says ``fits: true``.

    Args:
        parts: entries of the form ``{use: ..., params: {...}}``, as in config/encoders.yaml.
    """

    def __init__(self, parts: list[dict[str, Any]]):
        if not parts:
            raise FlagError("an encoder made of no parts", remedy="list entries in params.parts")
        self.parts = [registry.build(p["use"], p.get("params")) for p in parts]
        self.fits = any(part.fits for part in self.parts)
        for part in self.parts:
            if (part.um_per_px, part.size) != (self.um_per_px, self.size):
                raise FlagError(
                    f"{type(part).__name__} wants {part.size} px at {part.um_per_px} µm/px, other "
                    f"parts {self.size} px at {self.um_per_px}"
                )

    def open(self, device: str) -> None:
        for part in self.parts:
            part.open(device)

    def fit(
        self,
        patches: Sequence[np.ndarray],
        seed: int,
        progress: Callable[..., Iterable] = lambda items, **_: items,
        log: Callable[[dict[str, float]], None] = lambda row: None,
    ) -> None:
        """Fit the parts that learn, each as it would be alone."""
        for part in self.parts:
            if part.fits:
                part.fit(patches, seed, progress, log)

    def encode(
        self,
        patches: np.ndarray,
        progress: Callable[..., Iterable] = lambda items, **_: items,
    ) -> np.ndarray:
        """(N, 224, 224, 3) uint8 → (N, sum of the parts' D) float32."""
        return np.concatenate([p.encode(patches, progress) for p in self.parts], axis=1)  # (N, D)

    def digest(self) -> str:
        digests = "\n".join(part.digest() for part in self.parts)
        return hashlib.sha256(digests.encode()).hexdigest()

    def arrays(self) -> dict[str, np.ndarray]:
        parts = [nested(f"part{i}", part.arrays()) for i, part in enumerate(self.parts)]
        return {name: array for arrays in parts for name, array in arrays.items()}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        for i, part in enumerate(self.parts):
            if part.fits:
                part.restore(inside(f"part{i}", arrays))
