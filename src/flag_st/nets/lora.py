"""Low-rank updates of linear maps (Hu et al. 2022)."""

import math

import torch
from torch import Tensor, nn


class LowRank(nn.Module):
    """W x + B A x / r around a map that stays as it is; B starts at 0, so that nothing changes.

    Args:
        inner: the map, without bias.
        rank: r.
    """

    def __init__(self, inner: nn.Linear, rank: int):
        super().__init__()
        self.inner, self.rank = inner, rank
        self.a = nn.Parameter(torch.empty(rank, inner.in_features))
        self.b = nn.Parameter(torch.zeros(inner.out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        update = nn.functional.linear(nn.functional.linear(x, self.a), self.b)  # (..., out)
        return self.inner(x) + update / self.rank  # (..., out)


def adapt(module: nn.Module, rank: int) -> None:
    """Put a low-rank update around every linear map of ``module``, in place."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, LowRank(child, rank))
        else:
            adapt(child, rank)
