"""What the three networks of FLAG share: gene tokens of single spots, under a condition."""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from flag_st.diffusion.precond import CovarianceEdm, RawScore
from flag_st.nets.dit import GeneDiT, NoiseEmbedding


@dataclass(frozen=True)
class Size:
    """Size of a transformer: channels per token, blocks, and heads of its attention."""

    width: int
    depth: int
    heads: int


class Denoised(NamedTuple):
    """What a network of FLAG says of the M spots that it was asked for, among B tiles of N spots.

    Attributes:
        clean: (M, G) estimate of the clean expression.
        readout: (B, N, G) estimate of the backbone alone, or None if it makes none.
        tokens: one (M, G, d) tensor per aligned block; empty if the spots were decoded in chunks.
    """

    clean: Tensor
    readout: Tensor | None
    tokens: list[Tensor]


class GeneDecoder(nn.Module):
    """Denoises single spots: a transformer over their gene tokens, behind a preconditioner.

    Args:
        genes: G.
        precond: relates the raw output of the transformer to clean expression.
        size: of the transformer.
        values: numbers that each token starts from: the noisy value, and the backbone's own
            estimate where there is one.
        align_at: blocks (counted from 1) whose tokens are returned.
        dropout: in the transformer.
        noise: embeds the noise level; None for the one whose frequencies fit ln(σ) / 4.
    """

    def __init__(
        self,
        genes: int,
        precond: CovarianceEdm | RawScore,
        size: Size,
        values: int = 1,
        align_at: tuple[int, ...] = (),
        dropout: float = 0.0,
        noise: NoiseEmbedding | None = None,
    ):
        super().__init__()
        self.noise = noise or NoiseEmbedding(size.width)
        self.precond = precond
        self.dit = GeneDiT(genes, size.width, size.depth, size.heads, values, align_at, dropout)

    def forward(
        self,
        x: Tensor,
        sigma: Tensor,
        c: Tensor,
        readout: Tensor | None = None,
        chosen: Tensor | None = None,
        chunk: int | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Clean expression of the chosen spots, and their aligned tokens.

        Args:
            x: (B, N, G) noisy expression. sigma: (B or 1, 1, 1). c: (B, N, d) condition.
            readout: (B, N, G) raw estimate of the backbone; gene tokens refine it.
            chosen: (M,) flat indices into B × N; None for all spots.
            chunk: decode so many spots at a time, which bounds memory; no tokens are returned then.
        """

        def of(values: Tensor) -> Tensor:
            values = values.flatten(0, 1)  # (B N, ...)
            return values if chosen is None else values[chosen]  # (M, ...)

        level = of(sigma.expand(*x.shape[:2], 1))  # (M, 1)
        noise = self.precond.noise(level).squeeze(-1)  # (M,)
        scaled = of(self.precond.scaled(x, sigma))  # (M, G)
        rows = (scaled, noise, of(c), None if readout is None else of(readout))
        if chunk is None:
            raw, tokens = self._raw(*rows)  # (M, G), (M, G, d) each
        else:
            parts = zip(*(_split(v, len(scaled), chunk) for v in rows), strict=True)
            raw, tokens = torch.cat([self._raw(*part)[0] for part in parts]), []  # (M, G)
        return self.precond.clean(of(x), raw, level), tokens  # (M, G), (M, G, d) each

    def _raw(
        self, x: Tensor, noise: Tensor, c: Tensor, readout: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Raw output for scaled x (M, G), noise (M,), c (M, d) and readout (M, G)."""
        values = [x] if readout is None else [x, readout]
        out, tokens = self.dit(torch.stack(values, -1), c + self.noise(noise))  # (M, G), (M, G, d)
        # A backbone with a read-out is a denoiser already; gene tokens refine what it says.
        return out if readout is None else readout + out, tokens  # (M, G), (M, G, d) each


def _split(values: Tensor | None, rows: int, chunk: int) -> list[Tensor | None]:
    if values is None:
        return [None] * -(-rows // chunk)
    return list(values.split(chunk))


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with SiLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*layers[:-1])
