"""Graph transformer whose attention logits are modulated by edges, as in the paper or the release.

The two differ in what a pair of spots exchanges. The equations of the paper (Eq. 23-26) have one
logit per head, the released code has one logit per channel; ``EdgeGraph`` can do either.
"""

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flag_st.nets.dit import NoiseEmbedding

#: What an attention logit is made for: a head, or a single channel.
Logits = Literal["head", "channel"]
#: Angular frequencies of the release's time features: 1 to e⁶ cycles over t in [0, 1]. It writes π
#: with five decimals, which shifts the fastest feature by 0.002 radians.
FREQUENCIES = (2 * 3.14159, 2 * 3.14159 * math.exp(6))


def plain(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


def lift(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))


def head(width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))


class Modulation(nn.Module):
    """What edges multiply logits by and add to them."""

    def __init__(self, inputs: int, logits: int):
        super().__init__()
        self.multiply, self.add = plain(inputs, logits), plain(inputs, logits)

    def forward(self, e: Tensor) -> tuple[Tensor, Tensor]:
        return self.multiply(e), self.add(e)  # 2 × (B, N, N, L)


class Pairwise(nn.Module):
    """Attention with explicit logits (B, N, N, L), which an edge stream may read.

    Args:
        logits: L. state, static: widths of dynamic and static edges; 0 where there are none.
    """

    def __init__(self, width: int, logits: int, state: int, static: int):
        super().__init__()
        self.q, self.k, self.v = (plain(width, width) for _ in range(3))
        self.state = Modulation(state, logits) if state else None
        self.static = Modulation(static, logits) if static else None

    def modulated(
        self,
        s: Tensor,
        e: Tensor | None,
        edges: Tensor,
        weights: Iterable[Tensor] | None,
        gate: Tensor | float = 1.0,
        bias: Tensor | float = 0.0,
    ) -> Tensor:
        """S ← (gate + multiply(e) + α multiply(C)) ⊙ S + bias + add(e) + γ add(C) (Eq. 26).

        Args:
            s: (B, N, N, L). e: (B, N, N, d) dynamic edges. edges: (B, N, N, C) static ones, C.
            weights: α and γ, if there are static edges.
        """
        if self.state is not None:
            multiply, add = self.state(e)  # 2 × (B, N, N, L)
            gate, bias = gate + multiply, bias + add  # 2 × (B, N, N, L)
        if self.static is not None and weights is not None:
            alpha, gamma = weights
            multiply, add = self.static(edges)  # 2 × (B, N, N, L)
            gate, bias = gate + alpha * multiply, bias + gamma * add  # 2 × (B, N, N, L)
        return gate * s + bias  # (B, N, N, L)


