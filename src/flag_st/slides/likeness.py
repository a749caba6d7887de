"""How far spots are from those of the training slides, in units that held-out slides give a meaning."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from flag_st.core.fitted import require

#: Most directions in which the covariance is kept; what lies beyond them has one variance.
DIRECTIONS = 64
#: Training spots per direction, so that no direction belongs to a few spots.
SPOTS_A_DIRECTION = 10
#: A column that varies less than this on the training spots is not divided by its deviation.
CONSTANT = 1e-6
#: Spots that are compared at a time, because double precision takes several copies of the features.
BLOCK = 4096
NAMES = ("mean", "scale", "basis", "variance", "rest", "quantiles")


@dataclass(frozen=True)
class Likeness:
    """A Gaussian of the training spots, and the distances that spots of held-out slides have from it.

    It keeps moments alone: no spot can be read from it.

    Attributes:
        mean, scale: (D,) of each column.
        basis: (r, D) orthonormal directions of most variance of the standardised columns.
        variance: (r,) along them; rest: (1,) along each of the others.
        quantiles: (101,) of the distances of held-out spots, from the 0th to the 100th percentile.
    """

    mean: np.ndarray
    scale: np.ndarray
    basis: np.ndarray
    variance: np.ndarray
    rest: np.ndarray
    quantiles: np.ndarray

    @classmethod
    def fit(cls, train: np.ndarray, held_out: np.ndarray) -> "Likeness":
        """From (M, D) training spots and (V, D) spots of slides that nothing was fitted to."""
        x = np.asarray(train, dtype=np.float64)  # (M, D)
        deviation = x.std(0)
        scale = np.where(deviation > CONSTANT, deviation, 1.0)  # (D,)
        z = (x - x.mean(0)) / scale  # (M, D)
        rank = max(1, min(DIRECTIONS, len(x) // SPOTS_A_DIRECTION, x.shape[1]))
        values, vectors = np.linalg.eigh(z.T @ z / len(x))  # (D,), (D, D), rising
        basis, variance = vectors[:, ::-1][:, :rank].T, values[::-1][:rank]
        beyond = max(x.shape[1] - rank, 1)
        rest = max(float(values[::-1][rank:].sum()) / beyond, CONSTANT)
        # Without a sign, equal inputs could give either of two bases.
        basis = basis * np.where(basis[np.arange(rank), abs(basis).argmax(1)] < 0, -1, 1)[:, None]
        made = (x.mean(0), scale, basis, np.maximum(variance, CONSTANT), np.array([rest]))
        distance = cls(*made, np.zeros(101)).distance(held_out)
        return cls(*made, np.percentile(distance, np.arange(101)))

    def distance(self, spots: np.ndarray) -> np.ndarray:
        """(N,) Mahalanobis distances of (N, D) spots, divided by √D: about 1 for a training spot."""
        blocks = (spots[i : i + BLOCK] for i in range(0, max(1, len(spots)), BLOCK))
        return np.concatenate([self._distance(block) for block in blocks])

    def _distance(self, spots: np.ndarray) -> np.ndarray:
        z = (np.asarray(spots, dtype=np.float64) - self.mean) / self.scale  # (N, D)
        along = z @ self.basis.T  # (N, r)
        beyond = np.maximum((z**2).sum(1) - (along**2).sum(1), 0)  # (N,)
        square = (along**2 / self.variance).sum(1) + beyond / self.rest  # (N,)
        return np.sqrt(square / z.shape[1])

    @property
    def limit(self) -> float:
        """The distance that one held-out spot in a hundred exceeds."""
        return float(self.quantiles[99])

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in NAMES}

    @classmethod
    def restore(cls, arrays: Mapping[str, np.ndarray]) -> "Likeness":
        """The inverse of ``arrays``.

        Raises:
            FlagError: an array is missing.
        """
        require(arrays, NAMES, "likeness")
        return cls(*(arrays[name] for name in NAMES))
