"""The graph backbone of `flag`: spots attend to their neighbours, and edges bias the attention."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flag_st.nets.dit import Attention, Block, NoiseEmbedding, zero
from flag_st.nets.graph import Tiles


class EdgeBias(nn.Module):
    """Edge attributes → one additive logit per head, for the fused attention kernel."""

    def __init__(self, channels: int, heads: int, hidden: int = 32):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.SiLU(), nn.Linear(hidden, heads))

    def forward(self, edges: Tensor) -> Tensor:
        return self.mlp(edges).movedim(-1, 1)  # (B, H, N, K)


class SpotAttention(Attention):
    """Attention of every spot to all spots, or only to its nearest (linear in the spots)."""

    def forward(self, x: Tensor, bias: Tensor | None = None, near: Tensor | None = None) -> Tensor:
        """x (B, N, d), bias (B, H or 1, N, K), near (B, N, K)."""
        if near is None:
            return super().forward(x, bias)  # (B, N, d)
        assert bias is not None, "the bias says which of the nearest spots are there"
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b * n, 3, self.heads, -1).unbind(1)  # 3 × (B N, H, d/H)
        k, v = self._gather(k, v, near)  # 2 × (B N, H, K, d/H)
        bias = bias.transpose(1, 2).flatten(0, 1).unsqueeze(2)  # (B N, H or 1, 1, K)
        x = F.scaled_dot_product_attention(q.unsqueeze(2), k, v, attn_mask=bias)
        return self.out(x.reshape(b, n, d))  # (B, N, d)

    def _gather(self, k: Tensor, v: Tensor, near: Tensor) -> list[Tensor]:
        """k and v (B N, H, d/H) of the spots near (B, N, K) → 2 × (B N, H, K, d/H).

        They are gathered head by head, which is the layout of the products that follow; a copy into
        it would take longer than the products.
        """
        b, n, _ = near.shape
        tile = torch.arange(b, device=near.device).view(-1, 1, 1)  # (B, 1, 1)
        place = (near + n * tile).view(b * n, 1, -1)  # (B N, 1, K)
        head = torch.arange(self.heads, device=near.device).view(-1, 1)  # (H, 1)
        row = (place * self.heads + head).flatten()  # (B N H K,)
        shape = (b * n, self.heads, near.shape[-1], -1)
        return [t.flatten(0, 1).index_select(0, row).view(shape) for t in (k, v)]


class GraphTransformer(nn.Module):
    """(noisy expression, image features, edges, σ) → one vector per spot and one value per gene.

    Args:
        genes, features: G and D.
        channels: number of edge attributes. With 0, a spot only knows which spots it sees.
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
        self.see_x = see_x
        self.features = nn.Sequential(
            nn.LayerNorm(features), nn.Dropout(dropout), nn.Linear(features, width)
        )
        self.x_in = nn.Linear(genes, width) if see_x else None
        self.noise = NoiseEmbedding(width)
        self.biases = nn.ModuleList(
            EdgeBias(channels, heads) for _ in range(depth if channels else 0)
        )
        blocks = [
            Block(width, heads, dropout=dropout, attention=SpotAttention) for _ in range(depth)
        ]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, genes)
        for block in blocks:
            zero(block.modulation[-1])
        zero(self.readout)

    def forward(self, tiles: Tiles, x: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Tiles of B graphs with N spots, x (B, N, G), noise (B,) → (B, N, d) and (B, N, G)."""
        h = self.features(tiles.x)  # (B, N, d)
        if self.x_in is not None:
            h = h + self.x_in(x)  # (B, N, d)
        c = self.noise(noise if self.see_x else torch.zeros_like(noise))  # (B, d)
        for i, block in enumerate(self.blocks):
            h = block(h, c, self._bias(i, tiles), tiles.near)  # (B, N, d)
        h = self.norm(h)  # (B, N, d)
        return h, self.readout(h)  # (B, N, d), (B, N, G)

    def _bias(self, i: int, tiles: Tiles) -> Tensor:
        """Additive logits that shut out all spots that are not seen."""
        seen = tiles.seen.unsqueeze(1)  # (B, 1, N, K)
        if not self.biases:
            return seen
        bias = self.biases[i](tiles.edges)  # (B, H, N, K)
        return bias.masked_fill(~seen, torch.finfo(bias.dtype).min)  # (B, H, N, K)


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
    """1 − mean cosine between projected tokens and the vectors of a gene model (Eq. 8).

    A gene model that has one vector per spot is compared with the mean of the spot's tokens over all
    genes (App. F.3), and not with each token: a single token is not supposed to know the whole spot.

    Args:
        projected: (M, G, K).
        target: (M, G, K), or (M, K) for one vector per spot.
        mask: (M, G), True where the gene is expressed in the spot. Other genes do not count, nor do
            spots that express none.
    """
    if target.ndim == 2:
        projected, mask = projected.mean(1), mask.any(1)  # (M, K), (M,)
    cosine = F.cosine_similarity(projected, target, dim=-1)  # (M, G) or (M,)
    return 1 - (cosine * mask).sum() / mask.sum().clamp(min=1)
