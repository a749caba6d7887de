"""What HINGE trains on: spots with some of their genes hidden, under their image."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from flag_st.core.seeds import torch_generator
from flag_st.methods.hinge.options import Curriculum
from flag_st.methods.hinge.process import Process
from flag_st.methods.training import Task
from flag_st.methods.validation import mean_correlation
from flag_st.nets.soft_adaln import Modulated

#: A slide's name, its features (N, V) and its expression (N, G), as the network sees them.
Spots = tuple[str, np.ndarray, np.ndarray]


class Batches(NamedTuple):
    """Spots in a batch, and whether they come from all slides at random or one after the other."""

    size: int
    shuffled: bool


class HingeTask(Task):
    """Spots of all training slides at random steps; the loss is Eq. 7."""

    def __init__(
        self,
        net: Modulated,
        process: Process,
        curriculum: Curriculum,
        cut: Batches,
        train: Sequence[Spots],
        valid: Sequence[Spots],
        device: str,
    ):
        self.module, self.process, self.curriculum, self.cut = net, process, curriculum, cut
        self.device = device
        self.u = torch.as_tensor(np.concatenate([u for _, u, _ in train]))  # (M, V)
        self.y = torch.as_tensor(np.concatenate([y for _, _, y in train]))  # (M, G)
        self.valid = [(name, torch.as_tensor(u), torch.as_tensor(y)) for name, u, y in valid]

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.arange(len(self.y))
        if self.cut.shuffled:
            order = torch.randperm(len(self.y), generator=generator)
        for batch in order.split(self.cut.size):
            yield self.u[batch], self.y[batch]

    @property
    def last_step(self) -> int:
        """T, or the last step of the curriculum while it lasts."""
        chain = self.process.chain
        if self.epoch < self.curriculum.epochs:
            return chain.last_easy(self.curriculum.ratio)
        return len(chain)

    def loss(
        self, batch: tuple[Tensor, Tensor], generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        u, y = (value.to(self.device) for value in batch)  # (B, V), (B, G)
        t = self.process.steps(len(y), self.last_step, generator).to(self.device)  # (B,)
        return self.process.error(self.module, u, y, t, generator), {}

    def validate(self, module: Modulated) -> dict[str, float]:
        """The loss at fixed steps and masks, and the correlation of the one-shot prediction."""
        errors, correlations = [], []
        for name, features, expression in self.valid:
            u, y = features.to(self.device), expression.to(self.device)  # (N, V), (N, G)
            t = self.process.even_steps(len(y)).to(self.device)  # (N,)
            error = self.process.error(module, u, y, t, torch_generator("validation", name))
            shown = self.process.one_shot(module, u).float()  # (N, G)
            errors.append(error.item())
            correlations.append(mean_correlation(shown, y))
        return {"loss": float(np.mean(errors)), "pcc": float(np.mean(correlations))}
