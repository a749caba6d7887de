"""The linear probe: standardised features, PCA, and ridge regression with an intercept.

The published HEST probe has no intercept and alpha = 100 / (components × G), which is numerically
least squares; here alpha is chosen on the validation slides, one for all genes.
"""

from typing import Literal

import numpy as np

from flag_st.core.seeds import Draws
from flag_st.data.slide import Cohort, Slide
from flag_st.data.spatial import nearest
from flag_st.methods.base import Method, Prediction, Run


class Ridge(Method):
    """Ridge regression on principal components of the standardised features.

    Args:
        components: how many principal components are kept (at most as many as the rank).
        alphas: penalties per training spot to choose from; null for a grid from 1e-4 to 1e3.
        neighbours: the mean features of so many nearest spots are appended; 0 for none.
        centre: ``training`` z-scores with training statistics, ``slide`` with each slide's own
            (which needs no label at test time, but loses the slide's level).
    """

    def __init__(
        self,
        components: int = 256,
        alphas: list[float] | None = None,
        neighbours: int = 0,
        centre: Literal["training", "slide"] = "training",
    ):
        self.components, self.neighbours, self.centre = components, neighbours, centre
        self.alphas = np.logspace(-4, 3, 15) if alphas is None else np.asarray(alphas, float)

    def fit(self, train: Cohort, valid: Cohort, run: Run) -> None:
        raw = np.concatenate([self._inputs(s) for s in train])  # (M, D)
        self.mean, self.scale = raw.mean(0), np.maximum(raw.std(0), 1e-6)
        x = self._standardise(raw)  # (M, D)
        _, values, basis = np.linalg.svd(x - x.mean(0), full_matrices=False)
        keep = min(self.components, int((values > values[0] * 1e-6).sum()))
        self.basis = basis[:keep].T  # (D, C)
        self._solve(x @ self.basis, self._targets(train), valid)

    def _targets(self, train: Cohort) -> np.ndarray:
        """(M, G) what the features are mapped to."""
        return train.expression.astype(np.float64)

    def _solve(self, z: np.ndarray, y: np.ndarray, valid: Cohort) -> None:
        """Keep the penalty with the lowest validation MSE; one eigendecomposition serves all."""
        self.centre_z, self.intercept = z.mean(0), y.mean(0)
        z, y = z - self.centre_z, y - self.intercept  # (M, C), (M, G)
        values, vectors = np.linalg.eigh(z.T @ z / len(z))  # (C,), (C, C)
        projected = vectors.T @ (z.T @ y / len(z))  # (C, G)
        best = np.inf
        for alpha in self.alphas:
            weights = vectors @ (projected / (values + alpha)[:, None])  # (C, G)
            error = np.mean([np.mean((self._apply(s, weights) - s.expression) ** 2) for s in valid])
            if error < best:
                best, self.alpha, self.weights = error, float(alpha), weights

    def _inputs(self, slide: Slide) -> np.ndarray:
        x = slide.features.astype(np.float64)  # (N, D)
        if self.centre == "slide":
            x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-6)  # (N, D)
        if self.neighbours:
            x = np.concatenate([x, x[nearest(slide.position, self.neighbours)].mean(1)], 1)
        return x  # (N, D) or (N, 2 D)

    def _standardise(self, raw: np.ndarray) -> np.ndarray:
        # Clipped, because one artefact (pen, fold) must not pull a linear model out of range.
        return np.clip((raw - self.mean) / self.scale, -6, 6)

    def _apply(self, slide: Slide, weights: np.ndarray) -> np.ndarray:
        z = self._standardise(self._inputs(slide)) @ self.basis - self.centre_z  # (N, C)
        return z @ weights + self.intercept  # (N, G)

    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        return Prediction(self._apply(slide, self.weights).astype(np.float32)[None])  # (1, N, G)

    def arrays(self) -> dict[str, np.ndarray]:
        names = ("mean", "scale", "basis", "centre_z", "intercept", "weights")
        return {name: getattr(self, name) for name in names} | {"alpha": np.array(self.alpha)}

    def restore(self, arrays: dict[str, np.ndarray], device: str) -> None:
        for name, value in arrays.items():
            setattr(self, name, value)
        self.alpha = float(self.alpha)
