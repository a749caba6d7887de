"""The training loop that all networks share. What it trains is a ``Task``.

Everything random is derived from (seed, epoch) or (seed, step), never from a running generator,
so a run that was killed continues from its last checkpoint and ends with the same bytes.
"""

import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from flag_st.core.errors import FlagError
from flag_st.core.io import writing
from flag_st.core.seeds import entropy, torch_generator
from flag_st.diffusion.ema import Ema
from flag_st.methods.base import Run
from flag_st.methods.precision import Precision, precise, repeatable
from flag_st.nets.optimizer import AdamW, Sgd

log = logging.getLogger("flag_st")
Net = TypeVar("Net", bound=nn.Module)


@dataclass(frozen=True)
class Training:
    """Settings of the loop; the ``training`` argument of every network method.

    Attributes:
        epochs: the largest number of passes over the training slides.
        optimiser: ``adamw``, or ``sgd`` with ``momentum``, which AdamW ignores.
        lr, weight_decay: learning rate and weight decay.
        decay: which parameters weight decay shrinks: ``matrices`` spares biases, norms and other
            vectors; ``all`` is what AdamW does if it is not told otherwise.
        warmup: how many optimiser steps the linear warm-up takes.
        schedule: ``constant``, ``cosine`` (to 0 at the last epoch), ``steps``: the rate is multiplied
            by ``factor`` at each epoch of ``milestones``, or ``stairs``: it is 0 in the first epoch
            and climbs by tenths to the full rate of the last tenth, as MERGE's release has it.
        ema: decay of the averaged weights, which are the ones validated, kept and used.
        ema_warmup: averaging starts with a smaller decay (``flag_st.diffusion.ema.Ema``).
        clip: gradients are clipped to this norm.
        accumulate: batches per optimiser step; the loss is their mean.
        validate_every: how many epochs lie between two validations.
        validate_from: how many epochs pass before the first validation; the last one always has one.
        patience: stop after so many validations without a better one; 0 never stops early.
        precision: ``fp32``, ``tf32`` or ``bf16`` (autocast).
        deterministic: on a GPU, use the forms of gathers and attention that sum up in a fixed order,
            so that training twice gives the same bytes; a CPU always does.
        compile: use torch.compile, which falls back to eager mode where it fails.
        checkpoint_seconds: write a checkpoint at the end of the first epoch after so many seconds.
        tensorboard: write event files while training, beside the log of the job.
    """

    epochs: int = 1000
    optimiser: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.9
    lr: float = 3e-4
    weight_decay: float = 0.01
    decay: Literal["matrices", "all"] = "matrices"
    warmup: int = 100
    schedule: Literal["constant", "cosine", "steps", "stairs"] = "cosine"
    milestones: tuple[int, ...] = ()
    factor: float = 0.2
    ema: float = 0.999
    ema_warmup: bool = True
    clip: float = 1.0
    accumulate: int = 1
    validate_every: int = 10
    validate_from: int = 0
    patience: int = 20
    precision: Precision = "fp32"
    deterministic: bool = True
    compile: bool = False
    checkpoint_seconds: float = 120.0
    tensorboard: bool = False


