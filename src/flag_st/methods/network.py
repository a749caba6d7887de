"""What all methods with one network share: standardised inputs, the loop, and the model file."""

from abc import abstractmethod
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from flag_st.core.seeds import entropy
from flag_st.data.slide import LOGARITHMS, Cohort, Slide, in_logarithm
from flag_st.data.tiling import Seen
from flag_st.methods.base import Method, Run
from flag_st.methods.training import Loop, Task, Training

Inputs = Literal["features", "patches"]
#: How features are z-scored.
Centre = Literal["training", "slide", "both", "none"]
#: What the authors of the baselines leave out: warm-up, schedule, averaging, clipping, and sparing
#: biases and norms from the decay of weights.
PLAIN = Training(weight_decay=0.0, decay="all", warmup=0, schedule="constant", ema=0.0, clip=1e9)
STATISTICS = ("mean", "scale", "feature_mean", "feature_scale")


class NetworkMethod(Method):
    """A method that trains one network.

    Args:
        centre: features are z-scored with ``training`` statistics, with the statistics of each
            ``slide`` itself (which removes the stain but also the slide's level, and uses no
            label), or with ``both``, side by side; ``none`` takes them as they are.
        training: settings of the loop. The default of each method holds what its authors state;
            the configuration replaces single values of it.

    Class attributes:
        scaling: what the network sees of the expression: ``none`` (the panel's unit), ``centred``
            (minus the training mean, which spares a regression head from learning it),
            ``standard`` (also divided by each gene's standard deviation), or a logarithm, which
            is a key of ``LOGARITHMS``, whatever the panel's logarithm is.
    """

    scaling: str = "centred"

    def __init__(self, centre: Centre, training: Training):
        self.centre, self.training = centre, training

    def choose_inputs(self, inputs: Inputs) -> None:
        """Read ``features`` of the encoder, or ``patches`` through a network that is trained."""
        self.inputs = inputs
        if inputs == "patches":
            self.needs = frozenset({"patches"})

    def build(self, genes: int, features: int, targets: int = 0) -> nn.Module:
        """The untrained network for G genes, D features and alignment to width K (0: none).

        It works before ``fit``.
        """
        return self.network_of(genes, self.inputs_of(features))

    def inputs_of(self, features: int) -> int:
        """Columns of ``features_of``: two per feature if both views are taken."""
        return features * (2 if self.centre == "both" else 1)

    @abstractmethod
    def network_of(self, genes: int, inputs: int) -> nn.Module:
        """The untrained network for G genes and the D columns of ``features_of``."""

    @abstractmethod
    def task(self, train: Cohort, valid: Cohort, run: Run) -> Task:
        """Batches, loss and validation around ``self.net``."""

    def start(self) -> None:
        """Load pretrained parts into ``self.net``; nothing by default."""

    def fit(self, train: Cohort, valid: Cohort, run: Run) -> None:
        self._statistics(train)
        self.device = run.device
        torch.manual_seed(entropy(run.seed, "init"))
        targets = train[0].targets.width if train[0].targets else 0
        self.net = self.build(len(train.genes), train[0].features.shape[1], targets)
        self.start()
        self.optimise(train, valid, run)

    def optimise(self, train: Cohort, valid: Cohort, run: Run) -> None:
        """Train ``self.net``; in one stage unless the method says otherwise."""
        Loop(self.task(train, valid, run), self.training, run)()

    def _statistics(self, train: Cohort) -> None:
        y, u, double = train.expression, train.features, np.float64
        self.mean, self.scale = np.zeros(y.shape[1]), np.ones(y.shape[1])  # 2 × (G,)
        if self.scaling in ("centred", "standard"):
            self.mean = y.mean(0, dtype=double)  # (G,)
        if self.scaling == "standard":
            self.scale = np.maximum(y.std(0, dtype=double), 1e-3)  # (G,)
        if self.scaling in LOGARITHMS:
            self.scale = self.scale * in_logarithm(train.unit, self.scaling)  # (G,)
        self.feature_mean = u.mean(0, dtype=double)  # (D,)
        self.feature_scale = np.maximum(u.std(0, dtype=double), 1e-6)  # (D,)

    def features_of(self, slide: Slide) -> np.ndarray:
        """(N, D) or (N, 2 D) float32 z-scores, clipped so that no artefact dominates."""
        if self.centre == "none":
            return slide.features  # (N, D)
        raw = slide.features.astype(np.float64)  # (N, D)
        own = (raw - raw.mean(0)) / np.maximum(raw.std(0), 1e-6)  # (N, D)
        known = (raw - self.feature_mean) / self.feature_scale  # (N, D)
        views = {"training": [known], "slide": [own], "both": [known, own]}[self.centre]
        return np.clip(np.concatenate(views, 1), -6, 6).astype(np.float32)  # (N, D) or (N, 2 D)

    def expression_of(self, slide: Slide) -> np.ndarray:
        """(N, G) float32 as the network sees it."""
        return ((slide.truth - self.mean) / self.scale).astype(np.float32)

    def seen(self, slide: Slide, truth: bool = False) -> Seen:
        """The slide as the network sees it, with its expression if ``truth``."""
        return Seen(slide, self.features_of(slide), self.expression_of(slide) if truth else None)

    def seen_with_truth(self, cohort: Cohort) -> list[Seen]:
        """All slides of a cohort as the network sees them in training and validation."""
        return [self.seen(slide, truth=True) for slide in cohort]

    def in_unit(self, z: Tensor) -> np.ndarray:
        """(..., G) from the network's scale back to the panel's unit."""
        return (z.float().cpu().numpy() * self.scale + self.mean).astype(np.float32)

    def arrays(self) -> dict[str, np.ndarray]:
        state = {f"net.{k}": v.cpu().numpy() for k, v in self.learned().items()}
        return {**state, **{name: getattr(self, name) for name in STATISTICS}}

    def restore(self, arrays: dict[str, np.ndarray], device: str) -> None:
        for name in STATISTICS:
            setattr(self, name, arrays[name])
        state = {k[4:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("net.")}
        self.net = self.rebuilt(state).to(device).eval().requires_grad_(False)
        self.device = device

    def learned(self) -> dict[str, Tensor]:
        """What the model file keeps of the network."""
        return self.net.state_dict()

    def rebuilt(self, state: dict[str, Tensor]) -> nn.Module:
        """The inverse of ``learned``."""
        net = self.build(len(self.mean), len(self.feature_mean))
        net.load_state_dict(state)
        return net
