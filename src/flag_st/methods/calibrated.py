"""After training: the draws of any generative method get the level of a regression and the size of its errors."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.core.fitted import inside, nested
from flag_st.core.seeds import Draws, entropy
from flag_st.data.slide import Cohort, Slide
from flag_st.methods.base import Method, Prediction, Run, fit_part

Deviations = Literal["draws", "gaussian"]


class Calibrated(Method):
    """Draws of one method around a point estimate that another one shares in.

    A diffusion model knows how a profile varies from spot to spot better than how high it is on a slide, and a
    regression the other way round. Therefore:

    1. The mean of each gene over a slide is that of the regression. The pattern around it is the average of
       both patterns: ``share`` of the regression's, and the rest of the generative method's.
    2. The deviations d of the draws from their own point estimate become A (d - b). The drift b is the mean of d
       over the *validation* slides: a sampler that clips and takes few steps does not quite meet the posterior
       mean. A is the one symmetric map for which deviations have the covariance of the validation errors of
       (1) within slides. This is the optimal transport between two Gaussians: of all maps with this result it
       moves the draws least, so that what is near in space stays alike.

    Args:
        draws: the generative method, as ``{use: …, params: {…}}``.
        regression: the other method; null leaves the point estimate of ``draws`` as it is.
        share: the regression's part of the pattern.
        deviations: ``gaussian`` puts white noise in place of the draws' deviations. This control tells what
            they know beyond the covariance of genes.
        samples: how many draws of the validation slides drift and covariance are computed from, and of how many
            more the point estimate is the mean if ``draws`` has none of its own.
        clip: no draw falls below zero counts.

    Raises:
        FlagError: an argument is out of range, or ``draws`` names a method without draws.
    """

    stochastic: bool = True
    point_from_draws: bool = False

    def __init__(
        self,
        draws: Mapping[str, Any],
        regression: Mapping[str, Any] | None = None,
        share: float = 0.5,
        deviations: Deviations = "draws",
        samples: int = 8,
        clip: bool = True,
    ):
        named = {"draws": draws} | ({"regression": regression} if regression else {})
        self.plugins: dict[str, Mapping[str, Any]] = named
        self.parts: dict[str, Method] = {
            name: registry.build(plugin["use"], plugin.get("params"))
            for name, plugin in named.items()
        }
        if not self.parts["draws"].stochastic:
            raise FlagError(
                "calibrated: draws names a method that makes none",
                remedy="name a generative one, such as flag, stem or stflow",
            )
        if not 0 <= share <= 1 or samples < 2:
            raise FlagError(
                f"calibrated: share {share:g} and samples {samples}",
                remedy="give a share from 0 to 1, and two samples or more",
            )
        self.share, self.deviations, self.samples, self.clip = share, deviations, samples, clip
        self.needs = frozenset().union(*(part.needs for part in self.parts.values()))

    def build(self, genes: int, features: int, targets: int = 0):
        from torch import nn

        built = [part.build(genes, features, targets) for part in self.parts.values()]
        return nn.ModuleList(net for net in built if net is not None)

    def fit(self, train: Cohort, valid: Cohort, run: Run) -> None:
        for name, part in self.parts.items():
            own = run.part(name, prefix="" if name == "draws" else f"{name}_")
            self.parts[name] = fit_part(part, self.plugins[name], train, valid, own)
        errors, spread, drift = [], [], []
        for slide in valid:
            point, deviations = self._predicted(slide.without_truth(), self.samples, run.seed)
            errors.append(_within(slide.truth - point))  # (N, G)
            spread += [_within(d) for d in deviations]  # S × (N, G)
            drift.append(np.mean(deviations, axis=(0, 1)))  # (G,)
        self.drift = np.mean(drift, axis=0)  # (G,)
        self.map = transport(covariance(np.concatenate(spread)), covariance(np.concatenate(errors)))

    def _predicted(
        self, slide: Slide, samples: int, seed: int
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Point estimate (N, G) and the S deviations (N, G) before they are mapped."""
        draws = Draws(seed, slide.id)
        drawn = self.parts["draws"].predict(slide, samples, draws)
        own = self._own_point(slide, drawn, seed)  # (N, G)
        point = own
        if "regression" in self.parts:
            other = self.parts["regression"].predict(slide, 1, draws).point.astype(np.float64)
            pattern = self.share * _within(other) + (1 - self.share) * _within(own)  # (N, G)
            point = other.mean(0) + pattern  # (N, G)
        if self.deviations == "gaussian":
            return point, [draws.numpy(k).standard_normal(own.shape) for k in range(samples)]
        return point, [draw - own for draw in drawn.samples]

    def _own_point(self, slide: Slide, drawn: Prediction, seed: int) -> np.ndarray:
        """Point estimate (N, G) of the generative method. It must not depend on how many draws are asked for,
        and no draw may be part of it, or its deviation would be too small: a mean of draws is taken over others.
        """
        part = self.parts["draws"]
        if part.point_from_draws:
            others = Draws(entropy(seed, "point"), slide.id)
            drawn = part.predict(slide, self.samples, others)
        return drawn.point.astype(np.float64)

    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        point, deviations = self._predicted(slide, samples, draws.seed)
        made = np.empty((samples, *point.shape), np.float32)  # (S, N, G)
        for k, deviation in enumerate(deviations):
            made[k] = point + (deviation - self.drift) @ self.map  # the map is symmetric
        if self.clip:
            np.maximum(made, 0, out=made)
            point = np.maximum(point, 0)
        return Prediction(made, point)

    def arrays(self) -> dict[str, np.ndarray]:
        arrays = {"map": self.map, "drift": self.drift}
        for name, part in self.parts.items():
            arrays |= nested(name, part.arrays())
        return arrays

    def restore(self, arrays: dict[str, np.ndarray], device: str) -> None:
        self.map, self.drift = arrays["map"], arrays["drift"]
        for name, part in self.parts.items():
            part.restore(inside(name, arrays), device)


def _within(values: np.ndarray) -> np.ndarray:
    """(N, G) minus the mean over the slide."""
    return values - values.mean(0)


def covariance(values: np.ndarray) -> np.ndarray:
    """(G, G) of centred rows (M, G), shrunk after Ledoit and Wolf (2004) since M may be small."""
    from sklearn.covariance import LedoitWolf

    return LedoitWolf(assume_centered=True).fit(values).covariance_


def transport(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The symmetric A (G, G) for which A source A = target.

    This is the optimal transport between centred Gaussians: A = S^-½ (S^½ T S^½)^½ S^-½
    (Peyré and Cuturi, Computational Optimal Transport, 2019, Eq. 2.40).
    """
    root, inverse = _power(source, 0.5), _power(source, -0.5)
    return inverse @ _power(root @ target @ root, 0.5) @ inverse


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """A power of a symmetric matrix without negative eigenvalues; the smallest are kept off zero."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.maximum(values, 1e-8 * values[-1]) ** exponent) @ vectors.T
