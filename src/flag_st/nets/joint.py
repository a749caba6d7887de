"""Nodes and edges of a tile as one state, and the network that denoises it.

Nodes are the expression of N spots, and edges are the correlations between these spots. They are
diffused together as z = [x | e] of shape (B, N, G + N), so that preconditioner, loss and sampler
are the same as for any other state. Without edges, z is x alone.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flag_st.diffusion.precond import edm, raw_score
from flag_st.nets.edge_graph import EdgeGraph
from flag_st.nets.graph import Tiles

Head = Literal["raw", "edm"]
#: What stands between two spots: nothing, or a target of ``EDGE_TARGETS``.
JointEdges = Literal["none", "constant", "pearson"]


def pearson(y: Tensor) -> Tensor:
    """Correlations between spots across genes: (B, N, G) → (B, N, N)."""
    unit = F.normalize(y - y.mean(-1, keepdim=True), dim=-1)  # (B, N, G)
    return unit @ unit.transpose(1, 2)  # (B, N, N)


def constant(y: Tensor) -> Tensor:
    """What the release computes as correlations: (B, N, G) → (B, N, N), 1 − O(1/G²) for all pairs.

    It subtracts the sum over genes instead of the mean. All G numbers of a spot are then close to
    minus that sum, and the vectors of all spots point the same way.
    """
    unit = F.normalize(y - y.sum(-1, keepdim=True), dim=-1)  # (B, N, G)
    return unit @ unit.transpose(1, 2)  # (B, N, N)


#: What may stand between two spots, by name.
EDGE_TARGETS = {"constant": constant, "pearson": pearson}


def pairs_of(mask: Tensor) -> Tensor:
    """mask (B, N) → (B, N, N), True for two different real spots."""
    own = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)  # (N, N)
    return mask.unsqueeze(1) & mask.unsqueeze(2) & ~own  # (B, N, N)


def symmetric_noise(tiles: int, spots: int, generator: torch.Generator) -> Tensor:
    """(B, N, N) of unit variance: the upper triangle is drawn and mirrored, the diagonal is 0."""
    upper = torch.randn(tiles, spots, spots, generator=generator).triu(1)  # (B, N, N)
    return upper + upper.transpose(1, 2)  # (B, N, N)


def average(values: Tensor, real: Tensor) -> Tensor:
    """Mean of ``values`` (B, N, ·) where ``real`` (B, N, · or 1); 0 where nothing is real."""
    real = real.expand_as(values)
    return (values * real).sum() / real.sum().clamp(min=1)


class JointNet(nn.Module):
    """Noisy z and σ → clean z. Its buffers relate the network's scale to units.

    Attributes:
        mean, scale: (G,), from the network's scale of expression to the panel's unit.
        edge_mean, edge_scale: the same from the scale of the edges to correlations.

    Args:
        head: ``raw``, the graph emits the score, or ``edm``. low, high: σ of the SDE.
        edges: what is between two spots.
        oracle: true edges are the state of the graph and are not diffused.
        as_released: edge noise is symmetric at the start of sampling only.
    """

    mean: Tensor
    scale: Tensor
    edge_mean: Tensor
    edge_scale: Tensor

    def __init__(
        self,
        graph: EdgeGraph,
        genes: int,
        head: Head,
        low: float,
        high: float,
        edges: JointEdges,
        oracle: bool,
        as_released: bool,
    ):
        super().__init__()
        self.graph, self.genes, self.head, self.low, self.high = graph, genes, head, low, high
        self.edges, self.oracle, self.as_released = edges, oracle, as_released
        self.joint = edges != "none" and not oracle
        for name, size in (("mean", (genes,)), ("edge_mean", ())):
            self.register_buffer(name, torch.zeros(size))
        for name, size in (("scale", (genes,)), ("edge_scale", ())):
            self.register_buffer(name, torch.ones(size))

    def forward(self, z: Tensor, sigma: Tensor, tiles: Tiles) -> Tensor:
        """Noisy z and sigma (B or 1, 1, 1) → clean z.

        z is (B, N, G + N), or (B, N, G) without diffused edges.
        """
        scales = edm(sigma) if self.head == "edm" else raw_score(sigma, self.low, self.high)
        x, e = self.split(scales.scaled(z))  # (B, N, G), (B, N, N)
        e = self._edges(tiles) if self.oracle else e  # (B, N, N)
        time = scales.noise.reshape(-1).expand(len(z))  # (B,)
        state = e.unsqueeze(-1) if self.joint or self.oracle else None  # (B, N, N, 1)
        out, e = self.graph(x, tiles.x, tiles.edges, tiles.mask, time, state)  # (B, N, G), (…, 1)
        if self.joint:
            out = torch.cat([out, e.squeeze(-1)], -1)  # (B, N, G + N)
        return scales.clean(z, out)  # (B, N, G + N)

    def split(self, z: Tensor) -> tuple[Tensor, Tensor]:
        return z[..., : self.genes], z[..., self.genes :]  # (B, N, G), (B, N, N or 0)

    def clean(self, tiles: Tiles) -> Tensor:
        """Clean z (B, N, G + N) of tiles with known expression."""
        return torch.cat([tiles.truth, self._edges(tiles)], -1) if self.joint else tiles.truth

    def _edges(self, tiles: Tiles) -> Tensor:
        e = (self.correlations(tiles.truth) - self.edge_mean) / self.edge_scale  # (B, N, N)
        return e * pairs_of(tiles.mask)  # (B, N, N)

    def correlations(self, x: Tensor) -> Tensor:
        """The edges (B, N, N) that expression x (B, N, G) implies."""
        return EDGE_TARGETS[self.edges](x * self.scale + self.mean)  # (B, N, N)

    def disagreement(self, z: Tensor, stop_gradient: bool) -> Tensor:
        """|edges − correlations of the nodes| of an estimate z → (B, N, N)."""
        x, e = self.split(z)  # (B, N, G), (B, N, N)
        wanted = self.correlations(x.detach() if stop_gradient else x)  # (B, N, N)
        return (e * self.edge_scale + self.edge_mean - wanted).abs()  # (B, N, N)

    def noise(self, mask: Tensor, generator: torch.Generator, start: bool = False) -> Tensor:
        """Unit noise for tiles with mask (B, N), on the CPU.

        Args:
            start: whether sampling starts from it.
        """
        b, n = mask.shape
        x = torch.randn(b, n, self.genes, generator=generator)  # (B, N, G)
        if not self.joint:
            return x  # (B, N, G)
        if not self.as_released:
            e = symmetric_noise(b, n, generator)  # (B, N, N)
        else:
            e = torch.randn(b, n, n, generator=generator)  # (B, N, N)
            if start:
                e = (e + e.transpose(1, 2)) / 2 * (1 - torch.eye(n))  # (B, N, N), half the variance
        return torch.cat([x, e], -1)  # (B, N, G + N)
