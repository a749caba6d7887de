"""A generative control: any method plus Gaussian noise of the size of its errors."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.core.fitted import inside, nested
from flag_st.core.seeds import Draws
from flag_st.data.slide import Cohort, Slide
from flag_st.methods.base import Method, Prediction, Run, fit_part

Covariance = Literal["diagonal", "genes"]


class PlusNoise(Method):
    """The point estimate of ``base`` plus noise with the covariance of its *validation* residuals.

    In metrics of single draws, what a diffusion model gains in structure over a regression has to
    exceed what noise of the right size gains.

    Args:
        base: the method, as ``{use: …, params: {…}}``.
        covariance: ``diagonal`` (independent per gene) or ``genes`` (Ledoit-Wolf G × G).
    """

    stochastic: bool = True
    point_from_draws: bool = False

    def __init__(self, base: Mapping[str, Any], covariance: Covariance = "genes"):
        if unknown := sorted(set(base) - {"use", "params"}) or "use" not in base:
            raise FlagError(f"noise: base {dict(base)} ({unknown})", choices=("use", "params"))
        self.base: Method = registry.build(base["use"], base.get("params"))
        self.plugin, self.covariance = base, covariance
        self.needs = self.base.needs

    def build(self, genes: int, features: int, targets: int = 0):
        return self.base.build(genes, features, targets)

    def fit(self, train: Cohort, valid: Cohort, run: Run) -> None:
        from sklearn.covariance import LedoitWolf

        self.base = fit_part(self.base, self.plugin, train, valid, run)
        residual = np.concatenate([self._mean(s, run.seed) - s.truth for s in valid])
        residual = residual - residual.mean(0)  # (M, G)
        if self.covariance == "diagonal":
            self.factor = np.diag(residual.std(0))  # (G, G)
        else:
            covariance = LedoitWolf(assume_centered=True).fit(residual).covariance_
            self.factor = np.linalg.cholesky(covariance)  # (G, G)

    def _mean(self, slide: Slide, seed: int) -> np.ndarray:
        """The point estimate of a slide, (N, G), made without its truth."""
        point = self.base.predict(slide.without_truth(), 1, Draws(seed, slide.id)).point
        return point.astype(np.float64)

    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        mean = self._mean(slide, draws.seed)  # (N, G)
        noise = [draws.numpy(k).standard_normal(mean.shape) @ self.factor.T for k in range(samples)]
        return Prediction((mean + np.stack(noise)).astype(np.float32), point=mean)  # (S, N, G)

    def arrays(self) -> dict[str, np.ndarray]:
        return {**nested("base", self.base.arrays()), "factor": self.factor}

    def restore(self, arrays: dict[str, np.ndarray], device: str) -> None:
        self.base.restore(inside("base", arrays), device)
        self.factor = arrays["factor"]
