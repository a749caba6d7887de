"""What a method is: it is fitted on slides with truth and predicts slides without truth."""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.core.fitted import Learned
from flag_st.core.io import load_arrays
from flag_st.core.seeds import Draws
from flag_st.data.slide import Cohort, Slide

if TYPE_CHECKING:
    from torch import nn


@dataclass
class Run:
    """What ``fit`` may use besides data.

    Attributes:
        seed: the seed of this run, from which all randomness of ``fit`` derives.
        device: ``cpu`` or ``cuda``.
        directory: where checkpoints are kept; the next run continues what a killed run left there.
        log: takes one row of the training history (a dict of numbers), which is written as CSV.
        progress: goes through an iterable and reports from time to time how far it is.
        events: folder for TensorBoard's event files, or None if none are wanted.
        origin: digest of settings and inputs; a checkpoint with another origin is not continued.
        backbone: the fitted gene model that the method builds on, if it asks for one that is fitted.
        parts: model files of methods that this one is made of, trained with the same seed on the same data.
    """

    seed: int = 0
    device: str = "cpu"
    directory: Path = Path(".")
    log: Callable[[dict[str, float]], None] = lambda row: None
    progress: Callable[..., Iterable] = lambda items, **_: items
    events: Path | None = None
    origin: str = ""
    backbone: str | Path | None = None
    parts: Sequence[str | Path] = ()

    def part(self, name: str, prefix: str = "") -> "Run":
        """The same run for one of several networks, with checkpoints and events of its own.

        ``prefix`` stands before the columns that this network adds to the history.
        """

        def log(row: dict[str, float]) -> None:
            self.log({k if k == "epoch" else f"{prefix}{k}": v for k, v in row.items()})

        events = None if self.events is None else self.events / name
        return replace(self, directory=Path(self.directory) / name, events=events, log=log)

    def finish(self) -> None:
        """Delete the checkpoints, which the model file replaces."""
        shutil.rmtree(self.directory, ignore_errors=True)


@dataclass(frozen=True)
class Prediction:
    """S draws of one slide, and a point estimate, which is their mean by default.

    Attributes:
        samples: (S, N, G) float32 in the panel's unit; S = 1 for deterministic methods.
        point: (N, G) point estimate; the mean of the draws unless the method has a better one.
    """

    samples: np.ndarray
    point: np.ndarray = field(default=None)  # type: ignore[arg-type]  # set below

    def __post_init__(self) -> None:
        if self.point is None:
            object.__setattr__(self, "point", self.samples.mean(0, dtype=np.float64))


class Method(Learned, ABC):
    """Base of all methods. A subclass states its arguments as keyword arguments of ``__init__``.

    Class attributes:
        stochastic: whether draws differ. If they do, runs are repeated over seeds and S draws are
            made.
        needs: extra inputs among ``targets`` and ``backbone`` (in training only), ``patches`` and
            ``truth``, which only controls may declare: ``predict`` then sees slides with their
            expression. A backbone is a gene model that the network is built on.
        point_from_draws: whether the point estimate of a prediction is a mean of its draws, so that it depends
            on their number. Always so for those that leave it to ``Prediction``.
    """

    stochastic: bool = False
    point_from_draws: bool = True
    needs: frozenset[str] = frozenset()

    def build(self, genes: int, features: int, targets: int = 0) -> "nn.Module | None":
        """The network at the sizes G, D and K (0: no alignment), or None if there is none."""
        return None

    @abstractmethod
    def fit(self, train: Cohort, valid: Cohort, run: Run) -> None:
        """Learn from ``train``; choose settings and epoch by ``valid``, never by test slides."""

    @abstractmethod
    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        """Predict a slide without truth; draw k only uses the stream ``draws.numpy/torch(k)``."""

    @abstractmethod
    def arrays(self) -> dict[str, np.ndarray]:
        """All that was learned, as named arrays: what ``save`` writes and ``restore`` takes."""

    @abstractmethod
    def restore(self, arrays: dict[str, np.ndarray], device: str) -> None:
        """The inverse of ``arrays``; also rebuilds what depends on array shapes."""


def fit_part(
    part: Method, plugin: Mapping[str, Any], train: Cohort, valid: Cohort, run: Run
) -> Method:
    """A method inside another one, fitted: as one of ``run.parts`` if that is the same, else by training it.

    Args:
        part: built from ``plugin``, which is ``{use: …, params: {…}}``.
    """
    wanted = {"use": plugin["use"], "params": dict(plugin.get("params") or {}), "seed": run.seed}
    for path in run.parts:
        trained, facts = load(path, run.device)
        if {key: facts.get(key) for key in wanted} == json.loads(json.dumps(wanted)):
            return trained
    part.fit(train, valid, run)
    return part


def load(path: str | Path, device: str = "cpu") -> tuple[Method, dict[str, Any]]:
    """Rebuild the method that ``path`` holds; return it with the facts it was saved with.

    Raises:
        FlagError: the file is no model of this project, of another version, or damaged.
    """
    arrays, facts = load_arrays(path)
    again = "delete it and run the same command again: train makes it anew"
    return rebuild(facts, arrays, path, device, again), facts


def rebuild(
    facts: Mapping[str, Any],
    arrays: dict[str, np.ndarray],
    path: str | Path,
    device: str,
    again: str,
) -> Method:
    """The method that ``facts`` (``use`` and ``params``) and ``arrays`` of the file ``path`` describe.

    Raises:
        FlagError: they are of another version or do not fit; ``again`` is the remedy.
    """
    use = facts.get("use")
    try:
        method = registry.build(use, facts["params"]) if use else None
    except FlagError as error:
        raise FlagError(f"{path} is from another version ({error})", remedy=again) from None
    if not isinstance(method, Method):
        raise FlagError(f"{path} holds {use or 'something'}, which is not a method", remedy=again)
    try:
        method.restore(arrays, device)
    except (KeyError, ValueError, RuntimeError) as error:
        raise FlagError(f"{path} does not fit {use} ({error})", remedy=again) from error
    return method
