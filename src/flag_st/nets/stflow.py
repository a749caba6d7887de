"""Network of STFlow: attention to the nearest spots, whatever way a section was laid and turned."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flag_st.data.spatial import nearest, pitch
from flag_st.nets.dit import NoiseEmbedding

#: Below this relative difference between the axes of the scatter, it has no direction.
ISOTROPIC = 0.05
#: Signs of the two axes and of the distance in the four frames.
FRAMES = ((1.0, 1.0, 1.0), (1.0, -1.0, 1.0), (-1.0, 1.0, 1.0), (-1.0, -1.0, 1.0))


@dataclass(frozen=True)
class Regions:
    """B regions padded to the same N spots with K neighbours each.

    Attributes:
        u: (B, N, D) features. y: (B, N, G) or None. mask: (B, N), True where a spot is real.
        index: (B, N, K) neighbours within the region. known: (B, N, K), True where there is one.
        geometry: (B, N, K, 3) coordinates along the neighbourhood's axes, and distance.
    """

    u: Tensor
    mask: Tensor
    index: Tensor
    known: Tensor
    geometry: Tensor
    y: Tensor | None = None

    @property
    def truth(self) -> Tensor:
        """``y``, which must be known."""
        assert self.y is not None
        return self.y

    def to(self, device: str) -> "Regions":
        held = {f.name: getattr(self, f.name) for f in fields(self)}
        return Regions(**{k: t.to(device) for k, t in held.items() if t is not None})


def geometry(position: np.ndarray, index: np.ndarray, as_released: bool = False) -> np.ndarray:
    """Neighbours in the frame of their own scatter, which turns with the section.

    Where the scatter is round, as within a regular array, no axis is distinguished, and rounding
    would decide the frame. Both coordinates are then the neighbour's distance from the centre
    divided by √2, which keeps the size and does not state a direction.

    Args:
        position: (N, 2), in spot pitches. index: (N, K).

    Returns:
        (N, K, 3), the two coordinates up to sign and the distance.
    """
    apart = position[index] - position[:, None]  # (N, K, 2)
    centred = apart - apart.mean(1, keepdims=True)  # (N, K, 2)
    scatter = centred.transpose(0, 2, 1) @ centred  # (N, 2, 2)
    a, b, c = scatter[:, 0, 0], scatter[:, 0, 1], scatter[:, 1, 1]  # 3 × (N,)
    angle = 0.5 * np.arctan2(2 * b, a - c)  # (N,), of the longer axis
    first = np.stack([np.cos(angle), np.sin(angle)], -1)  # (N, 2)
    axes = np.stack([first, np.stack([-first[:, 1], first[:, 0]], -1)], -1)  # (N, 2, 2)
    along = centred @ axes  # (N, K, 2)
    if not as_released:
        round_ = np.hypot(a - c, 2 * b) <= ISOTROPIC * (a + c)  # (N,)
        length = np.linalg.norm(centred, axis=2, keepdims=True) / np.sqrt(2)  # (N, K, 1)
        along = np.where(round_[:, None, None], length, along)  # (N, K, 2)
    return np.concatenate([along, np.linalg.norm(apart, axis=2, keepdims=True)], axis=2)


def collate(
    parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray | None]],
    neighbours: int,
    as_released: bool = False,
) -> Regions:
    """Pad and batch regions.

    Args:
        parts: position (N, 2) µm, features (N, D), expression (N, G) or None of each.
        as_released: padding is placed at the centre before neighbours are searched, so that
            padded spots become neighbours of real ones; distances stay in µm.
    """
    size, k = max(len(p) for p, _, _ in parts), neighbours
    found = []
    for position, _, _ in parts:
        scaled = (position - position.mean(0)) / (1.0 if as_released else pitch(position))
        if as_released:
            scaled = np.pad(scaled, ((0, size - len(scaled)), (0, 0)))
        index = nearest(scaled, k)  # (n, ≤ k)
        where = geometry(scaled, index, as_released)  # (n, ≤ k, 3)
        rows, short = size - len(index), k - index.shape[1]
        known = np.pad(np.ones(index.shape, bool), ((0, rows), (0, short)))
        index = np.pad(index, ((0, rows), (0, short)))
        found.append((index, known, np.pad(where, ((0, rows), (0, short), (0, 0)))))
    index, known, where = (np.stack(group) for group in zip(*found, strict=True))
    counts = torch.tensor([len(p) for p, _, _ in parts])
    known_y = [y for _, _, y in parts if y is not None]
    return Regions(
        u=_padded([u for _, u, _ in parts]),
        mask=torch.arange(size) < counts.unsqueeze(1),
        index=torch.as_tensor(index),
        known=torch.as_tensor(known),
        geometry=torch.as_tensor(where, dtype=torch.float32),
        y=_padded(known_y) if len(known_y) == len(parts) else None,
    )


def _padded(arrays: Sequence[np.ndarray]) -> Tensor:
    tensors = [torch.as_tensor(a, dtype=torch.float32) for a in arrays]
    return nn.utils.rnn.pad_sequence(tensors, batch_first=True)  # (B, N, ·)


def gather(x: Tensor, index: Tensor) -> Tensor:
    """(B, N, ·) rows at (B, N, K) → (B, N, K, ·)."""
    return x[torch.arange(len(x), device=x.device)[:, None, None], index]


class Gated(nn.Module):
    """SwiGLU with a normalised hidden layer; ``packed`` is the width of gate and value together.

    Dropout falls on the hidden layer and on the output, as in timm's ``SwiGLUPacked``, which the
    authors use.
    """

    def __init__(self, inputs: int, packed: int, outputs: int, dropout: float = 0.0):
        super().__init__()
        self.up, self.down = nn.Linear(inputs, packed), nn.Linear(packed // 2, outputs)
        self.norm, self.dropout = nn.LayerNorm(packed // 2), nn.Dropout(dropout)

    def gate(self, packed: Tensor) -> Tensor:
        gate, value = packed.chunk(2, -1)  # 2 × (..., h)
        hidden = self.norm(self.dropout(F.silu(gate) * value))  # (..., h)
        return self.dropout(self.down(hidden))  # (..., outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.up(x))  # (..., outputs)


class LocalAttention(nn.Module):
    """Attention to K neighbours whose logits are an MLP of query, key, edge and expression."""

    frames: Tensor

    def __init__(self, genes: int, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.each = heads, width // heads
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.edge = Gated(3, width, width, dropout)
        self.logit = Gated(3 * self.each + genes, width, 1, dropout)
        self.dropout = nn.Dropout(dropout)
        self.out = Gated(2 * width, width, width, dropout)
        self.register_buffer("frames", torch.tensor(FRAMES), persistent=False)

    def forward(self, h: Tensor, z: Tensor, r: Regions) -> Tensor:
        """h (B, N, d), expression z (B, N, G) → (B, N, d)."""
        b, n, _ = h.shape
        q, k, v = self.qkv(self.norm(h)).view(b, n, 3, self.heads, -1).unbind(2)  # (B, N, H, d/H)
        framed = r.geometry.unsqueeze(-2) * self.frames  # (B, N, K, 4, 3)
        e = self.edge(framed).mean(-2).view(*r.index.shape, self.heads, -1)  # (B, N, K, H, d/H)
        logits = self._logits(q, k, e, z, r.index)  # (B, N, K, H)
        logits = logits.masked_fill(~r.known.unsqueeze(-1), torch.finfo(logits.dtype).min)
        weight = self.dropout(logits.softmax(2)).unsqueeze(-1)  # (B, N, K, H, 1)
        seen = torch.cat([gather(v, r.index), e], dim=-1)  # (B, N, K, H, 2 d/H)
        return self.out((weight * seen).sum(2).flatten(2))  # (B, N, d)

    def _logits(self, q: Tensor, k: Tensor, e: Tensor, z: Tensor, index: Tensor) -> Tensor:
        """The MLP of [q_i, k_j, e_ij, z_j - z_i], its first map split by input.

        The map of z is thus computed once per spot, and not once per neighbour and head.
        """
        up, size = self.logit.up, self.each
        w_q, w_k, w_e, w_z = up.weight.split([size, size, size, z.shape[-1]], dim=1)
        key, own = F.linear(k, w_k, up.bias), F.linear(z, w_z)  # (B, N, H, p), (B, N, p)
        apart = gather(own, index) - own.unsqueeze(2)  # (B, N, K, p)
        packed = F.linear(q, w_q).unsqueeze(2) + gather(key, index) + F.linear(e, w_e)
        packed = packed + apart.unsqueeze(-2)  # (B, N, K, H, p)
        return self.logit.gate(packed).squeeze(-1)  # (B, N, K, H)


class LocalBlock(nn.Module):
    """Attention and MLP; a head in each block estimates the expression that the next block sees."""

    def __init__(self, genes: int, width: int, heads: int, dropout: float, head_dropout: float):
        super().__init__()
        self.attention = LocalAttention(genes, width, heads, dropout)
        self.mlp = Gated(width, 4 * width, width, dropout)
        self.head = nn.Sequential(
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width),
            nn.Dropout(dropout),
            nn.Linear(width, genes),
            nn.Dropout(head_dropout),
        )

    def forward(self, h: Tensor, z: Tensor, r: Regions) -> tuple[Tensor, Tensor]:
        h = h + self.attention(h, z, r)  # (B, N, d)
        h = h + self.mlp(h)  # (B, N, d)
        return h, self.head(h)  # (B, N, d), (B, N, G)


class StFlowNet(nn.Module):
    """x_t (B, N, G) at t (B,) → clean expression (B, N, G).

    Args:
        dropout: of all gated layers, of the attention's weights, and of the heads; on the estimates
            of the heads only if ``as_released``.
        as_released: see ``flag_st.methods.stflow.StFlow``.
    """

    def __init__(
        self,
        genes: int,
        features: int,
        width: int,
        depth: int,
        heads: int,
        dropout: float,
        as_released: bool,
    ):
        super().__init__()
        self.features = nn.Linear(features, width)
        # The frequencies of the original transformer; they resolve t in thousandths.
        self.time = NoiseEmbedding(width, features=256, low=1e4 ** (-127 / 128), high=1.0)
        self.unit = 1.0 if as_released else 1000.0
        last = dropout if as_released else 0.0
        self.blocks = nn.ModuleList(
            LocalBlock(genes, width, heads, dropout, last) for _ in range(depth)
        )

    def forward(self, x: Tensor, t: Tensor, r: Regions) -> Tensor:
        h = self.features(r.u) + self.time(self.unit * t).unsqueeze(1)  # (B, N, d)
        z, found = x, []
        for block in self.blocks:
            h, z = block(h, z, r)  # (B, N, d), (B, N, G)
            found.append(z)
        return torch.stack(found).mean(0)  # (B, N, G)
