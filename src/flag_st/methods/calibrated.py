"""After training: the draws of any generative method get the level of regressions and the size of their errors."""

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
    """Draws of one method around a point estimate that regressions share in.

    A diffusion model knows how a profile varies from spot to spot better than how high it is on a slide, and a
    regression the other way round; and no single one is best on all slides. Therefore:

    1. The point estimate is a stack of all of them (Breiman, Stacked regressions, 1996): the pattern around the
       mean of each gene over a slide is the sum of their patterns, with weights of zero or more that are best, by
       least squares, for the *validation* slides. The mean itself is theirs in the same proportions.
    2. The deviations d of the draws from their own point estimate become A (d - b). The drift b is the mean of d
       over the validation slides: a sampler that clips and takes few steps does not quite meet the posterior
       mean. A is the one symmetric map for which deviations have a given covariance within slides. This is the
       optimal transport between two Gaussians: of all maps with this result it moves the draws least, so that
       what is near in space stays alike.
    3. That covariance has the variances of the errors of (1) on the validation slides. Its correlations lie
       between those of these errors and those of expression on the training slides, since the few
       validation slides tell how large errors are, but hardly which of two hundred genes go together.

    Args:
        draws: the generative method, as ``{use: …, params: {…}}``.
        regressions: the other methods, by any name; without one, the pattern of ``draws`` is scaled alone.
        shrinkage: the training slides' part of the correlations, from 0 to 1.
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
        regressions: Mapping[str, Mapping[str, Any]] | None = None,
        shrinkage: float = 0.5,
        deviations: Deviations = "draws",
        samples: int = 8,
        clip: bool = True,
    ):
        regressions = regressions or {}
        if "draws" in regressions:
            raise FlagError(
                "calibrated: a regression is called draws",
                remedy="give it another name; draws is the generative method",
            )
        # The weights are in this order, which must not be that of a file.
        self.plugins: dict[str, Mapping[str, Any]] = {
            "draws": draws,
            **{name: regressions[name] for name in sorted(regressions)},
        }
        self.parts: dict[str, Method] = {
            name: registry.build(plugin["use"], plugin.get("params"))
            for name, plugin in self.plugins.items()
        }
        if not self.parts["draws"].stochastic:
            raise FlagError(
                "calibrated: draws names a method that makes none",
                remedy="name a generative one, such as flag, stem or stflow",
            )
        if not 0 <= shrinkage <= 1 or samples < 2:
            raise FlagError(
                f"calibrated: shrinkage {shrinkage:g} and samples {samples}",
                remedy="give a shrinkage from 0 to 1, and two samples or more",
            )
        self.shrinkage, self.deviations = shrinkage, deviations
        self.samples, self.clip = samples, clip
        self.needs = frozenset().union(*(part.needs for part in self.parts.values()))

    def build(self, genes: int, features: int, targets: int = 0):
        from torch import nn

        built = [part.build(genes, features, targets) for part in self.parts.values()]
        return nn.ModuleList(net for net in built if net is not None)

    def fit(self, train: Cohort, valid: Cohort, run: Run) -> None:
        for name, part in self.parts.items():
            own = run.part(name, prefix="" if name == "draws" else f"{name}_")
            self.parts[name] = fit_part(part, self.plugins[name], train, valid, own)
        seen = [self._predicted(slide.without_truth(), self.samples, run.seed) for slide in valid]
        self.weights = stack([each for each, _ in seen], [slide.truth for slide in valid])  # (K,)
        errors = [s.truth - self._point(each) for s, (each, _) in zip(valid, seen, strict=True)]
        spread = np.concatenate([within(d) for _, deviations in seen for d in deviations])
        target = shrunk(
            covariance(np.concatenate([within(e) for e in errors])),
            covariance(np.concatenate([within(slide.truth) for slide in train])),
            self.shrinkage,
        )
        self.map = transport(covariance(spread), target)  # (G, G)
        self.drift = np.mean([np.mean(d, axis=(0, 1)) for _, d in seen], axis=0)  # (G,)

    def _predicted(
        self, slide: Slide, samples: int, seed: int
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Point estimates (K, N, G) of all methods and the S deviations (N, G) before they are mapped."""
        draws = Draws(seed, slide.id)
        drawn = self.parts["draws"].predict(slide, samples, draws)
        own = self._own_point(slide, drawn, seed)  # (N, G)
        others = [
            part.predict(slide, 1, draws).point
            for name, part in self.parts.items()
            if name != "draws"
        ]
        each = np.stack([own, *others], dtype=np.float64, casting="same_kind")  # (K, N, G)
        if self.deviations == "gaussian":
            return each, [draws.numpy(k).standard_normal(own.shape) for k in range(samples)]
        return each, [draw - own for draw in drawn.samples]

    def _own_point(self, slide: Slide, drawn: Prediction, seed: int) -> np.ndarray:
        """Point estimate (N, G) of the generative method. It must not depend on how many draws are asked for,
        and no draw may be part of it, or its deviation would be too small: a mean of draws is taken over others.
        """
        part = self.parts["draws"]
        if part.point_from_draws:
            others = Draws(entropy(seed, "point"), slide.id)
            drawn = part.predict(slide, self.samples, others)
        return drawn.point.astype(np.float64)

    def _point(self, each: np.ndarray) -> np.ndarray:
        """(K, N, G) → (N, G), by the weights."""
        total = self.weights.sum()
        share = self.weights / total if total else np.full(len(each), 1 / len(each))  # (K,)
        level = np.tensordot(share, each.mean(1), 1)  # (G,)
        patterns = each - each.mean(1, keepdims=True)  # (K, N, G)
        return level + np.tensordot(self.weights, patterns, 1)  # (N, G)

    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        each, deviations = self._predicted(slide, samples, draws.seed)
        point = self._point(each)
        made = np.empty((samples, *point.shape), np.float32)  # (S, N, G)
        for k, deviation in enumerate(deviations):
            made[k] = point + (deviation - self.drift) @ self.map  # the map is symmetric
        if self.clip:
            np.maximum(made, 0, out=made)
            point = np.maximum(point, 0)
        return Prediction(made, point)

    def arrays(self) -> dict[str, np.ndarray]:
        arrays = {"map": self.map, "drift": self.drift, "weights": self.weights}
        for name, part in self.parts.items():
            arrays |= nested(name, part.arrays())
        return arrays

    def restore(self, arrays: dict[str, np.ndarray], device: str) -> None:
        self.map, self.drift, self.weights = (arrays[key] for key in ("map", "drift", "weights"))
        for name, part in self.parts.items():
            part.restore(inside(name, arrays), device)


