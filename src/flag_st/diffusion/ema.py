"""Exponential moving average of weights."""

import copy
import itertools

import torch
from torch import Tensor, nn


class Ema:
    """Keeps a second set of weights: w̄ ← d w̄ + (1 − d) w after every optimiser step.

    Weights that are not trained are shared with ``module`` and not copied.

    Args:
        warmup: the decay rises with the step, min(decay, (1 + t) / (10 + t)), so that the random
            start is forgotten soon, and not only after 1 / (1 − decay) steps.
    """

    def __init__(self, module: nn.Module, decay: float, warmup: bool = True):
        self.decay, self.warmup, self.step = decay, warmup, 0
        frozen = {id(value): value for value in module.parameters() if not value.requires_grad}
        #: Which parameters are averaged, in their order.
        self.averages = [value.requires_grad for value in module.parameters()]
        self.module = copy.deepcopy(module, frozen).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self.step += 1
        decay = self.decay
        if self.warmup:
            decay = min(decay, (1 + self.step) / (10 + self.step))
        averaged, current = self._trained(self.module), self._trained(module)
        if averaged:
            torch._foreach_lerp_(averaged, current, 1 - decay)
        for kept, new in zip(self.module.buffers(), module.buffers(), strict=True):
            kept.copy_(new)

    def _trained(self, module: nn.Module) -> list[Tensor]:
        return list(itertools.compress(module.parameters(), self.averages))
