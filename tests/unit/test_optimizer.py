"""The optimiser of every training: torch's numbers without torch's compiler."""

import sys

import pytest
import torch

from flag_st.core import registry
from flag_st.methods.base import Run
from flag_st.methods.training import Loop, Task, Training
from flag_st.nets.optimizer import AdamW, Sgd
from flag_st.planning import config


def train(optimizer: type[torch.optim.Optimizer], steps: int, **more) -> tuple[torch.Tensor, ...]:
    """Weights after some steps, half of them by an optimiser that was saved and loaded."""
    weight = torch.linspace(-1, 1, 15).reshape(3, 5).requires_grad_()
    bias = torch.zeros(3, requires_grad=True)

    def new() -> torch.optim.Optimizer:
        made = optimizer([{"params": weight, "weight_decay": 0.1}], lr=0.05, **more)
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


@pytest.mark.parametrize(
    ("ours", "theirs", "more"),
    [(AdamW, torch.optim.AdamW, {}), (Sgd, torch.optim.SGD, {"momentum": 0.9})],
    ids=["adamw", "sgd"],
)
def test_the_weights_are_torch_s_and_the_compiler_is_not_imported(ours, theirs, more, monkeypatch):
    wanted = train(theirs, 6, **more)
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # an import of it fails from here on
    assert all(torch.equal(*pair) for pair in zip(train(ours, 6, **more), wanted, strict=True))
    with pytest.raises(ImportError):
        train(theirs, 2, **more)


class Line(Task):
    """A regression whose gradient is the same in each step, whatever the weights."""

    def __init__(self):
        torch.manual_seed(0)
        self.module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))

    def batches(self, generator):
        yield torch.linspace(-1, 1, 6).reshape(2, 3)

    def loss(self, batch, generator):
        return self.module(batch).square().sum(), {}

    def validate(self, module):
        return {"loss": 0.0}


@pytest.mark.parametrize("decay", ["all", "matrices"])
def test_weight_decay_spares_vectors_only_where_it_is_told_to(decay):
    """With all parameters decayed, the loop is AdamW as it comes."""
    settings = Training(
        lr=0.05, weight_decay=0.5, decay=decay, warmup=0, schedule="constant", clip=1e9
    )
    loop, task = Loop(Line(), settings, Run()), Line()
    plain = torch.optim.AdamW(task.module.parameters(), lr=0.05, weight_decay=0.5)
    for _ in range(3):
        loop._update(list(loop.task.batches(torch.Generator())), {})
        task.loss(*task.batches(None), None)[0].backward()
        plain.step()
        plain.zero_grad()
    pairs = zip(loop.module.parameters(), task.module.parameters(), strict=True)
    same = [torch.allclose(*pair, atol=1e-6) for pair in pairs]
    assert same == [True] * 4 if decay == "all" else not all(same)


def test_plain_gradient_descent_with_momentum_is_torch_s():
    settings = Training(
        optimiser="sgd",
        momentum=0.8,
        lr=0.05,
        weight_decay=0.0,
        warmup=0,
        schedule="constant",
        clip=1e9,
    )
    loop, task = Loop(Line(), settings, Run()), Line()
    plain = torch.optim.SGD(task.module.parameters(), lr=0.05, momentum=0.8)
    for _ in range(3):
        loop._update(list(loop.task.batches(torch.Generator())), {})
        task.loss(*task.batches(None), None)[0].backward()
        plain.step()
        plain.zero_grad()
    for ours, theirs in zip(loop.module.parameters(), task.module.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def training_of(entry: str) -> Training:
    chosen = config.load()["methods"][entry]
    return registry.build(chosen["use"], chosen["params"]).training


def test_entries_train_as_their_authors_state():
    """The release: 2,000 epochs, plain AdamW, and an average that starts at the random weights."""
    for entry, lr in (("flag_released", 3e-4), ("joint_released", 1e-4)):
        assert training_of(entry) == Training(
            epochs=2000,
            lr=lr,
            weight_decay=0.01,
            decay="all",
            warmup=0,
            schedule="constant",
            ema=0.999,
            ema_warmup=False,
            clip=1.0,
            accumulate=16,
            validate_every=10,
            patience=20,
        )
    for entry in ("flag_paper", "joint", "bleep", "triplex"):
        assert training_of(entry).decay == "all"
    assert training_of("flag").decay == "matrices"
