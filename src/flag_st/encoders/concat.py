"""Several encoders side by side."""

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from flag_st import registry
from flag_st.encoders.base import Encoder
from flag_st.errors import FlagError


class Concat(Encoder):
    """The features of each part, one after another (Stem: UNI and CONCH, D = 1024 + 512).

    Args:
        parts: entries of the form ``{use: ..., params: {...}}``, as in config/encoders.yaml.
    """

    def __init__(self, parts: list[dict[str, Any]]):
        if not parts:
            raise FlagError("an encoder made of no parts", remedy="list entries in params.parts")
        self.parts = [registry.build(p["use"], p.get("params")) for p in parts]
        for part in self.parts:
            if (part.um_per_px, part.size) != (self.um_per_px, self.size):
                raise FlagError(
                    f"{type(part).__name__} wants {part.size} px at {part.um_per_px} µm/px, other "
                    f"parts {self.size} px at {self.um_per_px}"
                )

    def open(self, device: str) -> None:
        for part in self.parts:
            part.open(device)

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
