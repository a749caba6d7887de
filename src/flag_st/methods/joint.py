"""Joint node-edge and node-only diffusion: the paper's road to FLAG (§3.2-3.3, App. B, D, E)."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flag_st.core.errors import FlagError
from flag_st.core.seeds import Draws, torch_generator
from flag_st.data.slide import UNITS, Cohort, Slide, pixel_of
from flag_st.data.spatial import compact_tiles, grid_tiles
from flag_st.diffusion.losses import edm_loss, score_matching_loss
from flag_st.diffusion.samplers import heun_log
from flag_st.diffusion.schedules import geometric, log_uniform
from flag_st.methods.base import Prediction, Run
from flag_st.methods.network import Centre, Network, regression_scores
from flag_st.methods.training import Task, Training, precise
from flag_st.nets.edge_graph import FREQUENCIES, EdgeGraph
from flag_st.nets.graph import (
    PAPER_EDGES,
    Tiles,
    collate,
    random_tile,
    spot_graph,
)
from flag_st.nets.joint import EDGE_TARGETS, EDGES, HEADS, JointNet, average, pairs_of

#: The SDE ends at this t, not at 0 (App. D).
LAST_T = 0.01
#: Noise levels at which validation states the error of the noise.
LEVELS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
#: Angular frequencies that resolve t in [0, 1] as well as ln(σ)/4; the release's are far higher.
SMOOTH = (0.5, 64.0)
#: Static edges: distance kernel and image similarity.
STATIC = PAPER_EDGES["both"]

#: Batches of tiles with the spots that their rows are of.
Opened = list[tuple[np.ndarray, Tiles]]


class JointTask(Task[JointNet]):
    """Tiles of the training slides; score matching of nodes and edges, and their consistency."""

    def __init__(self, method: "Joint", train: Cohort, valid: Cohort, run: Run):
        self.method, self.module, self.device = method, method.net, run.device
        self.train = [(s, method.features_of(s), method.expression_of(s)) for s in train]
        self.valid = [(s.id, method.open(s, truth=True), method.expression_of(s)) for s in valid]

    def batches(self, generator: torch.Generator) -> Iterator[Tiles]:
        """Every spot about once, in random tiles; or each tile of the fixed grid once."""
        m = self.method
        jobs = [
            (index, *known)
            for known in self.train
            for index in m.training_tiles(known[0], generator)
        ]
        order = torch.randperm(len(jobs), generator=generator)
        for chosen in order.split(m.tiles_per_step):
            yield m.collate([m.graph_of(*jobs[i]) for i in chosen.tolist()])

    def loss(self, batch: Tiles, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        tiles, m, net = batch.to(self.device), self.method, self.module
        shape = (len(tiles.x), 1, 1)
        sigma = log_uniform(shape, m.sigma_low, m.sigma_max, generator).to(self.device)
        measure = edm_loss if m.head == "edm" else score_matching_loss
        parts, estimate = self._errors(net, tiles, sigma, generator, measure)
        loss = parts["nodes"]
        if net.joint:
            gap = net.disagreement(estimate, m.stop_gradient)  # (B, N, N)
            # At high noise both estimates are mostly error, which nothing can make consistent.
            gap = gap if m.as_released else gap / (1 + sigma**2)  # (B, N, N)
            parts["consistency"] = average(gap, pairs_of(tiles.mask))
            loss = loss + m.edge_weight * parts["edges"]
            loss = loss + m.consistency_weight * parts["consistency"]
        return loss, {name: value.item() for name, value in parts.items()}

    def _errors(
        self,
        net: JointNet,
        tiles: Tiles,
        sigma: Tensor,
        generator: torch.Generator,
        measure: Callable[..., Tensor],
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Mean ``measure`` of nodes and, if diffused, of edges; and the clean estimate of z."""
        clean, noise = net.clean(tiles), net.noise(tiles.mask, generator)  # 2 × (B, N, G + N)
        estimate = net(clean + sigma * noise.to(self.device), sigma, tiles)  # (B, N, G + N)
        nodes, edges = net.split(measure(estimate, clean, sigma))  # (B, N, G), (B, N, N)
        parts = {"nodes": average(nodes, tiles.mask.unsqueeze(-1))}
        if net.joint:
            parts["edges"] = average(edges, pairs_of(tiles.mask))
        return parts, estimate

    def validate(self, module: JointNet) -> dict[str, float]:
        """One draw of every slide with fixed noise; ``loss`` is its MSE, by which the paper chooses.

        ``nodes_σ`` and ``edges_σ`` are errors of the noise at single levels; 1 is that of a
        network that returns its input.
        """
        m, pairs = self.method, []
        errors: dict[str, list[float]] = {}
        for slide, opened, truth in self.valid:
            drawn = m.draw(module, opened, torch_generator("validation", slide))  # (N, G)
            pairs.append((drawn, torch.as_tensor(truth, device=self.device)))
            generator = torch_generator("validation", slide, "levels")
            for level in LEVELS:
                sigma = torch.full((1, 1, 1), level, device=self.device)
                for _, tiles in opened:
                    found, _ = self._errors(module, tiles, sigma, generator, score_matching_loss)
                    for name, value in found.items():
                        errors.setdefault(f"{name}_{level:g}", []).append(value.item())
        return regression_scores(pairs) | {k: float(np.mean(v)) for k, v in errors.items()}


