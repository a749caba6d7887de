"""TRIPLEX (Chung et al. 2024): regression at three resolutions, with distillation from each."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flag_st.core.seeds import Draws
from flag_st.data.lattice import lattice, windows
from flag_st.data.slide import Cohort, Slide
from flag_st.methods.base import Prediction, Run
from flag_st.methods.network import PLAIN, Centre, Inputs, NetworkMethod
from flag_st.methods.training import Task, Training
from flag_st.methods.validation import regression_scores
from flag_st.nets.pixels import Patches, dihedral, load_weights, normalise
from flag_st.nets.triplex import Branch, TriplexNet

#: The sizes that the release uses for HER2ST.
FUSION = Branch(depth=1, heads=4, ratio=4.0, dropout=0.2)
SLIDE = Branch(depth=3, heads=16, ratio=4.0, dropout=0.1)
NEIGHBOUR = Branch(depth=3, heads=16, ratio=1.0, dropout=0.3)


@dataclass(frozen=True)
class Section:
    """One slide on the device: features (N, D), windows (N, 9) and (N, 25), expression (N, G)."""

    features: Tensor
    around: Tensor
    neighbours: Tensor
    patches: Patches | None
    y: Tensor | None = None

    @property
    def truth(self) -> Tensor:
        """``y``, which must be known."""
        assert self.y is not None
        return self.y


class TriplexTask(Task[TriplexNet]):
    """A batch is random spots of one slide, so that the global branch runs once for all of them."""

    def __init__(self, method: "Triplex", train: Cohort, valid: Cohort, run: Run):
        self.method, self.module = method, method.net
        self.train, self.valid = (
            [method.open_section(slide, truth=True) for slide in part] for part in (train, valid)
        )
        self.floor = torch.as_tensor(-method.mean / method.scale, device=run.device).float()  # (G,)

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Section, Tensor]]:
        parts = [
            (section, rows)
            for section in self.train
            for rows in torch.randperm(len(section.features), generator=generator).split(
                self.method.batch
            )
        ]
        for i in torch.randperm(len(parts), generator=generator).tolist():
            yield parts[i]

    def loss(self, batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        section, rows = batch
        m, net = self.method, self.module
        slide = net.slide(section.features, section.around)  # (N, d)
        heads = m.heads(net, section, slide, rows, generator)  # (4, B, G)
        if m.as_released:
            heads = torch.maximum(heads, self.floor)  # (4, B, G)
        y = section.truth[rows.to(section.truth.device)]  # (B, G)
        errors = (heads - y).square().mean((1, 2))  # (4,)
        # No gradient is stopped, so the branches also pull the fusion towards them.
        apart = (heads[:1] - heads[1:]).square().mean((1, 2))  # (3,)
        loss = errors[0] + ((1 - m.alpha) * errors[1:] + m.alpha * apart).sum()
        return loss, {"fusion": errors[0].item(), "distill": apart.mean().item()}

    def validate(self, module: TriplexNet) -> dict[str, float]:
        pairs = [(self.method.forward(module, section), section.truth) for section in self.valid]
        return regression_scores(pairs)


#: The settings of training that its authors state, and ours where they state none.
TRAINING = replace(PLAIN, epochs=200, lr=1e-4, weight_decay=0.01, validate_every=1, patience=20)


class Triplex(NetworkMethod):
    """Regression from the target patch, its 5 × 5 neighbourhood and the whole slide.

    The neighbourhood is the window of 5 × 5 *spots* of the array. The authors cut 25 tiles around
    each spot, which lie closer together on arrays with gaps between spots. Without patches, the
    target is the spot's own feature vector, which is one token instead of 49.

    Args:
        inputs: ``features`` for all branches, or ``patches``: a ResNet is trained on the target
            while the other branches read features (the authors' option for foundation models).
        network, weights: timm's name of that ResNet and a file of its pretrained weights, without
            which it starts at random.
        width: width of all branches; inputs of another width pass a linear map first.
        fusion, slide, neighbour: depth, heads, ratio and dropout of each transformer; the dropout
            of ``slide`` also falls on the weights of its attention.
        alpha: weight of the distillation against that of the branches' own errors.
        batch: spots per step, all of one slide.
        as_released: all heads are cut at zero expression in training, which stops the gradient of
            genes that start below zero; missing neighbours count in their branch's mean; positions
            replace the global tokens instead of being added; dropout of the weights and of
            the output stays on in the global branch's attention, so that predictions are random.
        centre, training: as in ``flag_st.methods.network.NetworkMethod``.
    """

    net: TriplexNet

    def __init__(
        self,
        inputs: Inputs = "features",
        network: str = "resnet18",
        weights: str | None = None,
        width: int = 512,
        fusion: Branch = FUSION,
        slide: Branch = SLIDE,
        neighbour: Branch = NEIGHBOUR,
        alpha: float = 0.3,
        batch: int = 128,
        as_released: bool = False,
        centre: Centre = "training",
        training: Training = TRAINING,
    ):
        super().__init__(centre, training)
        self.choose_inputs(inputs)
        self.network, self.weights = network if inputs == "patches" else None, weights
        self.size: dict[str, Any] = {
            "width": width,
            "fusion": fusion,
            "slide": slide,
            "neighbour": neighbour,
        }
        self.alpha, self.batch, self.as_released = alpha, batch, as_released

    def network_of(self, genes: int, inputs: int) -> TriplexNet:
        return TriplexNet(
            genes, inputs, **self.size, network=self.network, as_released=self.as_released
        )

    def start(self) -> None:
        if self.net.image is not None:
            load_weights(self.net.image, self.weights)

    def task(self, train: Cohort, valid: Cohort, run: Run) -> Task:
        return TriplexTask(self, train, valid, run)

    def open_section(self, slide: Slide, truth: bool = False) -> Section:
        cells = lattice(slide.position)  # (N, 2)
        around, neighbours = (
            torch.as_tensor(windows(cells, r), device=self.device) for r in (1, 2)
        )
        y = torch.as_tensor(self.expression_of(slide), device=self.device) if truth else None
        features = torch.as_tensor(self.features_of(slide), device=self.device)
        patches = Patches([slide]) if self.network else None
        return Section(features, around, neighbours, patches, y)

    def heads(
        self,
        net: TriplexNet,
        section: Section,
        slide: Tensor,
        rows: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The four predictions (4, B, G) of the spots ``rows``, given the global tokens."""
        at = rows.to(slide.device)
        window = section.neighbours[at]  # (B, 25)
        mask = window >= 0  # (B, 25)
        neighbours = section.features[window] * mask.unsqueeze(-1)  # (B, 25, D)
        target = section.features[at].unsqueeze(1)  # (B, 1, D)
        if section.patches is not None:
            target = normalise(section.patches[rows.numpy()], slide.device)  # (B, 3, H, W)
            target = target if generator is None else dihedral(target, generator)  # (B, 3, H, W)
        return net(slide[at], target, neighbours, mask)  # (4, B, G)

    def forward(self, net: TriplexNet, section: Section) -> Tensor:
        """(N, G) of a whole slide: one pass of the global branch, the rest in blocks."""
        slide = net.slide(section.features, section.around)  # (N, d)
        blocks = torch.arange(len(slide)).split(4 * self.batch)
        return torch.cat([self.heads(net, section, slide, rows)[0] for rows in blocks])

    @torch.inference_mode()
    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        if self.as_released:
            torch.manual_seed(draws.torch(0).initial_seed())  # its dropout is on
        y = self.in_unit(self.forward(self.net, self.open_section(slide)))  # (N, G)
        return Prediction(np.maximum(y, 0)[None])  # (1, N, G)
