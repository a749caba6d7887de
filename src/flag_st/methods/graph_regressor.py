"""Regression by a graph attention network of torch-geometric on the spot graph that FLAG reads."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from flag_st.core.errors import FlagError
from flag_st.core.seeds import Draws
from flag_st.data.slide import Cohort, Slide
from flag_st.data.tiling import Seen, Tiling
from flag_st.methods.base import Prediction, Run
from flag_st.methods.network import Centre, NetworkMethod
from flag_st.methods.training import Task, Training
from flag_st.methods.validation import regression_scores
from flag_st.nets.graph import EDGES, Graph, GraphBuilder
from flag_st.nets.spot_data import spot_data

if TYPE_CHECKING:
    from torch_geometric.data import Data

#: A tile as the number of its slide and the indices (n,) of its spots.
Tile = tuple[int, np.ndarray]


@dataclass(frozen=True)
class TileGraphs(Dataset):
    """The spot graph of any tile of some slides."""

    slides: list[Seen]
    builder: GraphBuilder

    def __getitem__(self, tile: Tile) -> "Data":
        number, index = tile
        return spot_data(self.builder.graph(self.slides[number], index), self.builder.channels)


class GraphTask(Task[nn.Module]):
    """Squared error on tiles of the training slides."""

    def __init__(self, method: "GraphRegressor", train: Cohort, valid: Cohort, run: Run):
        self.method, self.module, self.device = method, method.net, run.device
        self.train = TileGraphs(method.seen_with_truth(train), method.builder)
        self.valid = method.seen_with_truth(valid)

    def batches(self, generator: torch.Generator) -> Iterator["Data"]:
        """Batches of tiles: one graph whose parts are not connected."""
        from torch_geometric.loader import DataLoader

        slides = [seen.slide for seen in self.train.slides]
        order = self.method.tiling.batches(slides, generator)
        # The loader draws a seed, too, which must not come from torch's own generator.
        yield from DataLoader(self.train, batch_sampler=order, generator=generator)

    def loss(self, batch: "Data", generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        graph = batch.to(self.device)
        return (estimate(self.module, graph) - graph.y).square().mean(), {}

    def validate(self, module: nn.Module) -> dict[str, float]:
        truth = [torch.as_tensor(seen.y, device=self.device) for seen in self.valid]
        found = [self.method.whole(module, seen) for seen in self.valid]
        return regression_scores(list(zip(found, truth, strict=True)))


def estimate(net: nn.Module, graph: "Data") -> Tensor:
    """(N, G) expression of the spots of a graph."""
    return net(graph.x, graph.edge_index, edge_attr=graph.edge_attr)  # (N, G)


# The defaults of each group, which the configuration changes value by value.
GRAPH, TILING = Graph(neighbours=24, far=0), Tiling()
#: The settings of training, chosen so that it converges.
TRAINING = Training(epochs=300, validate_every=5)


class GraphRegressor(NetworkMethod):
    """GATv2 regression with squared error of z-scored expression.

    Each layer is ``GATv2Conv`` (Brody et al. 2022, Eq. 7), whose attention sees both spots and the
    edge between them, with a residual connection. The network is ``GAT`` of torch-geometric, with
    its linear readout.

    Args:
        width, depth, heads, dropout: of the network; attention is dropped at the same rate.
        graph: which spots are joined and what edges know, as in FLAG.
        tiling: how slides are cut.
        centre, training: as in ``flag_st.methods.network.NetworkMethod``.

    Raises:
        FlagError: ``width`` is no multiple of ``heads``.
    """

    scaling = "standard"

    def __init__(
        self,
        width: int = 384,
        depth: int = 4,
        heads: int = 8,
        dropout: float = 0.1,
        graph: Graph = GRAPH,
        tiling: Tiling = TILING,
        centre: Centre = "training",
        training: Training = TRAINING,
    ):
        super().__init__(centre, training)
        if width % heads:
            raise FlagError(f"graph_regressor: width {width} is no multiple of heads {heads}")
        self.size: dict[str, Any] = dict(
            hidden_channels=width, num_layers=depth, heads=heads, dropout=dropout
        )
        self.tiling, channels = tiling, EDGES[graph.edges]
        # Without edges a spot sees itself alone.
        near, far = (graph.neighbours, graph.far) if channels else (0, 0)
        self.builder = GraphBuilder(graph, channels, near, far)

    def network_of(self, genes: int, inputs: int) -> nn.Module:
        from torch_geometric.nn import GAT

        return GAT(
            inputs,
            out_channels=genes,
            act="gelu",
            norm="layer_norm",
            norm_kwargs={"mode": "node"},
            jk="last",
            v2=True,
            residual=True,
            edge_dim=len(self.builder.channels) or None,
            add_self_loops=False,  # the spot graph has them, with their attributes
            **self.size,
        )

    def task(self, train: Cohort, valid: Cohort, run: Run) -> Task:
        return GraphTask(self, train, valid, run)

    def whole(self, net: nn.Module, seen: Seen) -> Tensor:
        """(N, G) on the network's scale, tile by tile."""
        graphs = TileGraphs([seen], self.builder)
        found = torch.empty(len(seen.slide), len(self.mean), device=self.device)  # (N, G)
        for index in self.tiling.cut(seen.slide):
            graph = graphs[0, index].to(self.device)
            found[torch.as_tensor(index)] = estimate(net, graph).float()  # (n, G)
        return found  # (N, G)

    @torch.inference_mode()
    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        return Prediction(self.in_unit(self.whole(self.net, self.seen(slide))[None]))  # (1, N, G)
