"""Joint node-edge and node-only diffusion: the paper's road to FLAG (§3.2-3.3, App. B, D, E)."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from flag_st.core.errors import FlagError
from flag_st.core.seeds import Draws
from flag_st.data.slide import Cohort, Slide
from flag_st.data.tiling import Tiling
from flag_st.methods.base import Prediction, Run
from flag_st.methods.joint.options import Losses, Sde
from flag_st.methods.joint.sampling import draw, open_slide
from flag_st.methods.joint.task import JointTask
from flag_st.methods.network import Centre, NetworkMethod
from flag_st.methods.precision import precise
from flag_st.methods.training import Task, Training
from flag_st.nets.edge_graph import FREQUENCIES, EdgeGraph
from flag_st.nets.gene_decoder import Size
from flag_st.nets.graph import PAPER_EDGES, GraphBuilder, Kernel
from flag_st.nets.joint import EDGE_TARGETS, Head, JointEdges, JointNet

#: Angular frequencies that resolve t in [0, 1] as well as ln(σ)/4; the release's are far higher.
SMOOTH = (0.5, 64.0)
#: Static edges: distance kernel and image similarity.
STATIC = PAPER_EDGES["both"]
Scaling = Literal["standard", "log1p", "log2"]

# The defaults of each group, which the configuration changes value by value.
LOSSES, KERNEL, SDE = Losses(), Kernel(), Sde()
TILING = Tiling(shape="compact", spots=64, per_step=1)
#: The settings of training that its authors state.
TRAINING = Training(epochs=2000, lr=1e-4, decay="all", warmup=0, schedule="constant", accumulate=16)


class Joint(NetworkMethod):
    """Diffusion of expression with, or without, the correlations between spots.

    The groups are documented field by field in ``flag_st.methods.joint.options``,
    ``flag_st.data.tiling`` and ``flag_st.nets.graph``.

    Args:
        width, depth, heads, dropout: of the graph transformer; the paper's is as wide for 50 genes
            as for 800.
        head: ``raw``: the network emits the score of log expression, as the paper does, through its
            ``width`` channels and without a skip from x; ``edm``: behind the EDM preconditioner.
        scaling: scale of the expression: ``standard`` z-scores it with training statistics, as
            ``edm`` supposes; ``log1p`` and ``log2`` take that logarithm itself, whatever the
            panel's is; null chooses by the head.
        edges: ``none`` (node-only), ``pearson``, or ``constant``, which is what the release
            computes for a correlation (``flag_st.nets.joint.constant``).
        oracle: true edges condition the nodes in training and in prediction, and are not diffused
            (Figure 1). The entry of such a method must say ``needs_truth: true``.
        own_range: noise of the edges is in units of their standard deviation, around their mean;
            otherwise it has the σ of the nodes, which drowns edges over most of the range.
        losses: weights of the losses.
        as_released: logits per channel, with the release's time features; edge noise that is not
            symmetric in training and has half the variance in sampling.
        kernel: width of the distance kernel.
        tiling: how slides are cut.
        sde: range of the noise, and steps of sampling.
        centre, training: as in ``flag_st.methods.network.NetworkMethod``. With centre ``none``
            features are taken as they are, as the paper does.

    Raises:
        FlagError: ``oracle`` without edges.
    """

    stochastic: bool = True
    net: JointNet

    def __init__(
        self,
        width: int = 384,
        depth: int = 6,
        heads: int = 8,
        dropout: float = 0.1,
        head: Head = "raw",
        scaling: Scaling | None = None,
        edges: JointEdges = "pearson",
        oracle: bool = False,
        own_range: bool = False,
        losses: Losses = LOSSES,
        as_released: bool = False,
        kernel: Kernel = KERNEL,
        tiling: Tiling = TILING,
        sde: Sde = SDE,
        centre: Centre = "training",
        training: Training = TRAINING,
    ):
        super().__init__(centre, training)
        if oracle and edges == "none":
            raise FlagError("joint: an oracle of no edges", choices=list(EDGE_TARGETS))
        self.scaling = scaling or ("standard" if head == "edm" else "log1p")
        self.needs = frozenset({"truth"} if oracle else ())
        self.head, self.edges, self.oracle, self.own_range = head, edges, oracle, own_range
        self.losses, self.as_released, self.tiling, self.sde = losses, as_released, tiling, sde
        self.size, self.dropout = Size(width, depth, heads), dropout
        self.builder = GraphBuilder(kernel, STATIC, loops=False)

    # --- data ----------------------------------------------------------------------------------

    def _statistics(self, train: Cohort) -> None:
        super()._statistics(train)
        self.edge_mean, self.edge_scale = 0.0, 1.0
        if self.own_range and self.edges != "none":
            known = [self._known_edges(s, i) for s in train for i in self.tiling.cut(s)]
            values = torch.cat(known).double()  # (pairs,)
            self.edge_mean, self.edge_scale = values.mean().item(), max(values.std().item(), 1e-2)

    def _known_edges(self, slide: Slide, index: np.ndarray) -> Tensor:
        """(pairs,) edges of all pairs of a tile's spots, each pair once."""
        e = EDGE_TARGETS[self.edges](torch.as_tensor(slide.truth[index])[None])[0]  # (N, N)
        return e[*torch.triu_indices(len(e), len(e), offset=1)]  # (pairs,)

    # --- fit and predict -------------------------------------------------------------------------

    def network_of(self, genes: int, inputs: int) -> JointNet:
        graph = EdgeGraph(
            genes,
            inputs,
            self.size.width,
            self.size.depth,
            self.size.heads,
            channels=len(STATIC),
            logits="channel" if self.as_released else "head",
            # The release updates edge states even where no edges go in and none are asked for.
            edge_state=self.edges != "none" or self.as_released,
            dropout=self.dropout,
            frequencies=FREQUENCIES if self.as_released else SMOOTH,
        )
        limits = (self.sde.sigma_min, self.sde.sigma_max)
        return JointNet(graph, genes, self.head, *limits, self.edges, self.oracle, self.as_released)

    def start(self) -> None:
        for name in ("mean", "scale", "edge_mean", "edge_scale"):
            getattr(self.net, name).copy_(torch.as_tensor(getattr(self, name)))

    def task(self, train: Cohort, valid: Cohort, run: Run) -> Task:
        seen, held_out = self.seen_with_truth(train), self.seen_with_truth(valid)
        return JointTask(
            self.net, self.sde, self.losses, self.tiling, self.builder, seen, held_out, run.device
        )

    @torch.inference_mode()
    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        seen = self.seen(slide, truth=self.oracle)
        opened = open_slide(seen, self.tiling, self.builder, self.device)
        with precise(self.device, self.training.precision):
            drawn = [draw(self.net, opened, self.sde, draws.torch(k)) for k in range(samples)]
        y = self.in_unit(torch.stack(drawn))  # (S, N, G)
        return Prediction(np.maximum(y, 0) if self.sde.clip else y)
