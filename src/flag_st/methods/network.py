"""What the network baselines share: standardised inputs, the loop, and the model file."""

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from flag_st.errors import FlagError
from flag_st.methods.base import Method, Run
from flag_st.methods.flag import mean_correlation
from flag_st.seeds import entropy
from flag_st.slide import Cohort, Slide
from flag_st.training import Loop, Task, Training

INPUTS = ("features", "patches")
#: What the authors of the baselines leave out: warm-up, schedule, averaging and clipping.
PLAIN = {"weight_decay": 0.0, "warmup": 0, "schedule": "constant", "ema": 0.0, "clip": 1e9}
STATISTICS = ("mean", "scale", "feature_mean", "feature_scale")


class Network(Method):
    """A method that trains one network.

    Class attributes:
        recipe: the settings of training that its authors state; ``training`` overrides them.
        scaling: what the network sees of the expression: ``none`` (the panel's unit), ``centred``
            (minus the training mean, which spares a regression head from learning it) or
            ``standard`` (also divided by each gene's standard deviation).
    """

    recipe: ClassVar[dict[str, Any]] = {}
    scaling: str = "centred"

    def __init__(self, training: dict[str, Any] | None):
        self.training = Training.of({**self.recipe, **(training or {})})

    def choose_inputs(self, inputs: str) -> None:
        """``features`` of the encoder, or ``patches`` through a network of its own."""
        if inputs not in INPUTS:
            raise FlagError(f"{type(self).__name__}: inputs {inputs!r}", choices=INPUTS)
        self.inputs = inputs
        if inputs == "patches":
            self.needs = frozenset({"patches"})

    @abstractmethod
    def build(self, genes: int, features: int) -> nn.Module:
        """The untrained network for G genes and D features; works before ``fit``."""

    @abstractmethod
    def task(self, train: Cohort, valid: Cohort, run: Run) -> Task:
        """Batches, loss and validation around ``self.net``."""

    def start(self) -> None:
        """Load pretrained parts into ``self.net``; nothing by default."""

    def fit(self, train: Cohort, valid: Cohort, run: Run) -> None:
        self._statistics(train)
        self.device = run.device
        torch.manual_seed(entropy(run.seed, "init"))
        self.net = self.build(len(train.genes), train[0].features.shape[1])
        self.start()
        Loop(self.task(train, valid, run), self.training, run)()

    def _statistics(self, train: Cohort) -> None:
        y, u = train.expression, train.features
        plain, wide = self.scaling == "none", self.scaling == "standard"
        genes, double = y.shape[1], np.float64
        self.mean = np.zeros(genes) if plain else y.mean(0, dtype=double)  # (G,)
        self.scale = np.maximum(y.std(0, dtype=double), 1e-3) if wide else np.ones(genes)  # (G,)
        self.feature_mean = u.mean(0, dtype=double)  # (D,)
        self.feature_scale = np.maximum(u.std(0, dtype=double), 1e-6)  # (D,)

    def features_of(self, slide: Slide) -> np.ndarray:
        """(N, D) float32 z-scores, clipped: one artefact must not pull a network out of range."""
        z = (slide.features - self.feature_mean) / self.feature_scale  # (N, D)
        return np.clip(z, -6, 6).astype(np.float32)

    def expression_of(self, slide: Slide) -> np.ndarray:
        """(N, G) float32 as the network sees it."""
        return ((slide.expression - self.mean) / self.scale).astype(np.float32)

    def in_unit(self, z: Tensor) -> np.ndarray:
        """(..., G) from the network's scale back to the panel's unit."""
        return (z.float().cpu().numpy() * self.scale + self.mean).astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        state = {f"net.{k}": v.cpu().numpy() for k, v in self.net.state_dict().items()}
        return {**state, **{name: getattr(self, name) for name in STATISTICS}}

    def restore(self, arrays: dict[str, np.ndarray], device: str) -> None:
        for name in STATISTICS:
            setattr(self, name, arrays[name])
        state = {k[4:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("net.")}
        self.net = self.build(len(self.mean), len(self.feature_mean))
        self.net.load_state_dict(state)
        self.net = self.net.to(device).eval().requires_grad_(False)
        self.device = device


def regression_scores(pairs: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Mean over slides of the squared error and of the genes' correlation; pairs of (N, G)."""
    errors = [(p.float() - y).square().mean().item() for p, y in pairs]
    correlations = [mean_correlation(p.float(), y) for p, y in pairs]
    return {"loss": float(np.mean(errors)), "pcc": float(np.mean(correlations))}
