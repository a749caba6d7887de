"""Transformer over gene tokens of one spot (DiT with adaLN-Zero, Peebles & Xie 2023)."""

import math
from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def zero(layer: nn.Module) -> None:
    """Make a linear layer return 0 before training."""
    assert isinstance(layer, nn.Linear)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Shift and scale x (M, T, d) by the (M, d) values of its row."""
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class NoiseEmbedding(nn.Module):
    """Fourier features of the scalar noise level, then an MLP.

    Args:
        width: width of the output.
        features: number of Fourier features.
        low, high: lowest and highest angular frequency, evenly spaced in logarithm. They must
            resolve the range of the noise feature (ln(σ) / 4 spans about ±1).
    """

    frequencies: Tensor

    def __init__(self, width: int, features: int = 128, low: float = 0.5, high: float = 64.0):
        super().__init__()
        ramp = torch.linspace(math.log(low), math.log(high), features // 2).exp()
        self.register_buffer("frequencies", ramp, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, noise: Tensor) -> Tensor:
        angles = noise.unsqueeze(-1) * self.frequencies  # (..., features / 2)
        return self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1))  # (..., width)


class Attention(nn.Module):
    """Multi-head self-attention through the fused kernel; an additive bias is optional."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        m, t, d = x.shape
        qkv = self.qkv(x).view(m, t, 3, self.heads, d // self.heads)  # (M, T, 3, H, d/H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # 3 × (M, H, T, d/H)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)  # (M, H, T, d/H)
        return self.out(x.transpose(1, 2).reshape(m, t, d))  # (M, T, d)


class Block(nn.Module):
    """Attention and MLP, both shifted, scaled and gated by the condition; the gates start at 0."""

    def __init__(
        self,
        width: int,
        heads: int,
        ratio: float = 4.0,
        dropout: float = 0.0,
        attention: type[Attention] = Attention,
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = attention(width, heads)
        hidden = int(width * ratio)
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(approximate="tanh"),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
        )
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def forward(self, x: Tensor, c: Tensor, *seen: Tensor | None) -> Tensor:
        """x (M, T, d), c (M, d); ``seen`` goes to the attention."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c).chunk(6, -1)  # 6 × (M, d)
        h = self.attention(modulate(self.norm1(x), shift1, scale1), *seen)  # (M, T, d)
        x = x + gate1.unsqueeze(1) * h  # (M, T, d)
        h = self.mlp(modulate(self.norm2(x), shift2, scale2))  # (M, T, d)
        return x + gate2.unsqueeze(1) * h  # (M, T, d)


class GeneDiT(nn.Module):
    """One token per gene: its noisy value, its graph read-out and a learned vector.

    Args:
        genes: G.
        channels: how many values each token starts from (noisy value, and the read-out if any).
        align_at: blocks (counted from 1) whose output tokens are returned for alignment.
    """

    def __init__(
        self,
        genes: int,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        channels: int = 2,
        align_at: Collection[int] = (8,),
        dropout: float = 0.0,
    ):
        super().__init__()
        if wrong := [k for k in align_at if not 1 <= k <= depth]:
            raise ValueError(f"align_at names {wrong}, but the network has {depth} blocks")
        self.align_at = frozenset(align_at)
        self.value = nn.Sequential(nn.Linear(channels, width), nn.SiLU(), nn.Linear(width, width))
        self.gene = nn.Parameter(torch.empty(genes, width))
        self.blocks = nn.ModuleList(Block(width, heads, dropout=dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.head = nn.Linear(width, 1)
        self.reset()

    def reset(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.kaiming_uniform_(self.gene, a=math.sqrt(5))
        # adaLN-Zero: every block starts as the identity and the head as zero.
        for module in self.modules():
            if isinstance(module, Block):
                zero(module.modulation[-1])
        zero(self.modulation[-1])
        zero(self.head)

    def forward(self, values: Tensor, c: Tensor) -> tuple[Tensor, list[Tensor]]:
        """values (M, G, channels), condition (M, d) → (M, G) and aligned tokens (M, G, d) each."""
        x, aligned = self.value(values) + self.gene, []  # (M, G, d)
        for number, block in enumerate(self.blocks, 1):
            x = block(x, c)  # (M, G, d)
            if number in self.align_at:
                aligned.append(x)  # (M, G, d)
        shift, scale = self.modulation(c).chunk(2, -1)  # 2 × (M, d)
        x = self.head(modulate(self.norm(x), shift, scale)).squeeze(-1)  # (M, G)
        return x, aligned
