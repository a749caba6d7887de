"""Spatial graph backbone: spots attend to each other, edges modulate the attention per head."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flag_st.nets.dit import Block, NoiseEmbedding


class EdgeBias(nn.Module):
    """Edge attributes → one additive logit a head (and an optional gate of the dot product).

    With ``gate`` the logits are (1 + g) ⊙ qk + b as in the paper (Eq. 26); without, b alone is
    added inside the fused kernel.
    """

    def __init__(self, channels: int, heads: int, hidden: int = 32):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.SiLU(), nn.Linear(hidden, heads))

    def forward(self, edges: Tensor) -> Tensor:
        return self.mlp(edges).permute(0, 3, 1, 2)  # (B, H, N, N)


class GraphTransformer(nn.Module):
    """(noisy expression, image features, edges, σ) → one vector a spot and one value a gene.

    Args:
        genes, features: G and D.
        channels: edge attributes; 0 for no graph: then spots see only themselves.
        see_x: read the noisy expression; without it the result does not depend on σ and is
            computed once per slide.
    """

    def __init__(
        self,
        genes: int,
        features: int,
        width: int = 384,
        depth: int = 6,
        heads: int = 8,
        channels: int = 4,
        see_x: bool = True,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.see_x, self.spatial = see_x, channels > 0
        self.features = nn.Sequential(
            nn.LayerNorm(features), nn.Dropout(dropout), nn.Linear(features, width)
        )
        self.x_in = nn.Linear(genes, width) if see_x else None
        self.noise = NoiseEmbedding(width)
        self.biases = nn.ModuleList(
            EdgeBias(channels, heads) for _ in range(depth if self.spatial else 0)
        )
        self.blocks = nn.ModuleList(Block(width, heads, dropout=dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, genes)
        for block in self.blocks:
            nn.init.zeros_(block.modulation[-1].weight)
            nn.init.zeros_(block.modulation[-1].bias)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def forward(
        self, u: Tensor, edges: Tensor, mask: Tensor, x: Tensor | None, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """u (B, N, D), edges (B, N, N, C), mask (B, N), x (B, N, G), noise (B,).

        Returns:
            (B, N, d) and (B, N, G).
        """
        h = self.features(u)  # (B, N, d)
        if self.see_x:
            h = h + self.x_in(x)  # (B, N, d)
        c = self.noise(noise if self.see_x else torch.zeros_like(noise))  # (B, d)
        for i, block in enumerate(self.blocks):
            h = block(h, c, self._bias(i, edges, mask))  # (B, N, d)
        h = self.norm(h)  # (B, N, d)
        return h, self.readout(h)  # (B, N, d), (B, N, G)

    def _bias(self, i: int, edges: Tensor, mask: Tensor) -> Tensor:
        """Logit bias with padding shut out; every spot sees itself, so no row is empty."""
        own = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)  # (N, N)
        if not self.spatial:
            return own.expand(len(mask), 1, -1, -1)  # (B, 1, N, N)
        allowed = (mask.unsqueeze(1) | own).unsqueeze(1)  # (B, 1, N, N)
        bias = self.biases[i](edges)  # (B, H, N, N)
        return bias.masked_fill(~allowed, torch.finfo(bias.dtype).min)  # (B, H, N, N)


class Projector(nn.Module):
    """Tokens → the space of the gene model (three linear layers, as REPA and the release)."""

    def __init__(self, width: int, hidden: int, out: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, out),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.mlp(tokens)  # (..., K)


def alignment_loss(projected: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """1 − mean cosine between projected tokens and gene vectors over expressed genes (Eq. 8).

    Args:
        projected, target: (M, G, K); target may broadcast over M.
        mask: (M, G), True where the gene is expressed in the spot.
    """
    cosine = F.cosine_similarity(projected, target, dim=-1)  # (M, G)
    return 1 - (cosine * mask).sum() / mask.sum().clamp(min=1)
