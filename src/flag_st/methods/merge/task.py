"""What the second stage of MERGE trains on: the graphs of whole slides."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flag_st.methods.training import Task
from flag_st.methods.validation import regression_scores
from flag_st.nets.merge import SlideNet

if TYPE_CHECKING:
    from torch_geometric.data import Data


class SlideTask(Task[SlideNet]):
    """Squared error of all spots of a slide, one slide per step."""

    def __init__(self, net: SlideNet, train: Sequence["Data"], valid: Sequence["Data"]):
        self.module, self.train, self.valid = net, train, valid

    def batches(self, generator: torch.Generator) -> Iterator["Data"]:
        for i in torch.randperm(len(self.train), generator=generator).tolist():
            yield self.train[i]

    def loss(self, batch: "Data", generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        return (self.module(batch.x, batch.edge_index) - batch.y).square().mean(), {}

    def validate(self, module: SlideNet) -> dict[str, float]:
        return regression_scores([(module(g.x, g.edge_index), g.y) for g in self.valid])
