"""What HINGE asks of a network that it freezes and modulates sublayer by sublayer."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Sublayer(NamedTuple):
    """One sublayer f of the stack h ← norm(f(h) + λ h).

    Attributes:
        transform: (states (B, L, D), keep (B, L) or None) → (B, L, D); keep is 1 where a token may be
            read, and None if all may.
        norm: follows the sum.
        reads_all: whether hidden genes may be read in it.
    """

    transform: Callable[[Tensor, Tensor | None], Tensor]
    norm: nn.LayerNorm
    reads_all: bool


class Parts(NamedTuple):
    """What the ablations treat in ways of their own.

    Attributes:
        table: (R, D) one row per gene, after row 0, which belongs to no gene.
        layers: all that is between the tokens and the decoder.
        decoder: states of genes → values.
    """

    table: Tensor
    layers: nn.Module
    decoder: nn.Module


class Backbone(nn.Module, ABC):
    """A network over the tokens of genes, behind one token that belongs to none.

    Attributes:
        width: D.
        residual: λ, the factor of a sublayer's input in the sum that is normalised after it.
    """

    width: int
    residual: float

    @abstractmethod
    def tokens(self, values: Tensor, hidden: Tensor) -> Tensor:
        """Values (B, G) and which of them are hidden (B, G) bool → (B, 1 + G, D) before the first layer."""

    @abstractmethod
    def sublayers(self) -> list[Sublayer]:
        """Two per layer, in their order."""

    @abstractmethod
    def decode(self, h: Tensor) -> Tensor:
        """States of genes (B, G, D) → values (B, G)."""

    @abstractmethod
    def parts(self) -> Parts: ...

    @abstractmethod
    def reset(self) -> None:
        """Random weights, as the pre-training started from."""

    def forward(self, values: Tensor, hidden: Tensor) -> Tensor:
        """The network as it was pre-trained: values (B, G) and which are hidden → all of them."""
        return self.decode(self.states(values, hidden))  # (B, G)

    def states(
        self, values: Tensor, hidden: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        """The states of genes after the last layer.

        Args:
            values: (B, G).
            hidden: (B, G) bool; None: none is.
            present: (B, G) bool; genes that are not are read nowhere, as if they were not in the
                sequence. None: all are.

        Returns:
            (B, G, D); those of genes that are not present mean nothing.
        """
        hidden = torch.zeros_like(values, dtype=torch.bool) if hidden is None else hidden
        absent = None if present is None else ~present  # (B, G)
        everywhere = None if absent is None else readable(absent)  # (B, 1 + G)
        first = readable(hidden if absent is None else hidden | absent)  # (B, 1 + G)
        h = self.tokens(values, hidden)  # (B, 1 + G, D)
        for transform, norm, reads_all in self.sublayers():
            h = norm(transform(h, everywhere if reads_all else first) + self.residual * h)
        return h[:, 1:]  # (B, G, D)


def readable(hidden: Tensor) -> Tensor:
    """(B, 1 + G) 1 where a token may be read: the first one and the genes that are not hidden."""
    return F.pad((~hidden).float(), (1, 0), value=1.0)  # (B, 1 + G)