class HeadAttention(Pairwise):
    """One logit per head, the dot product of query and key (Eq. 26 and 60); L = H."""

    def __init__(self, features: int, width: int, heads: int, state: int, static: int):
        super().__init__(width, heads, state, static)
        self.heads = heads
        # α and γ
        self.weights = nn.Parameter(torch.full((2,), 0.1)) if static else None

    def forward(
        self, x: Tensor, e: Tensor | None, u: Tensor, edges: Tensor, allowed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """x (B, N, d), e (B, N, N, d), edges (B, N, N, C), allowed (B, N, N)
        → (B, N, d) and logits (B, N, N, H)."""
        q, k, v = (m(x).unflatten(-1, (self.heads, -1)) for m in (self.q, self.k, self.v))
        s = torch.einsum("bihc,bjhc->bijh", q, k) / math.sqrt(q.shape[-1])  # (B, N, N, H)
        s = self.modulated(s, e, edges, self.weights)  # (B, N, N, H)
        weight = attention(s, allowed)  # (B, N, N, H)
        return torch.einsum("bijh,bjhc->bihc", weight, v).flatten(2), s  # (B, N, d), (B, N, N, H)


class ChannelAttention(Pairwise):
    """One logit per channel, as released: there is no sum over the channels of a head; L = d.

    Image features modulate logits (Q_m, K_m, Q_a, K_a) and the output (M, A) as well.
    """

    def __init__(self, features: int, width: int, heads: int, state: int, static: int):
        super().__init__(width, width, state, static)
        self.scale = math.sqrt(width // heads)
        self.q_m, self.k_m, self.q_a, self.k_a = (plain(features, width) for _ in range(4))
        self.out_m, self.out_a = plain(features, width), plain(features, width)
        # α and γ weigh static edges. As in the release, they exist even where there are none.
        self.weights = nn.Parameter(torch.full((4,), 0.1))

    def forward(
        self, x: Tensor, e: Tensor | None, u: Tensor, edges: Tensor, allowed: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As ``HeadAttention``; u (B, N, D), logits (B, N, N, d)."""
        alpha, beta, gamma, delta = self.weights
        q, k, v = self.q(x) / self.scale, self.k(x), self.v(x)  # 3 × (B, N, d)
        s = q.unsqueeze(2) * k.unsqueeze(1)  # (B, N, N, d)
        gate = 1 + beta * self.q_m(u).unsqueeze(2) * self.k_m(u).unsqueeze(1)  # (B, N, N, d)
        bias = delta * (self.q_a(u).unsqueeze(2) + self.k_a(u).unsqueeze(1))  # (B, N, N, d)
        s = self.modulated(s, e, edges, (alpha, gamma), gate, bias)  # (B, N, N, d)
        x = (attention(s, allowed) * v.unsqueeze(1)).sum(2)  # (B, N, d)
        return (1 + self.out_m(u)) * x + self.out_a(u), s  # (B, N, d), (B, N, N, d)


ATTENTION: dict[Logits, Callable[..., Pairwise]] = {
    "head": HeadAttention,
    "channel": ChannelAttention,
}


def attention(s: Tensor, allowed: Tensor) -> Tensor:
    """Softmax over j of logits (B, N, N, L), where allowed (B, N, N)."""
    lowest = torch.finfo(s.dtype).min
    return s.masked_fill(~allowed.unsqueeze(-1), lowest).softmax(2)  # (B, N, N, L)


class Norm(nn.Module):
    """LayerNorm. With a context it is (1 + γ(z)) ⊙ LN(x) + β(z), where γ and β start at 0."""

    def __init__(self, width: int, context: bool):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=not context)
        self.film = nn.Linear(width, 2 * width) if context else None
        if self.film is not None:
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, z: Tensor | None) -> Tensor:
        """x (B, ..., d), z (B, d)."""
        x = self.norm(x)  # (B, ..., d)
        if self.film is None:
            return x  # (B, ..., d)
        gamma, beta = self.film(z).view(len(x), *[1] * (x.ndim - 2), -1).chunk(2, -1)
        return (1 + gamma) * x + beta  # (B, ..., d)


class Geglu(nn.Module):
    """LayerNorm, d → 2 × 2d, value ⊙ GELU(gate), 2d → d."""

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm, self.up = nn.LayerNorm(width), nn.Linear(width, 4 * width)
        self.dropout, self.down = nn.Dropout(dropout), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.up(self.norm(x)).chunk(2, -1)  # 2 × (..., 2 d)
        return self.down(self.dropout(value * F.gelu(gate)))  # (..., d)


class Context(nn.Module):
    """[time, pooled image features, pooled edges] → one vector per tile (Eq. 23).

    The pooling maps start at zero, so that at first the context knows the time only.

    Args:
        activated: the vector passes another SiLU, which in the release opens each adaptive norm.
    """

    def __init__(self, features: int, static: int, width: int, activated: bool):
        super().__init__()
        self.pool_u = plain(features, width)
        self.pool_edges = plain(static, width) if static else None
        parts = 3 if static else 2
        self.mlp = nn.Sequential(
            nn.Linear(parts * width, width), nn.SiLU(), nn.Linear(width, width)
        )
        if activated:
            self.mlp.append(nn.SiLU())
        for pool in (self.pool_u, self.pool_edges):
            if pool is not None:
                nn.init.zeros_(pool.weight)

    def forward(self, time: Tensor, u: Tensor, edges: Tensor) -> Tensor:
        """time (B, d), mean u (B, D), mean edges (B, C) → (B, d)."""
        parts = [time, self.pool_u(u)]  # 2 × (B, d)
        if self.pool_edges is not None:
            parts.append(self.pool_edges(edges))  # (B, d)
        return self.mlp(torch.cat(parts, -1))  # (B, d)


class EdgeStream(nn.Module):
    """Logits update the edge state: e ← e + FFN(norm(e + out(FiLM(S))))."""

    def __init__(self, width: int, logits: int, static: int, context: bool, dropout: float):
        super().__init__()
        self.before, self.after = Norm(width, context), Norm(width, context)
        self.film = Modulation(static, logits) if static else None
        self.out, self.dropout = nn.Linear(logits, width), nn.Dropout(dropout)
        self.ffn = Geglu(width, dropout)

    def forward(self, e: Tensor, s: Tensor, edges: Tensor, z: Tensor | None) -> Tensor:
        """e (B, N, N, d), logits s (B, N, N, L), edges (B, N, N, C) → (B, N, N, d)."""
        if self.film is not None:
            multiply, add = self.film(edges)  # 2 × (B, N, N, L)
            s = (1 + multiply) * s + add  # (B, N, N, L)
        h = e + self.dropout(self.out(s))  # (B, N, N, d)
        return e + self.ffn(self.after(h, z))  # (B, N, N, d)


class EdgeBlock(nn.Module):
    """Attention of the nodes, modulated by edges; then both streams pass a feed-forward network."""

    def __init__(
        self,
        features: int,
        width: int,
        heads: int,
        static: int,
        logits: Logits,
        context: bool,
        edge_state: bool,
        dropout: float,
    ):
        super().__init__()
        released = logits == "channel"
        self.context = Context(features, static, width, released) if context else None
        # The release has this map even without a context. It does nothing, but is counted.
        self.idle = plain(features, width) if released and not context else None
        self.before, self.after = Norm(width, context), Norm(width, context)
        state, size = width if edge_state else 0, heads if logits == "head" else width
        self.attention = ATTENTION[logits](features, width, heads, state, static)
        self.out, self.dropout = nn.Linear(width, width), nn.Dropout(dropout)
        self.ffn = Geglu(width, dropout)
        self.stream = EdgeStream(width, size, static, context, dropout) if edge_state else None

    def forward(
        self,
        x: Tensor,
        e: Tensor | None,
        u: Tensor,
        edges: Tensor,
        allowed: Tensor,
        pooled: tuple[Tensor, Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor | None]:
        """x (B, N, d), e (B, N, N, d); ``pooled`` is what ``Context`` takes."""
        z = None if self.context is None or pooled is None else self.context(*pooled)  # (B, d)
        seen = None if self.stream is None else self.stream.before(e, z)  # (B, N, N, d)
        h, s = self.attention(self.before(x, z), seen, u, edges, allowed)  # (B, N, d), (B, N, N, L)
        x = x + self.dropout(self.out(h))  # (B, N, d)
        x = x + self.ffn(self.after(x, z))  # (B, N, d)
        return x, None if self.stream is None else self.stream(e, s, edges, z)  # (B, N, N, d)


class EdgeGraph(nn.Module):
    """(x, image features, static edges, time, edge state) → values of nodes and of edges.

    With ``logits="channel"`` it is the released network, parameter by parameter. With
    ``logits="head"`` it is what the paper writes. The paper says that image features "condition the
    nodes"; here they are added to the nodes at the input and, averaged over the tile, are a part of
    the context.

    Args:
        genes, features, channels: G, D and C.
        width, depth, heads: of all blocks; ``width`` is even.
        logits: ``head`` or ``channel``.
        context: norms adapt to time and pooled conditions; without it, time is ignored.
        edges_used: static edges modulate the logits; without it they are ignored.
        edge_state: carry a stream of N × N × width edge states; without it none is made.
        dropout: after both output maps of attention and in the feed-forward networks.
        frequencies: lowest and highest angular frequency of the time features.
    """

    def __init__(
        self,
        genes: int,
        features: int,
        width: int = 384,
        depth: int = 6,
        heads: int = 8,
        channels: int = 2,
        logits: Logits = "head",
        context: bool = True,
        edges_used: bool = True,
        edge_state: bool = True,
        dropout: float = 0.1,
        frequencies: tuple[float, float] = FREQUENCIES,
    ):
        super().__init__()
        self.has_context, self.edge_state = context, edge_state
        self.x_in = lift(genes, width)
        self.u_in = nn.Linear(features, width) if logits == "head" else None
        self.e_in = lift(1, width) if edge_state else None
        # Unused without a context; the release has it even so, and it is part of its size.
        known = context or logits == "channel"
        self.time = NoiseEmbedding(width, width, *frequencies) if known else None
        static = channels if edges_used else 0
        size = (features, width, heads, static, logits, context, edge_state, dropout)
        self.blocks = nn.ModuleList(EdgeBlock(*size) for _ in range(depth))
        self.x_out = head(width, genes)
        self.e_out = head(width, 1) if edge_state else None

    def forward(
        self,
        x: Tensor,
        u: Tensor,
        edges: Tensor,
        mask: Tensor,
        time: Tensor | None = None,
        state: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Values of nodes and edges; padding never changes a real spot, and padded rows are zero.

        Args:
            x: (B, N, G). u: (B, N, D). edges: (B, N, N, C), static. mask: (B, N), True where real.
            time: (B,) scalar feature of the noise level, if there is a context.
            state: (B, N, N, 1) noisy edges, of which none joins a spot with itself: the diagonal is
                not read. None is the zero state.

        Returns:
            nodes (B, N, G); edges (B, N, N, 1), symmetric with zero diagonal, or None.
        """
        pairs = mask.unsqueeze(1) & mask.unsqueeze(2)  # (B, N, N)
        own = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)  # (N, N)
        allowed = mask.unsqueeze(1) | own  # (B, N, N): no row is empty
        pooled = None
        if self.has_context and self.time is not None:
            pooled = (self.time(time), mean(u, mask), mean(edges, pairs))  # (B, d), (B, D), (B, C)
        h, e = self.x_in(x), None  # (B, N, d)
        if self.u_in is not None:
            h = h + self.u_in(u)  # (B, N, d)
        if self.e_in is not None:
            state = x.new_zeros(*pairs.shape, 1) if state is None else state  # (B, N, N, 1)
            e = self.e_in(state.masked_fill(own.unsqueeze(-1), 0))  # (B, N, N, d)
        for block in self.blocks:
            h, e = block(h, e, u, edges, allowed, pooled)  # (B, N, d), (B, N, N, d)
        nodes = self.x_out(h) * mask.unsqueeze(-1)  # (B, N, G)
        if e is None or self.e_out is None:
            return nodes, None
        e = self.e_out(e)  # (B, N, N, 1)
        e = (e + e.transpose(1, 2)) / 2  # (B, N, N, 1)
        return nodes, e * (pairs & ~own).unsqueeze(-1)  # (B, N, G), (B, N, N, 1)


def mean(values: Tensor, real: Tensor) -> Tensor:
    """(B, ..., C) averaged over all but the first and last axis, where ``real`` (B, ...)."""
    values, real = values.flatten(1, -2), real.flatten(1).unsqueeze(-1)  # (B, M, C), (B, M, 1)
    return (values * real).sum(1) / real.sum(1).clamp(min=1)  # (B, C)
