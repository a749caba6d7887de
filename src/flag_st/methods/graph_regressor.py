"""Regression by the graph backbone of FLAG alone: what the graph gives without any diffusion."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from flag_st.core.seeds import Draws
from flag_st.data.slide import Cohort, Slide
from flag_st.methods.base import Prediction, Run
from flag_st.methods.network import Centre, Network, regression_scores
from flag_st.methods.training import Task, Training
from flag_st.nets.graph import EDGES, Edges, Tiles, collate, random_tile, spot_graph
from flag_st.nets.graph_transformer import GraphTransformer


class GraphTask(Task[GraphTransformer]):
    """Random tiles of the training slides, as many as it takes to see each spot about once."""

    def __init__(self, method: "GraphRegressor", train: Cohort, valid: Cohort, run: Run):
        self.method, self.module, self.device = method, method.net, run.device
        self.train = [(s.position, method.features_of(s), method.expression_of(s)) for s in train]
        self.valid = [method.open(s, truth=True) for s in valid]

    def batches(self, generator: torch.Generator) -> Iterator[Tiles]:
        m = self.method
        jobs = torch.tensor(
            [
                i
                for i, (position, _, _) in enumerate(self.train)
                for _ in range(max(1, round(len(position) / m.tile_spots)))
            ]
        )
        for chosen in jobs[torch.randperm(len(jobs), generator=generator)].split(m.batch):
            yield m.tiles([self._tile(i, generator) for i in chosen.tolist()])

    def _tile(self, i: int, generator: torch.Generator) -> tuple:
        index = random_tile(self.train[i][0], self.method.tile_spots, generator)
        return tuple(array[index] for array in self.train[i])

    def loss(self, batch: Tiles, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        tiles = batch.to(self.device)
        error = self.method.forward(self.module, tiles) - tiles.truth  # (B, N, G)
        return error[tiles.mask].square().mean(), {}

    def validate(self, module: GraphTransformer) -> dict[str, float]:
        return regression_scores(
            [(self.method.forward(module, t)[0], t.truth[0]) for t in self.valid]
        )


#: The settings of training that its authors state, or that stand in for them.
TRAINING = Training(epochs=300, validate_every=5)


class GraphRegressor(Network):
    """Graph transformer regression with squared error of z-scored expression.

    Args:
        width, depth, heads, dropout: of the graph transformer.
        edges: ``both``, ``distance``, ``histology`` or ``none``, as in FLAG.
        sigma_um: width of the distance kernel in µm.
        neighbours: a spot sees so many nearest; null lets it see all of its tile.
        tile_spots: spots of a training tile. batch: tiles of a step.
        centre, training: as in ``flag_st.methods.network.Network``.
    """

    net: GraphTransformer
    scaling = "standard"

    def __init__(
        self,
        width: int = 384,
        depth: int = 6,
        heads: int = 8,
        dropout: float = 0.1,
        edges: Edges = "both",
        sigma_um: float = 154.0,
        neighbours: int | None = 24,
        tile_spots: int = 256,
        batch: int = 4,
        centre: Centre = "training",
        training: Training = TRAINING,
    ):
        super().__init__(centre, training)
        self.size: dict[str, Any] = dict(width=width, depth=depth, heads=heads, dropout=dropout)
        self.edges, self.sigma_um = EDGES[edges], sigma_um
        self.neighbours = neighbours if self.edges else 0
        self.tile_spots, self.batch = tile_spots, batch

    def network_of(self, genes: int, inputs: int) -> GraphTransformer:
        channels = len(self.edges)
        return GraphTransformer(genes, inputs, channels=channels, see_x=False, **self.size)

    def task(self, train: Cohort, valid: Cohort, run: Run) -> Task:
        return GraphTask(self, train, valid, run)

    def tiles(self, parts: list) -> Tiles:
        """Position (N, 2), features (N, D) and expression (N, G) or None of each tile, padded."""
        graphs = [
            spot_graph(position, u, y, neighbours=self.neighbours, sigma_um=self.sigma_um)
            for position, u, y in parts
        ]
        return collate(graphs, self.edges)

    def open(self, slide: Slide, truth: bool = False) -> Tiles:
        y = self.expression_of(slide) if truth else None
        return self.tiles([(slide.position, self.features_of(slide), y)]).to(self.device)

    def forward(self, net: nn.Module, tiles: Tiles) -> Tensor:
        noise = torch.zeros(len(tiles.x), device=tiles.x.device)
        return net(tiles, None, noise)[1]  # (B, N, G)

    @torch.inference_mode()
    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        y = self.forward(self.net, self.open(slide))  # (1, N, G)
        return Prediction(self.in_unit(y))  # (1, N, G)
