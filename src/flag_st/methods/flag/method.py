"""FLAG: graph-conditioned latent diffusion of expression, aligned to a gene foundation model.

A spatial graph network turns noisy expression, image features and edges into one condition per
spot, under which a transformer over gene tokens denoises. In training, a middle block is pulled
towards the embeddings of a gene model. Prediction does not need the gene model.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from flag_st.core.errors import FlagError
from flag_st.core.seeds import Draws
from flag_st.data.slide import Cohort, Slide
from flag_st.data.tiling import Tiling
from flag_st.diffusion.precond import CovarianceEdm, RawScore
from flag_st.diffusion.samplers import SAMPLERS
from flag_st.diffusion.schedules import geometric, karras
from flag_st.methods.base import Prediction, Run
from flag_st.methods.flag.options import Alignment, Backbone, Noise, Options, Sampling
from flag_st.methods.flag.task import FlagTask, Net
from flag_st.methods.flag.windows import slide_denoiser, windows
from flag_st.methods.network import Centre, NetworkMethod
from flag_st.methods.precision import precise
from flag_st.methods.training import Task, Training
from flag_st.nets.flag import FlagNet
from flag_st.nets.flag_graph import GraphFlagNet
from flag_st.nets.flag_paper import PaperFlagNet
from flag_st.nets.flag_released import ReleasedFlagNet
from flag_st.nets.gene_decoder import Size
from flag_st.nets.graph import Graph, GraphBuilder

NETS: dict[str, type[Net]] = {
    "fused": FlagNet,
    "alone": GraphFlagNet,
    "paper": PaperFlagNet,
    "released": ReleasedFlagNet,
}
#: The kinds whose spots see their neighbours and not the whole tile.
OURS = ("fused", "alone")
GRIDS = {"karras": karras, "geometric": geometric}
Precondition = Literal["covariance", "edm", "score"]
Scaling = Literal["standard", "log1p", "log2"]

# The defaults of each group, which the configuration changes value by value.
BACKBONE, GRAPH, TILING, NOISE = Backbone(), Graph(), Tiling(), Noise()
SAMPLING, ALIGNMENT, TRAINING = Sampling(), Alignment(), Training()


class Flag(NetworkMethod):
    """Spatial gene expression by graph-conditioned diffusion.

    The defaults are ours; the entries ``flag_paper`` and ``flag_released`` of the configuration
    choose what the paper writes and what its code runs. The groups are documented field by field
    in ``flag_st.methods.flag.options``, ``flag_st.data.tiling`` and ``flag_st.nets.graph``.

    Args:
        width, depth, heads: size of the gene transformer (paper: 384, 12, 6).
        dropout: in the backbone, and for ``fused`` also in the gene transformer.
        centre: how features are z-scored, as in ``flag_st.methods.network.NetworkMethod``; the
            paper takes them as they are (``none``).
        scaling: scale of the expression: ``standard`` z-scores it with training statistics;
            ``log1p`` and ``log2`` take that logarithm itself, whatever the panel's is.
        backbone: the graph network.
        graph: which spots are joined and what edges know. ``neighbours`` and ``far`` are for
            ``fused`` and ``alone``; the other backbones join all spots of a tile.
        tiling: how slides are cut.
        decode_spots: of each batch, so many spots have their gene tokens trained; null for all, which the
            backbone ``alone`` always takes.
        precondition: what relates the network to clean expression. ``covariance``: EDM along the
            principal components of the genes (``CovarianceEdm``); ``edm``: EDM with independent
            genes; ``score``: the network emits the score itself, as the paper does.
        noise: the levels of noise.
        sampling: how expression is drawn.
        alignment: how gene tokens are aligned.
        diffusion: without it, the same network learns to predict without any noise (Table 2).
        training: settings of the loop (``flag_st.methods.training.Training``).

    Raises:
        FlagError: an aligned block is beyond ``depth``.
    """

    net: Net
    stochastic: bool = True

    def __init__(
        self,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        dropout: float = 0.1,
        centre: Centre = "both",
        scaling: Scaling = "standard",
        backbone: Backbone = BACKBONE,
        graph: Graph = GRAPH,
        tiling: Tiling = TILING,
        decode_spots: int | None = 256,
        precondition: Precondition = "covariance",
        noise: Noise = NOISE,
        sampling: Sampling = SAMPLING,
        alignment: Alignment = ALIGNMENT,
        diffusion: bool = True,
        training: Training = TRAINING,
    ):
        super().__init__(centre, training)
        if max(alignment.numbers) > depth:
            raise FlagError(
                f"flag: alignment.blocks is {alignment.blocks}, but there are {depth} blocks",
                remedy=f"give blocks from 1 to {depth}, or change depth",
            )
        self.size, self.dropout = Size(width, depth, heads), dropout
        self.scaling, self.precondition, self.stochastic = scaling, precondition, diffusion
        self.point_from_draws = diffusion and not sampling.point_draws
        decode_spots = None if backbone.kind == "alone" else decode_spots
        self.options = Options(
            backbone, graph, tiling, noise, sampling, alignment, decode_spots, diffusion
        )
        self.builder = builder_of(backbone, graph)

    def build(self, genes: int, features: int, targets: int = 0) -> Net:
        return self.network_of(genes, self.inputs_of(features), targets)

    def network_of(self, genes: int, inputs: int, targets: int = 0) -> Net:
        o = self.options
        precond: CovarianceEdm | RawScore = CovarianceEdm(genes)
        if self.precondition == "score":
            precond = RawScore(o.noise.sigma_min, o.noise.sigma_max)
        more = {"see_x": o.backbone.encode == "each"} if o.backbone.kind == "fused" else {}
        return NETS[o.backbone.kind](
            genes,
            inputs,
            targets,
            channels=len(self.builder.channels),
            precond=precond,
            size=self.size,
            backbone=Size(o.backbone.width, o.backbone.depth, o.backbone.heads),
            align_at=o.alignment.numbers,
            project=o.alignment.width,
            dropout=self.dropout,
            **more,
        )

    def task(self, train: Cohort, valid: Cohort, run: Run) -> Task:
        precond = self.net.precond
        if self.precondition == "covariance" and isinstance(precond, CovarianceEdm):
            # Within slides: what differs between slides is not how genes vary together in one.
            each = [self.expression_of(s).astype(np.float64) for s in train]
            values = np.concatenate([v - v.mean(0) for v in each])  # (M, G)
            precond.fit(torch.as_tensor(values))
        seen, held_out = self.seen_with_truth(train), self.seen_with_truth(valid)
        return FlagTask(self.net, self.options, self.builder, seen, held_out, run.device)

    @torch.inference_mode()
    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        with precise(self.device, self.training.precision):
            return self._predict(slide, samples, draws)

    def _predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        noise, sampling = self.options.noise, self.options.sampling
        opened = windows(self.seen(slide), self.options.tiling, self.builder, self.device)
        denoise = slide_denoiser(self.net, opened, self.options.backbone.encode == "once")
        shape = (1, len(slide), len(self.mean))
        high = torch.tensor(noise.sigma_max, device=self.device)

        def start(k: int) -> Tensor:
            # The training mean of z-scores is 0, so noise around 0 has no bias to undo.
            unit = torch.randn(shape, generator=draws.torch(k))
            return noise.sigma_max * unit.to(self.device)  # (1, N, G)

        if not self.options.diffusion:
            return Prediction(self._counts(denoise(torch.zeros(shape, device=self.device), high)))
        grid = GRIDS[sampling.grid](sampling.steps, noise.sigma_low, noise.sigma_max)
        solve = SAMPLERS[sampling.solver]
        samples_ = torch.cat([solve(denoise, start(k), grid) for k in range(samples)])  # (S, N, G)
        if not sampling.point_draws:
            return Prediction(self._counts(samples_))
        means = [denoise(start(-1 - k), high) for k in range(sampling.point_draws)]
        return Prediction(self._counts(samples_), self._counts(torch.cat(means).mean(0)))

    def _counts(self, values: Tensor) -> np.ndarray:
        """(..., G) back in the panel's unit."""
        y = self.in_unit(values)  # (..., G)
        return np.maximum(y, 0) if self.options.sampling.clip else y  # (..., G)

    def arrays(self) -> dict[str, np.ndarray]:
        """Without the projector, a third of the network, which only training needs."""
        arrays = super().arrays()
        return {k: v for k, v in arrays.items() if not k.startswith("net.projector.")}


def builder_of(backbone: Backbone, graph: Graph) -> GraphBuilder:
    """The graphs that a backbone reads."""
    net = NETS[backbone.kind]
    channels = net.EDGES[graph.edges]
    # Without edges, a spot of ours sees itself alone; the other backbones know no neighbourhood.
    near = None if backbone.kind not in OURS else graph.neighbours if channels else 0
    return GraphBuilder(graph, channels, near, graph.far if channels else 0, net.LOOPS)