#: The settings of training that its authors state.
TRAINING = Training(epochs=2000, lr=1e-4, warmup=0, schedule="constant", accumulate=16)


class Joint(Network):
    """Diffusion of expression with, or without, the correlations between spots.

    Args:
        width, depth, heads, dropout: of the graph transformer; the paper's is as wide for 50 genes
            as for 800.
        head: ``raw``: the network emits the score of log expression, as the paper does, through its
            ``width`` channels and with no skip from x; ``edm``: behind the EDM preconditioner.
        scaling: of expression: ``standard`` scores by training statistics, which ``edm`` supposes,
            or natural ``log1p`` or ``log2`` units (given a panel in natural log1p); null chooses
            by the head.
        edges: ``none`` (node-only), ``pearson``, or ``constant``, which is what the release
            computes for a correlation (``flag_st.nets.joint.constant``).
        oracle: true edges condition the nodes, in training and in prediction, and are not diffused
            (Figure 1). Such an entry needs the truth.
        own_range: noise of edges in units of their standard deviation, around their mean; else it
            has the σ of the nodes, which drowns edges over most of the range.
        edge_weight, consistency_weight: λ of the edges' loss and of the consistency.
        stop_gradient: consistency moves the edges alone.
        as_released: logits per channel, with the release's time features; edge noise without
            symmetry in training, of half the variance in sampling; consistency of one weight at
            all σ.
        sigma_um: width of the distance kernel. sigma_px: the same in pixels of level 0 (paper:
            224); overrides it.
        tiles: ``nearest``, a random spot and its nearest in training, compact cuts of the slide in
            prediction; ``grid``, fixed squares in both (paper).
        tile_spots: spots of a ``nearest`` tile. tile_px: edge of a ``grid`` square (paper: 2048).
        tiles_per_step: tiles of a batch.
        sigma_min, sigma_max: of the VE-SDE, σ(t) = sigma_min (sigma_max / sigma_min)^t.
        steps: of Heun's method in t; one Tweedie step follows.
        centre, training: as in ``flag_st.methods.network.Network``; with centre ``none`` features
            are taken as they are, as the paper does.
    """

    stochastic: bool = True
    net: JointNet

    def __init__(
        self,
        width: int = 384,
        depth: int = 6,
        heads: int = 8,
        dropout: float = 0.1,
        head: str = "raw",
        scaling: str | None = None,
        edges: str = "pearson",
        oracle: bool = False,
        own_range: bool = False,
        edge_weight: float = 1.0,
        consistency_weight: float = 0.1,
        stop_gradient: bool = True,
        as_released: bool = False,
        sigma_um: float = 154.0,
        sigma_px: float | None = None,
        tiles: str = "nearest",
        tile_spots: int = 64,
        tile_px: float = 2048.0,
        tiles_per_step: int = 1,
        sigma_min: float = 0.01,
        sigma_max: float = 10.0,
        steps: int = 100,
        centre: Centre = "training",
        training: Training = TRAINING,
    ):
        super().__init__("training" if centre == "none" else centre, training)
        for name, value, choices in (
            ("head", head, HEADS),
            ("edges", edges, EDGES),
            ("scaling", scaling, (None, "standard", *UNITS)),
            ("tiles", tiles, ("nearest", "grid")),
        ):
            if value not in choices:
                raise FlagError(f"joint: {name} {value!r}", choices=choices)
        if oracle and edges == "none":
            raise FlagError("joint: an oracle of no edges", choices=["constant", "pearson"])
        self.centre = centre
        self.scaling = scaling or ("standard" if head == "edm" else "log1p")
        self.needs = frozenset({"truth"} if oracle else ())
        self.head, self.edges, self.oracle, self.own_range = head, edges, oracle, own_range
        self.edge_weight, self.consistency_weight = edge_weight, consistency_weight
        self.stop_gradient, self.as_released = stop_gradient, as_released
        self.sigma_um, self.sigma_px, self.steps = sigma_um, sigma_px, steps
        self.tiles, self.tile_spots, self.tile_px = tiles, tile_spots, tile_px
        self.tiles_per_step = tiles_per_step
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.sigma_low = sigma_min * (sigma_max / sigma_min) ** LAST_T
        self.size: dict[str, Any] = dict(width=width, depth=depth, heads=heads, dropout=dropout)

    # --- data ----------------------------------------------------------------------------------

    def _statistics(self, train: Cohort) -> None:
        super()._statistics(train)
        self.edge_mean, self.edge_scale = 0.0, 1.0
        if self.own_range and self.edges != "none":
            known = [self._known_edges(s, i) for s in train for i in self.tiling(s)]
            values = torch.cat(known).double()  # (pairs,)
            self.edge_mean, self.edge_scale = values.mean().item(), max(values.std().item(), 1e-2)

    def _known_edges(self, slide: Slide, index: np.ndarray) -> Tensor:
        """Edges of all pairs of a tile, each once."""
        e = EDGE_TARGETS[self.edges](torch.as_tensor(slide.truth[index])[None])[0]  # (N, N)
        return e[*torch.triu_indices(len(e), len(e), offset=1)]  # (pairs,)

    def tiling(self, slide: Slide) -> list[np.ndarray]:
        """Indices of the tiles of a whole slide, each spot once."""
        if self.tiles == "grid":
            return grid_tiles(slide.position, self.tile_px * pixel_of(slide))
        return compact_tiles(slide.position, self.tile_spots)

    def training_tiles(self, slide: Slide, generator: torch.Generator) -> list[np.ndarray]:
        """Indices of one epoch's tiles of a slide."""
        if self.tiles == "grid":
            return self.tiling(slide)
        count = max(1, round(len(slide) / self.tile_spots))
        return [random_tile(slide.position, self.tile_spots, generator) for _ in range(count)]

    def graph_of(self, index: np.ndarray, slide: Slide, u: np.ndarray, y: np.ndarray | None):
        """The spots ``index`` as a graph: u (N, D) and y (N, G) are of the whole slide."""
        sigma = self.sigma_um if self.sigma_px is None else self.sigma_px * pixel_of(slide)
        y = None if y is None else y[index]
        return spot_graph(slide.position[index], u[index], y, sigma_um=sigma)

    def collate(self, graphs: list) -> Tiles:
        """Padded, with static edges between different spots alone."""
        return collate(graphs, STATIC, loops=False)

    def open(self, slide: Slide, truth: bool) -> Opened:
        """All tiles of a slide, with their expression if ``truth``."""
        u, y = self.features_of(slide), self.expression_of(slide) if truth else None
        tiles, opened = self.tiling(slide), []
        for first in range(0, len(tiles), self.tiles_per_step):
            part = tiles[first : first + self.tiles_per_step]
            batch = self.collate([self.graph_of(index, slide, u, y) for index in part])
            opened.append((np.concatenate(part), batch.to(self.device)))
        return opened

    # --- fit and predict -------------------------------------------------------------------------

    def network_of(self, genes: int, inputs: int) -> JointNet:
        graph = EdgeGraph(
            genes,
            inputs,
            channels=len(STATIC),
            logits="channel" if self.as_released else "head",
            # The release updates edge states even where none go in and none are asked for.
            edge_state=self.edges != "none" or self.as_released,
            frequencies=FREQUENCIES if self.as_released else SMOOTH,
            **self.size,
        )
        limits = (self.sigma_min, self.sigma_max)
        return JointNet(graph, genes, self.head, *limits, self.edges, self.oracle, self.as_released)

    def start(self) -> None:
        for name in ("mean", "scale", "edge_mean", "edge_scale"):
            getattr(self.net, name).copy_(torch.as_tensor(getattr(self, name)))

    def task(self, train: Cohort, valid: Cohort, run: Run) -> Task:
        return JointTask(self, train, valid, run)

    def draw(self, net: JointNet, opened: Opened, generator: torch.Generator) -> Tensor:
        """One sample (N, G) of a whole slide on the network's scale, tile by tile."""
        grid, drawn = geometric(self.steps, self.sigma_low, self.sigma_max), []
        for _, tiles in opened:

            def denoise(z: Tensor, sigma: Tensor, tiles: Tiles = tiles) -> Tensor:
                return net(z, sigma.view(1, 1, 1), tiles)

            z = self.sigma_max * net.noise(tiles.mask, generator, start=True)  # (B, N, G + N)
            x, _ = net.split(heun_log(denoise, z.to(tiles.x.device), grid))  # (B, N, G)
            drawn.append(x[tiles.mask])  # (spots, G)
        order = np.argsort(np.concatenate([index for index, _ in opened]))
        return torch.cat(drawn)[torch.as_tensor(order)]  # (N, G)

    @torch.inference_mode()
    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        opened = self.open(slide, truth=self.oracle)
        with precise(self.device, self.training.precision):
            drawn = [self.draw(self.net, opened, draws.torch(k)) for k in range(samples)]
        # Counts are never below 0; the release clips draws, too, before it takes their mean.
        return Prediction(np.maximum(self.in_unit(torch.stack(drawn)), 0))  # (S, N, G)