class Task(ABC, Generic[Net]):
    """What a method hands to the loop."""

    #: All that has parameters; the averaged copy of it is what ``validate`` receives. Parameters that
    #: need no gradient stay as they are, and no second copy of them is made or stored.
    module: Net
    #: The epoch that ``batches`` begins, set by the loop, also where a killed run continues.
    epoch: int = 0

    def compiled(self) -> Iterable[nn.Module]:
        """What ``Training.compile`` compiles: the module, or its parts if it has no ``forward``."""
        whole = type(self.module).forward is not nn.Module.forward
        return [self.module] if whole else self.module.children()

    @abstractmethod
    def batches(self, generator: torch.Generator) -> Iterator[Any]:
        """One epoch, in an order that depends on ``generator`` alone."""

    @abstractmethod
    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Scalar loss of a batch, and its parts for the history."""

    @abstractmethod
    def validate(self, module: Net) -> dict[str, float]:
        """Scores of all validation slides with fixed seeds; the lowest ``loss`` is the best."""


class Loop:
    """Trains ``task`` and leaves its best averaged weights in ``task.module``."""

    def __init__(self, task: Task, settings: Training, run: Run):
        self.task, self.settings, self.run = task, settings, run
        self.module = task.module.to(run.device)
        self.frozen = {n for n, p in self.module.named_parameters() if not p.requires_grad}
        self.ema = Ema(self.module, settings.ema, settings.ema_warmup)
        trained = [p for p in self.module.parameters() if p.requires_grad]
        spare = settings.decay == "matrices"
        shrunk = [p for p in trained if p.ndim > 1 or not spare]
        spared = [p for p in trained if p.ndim <= 1 and spare]
        groups = [
            {"params": shrunk, "weight_decay": settings.weight_decay},
            {"params": spared, "weight_decay": 0.0},
        ]
        self.optimizer = _optimizer(settings, [g for g in groups if g["params"]])
        self.epoch = self.step = self.stale = 0
        self.best: float = math.inf
        self.best_state: dict[str, Tensor] = {}
        self.rows: list[dict[str, float]] = []
        if settings.compile:
            _compile(task.compiled())

    def __call__(self) -> None:
        self._resume()
        epochs, saved = range(self.epoch, self.settings.epochs), time.monotonic()
        bar = self.run.progress(
            epochs, total=self.settings.epochs, initial=self.epoch, desc="train"
        )
        events = self._events()
        for self.epoch in bar:
            with repeatable(self.run.device, self.settings.deterministic):
                row = self._train_epoch()
                if self._due():
                    row |= self._validate()
            self.rows.append({"epoch": self.epoch, **row})
            if events:
                for name, value in row.items():
                    events.add_scalar(name, value, self.epoch)
            if hasattr(bar, "note"):
                bar.note(loss=f"{row['loss']:.4f}", best=f"{self.best:.4f}")
            if 0 < self.settings.patience <= self.stale:
                break
            if time.monotonic() - saved > self.settings.checkpoint_seconds:
                self._checkpoint()
                saved = time.monotonic()
        if events:
            events.close()
        for row in self.rows:
            self.run.log(row)
        self._load(self.module, self.best_state)
        self.module.eval().requires_grad_(False)

    def _events(self) -> Any:
        """A TensorBoard writer, if asked for; it drops what follows a killed run's checkpoint."""
        if not (self.settings.tensorboard and self.run.events):
            return None
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.run.events), purge_step=self.epoch)

    def _due(self) -> bool:
        done = self.epoch + 1
        if done == self.settings.epochs:
            return True
        return done > self.settings.validate_from and done % self.settings.validate_every == 0

    def _learned(self, module: nn.Module) -> dict[str, Tensor]:
        """What differs from how the network came: the state without the parameters that are frozen."""
        return {k: v for k, v in module.state_dict().items() if k not in self.frozen}

    def _load(self, module: nn.Module, state: dict[str, Tensor]) -> None:
        """The inverse of ``_learned``."""
        missing, surplus = module.load_state_dict(state, strict=False)
        if surplus or set(missing) != self.frozen:
            raise RuntimeError(f"missing {set(missing) - self.frozen}, surplus {surplus}")

    def _train_epoch(self) -> dict[str, float]:
        self.module.train()
        self.task.epoch = self.epoch
        order = torch_generator(self.run.seed, "epoch", self.epoch)
        sums: dict[str, float] = {}
        count, waiting = 0, []
        for batch in self.task.batches(order):
            waiting.append(batch)
            if len(waiting) == self.settings.accumulate:
                count += self._update(waiting, sums)
                waiting = []
        if waiting:  # the remaining batches of an epoch are a step of their own
            count += self._update(waiting, sums)
        return {name: value / count for name, value in sums.items()}

    def _update(self, batches: list[Any], sums: dict[str, float]) -> int:
        """One optimiser step on the mean loss of ``batches``."""
        generator = torch_generator(self.run.seed, "step", self.step)
        torch.manual_seed(entropy(self.run.seed, "dropout", self.step))
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        for batch in batches:
            with precise(self.run.device, self.settings.precision):
                loss, parts = self.task.loss(batch, generator)
            if not torch.isfinite(loss):
                raise FlagError(
                    f"the training loss is {loss.item()} at epoch {self.epoch}, step {self.step}",
                    remedy="lower training.lr, or use precision fp32",
                )
            (loss / len(batches)).backward()
            for name, value in {"loss": loss.item(), **parts}.items():
                sums[name] = sums.get(name, 0.0) + value
        nn.utils.clip_grad_norm_(self.module.parameters(), self.settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.update(self.module)
        self.step += 1
        return len(batches)

    def _rate(self) -> float:
        warm = min(1.0, (self.step + 1) / max(1, self.settings.warmup))
        if self.settings.schedule == "cosine":
            warm *= 0.5 * (1 + math.cos(math.pi * self.epoch / self.settings.epochs))
        if self.settings.schedule == "steps":
            warm *= self.settings.factor ** sum(m <= self.epoch for m in self.settings.milestones)
        if self.settings.schedule == "stairs":
            warm *= math.ceil(10 * self.epoch / max(1, self.settings.epochs - 1)) / 10
        return self.settings.lr * warm

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        with precise(self.run.device, self.settings.precision):
            scores = self.task.validate(self.ema.module)
        self.stale += 1
        if scores["loss"] < self.best:
            self.best, self.stale = scores["loss"], 0
            state = self._learned(self.ema.module)
            self.best_state = {k: v.detach().clone() for k, v in state.items()}
        return {f"valid_{name}": value for name, value in scores.items()}

    @property
    def _path(self) -> Path:
        return Path(self.run.directory) / "checkpoint.pt"

    def _checkpoint(self) -> None:
        state = {
            "module": self._learned(self.module),
            "ema": self._learned(self.ema.module),
            "ema_step": self.ema.step,
            "optimizer": self.optimizer.state_dict(),
            "best_state": self.best_state,
            "rows": self.rows,
            "origin": self.run.origin,
            **{k: getattr(self, k) for k in ("epoch", "step", "stale", "best")},
        }
        with writing(self._path) as temporary:
            torch.save(state, temporary)

    def _resume(self) -> None:
        """Continue from the checkpoint of a killed run, if it has the same settings and inputs."""
        if not self._path.exists():
            return
        try:
            state = torch.load(self._path, map_location=self.run.device, weights_only=True)
        except Exception as error:  # whatever is wrong with it, it can be made again
            log.warning("%s is not readable (%s): training starts anew", self._path, error)
            return
        if state.get("origin") != self.run.origin:
            log.info("%s has other settings or inputs: training starts anew", self._path)
            return
        self._load(self.module, state["module"])
        self._load(self.ema.module, state["ema"])
        self.ema.step = state["ema_step"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.best_state, self.rows = state["best_state"], state["rows"]
        self.step, self.stale, self.best = state["step"], state["stale"], state["best"]
        self.epoch = state["epoch"] + 1
        log.info("continuing from epoch %d of %s", self.epoch, self._path)


def _optimizer(settings: Training, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if settings.optimiser == "sgd":
        return Sgd(groups, lr=settings.lr, momentum=settings.momentum)
    return AdamW(groups, lr=settings.lr)


def _compile(parts: Iterable[nn.Module]) -> None:
    """Compile in place; a backend that fails leaves the eager module at work."""
    import torch._dynamo

    torch._dynamo.config.suppress_errors = True
    for part in parts:
        part.compile(dynamic=True)
