"""Mean and covariance of genes over sections that each know some of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flag_st.core.errors import FlagError

#: Share by which the covariances of two genes are shrunk towards zero before they are inverted.
SHRINKAGE = 0.05


@dataclass(frozen=True)
class Moments:
    """mean (G,) and covariance (G, G), which has no negative eigenvalue."""

    mean: np.ndarray
    covariance: np.ndarray

    def conditional(self, values: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        """What a normal distribution with these moments expects of hidden values.

        Args:
            values: (N, G), of which the hidden ones are not looked at.
            hidden: (N, G) bool.

        Returns:
            (N, G) float64: the values, and in place of hidden ones their conditional means.
        """
        spread = (1 - SHRINKAGE) * self.covariance  # (G, G)
        spread[np.diag_indices_from(spread)] = np.diag(self.covariance) + 1e-6
        out = np.where(hidden, self.mean, values).astype(np.float64)  # (N, G)
        for row, hide in zip(out, hidden, strict=True):
            if not hide.all():
                known = spread[np.ix_(~hide, ~hide)]
                weights = np.linalg.solve(known, row[~hide] - self.mean[~hide])
                row[hide] += spread[np.ix_(hide, ~hide)] @ weights
        return out  # (N, G)


def moments(values: Sequence[np.ndarray], known: Sequence[np.ndarray]) -> Moments:
    """Moments over all spots; each pair of genes over the spots of the sections that know both.

    Args:
        values: (N, G) per section, 0 where unknown.
        known: (G,) bool per section.

    Raises:
        FlagError: no section knows some gene.
    """
    size = values[0].shape[1]
    pairs, sums, cross = np.zeros((3, size, size))
    for x, there in zip(values, known, strict=True):
        x, k = np.asarray(x, dtype=np.float64), there.astype(np.float64)
        pairs += len(x) * np.outer(k, k)
        sums += np.outer(x.sum(0), k)  # of the row's gene, where the column's is known
        cross += x.T @ x
    if not np.diag(pairs).all():
        raise FlagError(f"{int((np.diag(pairs) == 0).sum())} genes are in no section of the corpus")
    pairs = np.maximum(pairs, 1)
    covariance = cross / pairs - sums * sums.T / pairs**2  # (G, G)
    weights, vectors = np.linalg.eigh(covariance)
    covariance = vectors * np.maximum(weights, 0) @ vectors.T  # pairs alone may give negative ones
    return Moments(np.diag(sums) / np.diag(pairs), covariance)
