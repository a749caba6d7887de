"""FLAG: graph-conditioned latent diffusion of expression, aligned to a gene foundation model.

A spatial graph transformer turns noisy expression, image features and edges into one condition a
spot; a transformer over gene tokens denoises under it; a middle block is pulled towards gene-model
embeddings while training. Nothing of the gene model is needed for prediction.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flag_st.core.errors import FlagError
from flag_st.core.seeds import Draws
from flag_st.data.slide import UNITS, Cohort, Slide, pixel_of
from flag_st.data.spatial import grid_tiles
from flag_st.diffusion.precond import CovarianceEdm
from flag_st.diffusion.samplers import SAMPLERS
from flag_st.diffusion.schedules import geometric, karras, log_normal, log_uniform
from flag_st.methods.base import Prediction, Run
from flag_st.methods.flag_task import FlagTask
from flag_st.methods.network import Centre, Network
from flag_st.methods.training import Task, Training, precise
from flag_st.nets.flag import FlagNet
from flag_st.nets.graph import (
    EDGES,
    PAPER_EDGES,
    Tiles,
    collate,
    spot_graph,
)

GRIDS = {"karras": karras, "geometric": geometric}
#: Spots whose gene tokens are decoded at once in prediction, where memory would grow with N.
CHUNK = 256


@dataclass(frozen=True)
class Window:
    """A part of a slide that is one graph: its tiles (B = 1) and which spots (n,) these are."""

    tiles: Tiles
    index: Tensor


TRAINING = Training()


class Flag(Network):
    """Spatial gene expression by graph-conditioned diffusion.

    The defaults are ours; the entries ``flag_paper`` and ``flag_released`` of the configuration
    choose what the paper writes and what its code runs.

    Args:
        width, depth, heads: of the gene transformer (paper: 384 × 12 × 6).
        graph: backbone. ``fused``: edges bias fused attention, its own estimate enters the gene
            tokens; ``paper``: one modulated logit a head, adaptive norms; ``released``: one logit
            a channel, edge states of N × N × width, neither static edges nor time.
        graph_width, graph_depth, graph_heads: of it (paper: 384 × 6 × 8).
        centre: features are z-scored with ``training`` statistics, with each ``slide``'s own
            (stain falls out, and the slide's level with it; no label is used), or ``both``, side
            by side; ``none`` takes them as they are, as the paper does.
        scaling: of expression: ``standard`` scores by training statistics, or none of it in
            natural ``log1p`` or ``log2`` units (given a panel in natural log1p).
        edges: ``both``, ``distance``, ``histology`` or ``none`` (Table 14; no graph in Table 2).
        neighbours, far: spots see so many nearest and so many farther ones (``data.spatial.around``),
            which makes all linear in the spots; neighbours null lets all spots of a tile see each
            other. ``fused`` alone.
        sigma_um: width of the distance kernel; 154 µm are the paper's 224 px on HER2ST.
        sigma_px: the same in pixels of level 0, whatever these are (paper: 224); overrides it.
        encode: ``each`` reads the noisy expression at every evaluation, so that draws are
            coherent in space; ``once`` encodes image and graph once per slide. ``fused`` alone.
        align_at: aligned block, or the first and last of a range. align_weight: its weight in
            the loss. project: width of the projector.
        backbone_weight: weight of the backbone's own denoising loss. ``fused`` alone.
        dropout: in the backbone; of ``fused``, in the gene transformer, too.
        tiles: ``nearest``, a random spot and its nearest in training and the whole slide in
            prediction; ``grid``, fixed squares in both, which do not see each other (paper).
        tile_spots: spots of a ``nearest`` tile. tile_px: edge of a ``grid`` square (paper: 2048).
        tiles_per_step: tiles of one batch, padded to the largest.
        decode_spots: of these, spots whose gene tokens are trained in the step; null for all.
        precondition: ``covariance`` along the genes' principal components (``CovarianceEdm``);
            ``edm`` with every gene independent; ``score``, none, with the score as output.
        noise: ``log_normal`` draws ln σ with sigma_mean and sigma_std, far above the usual −1.2 of
            images, since what hundreds of genes share outlives the noise of one; ``log_uniform``
            is the paper's VE-SDE from sigma_min to sigma_max.
        sigma_min, sigma_max, steps, grid, sampler: of sampling, in units of ``scaling``.
        diffusion: without it the same network learns to predict without any noise (Table 2).
        point_draws: the point estimate is the mean of so many single evaluations at
            ``sigma_max``, which is the posterior mean; 0 takes the mean of the draws.
        clip: no draw below zero counts.
        training: settings of the loop (``flag_st.methods.training.Training``).
    """

    net: FlagNet
    stochastic: bool = True

    def __init__(
        self,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        graph: str = "fused",
        graph_width: int = 384,
        graph_depth: int = 6,
        graph_heads: int = 8,
        centre: Centre = "both",
        scaling: str = "standard",
        edges: str = "both",
        neighbours: int | None = 16,
        far: int = 12,
        sigma_um: float = 154.0,
        sigma_px: float | None = None,
        encode: str = "each",
        align_at: int | Sequence[int] = 8,
        align_weight: float = 0.5,
        project: int = 2048,
        backbone_weight: float = 0.5,
        dropout: float = 0.1,
        tiles: str = "nearest",
        tile_spots: int = 256,
        tile_px: float = 2048.0,
        tiles_per_step: int = 4,
        decode_spots: int | None = 256,
        precondition: str = "covariance",
        noise: str = "log_normal",
        sigma_mean: float = 1.0,
        sigma_std: float = 2.0,
        sigma_min: float = 0.02,
        sigma_max: float = 80.0,
        steps: int = 16,
        grid: str = "karras",
        sampler: str = "dpmpp_2m",
        diffusion: bool = True,
        point_draws: int = 8,
        clip: bool = True,
        training: Training = TRAINING,
    ):
        super().__init__(centre, training)
        for name, value, choices in (
            ("graph", graph, ("fused", "paper", "released")),
            ("scaling", scaling, ("standard", *UNITS)),
            ("edges", edges, tuple(EDGES)),
            ("encode", encode, ("each", "once")),
            ("tiles", tiles, ("nearest", "grid")),
            ("precondition", precondition, ("covariance", "edm", "score")),
            ("noise", noise, ("log_normal", "log_uniform")),
            ("grid", grid, tuple(GRIDS)),
            ("sampler", sampler, tuple(SAMPLERS)),
        ):
            if value not in choices:
                raise FlagError(f"flag: {name} {value!r}", choices=choices)
        fused = graph == "fused"
        if not fused and encode == "once":
            raise FlagError(f"flag: encode once: the graph {graph!r} reads noisy expression")
        first, last = (align_at, align_at) if isinstance(align_at, int) else align_at
        if not 1 <= first <= last <= depth:
            raise FlagError(f"flag: align_at {align_at}: give blocks from 1 to depth {depth}")
        known = {"fused": EDGES, "paper": PAPER_EDGES}
        self.channels = known[graph][edges] if graph in known else ()
        self.size: dict[str, Any] = dict(
            channels=len(self.channels),
            graph=graph,
            precondition=precondition,
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            width=width,
            depth=depth,
            heads=heads,
            graph_width=graph_width,
            graph_depth=graph_depth,
            graph_heads=graph_heads,
            see_x=encode == "each",
            align_at=tuple(range(first, last + 1)),
            project=project,
            dropout=dropout,
        )
        self.scaling, self.precondition, self.noise = scaling, precondition, noise
        # Without edges a spot of ours sees itself alone; the other graphs know no neighbourhood.
        self.neighbours = None if not fused else neighbours if self.channels else 0
        self.far = far if self.channels else 0
        self.sigma_um, self.sigma_px = sigma_um, sigma_px
        self.align_weight, self.backbone_weight = align_weight, backbone_weight
        self.tiles, self.tile_spots, self.tile_px = tiles, tile_spots, tile_px
        self.tiles_per_step, self.decode_spots = tiles_per_step, decode_spots
        self.sigma_mean, self.sigma_std = sigma_mean, sigma_std
        self.sigma_min, self.sigma_max, self.steps = sigma_min, sigma_max, steps
        self.grid, self.sampler, self.diffusion = grid, sampler, diffusion
        self.stochastic = diffusion
        self.point_draws, self.clip = point_draws, clip

    # --- data ------------------------------------------------------------------------------

    def graph_of(self, slide: Slide, index: np.ndarray, u: np.ndarray, y: np.ndarray | None = None):
        """The spots ``index`` as a graph: u (N, D) and y (N, G) are of the whole slide."""
        sigma = self.sigma_um if self.sigma_px is None else self.sigma_px * pixel_of(slide)
        y = None if y is None else y[index]
        return spot_graph(slide.position[index], u[index], y, self.neighbours, self.far, sigma)

    def collate(self, graphs: list) -> Tiles:
        return collate(graphs, self.channels, loops=self.size["graph"] == "fused")

    def squares_of(self, slide: Slide) -> list[np.ndarray]:
        """The spots of each tile of the grid."""
        return grid_tiles(slide.position, self.tile_px * pixel_of(slide))

    def tiles_of(self, slide: Slide) -> Sequence[np.ndarray | None]:
        """One epoch of a slide: the spots of each tile; None for a random one."""
        if self.tiles == "grid":
            return self.squares_of(slide)
        return [None] * max(1, round(len(slide) / self.tile_spots))

    def windows(self, slide: Slide, device: str) -> list[Window]:
        """The graphs that prediction sees: the whole slide, or the squares of the grid."""
        grid = self.tiles == "grid"
        parts = self.squares_of(slide) if grid else [np.arange(len(slide))]
        u = self.features_of(slide)
        return [
            Window(self.collate([self.graph_of(slide, i, u)]).to(device), torch.as_tensor(i))
            for i in parts
        ]

    # --- noise ---------------------------------------------------------------------------------

    def noised(self, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Levels (B, 1, 1), one a tile, and y (B, N, G) with noise of that level."""
        shape = (len(y), 1, 1)
        if not self.diffusion:
            return torch.full(shape, self.sigma_max, device=y.device), torch.zeros_like(y)
        if self.noise == "log_normal":
            sigma = log_normal(shape, self.sigma_mean, self.sigma_std, generator)
        else:
            sigma = log_uniform(shape, self.sigma_min, self.sigma_max, generator)
        sigma, noise = sigma.to(y.device), torch.randn(y.shape, generator=generator).to(y.device)
        return sigma, y + sigma * noise  # (B, 1, 1), (B, N, G)

    def levels(self) -> Tensor:
        """Levels of validation: three of training (low, middle, high), then the start."""
        third = torch.tensor([-1.0, 0.0, 1.0])
        if self.noise == "log_normal":
            log = self.sigma_mean + self.sigma_std * third
        else:
            low, high = np.log(self.sigma_min), np.log(self.sigma_max)
            log = (low + high) / 2 + (high - low) / 3 * third
        levels = torch.cat([log.exp(), torch.tensor([self.sigma_max])])
        return levels if self.diffusion else levels[-1:]

    # --- the contract: noisy x, sigma → clean x ------------------------------------------------

    def denoise(
        self,
        net: FlagNet,
        x: Tensor,
        sigma: Tensor,
        tiles: Tiles,
        chosen: Tensor | None = None,
        encoded: tuple | None = None,
    ) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Denoise the spots ``chosen`` (flat indices into B × N; None for all).

        Args:
            x: (B, N, G). sigma: (B, 1, 1), one level a tile.
            encoded: what ``net.encode`` returned, if it is known.

        Returns:
            (M, G), aligned tokens (M, G, d) each, and the backbone's own estimate (B, N, G).
        """
        scaled, noise = net.precond.scaled(x, sigma), net.precond.noise(sigma)  # ..., (B, 1, 1)
        c, readout = encoded or net.encode(tiles, scaled, noise.flatten())  # (B, N, d), (B, N, G)
        spread = sigma.expand(*x.shape[:2], 1)  # (B, N, 1)

        def of(values: Tensor) -> Tensor:
            values = values.flatten(0, 1)  # (B N, ...)
            return values if chosen is None else values[chosen]  # (M, ...)

        level = of(spread)  # (M, 1)
        told = net.precond.noise(level).squeeze(-1)  # (M,)
        parts = of(scaled), told, of(c), None if readout is None else of(readout)
        raw, tokens = net.decode(*parts) if torch.is_grad_enabled() else chunked(net, *parts)
        own = None if readout is None else net.precond.clean(x, readout, sigma)  # (B, N, G)
        return net.precond.clean(of(x), raw, level), tokens, own

    def denoiser(self, net: FlagNet, slide: Slide, device: str) -> Callable:
        """(x (1, N, G), σ scalar) → clean x of a whole slide, window by window."""
        windows = self.windows(slide, device)
        encoded: list[tuple | None] = [None] * len(windows)
        if not net.see_x:
            zero = torch.zeros(1, device=device)
            encoded = [net.encode(w.tiles, None, zero) for w in windows]

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            clean = torch.empty_like(x)
            for window, known in zip(windows, encoded, strict=True):
                part = x[:, window.index]  # (1, n, G)
                out, *_ = self.denoise(net, part, sigma.view(1, 1, 1), window.tiles, encoded=known)
                clean[:, window.index] = out.to(x.dtype)
            return clean  # (1, N, G)

        return denoise

    # --- fit and predict -------------------------------------------------------------------------

    def build(self, genes: int, features: int, targets: int = 0) -> FlagNet:
        return self.network_of(genes, self.inputs_of(features), targets)

    def network_of(self, genes: int, inputs: int, targets: int = 0) -> FlagNet:
        return FlagNet(genes, inputs, targets, **self.size)

    def task(self, train: Cohort, valid: Cohort, run: Run) -> Task:
        precond = self.net.precond
        if self.precondition == "covariance" and isinstance(precond, CovarianceEdm):
            # Within slides: what differs between slides is not how genes go together in one.
            each = [self.expression_of(s).astype(np.float64) for s in train]
            values = np.concatenate([v - v.mean(0) for v in each])  # (M, G)
            precond.fit(torch.as_tensor(values))
        return FlagTask(self, train, valid, run)

    @torch.inference_mode()
    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        with precise(self.device, self.training.precision):
            return self._predict(slide, samples, draws)

    def _predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        denoise = self.denoiser(self.net, slide, self.device)
        shape = (1, len(slide), len(self.mean))
        high = torch.tensor(self.sigma_max, device=self.device)

        def start(k: int) -> Tensor:
            # With standard scores the training mean is 0, so noise around it has no bias to undo.
            return self.sigma_max * torch.randn(shape, generator=draws.torch(k)).to(self.device)

        if not self.diffusion:
            return Prediction(self._counts(denoise(torch.zeros(shape, device=self.device), high)))
        grid = GRIDS[self.grid](self.steps, self.sigma_min, self.sigma_max)
        solve = SAMPLERS[self.sampler]
        samples_ = torch.cat([solve(denoise, start(k), grid) for k in range(samples)])  # (S, N, G)
        if not self.point_draws:
            return Prediction(self._counts(samples_))
        means = [denoise(start(-1 - k), high) for k in range(self.point_draws)]
        return Prediction(self._counts(samples_), self._counts(torch.cat(means).mean(0)))

    def _counts(self, values: Tensor) -> np.ndarray:
        """Back to the panel's unit."""
        y = self.in_unit(values)
        return np.maximum(y, 0) if self.clip else y

    def arrays(self) -> dict[str, np.ndarray]:
        """Without the projector, a third of the network, which serves training alone."""
        arrays = super().arrays()
        return {k: v for k, v in arrays.items() if not k.startswith("net.projector.")}


def chunked(
    net: FlagNet, x: Tensor, noise: Tensor, c: Tensor, readout: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """``net.decode`` a few spots at a time; aligned tokens are of no use here."""
    raw = []
    for start in range(0, len(x), CHUNK):
        rows = slice(start, start + CHUNK)
        known = None if readout is None else readout[rows]
        raw.append(net.decode(x[rows], noise[rows], c[rows], known)[0])
    return torch.cat(raw), []  # (M, G)
