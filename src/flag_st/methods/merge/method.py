"""MERGE (Ganguly et al. 2025): a description of each spot, then graph attention over its slide."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from flag_st.core.seeds import Draws
from flag_st.data.slide import Cohort, Slide
from flag_st.methods.base import Prediction, Run
from flag_st.methods.merge.graph import Hierarchy, hierarchy
from flag_st.methods.merge.smoothing import Smoothing, smoothed
from flag_st.methods.merge.task import SlideTask
from flag_st.methods.network import PLAIN, Centre, Inputs
from flag_st.methods.spots import SpotMethod, SpotTask
from flag_st.methods.training import Loop, Task, Training
from flag_st.nets.graph import spot_graph
from flag_st.nets.merge import MergeNet, SlideNet, SpotNet, start_from
from flag_st.nets.pixels import ImageNetwork
from flag_st.nets.spot_data import spot_data

if TYPE_CHECKING:
    from torch_geometric.data import Data

GRAPH, SMOOTH = Hierarchy(), Smoothing()
#: The first stage as its authors train it: the rate is halved every other epoch.
FIRST = replace(
    PLAIN, epochs=15, lr=5e-5, schedule="steps", milestones=(2, 4, 6, 8, 10, 12, 14), factor=0.5,
    validate_every=1, patience=5,
)  # fmt: skip
#: The second stage as they mean it: ten epochs of warm-up (of ten slides), then a rate that falls to
#: nothing in 400 epochs, here along a cosine.
TRAINING = replace(
    PLAIN, epochs=400, lr=1e-3, warmup=100, schedule="cosine", validate_every=5, patience=20
)


class Merge(SpotMethod):
    """Two stages: a network for spots, and a network for slides on what the first says of each spot.

    The first stage regresses expression from single spots, and keeps the 256 numbers before its head.
    The second sees all spots of a slide as a graph: neighbours, clusters in space and among these
    numbers, and the centres of all clusters. These numbers are fitted to the training slides, where they
    know more than on others, as in the authors' code.

    Args:
        inputs: ``patches`` as published (a ResNet-18), or ``features``.
        network, weights: timm's name of the image network and a file of its pretrained weights,
            without which it starts at random. The authors start from ``model-low-v1.pth`` in their
            repository, which DSMIL trained on TCGA without labels; it is read under their names.
        image_norm: ``instance``, as published: each map of each image has mean 0 and deviation 1, and
            there are no parameters. ``batch`` is what weights of ImageNet need.
        batch: spots per step of the first stage, from all slides.
        widths, heads: of the layers of graph attention, but for the last.
        dropped_edges: the share of edges that a step of training leaves out.
        norm: ``graph``, as published: one mean and one deviation of a whole slide and all channels;
            or ``node``.
        graph: which spots are joined.
        smooth: smoothing of the training labels. Validation and test keep theirs.
        as_released: neighbours are found by x alone, because the code names the column of x twice;
            cluster centres are joined by wrong numbers; the first stage takes its batches from
            consecutive spots, without flips. (Its pixels run from 0 to 255, which norms of single
            images undo, and are therefore left out here.)
        first: settings of the loop of the first stage.
        centre: how features are z-scored.
        training: settings of the loop of the second stage.
    """

    net: MergeNet

    def __init__(
        self,
        inputs: Inputs = "features",
        network: str = "resnet18",
        weights: str | None = None,
        image_norm: Literal["instance", "batch"] = "instance",
        batch: int = 8,
        widths: tuple[int, ...] = (448, 384, 256),
        heads: int = 8,
        dropped_edges: float = 0.2,
        norm: Literal["graph", "node"] = "graph",
        graph: Hierarchy = GRAPH,
        smooth: Smoothing = SMOOTH,
        as_released: bool = False,
        first: Training = FIRST,
        centre: Centre = "training",
        training: Training = TRAINING,
    ):
        super().__init__(inputs, network, weights, batch, centre, training)
        self.image_norm, self.as_released, self.first = image_norm, as_released, first
        self.graph, self.smooth = graph, smooth
        self.size: dict[str, Any] = {
            "widths": widths,
            "heads": heads,
            "dropped_edges": dropped_edges,
            "norm": norm,
        }

    def network_of(self, genes: int, inputs: int) -> nn.Module:
        image = ImageNetwork(self.network, True, self.image_norm) if self.network else None
        return MergeNet(SpotNet(genes, inputs, image), SlideNet(genes, **self.size))

    def start(self) -> None:
        start_from(self.net.spots, self.weights)

    def fit(self, train: Cohort, valid: Cohort, run: Run) -> None:
        super().fit(smoothed(train, self.smooth), valid, run)

    def optimise(self, train: Cohort, valid: Cohort, run: Run) -> None:
        """One stage after the other; a killed run continues in the stage that it was in."""
        task = SpotTask(self, self.net.spots, train, valid, in_order=self.as_released)
        Loop(task, self.first, run.part("first", prefix="first_"))()
        super().optimise(train, valid, run.part("second"))

    def task(self, train: Cohort, valid: Cohort, run: Run) -> Task:
        """The second stage, whose graphs hold what the first made of the spots."""
        self.net.spots.eval()
        graphs = ([self.graph_of(s, truth=True) for s in part] for part in (train, valid))
        return SlideTask(self.net.slides, *graphs)

    @torch.no_grad()
    def graph_of(self, slide: Slide, truth: bool = False) -> "Data":
        """x (N, 256), edge_index (2, E) and, if ``truth``, y (N, G) of a slide, on the device."""
        z = self.by_blocks(self.net.spots.described, self.open_images([slide])).cpu().numpy()
        y = self.expression_of(slide) if truth else None
        edges = hierarchy(slide.position, z, self.graph, self.as_released)
        return spot_data(spot_graph(slide.position, z, y), edges=edges).to(self.device)

    @torch.inference_mode()
    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        seen = self.graph_of(slide)
        return Prediction(self.in_unit(self.net.slides(seen.x, seen.edge_index)[None]))  # (1, N, G)
