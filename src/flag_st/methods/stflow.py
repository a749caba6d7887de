"""STFlow (Huang et al. 2025): flow matching of all spots of a slide at once."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from flag_st.core.errors import FlagError
from flag_st.core.seeds import Draws, torch_generator
from flag_st.data.slide import Cohort, Slide
from flag_st.data.tiling import random_tile
from flag_st.methods.base import Prediction, Run
from flag_st.methods.network import PLAIN, Centre, NetworkMethod
from flag_st.methods.training import Task, Training
from flag_st.methods.validation import regression_scores
from flag_st.nets.stflow import Regions, StFlowNet, collate

Prior = Literal["zinb", "gaussian", "zero"]


def prior_noise(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Where the flow starts: log(1 + ZINB), standard normal or zero.

    The zero-inflated negative binomial has one failure, logit 0.1 (mean 1.105) and half of its mass
    at zero. With one failure it is geometric, so it is drawn by inversion.
    """
    if name == "gaussian":
        return torch.randn(shape, generator=generator)
    if name == "zero":
        return torch.zeros(shape)
    log_p = -math.log1p(math.exp(-0.1))
    u = 1 - torch.rand(shape, generator=generator)  # in (0, 1]
    counts = torch.floor(u.log() / log_p)
    kept = torch.rand(shape, generator=generator) < 0.5
    return torch.log1p(counts * kept)


class StFlowTask(Task[StFlowNet]):
    """Random regions of random size; the network estimates their clean expression."""

    def __init__(self, method: "StFlow", train: Cohort, valid: Cohort, run: Run):
        self.method, self.module, self.device = method, method.net, run.device
        self.train = [(s.position, method.features_of(s), method.expression_of(s)) for s in train]
        self.valid = [(s.id, method.open(s, truth=True)) for s in valid]

    def batches(self, generator: torch.Generator) -> Iterator[Regions]:
        m, times = self.method, self.method.regions
        order = torch.randperm(len(self.train) * times, generator=generator) % len(self.train)
        for chosen in order.split(m.batch):
            yield m.collate([self._region(i, generator) for i in chosen.tolist()])

    def _region(self, i: int, generator: torch.Generator) -> tuple:
        """A random spot and the spots nearest to it, from two spots up to the whole slide."""
        position, u, y = self.train[i]
        part = float(torch.rand(1, generator=generator))
        index = random_tile(position, max(2, int(part * len(position))), generator)
        return position[index], u[index], y[index]

    def loss(self, batch: Regions, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        b, m = batch.to(self.device), self.method
        t = torch.rand(len(b.u), generator=generator).to(self.device)  # (B,)
        start = prior_noise(m.prior, b.truth.shape, generator).to(self.device)  # (B, N, G)
        x = torch.lerp(start, b.truth, t.view(-1, 1, 1))  # (B, N, G)
        error = (m.clean(self.module, x, t, b) - b.truth).square()  # (B, N, G)
        return error[b.mask].mean(), {}

    def validate(self, module: StFlowNet) -> dict[str, float]:
        """One draw of every slide, always from the same noise."""
        pairs = [
            (self.method.flow(module, r, torch_generator("validation", name)), r.truth[0])
            for name, r in self.valid
        ]
        return regression_scores(pairs)


#: The settings of training that its authors state, and ours where they state none.
TRAINING = replace(PLAIN, epochs=100, lr=5e-4, clip=1.0, validate_every=1, patience=20)


class StFlow(NetworkMethod):
    """Flow matching with attention to the nearest spots.

    Args:
        width, depth, heads, dropout: of the network.
        neighbours: spots that each spot attends to.
        prior: start of the flow, ``zinb``, ``gaussian`` or ``zero``.
        see_x: show the network the noisy expression. Without it this is a regression with the
            same network: the control for how much the flow itself contributes.
        steps: points of the time grid; the network is evaluated once less.
        regions: random regions of each slide per epoch. batch: regions per training step.
        as_released: in batches, padding lies at the centre of the region, and real spots attend to
            it; distances are in µm and not in spot pitches; rounding decides the axes of round
            neighbourhoods; time is embedded without a scale, so it is nearly constant; dropout is
            also applied to the estimates themselves.
        centre, training: as in ``flag_st.methods.network.NetworkMethod``.
    """

    stochastic: bool = True
    net: StFlowNet
    # This does not change the flow, because the network only sees differences between spots, in
    # which the training mean cancels.
    scaling = "centred"

    def __init__(
        self,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        dropout: float = 0.2,
        neighbours: int = 8,
        prior: Prior = "zinb",
        see_x: bool = True,
        steps: int = 5,
        regions: int = 10,
        batch: int = 2,
        as_released: bool = False,
        centre: Centre = "training",
        training: Training = TRAINING,
    ):
        super().__init__(centre, training)
        if steps < 2:
            raise FlagError(f"stflow: steps {steps}", remedy="give at least 2 points of time")
        self.size: dict[str, Any] = dict(width=width, depth=depth, heads=heads, dropout=dropout)
        self.neighbours, self.prior, self.see_x = neighbours, prior, see_x
        self.steps, self.regions, self.batch = steps, regions, batch
        self.as_released = as_released
        self.stochastic = see_x

    def network_of(self, genes: int, inputs: int) -> StFlowNet:
        return StFlowNet(genes, inputs, as_released=self.as_released, **self.size)

    def task(self, train: Cohort, valid: Cohort, run: Run) -> Task:
        return StFlowTask(self, train, valid, run)

    def collate(self, parts: list) -> Regions:
        return collate(parts, self.neighbours, self.as_released)

    def open(self, slide: Slide, truth: bool = False) -> Regions:
        """The whole slide as one region, on the device."""
        y = self.expression_of(slide) if truth else None
        return self.collate([(slide.position, self.features_of(slide), y)]).to(self.device)

    def clean(self, net: nn.Module, x: Tensor, t: Tensor, r: Regions) -> Tensor:
        return net(x if self.see_x else torch.zeros_like(x), t, r)  # (B, N, G)

    def flow(self, net: nn.Module, r: Regions, generator: torch.Generator) -> Tensor:
        """One draw (N, G) of a slide, by Euler steps towards the network's estimate; the last step
        reaches it."""
        shape = (1, r.u.shape[1], len(self.mean))
        x = prior_noise(self.prior, shape, generator).to(self.device)  # (1, N, G)
        times = torch.linspace(0.01, 1, self.steps).tolist()
        for t, after in pairwise(times):
            clean = self.clean(net, x, torch.tensor([t], device=self.device), r)  # (1, N, G)
            x = x + (after - t) / (1 - t) * (clean - x)  # (1, N, G)
        return x[0]

    @torch.inference_mode()
    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        r = self.open(slide)
        found = [self.flow(self.net, r, draws.torch(k)) for k in range(samples)]
        return Prediction(self.in_unit(torch.stack(found)))  # (S, N, G)
