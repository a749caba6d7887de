"""The optimiser of every training: torch's numbers without torch's compiler."""

import sys

import pytest
import torch

from flag_st.nets.optimizer import AdamW


def train(optimizer: type[torch.optim.AdamW], steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights after some steps, half of them by an optimiser that was saved and loaded."""
    weight = torch.linspace(-1, 1, 15).reshape(3, 5).requires_grad_()
    bias = torch.zeros(3, requires_grad=True)

    def new() -> torch.optim.AdamW:
        made = optimizer([{"params": weight, "weight_decay": 0.1}], lr=0.05)
        made.add_param_group({"params": bias, "weight_decay": 0.0})
        return made

    used = new()
    for step in range(steps):
        if step == steps // 2:
            state, used = used.state_dict(), new()
            used.load_state_dict(state)
        (weight.sum(1) + bias - 1).square().mean().backward()
        used.step()
        used.zero_grad()
    return weight.detach(), bias.detach()


def test_the_weights_are_torch_s_and_the_compiler_is_not_imported(monkeypatch):
    wanted = train(torch.optim.AdamW, 6)
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # an import of it fails from here on
    assert all(torch.equal(*pair) for pair in zip(train(AdamW, 6), wanted, strict=True))
    with pytest.raises(ImportError):
        train(torch.optim.AdamW, 2)
