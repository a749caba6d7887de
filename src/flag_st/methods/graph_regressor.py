"""Regression by the graph backbone of FLAG alone: what the graph gives without any diffusion."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from flag_st.core.seeds import Draws
from flag_st.data.slide import Cohort, Slide
from flag_st.data.tiling import Seen, Tiling
from flag_st.methods.base import Prediction, Run
from flag_st.methods.network import Centre, NetworkMethod
from flag_st.methods.training import Task, Training
from flag_st.methods.validation import regression_scores
from flag_st.nets.graph import EDGES, Graph, GraphBuilder, Tiles
from flag_st.nets.graph_transformer import GraphTransformer


class GraphTask(Task[GraphTransformer]):
    """Squared error on tiles of the training slides."""

    def __init__(self, method: "GraphRegressor", train: Cohort, valid: Cohort, run: Run):
        self.method, self.module, self.device = method, method.net, run.device
        self.train = method.seen_with_truth(train)
        self.valid = method.seen_with_truth(valid)

    def batches(self, generator: torch.Generator) -> Iterator[Tiles]:
        slides = [seen.slide for seen in self.train]
        for batch in self.method.tiling.batches(slides, generator):
            yield self.method.builder.tiles([(self.train[i], index) for i, index in batch])

    def loss(self, batch: Tiles, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        tiles = batch.to(self.device)
        error = estimate(self.module, tiles) - tiles.truth  # (B, N, G)
        return error[tiles.mask].square().mean(), {}

    def validate(self, module: GraphTransformer) -> dict[str, float]:
        truth = [torch.as_tensor(seen.y, device=self.device) for seen in self.valid]
        found = [self.method.whole(module, seen) for seen in self.valid]
        return regression_scores(list(zip(found, truth, strict=True)))


def estimate(net: nn.Module, tiles: Tiles) -> Tensor:
    """(B, N, G) expression of tiles from image and graph alone."""
    noise = torch.zeros(len(tiles.x), device=tiles.x.device)
    return net(tiles, None, noise)[1]  # (B, N, G)


# The defaults of each group, which the configuration changes value by value.
GRAPH, TILING = Graph(neighbours=24, far=0), Tiling()
#: The settings of training, chosen so that it converges.
TRAINING = Training(epochs=300, validate_every=5)


class GraphRegressor(NetworkMethod):
    """Graph transformer regression with squared error of z-scored expression.

    Args:
        width, depth, heads, dropout: of the graph transformer.
        graph: which spots are joined and what edges know, as in FLAG.
        tiling: how slides are cut.
        centre, training: as in ``flag_st.methods.network.NetworkMethod``.
    """

    net: GraphTransformer
    scaling = "standard"

    def __init__(
        self,
        width: int = 384,
        depth: int = 6,
        heads: int = 8,
        dropout: float = 0.1,
        graph: Graph = GRAPH,
        tiling: Tiling = TILING,
        centre: Centre = "training",
        training: Training = TRAINING,
    ):
        super().__init__(centre, training)
        self.size: dict[str, Any] = dict(width=width, depth=depth, heads=heads, dropout=dropout)
        self.tiling, channels = tiling, EDGES[graph.edges]
        # Without edges a spot sees itself alone.
        near, far = (graph.neighbours, graph.far) if channels else (0, 0)
        self.builder = GraphBuilder(graph, channels, near, far)

    def network_of(self, genes: int, inputs: int) -> GraphTransformer:
        channels = len(self.builder.channels)
        return GraphTransformer(genes, inputs, channels=channels, see_x=False, **self.size)

    def task(self, train: Cohort, valid: Cohort, run: Run) -> Task:
        return GraphTask(self, train, valid, run)

    def whole(self, net: nn.Module, seen: Seen) -> Tensor:
        """(N, G) on the network's scale, tile by tile."""
        found = torch.empty(len(seen.slide), len(self.mean), device=self.device)  # (N, G)
        for index in self.tiling.cut(seen.slide):
            tiles = self.builder.tiles([(seen, index)]).to(self.device)
            found[torch.as_tensor(index)] = estimate(net, tiles)[0].float()  # (n, G)
        return found  # (N, G)

    @torch.inference_mode()
    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        return Prediction(self.in_unit(self.whole(self.net, self.seen(slide))[None]))  # (1, N, G)
