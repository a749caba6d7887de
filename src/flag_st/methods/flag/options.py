"""The options of FLAG in groups. The defaults are ours."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flag_st.core.errors import FlagError
from flag_st.data.tiling import Tiling
from flag_st.diffusion.schedules import log_normal, log_uniform
from flag_st.nets.graph import Graph


@dataclass(frozen=True)
class Backbone:
    """The graph network that turns a tile into one condition per spot.

    Attributes:
        kind: ``fused``: edges bias fused attention, and the backbone's own estimate enters the gene
            tokens (``flag_st.nets.flag``). ``alone``: the same graph network is the whole network,
            and its own estimate is the prediction (``flag_st.nets.flag_graph``). ``paper``: one
            modulated logit per head, adaptive norms (``flag_st.nets.flag_paper``). ``released``: one logit per channel and edge states of
            N × N × width, without static edges or time (``flag_st.nets.flag_released``).
        width, depth, heads: channels, blocks and attention heads (paper: 384, 6, 8).
        encode: ``each`` reads the noisy expression at every evaluation, so that a draw is coherent
            in space. ``once`` encodes image and graph once per slide (``fused`` only).
        weight: weight of the backbone's own denoising loss (``fused`` only).

    Raises:
        FlagError: ``encode`` is ``once`` for a backbone that reads noisy expression.
    """

    kind: Literal["fused", "alone", "paper", "released"] = "fused"
    width: int = 384
    depth: int = 6
    heads: int = 8
    encode: Literal["each", "once"] = "each"
    weight: float = 0.5

    def __post_init__(self) -> None:
        if self.encode == "once" and self.kind != "fused":
            raise FlagError(
                f"flag: backbone.encode is once, but the backbone {self.kind} reads the noisy "
                "expression at every evaluation",
                remedy="set backbone.encode: each, or backbone.kind: fused",
            )


@dataclass(frozen=True)
class Noise:
    """The noise levels σ that training draws, in units of the scaled expression.

    Attributes:
        levels: ``log_normal`` draws ln σ from N(mean, std²); ``log_uniform`` is the paper's VE-SDE
            σ(t) = sigma_min (sigma_max / sigma_min)^t with t uniform from ``t_min`` to 1 (App. D).
        mean, std: of ln σ. They lie far above the usual −1.2 and 1.2 of images, because what
            hundreds of genes have in common outlives the noise of a single gene.
        sigma_min, sigma_max: the range of σ; sampling starts at ``sigma_max``.
        t_min: the VE-SDE ends at this time and not at 0, in training and in sampling; the network
            still sees the time t.

    Raises:
        FlagError: the range is empty or does not lie above 0, or ``t_min`` is not in [0, 1).
    """

    levels: Literal["log_normal", "log_uniform"] = "log_normal"
    mean: float = 1.0
    std: float = 2.0
    sigma_min: float = 0.02
    sigma_max: float = 80.0
    t_min: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise FlagError(
                f"flag: noise.sigma_min {self.sigma_min:g} and noise.sigma_max {self.sigma_max:g}",
                remedy="give 0 < sigma_min < sigma_max",
            )
        if not 0 <= self.t_min < 1:
            raise FlagError(f"flag: noise.t_min {self.t_min:g}", remedy="give 0 <= t_min < 1")

    @property
    def sigma_low(self) -> float:
        """σ at ``t_min``: the lowest level of sampling, and of training with the VE-SDE."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** self.t_min

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Levels of training, of the given shape."""
        if self.levels == "log_normal":
            return log_normal(shape, self.mean, self.std, generator)
        return log_uniform(shape, self.sigma_low, self.sigma_max, generator)

    def validation_levels(self) -> Tensor:
        """(4,): a low, middle and high level of training, and the level where sampling starts."""
        third = torch.tensor([-1.0, 0.0, 1.0])
        if self.levels == "log_normal":
            log = self.mean + self.std * third
        else:
            low, high = math.log(self.sigma_low), math.log(self.sigma_max)
            log = (low + high) / 2 + (high - low) / 3 * third
        return torch.cat([log.exp(), torch.tensor([self.sigma_max])])


@dataclass(frozen=True)
class Sampling:
    """How expression is drawn from the trained network.

    Attributes:
        steps: steps of the solver.
        grid: ``karras`` (Karras et al. 2022, Eq. 5) or ``geometric``: evenly spaced in ln σ, as
            in the paper.
        solver: ``dpmpp_2m``, ``heun``, or ``heun_log``, which is Heun's method in the paper's time
            with one Tweedie step at the end (``flag_st.diffusion.samplers``).
        point_draws: the point estimate is the mean of so many single evaluations at
            ``noise.sigma_max``, which is the posterior mean; 0 takes the mean of the draws.
        clip: set expression below zero counts to zero in each draw, as the release does.

    Raises:
        FlagError: there is no step, or a negative number of evaluations.
    """

    steps: int = 16
    grid: Literal["karras", "geometric"] = "karras"
    solver: Literal["dpmpp_2m", "heun", "heun_log"] = "dpmpp_2m"
    point_draws: int = 8
    clip: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1 or self.point_draws < 0:
            raise FlagError(
                f"flag: sampling.steps {self.steps} and sampling.point_draws {self.point_draws}",
                remedy="give at least 1 step and no negative number of evaluations",
            )


@dataclass(frozen=True)
class Alignment:
    """How gene tokens are pulled towards the embeddings of a gene model, in training only (Eq. 8).

    What a token is compared with depends on the gene model (``alignment_loss``).

    Attributes:
        blocks: the aligned block of the gene transformer, counted from 1, or the first and the
            last block of a range (Table 7).
        weight: weight of the alignment in the loss.
        width: hidden width of the projector, which maps tokens to the space of the gene model.

    Raises:
        FlagError: ``blocks`` is neither a block nor a range of blocks.
    """

    blocks: int | list[int] | tuple[int, ...] = 8
    weight: float = 0.5
    width: int = 2048

    def __post_init__(self) -> None:
        ends = [self.blocks] if isinstance(self.blocks, int) else list(self.blocks)
        whole = all(isinstance(end, int) for end in ends)
        if not whole or len(ends) not in (1, 2) or ends != sorted(ends) or ends[0] < 1:
            raise FlagError(
                f"flag: alignment.blocks is {self.blocks}",
                remedy="give one block, counted from 1, or the first and the last: [1, 8]",
            )

    @property
    def numbers(self) -> tuple[int, ...]:
        """All aligned blocks."""
        first, last = self.blocks, self.blocks
        if not isinstance(self.blocks, int):
            first, last = self.blocks[0], self.blocks[-1]
        assert isinstance(first, int)
        assert isinstance(last, int)
        return tuple(range(first, last + 1))


@dataclass(frozen=True)
class Options:
    """The groups together, as training and prediction need them.

    Attributes:
        decode_spots: of each batch, so many spots have their gene tokens trained; None for all.
        diffusion: without it, the network learns to predict without any noise (Table 2).
    """

    backbone: Backbone
    graph: Graph
    tiling: Tiling
    noise: Noise
    sampling: Sampling
    alignment: Alignment
    decode_spots: int | None
    diffusion: bool
