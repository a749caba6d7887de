"""Optimisers for training without a compiler."""

from inspect import unwrap
from typing import TypeVar

import torch

Optimizer = TypeVar("Optimizer", bound=type[torch.optim.Optimizer])


def _without_compiler(optimizer: Optimizer) -> Optimizer:
    """The class without the wrappers by which torch's compiler leaves its methods alone.

    The wrappers import ``torch._dynamo`` at the first call, which takes as long as importing torch
    itself and would double the start of every training. A network that is compiled is compiled without
    its optimiser, so nothing needs the wrappers here.
    """
    for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad"):
        setattr(optimizer, name, unwrap(getattr(optimizer, name)))
    optimizer.step = torch.no_grad()(unwrap(optimizer.step))  # type: ignore[method-assign]
    return optimizer


@_without_compiler
class AdamW(torch.optim.AdamW):
    """``torch.optim.AdamW``, computed the same, that does not import the compiler."""


@_without_compiler
class Sgd(torch.optim.SGD):
    """``torch.optim.SGD``, computed the same, that does not import the compiler."""
