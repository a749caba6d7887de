"""Smoothing of expression over spots that are near or alike (SPCS), as MERGE does to its labels."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import sparse

from flag_st.data.lattice import steps_apart
from flag_st.data.slide import Cohort
from flag_st.nets.cosine_neighbours import top_k

#: Components of expression in which spots are compared.
COMPONENTS = 10


@dataclass(frozen=True)
class Smoothing:
    """How much of a training label comes from other spots; the ``smooth`` argument of MERGE.

    Attributes:
        alpha: the share that other spots have in a label; 0 leaves labels as they are. MERGE: 0.6.
        beta: the share of near spots among these; the rest is that of spots alike.
        tau_s: how many steps of the array near spots are away at most.
        tau_p: how many spots alike there are.
    """

    alpha: float = 0.0
    beta: float = 0.4
    tau_s: int = 2
    tau_p: int = 16


def smoothed(cohort: Cohort, options: Smoothing) -> Cohort:
    """The slides with smoothed expression, each by itself."""
    if not options.alpha:
        return cohort
    slides = [replace(s, expression=smooth(s.position, s.truth, options)) for s in cohort]
    return Cohort(slides, cohort.genes)


def smooth(position: np.ndarray, x: np.ndarray, options: Smoothing) -> np.ndarray:
    """(1 − α) X + α (β S + (1 − β) P), with means S over near spots and P over spots alike.

    The genes are those of the panel in the panel's unit, and values keep their scale. (The authors take
    all genes that are common enough, as log2 counts per 10,000, and stretch each gene of each slide to
    the range of another smoothing.)

    Args:
        position: (N, 2) in any unit. x: (N, G).

    Returns:
        (N, G) float32. A spot without near spots, or without spots alike, has itself in their place.
    """
    near, alike = near_spots(position, options.tau_s) @ x, spots_alike(x, options.tau_p) @ x
    others = options.beta * near + (1 - options.beta) * alike  # (N, G)
    return ((1 - options.alpha) * x + options.alpha * others).astype(np.float32)  # (N, G)


def near_spots(position: np.ndarray, reach: int) -> sparse.csr_array:
    """(N, N) weights 1 / steps of the spots within ``reach`` steps; rows sum to one."""
    (row, column), steps = steps_apart(position, reach)
    return _rows_of_one(row, column, 1 / steps, len(position))


def spots_alike(x: np.ndarray, count: int) -> sparse.csr_array:
    """(N, N) weights of the ``count`` spots whose components correlate best; rows sum to one.

    A weight is exp(−4.5 d²) with d = 1 − Pearson's r, and 0 where r is negative. The correlation of
    components depends on their signs, which scikit-learn fixes by their largest loading.
    """
    from sklearn.decomposition import PCA

    n = len(x)
    size = min(COMPONENTS, *x.shape)
    y = PCA(size, svd_solver="full").fit_transform(x.astype(np.float64))  # (N, C)
    y = torch.as_tensor(y - y.mean(1, keepdims=True))  # (N, C), whose cosines are correlations
    r, column = (v.numpy() for v in top_k(y, y, count + 1))  # 2 × (N, ≤ count + 1)
    row = np.arange(n)[:, None].repeat(column.shape[1], 1)  # (N, ≤ count + 1)
    others = (column != row) & (r >= 0)
    others &= others.cumsum(1) <= count  # where equal spots left no place for the spot itself
    weight = np.exp(-4.5 * (1 - r) ** 2)
    return _rows_of_one(row[others], column[others], weight[others], n)


def _rows_of_one(
    row: np.ndarray, column: np.ndarray, weight: np.ndarray, n: int
) -> sparse.csr_array:
    """(N, N) weights whose rows sum to one; a row without weights has its own spot."""
    empty = np.setdiff1d(np.arange(n), row)
    row, column = np.concatenate([row, empty]), np.concatenate([column, empty])
    weight = np.concatenate([weight, np.ones(len(empty))])
    total = np.bincount(row, weight, minlength=n)  # (N,)
    return sparse.csr_array((weight / total[row], (row, column)), shape=(n, n))
