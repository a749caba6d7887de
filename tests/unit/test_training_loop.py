"""The loop with frozen parameters, schedules by steps, and a task that knows the epoch."""

import pytest
import torch
from torch import nn

from flag_st.methods.base import Run
from flag_st.methods.training import Loop, Task, Training


class Net(nn.Module):
    """A frozen map, and a trained one after it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.frozen = nn.Linear(4, 64).requires_grad_(False)
        self.trained = nn.Linear(64, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += self.training
        return self.trained(self.frozen(x))


class Curriculum(Task):
    """Learns the sum of four numbers, which grow with the epoch."""

    def __init__(self, killed_at: int | None = None):
        self.module, self.killed_at, self.seen = Net(), killed_at, []

    def batches(self, generator):
        if self.epoch == self.killed_at:
            raise KeyboardInterrupt
        self.seen.append(self.epoch)
        yield (1 + self.epoch) * torch.rand(8, 4, generator=generator)

    def loss(self, batch, generator):
        return (self.module(batch).squeeze(-1) - batch.sum(1)).square().mean(), {}

    def validate(self, module):
        x = torch.ones(1, 4)
        return {"loss": float((module(x) - 4).square())}


SETTINGS = {"epochs": 6, "validate_every": 1, "warmup": 0, "lr": 1e-2, "checkpoint_seconds": 0.0}


def trained(directory, task=None, rows=None, **settings):
    task = task or Curriculum()
    log = rows.append if rows is not None else lambda row: None
    loop = Loop(task, Training(**{**SETTINGS, **settings}), Run(0, "cpu", directory, log))
    loop()
    return task, loop


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_what_is_frozen_stays_and_is_copied_nowhere(tmp_path, ema):
    start = Net().state_dict()
    task, loop = trained(tmp_path, ema=ema)
    assert torch.equal(task.module.frozen.weight, start["frozen.weight"])
    assert not torch.equal(task.module.trained.weight, start["trained.weight"])
    assert loop.ema.module.frozen.weight is task.module.frozen.weight
    assert loop.ema.module.trained.weight is not task.module.trained.weight
    learned = {"trained.weight", "trained.bias", "calls"}
    assert set(loop.best_state) == learned
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert set(saved["module"]) == set(saved["ema"]) == learned
    assert len(saved["optimizer"]["state"]) == 2


def test_a_killed_curriculum_goes_on_where_it_was_and_ends_the_same(tmp_path):
    whole, _ = trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed", Curriculum(killed_at=4))
    again, _ = trained(tmp_path / "killed")
    assert again.seen == [4, 5]
    for name, value in whole.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], value), name


def test_the_rate_falls_at_milestones(tmp_path):
    task, settings = (
        Curriculum(),
        Training(schedule="steps", milestones=(2, 4), factor=0.2, warmup=0),
    )
    loop = Loop(task, settings, Run(0, "cpu", tmp_path))
    found = []
    for loop.epoch in range(6):
        found.append(loop._rate() / settings.lr)
    assert found == pytest.approx([1, 1, 0.2, 0.2, 0.04, 0.04])


def test_the_rate_climbs_by_stairs():
    """Zero at first, a tenth in each further forty of 401 epochs, and at last the full rate."""
    settings = Training(epochs=401, schedule="stairs", warmup=0)
    loop = Loop(Curriculum(), settings, Run())
    found = {}
    for loop.epoch in (0, 1, 40, 41, 80, 81, 360, 361, 400):
        found[loop.epoch] = loop._rate() / settings.lr
    wanted = {0: 0, 1: 0.1, 40: 0.1, 41: 0.2, 80: 0.2, 81: 0.3, 360: 0.9, 361: 1, 400: 1}
    assert found == pytest.approx(wanted)


@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_killed_run_goes_on_with_the_state_of_its_optimiser(optimiser, tmp_path):
    settings = {"optimiser": optimiser, "momentum": 0.9, "lr": 1e-3}
    whole, _ = trained(tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed", Curriculum(killed_at=3), **settings)
    again, _ = trained(tmp_path / "killed", **settings)
    assert again.seen == [3, 4, 5]
    for name, value in whole.module.state_dict().items():
        assert torch.equal(again.module.state_dict()[name], value), name


def test_validation_can_start_late_and_the_last_epoch_always_has_one(tmp_path):
    rows: list[dict] = []
    trained(tmp_path / "a", rows=rows, validate_from=3)
    assert ["valid_loss" in row for row in rows] == [False] * 3 + [True] * 3
    rows.clear()
    trained(tmp_path / "b", rows=rows, validate_from=100)
    assert ["valid_loss" in row for row in rows] == [False] * 5 + [True]
