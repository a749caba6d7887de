"""Random streams belong to a slide and a draw, never to a loop.

Every stream is derived from (run seed, name, ...), so neither the order of slides nor the number of
draws or jobs changes a single number.
"""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def entropy(*names: int | str) -> int:
    """A 63-bit integer that depends on all ``names`` and nothing else."""
    text = "\x1f".join(str(n) for n in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def numpy_generator(*names: int | str) -> np.random.Generator:
    return np.random.default_rng(entropy(*names))


def torch_generator(*names: int | str) -> "torch.Generator":
    """A CPU generator: noise is drawn there and moved, so every device sees the same numbers."""
    import torch

    return torch.Generator().manual_seed(entropy(*names))


@dataclass(frozen=True)
class Draws:
    """The random streams of one slide under one run seed; draw ``k`` has its own."""

    seed: int
    slide: str

    def numpy(self, draw: int) -> np.random.Generator:
        return numpy_generator(self.seed, self.slide, "draw", draw)

    def torch(self, draw: int) -> "torch.Generator":
        return torch_generator(self.seed, self.slide, "draw", draw)