def stack(estimates: list[np.ndarray], truths: list[np.ndarray]) -> np.ndarray:
    """The weights (K,), zero or more, with which the patterns within slides are nearest to the truth.

    Args:
        estimates: per slide (K, N, G).
        truths: per slide (N, G).
    """
    from scipy.optimize import nnls

    size = len(estimates[0])
    gram, toward = np.zeros((size, size)), np.zeros(size)
    for each, truth in zip(estimates, truths, strict=True):
        patterns = (each - each.mean(1, keepdims=True)).reshape(size, -1)  # (K, N·G)
        gram += patterns @ patterns.T
        toward += patterns @ within(truth).ravel()
    if not gram.any():  # all estimates are flat
        return np.zeros(size)
    # |Pᵀw - t|² and |R w - R⁻¹ P t|² with R² = P Pᵀ differ by a constant.
    return nnls(_power(gram, 0.5), _power(gram, -0.5) @ toward)[0]


def within(values: np.ndarray) -> np.ndarray:
    """(N, G) minus the mean over the slide."""
    return values - values.mean(0)


def covariance(values: np.ndarray) -> np.ndarray:
    """(G, G) of centred rows (M, G), shrunk after Ledoit and Wolf (2004) since M may be small."""
    from sklearn.covariance import LedoitWolf

    return LedoitWolf(assume_centered=True).fit(values).covariance_


def shrunk(errors: np.ndarray, expression: np.ndarray, share: float) -> np.ndarray:
    """Covariance (G, G) with the variances of ``errors``; ``share`` of its correlations are those of ``expression``."""
    correlations = (1 - share) * _correlations(errors) + share * _correlations(expression)
    scale = np.sqrt(np.diag(errors))
    return correlations * np.outer(scale, scale)


def _correlations(matrix: np.ndarray) -> np.ndarray:
    """Of a covariance (G, G); a gene that does not vary goes with no other."""
    scale = np.sqrt(np.diag(matrix))
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    found = matrix * np.outer(inverse, inverse)
    np.fill_diagonal(found, 1)
    return found


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
