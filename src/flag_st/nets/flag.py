"""The network of FLAG: a graph backbone that conditions a transformer over gene tokens."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from flag_st.diffusion.precond import CovarianceEdm, RawScore
from flag_st.nets.dit import GeneDiT, NoiseEmbedding
from flag_st.nets.edge_graph import EdgeGraph
from flag_st.nets.graph import Tiles
from flag_st.nets.graph_transformer import GraphTransformer, Projector

#: Time features of the release, t ∈ [0, 1]: most of them are constant to three digits.
RELEASED_TIME: dict[str, Any] = {"features": 256, "low": 10 ** (-4 * 127 / 128), "high": 1.0}


class FlagNet(nn.Module):
    """Noisy expression of the spots of B tiles, their images and edges → raw output per gene.

    Args:
        genes, features, targets: G, D and K, the width of the gene model (0: no alignment).
        channels: edge attributes.
        graph: ``fused`` (ours), ``paper`` or ``released``; what they differ in stands in
            ``GraphTransformer`` and ``EdgeGraph``.
        precondition: ``covariance``, ``edm`` or ``score``. sigma_min, sigma_max: of the SDE, which
            the network of ``score`` sees as its time.
        width, depth, heads: of the gene transformer; graph_*: of the backbone.
        align_at: aligned blocks. project: width of the projector.
    """

    def __init__(
        self,
        genes: int,
        features: int,
        targets: int,
        *,
        channels: int,
        graph: str,
        precondition: str,
        sigma_min: float,
        sigma_max: float,
        width: int,
        depth: int,
        heads: int,
        graph_width: int,
        graph_depth: int,
        graph_heads: int,
        see_x: bool,
        align_at: tuple[int, ...],
        project: int,
        dropout: float,
    ):
        super().__init__()
        self.fused, self.see_x = graph == "fused", see_x
        size: dict[str, Any] = dict(
            width=graph_width, depth=graph_depth, heads=graph_heads, dropout=dropout
        )
        self.graph: GraphTransformer | EdgeGraph
        if self.fused:
            self.graph = GraphTransformer(genes, features, channels=channels, see_x=see_x, **size)
            self.condition = mlp(graph_width, 512, width)
        else:
            self.graph = edge_graph(graph, genes, features, channels, size)
            # The paper speaks of three layers, the release has two.
            self.condition = mlp(genes, *([512] if graph == "released" else [512, 512]), width)
        time = RELEASED_TIME if graph == "released" else {}
        self.noise = NoiseEmbedding(width, **time)
        scored = precondition == "score"
        self.precond = RawScore(sigma_min, sigma_max) if scored else CovarianceEdm(genes)
        aligned = align_at if targets else ()
        values = 2 if self.fused else 1
        inner = dropout if self.fused else 0.0
        self.dit = GeneDiT(genes, width, depth, heads, values, aligned, inner)
        self.projector = Projector(width, project, targets) if targets else None
        if graph == "released":
            # Never called, but the release has it, so that its parameters count.
            self.label = mlp(features, features, width)
            released_start(self)

    def encode(self, tiles: Tiles, x: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scaled x (B, N, G), unseen by some, and noise (B,) → condition (B, N, d), and an estimate
        if fused."""
        if self.fused:
            h, readout = self.graph(tiles, x, noise)  # (B, N, g), (B, N, G)
            return self.condition(h), readout  # (B, N, d), (B, N, G)
        z, _ = self.graph(x, tiles.x, tiles.edges, tiles.mask, noise)  # (B, N, G)
        return self.condition(z), None  # (B, N, d)

    def decode(
        self, x: Tensor, noise: Tensor, c: Tensor, readout: Tensor | None
    ) -> tuple[Tensor, list[Tensor]]:
        """Gene tokens of M spots: x, readout (M, G), noise (M,), c (M, d) → (M, G), tokens."""
        values = [x] if readout is None else [x, readout]
        out, tokens = self.dit(torch.stack(values, -1), c + self.noise(noise))  # (M, G), (M, G, d)
        # The fused backbone alone is already a denoiser; gene tokens refine what it says.
        return out if readout is None else readout + out, tokens  # (M, G), (M, G, d)


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with SiLU between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def edge_graph(graph: str, genes: int, features: int, channels: int, size: dict) -> EdgeGraph:
    """The backbone as the paper writes it, or as the released configuration runs it."""
    if graph == "paper":
        return EdgeGraph(
            genes,
            features,
            channels=channels,
            logits="head",
            context=True,
            edges_used=channels > 0,
            edge_state=False,
            # The release's time features turn up to 403 times over t ∈ [0, 1].
            frequencies=(0.5, 64.0),
            **size,
        )
    # Both switches are off in the released configuration: it sees neither edges nor time.
    return EdgeGraph(
        genes,
        features,
        channels=channels,
        logits="channel",
        context=False,
        edges_used=False,
        edge_state=True,
        **size,
    )


def released_start(net: FlagNet) -> None:
    """Initial weights of the release: Xavier everywhere, then zeros where DiT has them."""
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for head in (net.noise.mlp, net.label):
        for layer in (head[0], head[-1]):
            assert isinstance(layer, nn.Linear)
            nn.init.normal_(layer.weight, std=0.02)
    net.dit.reset()
