"""Multivariate scores of the draws: energy score and variogram scores."""

from typing import ClassVar

import numpy as np
from scipy.sparse import triu

from flag_st.core.seeds import numpy_generator
from flag_st.metrics import policy
from flag_st.metrics.base import Case, Metric
from flag_st.metrics.ssc import graph_of


class Energy(Metric):
    """Energy score over the genes of a spot and variogram scores over pairs.

    The energy score is in its fair form, with genes in units of their training sd (undefined if that
    is unknown). It says little about dependence, but the variogram score of order 1/2 does: the
    squared difference between |y_a - y_b|^½ and its mean over draws, averaged over pairs of genes in
    a spot or over pairs of neighbouring spots in a gene (Scheuerer and Hamill 2015).

    Args:
        pairs, links: largest numbers of gene pairs and of neighbour pairs. If there are more, a
            fixed random subset is taken, the same for all methods.
        k: neighbours of a spot.
    """

    columns: ClassVar = {
        "energy": ("energy score", -1),
        "variogram_genes": ("variogram score, genes", -1),
        "variogram_spots": ("variogram score, neighbours", -1),
    }
    ensemble, pooled = True, False

    def __init__(self, pairs: int = 2000, links: int = 20000, k: int = 8):
        self.pairs, self.links, self.k = pairs, links, k

    def __call__(self, case: Case) -> dict[str, float | np.ndarray]:
        truth, _ = policy.checked(case)
        draws = policy.draws_of(case)
        result: dict[str, float | np.ndarray] = dict.fromkeys(self.columns, float("nan"))
        variance = case.cache.get("train_variance")
        if variance is not None:
            result["energy"] = energy_score(truth, draws, np.sqrt(np.asarray(variance)))
        if len(case.genes) > 1:
            a, b = _subset(np.triu_indices(len(case.genes), 1), self.pairs, "gene pairs")
            result["variogram_genes"] = variogram_score(truth.T, draws.transpose(0, 2, 1), a, b)
        if len(truth) > 1:
            linked = triu(graph_of(case, self.k, ties=False)).nonzero()
            a, b = _subset(linked, self.links, "neighbour pairs", case.cache.get("slide", ""))
            result["variogram_spots"] = variogram_score(truth, draws, a, b)
        return result


def energy_score(truth: np.ndarray, draws: np.ndarray, scale: np.ndarray) -> float:
    """Mean over spots of the fair energy score: E|x - y| - E|x - x'|/2 over different draws.

    Args:
        truth: (N, G); ``draws`` (S, N, G); ``scale`` (G,), genes with scale 0 are left out.
    """
    genes = scale > 0
    y = truth[:, genes] / scale[genes]
    x = [draw[:, genes] / scale[genes] for draw in draws]  # S arrays (N, G)
    score = np.mean([np.linalg.norm(one - y, axis=1).mean() for one in x])
    between = [np.linalg.norm(x[i] - x[j], axis=1).mean() for i in range(len(x)) for j in range(i)]
    return float(score - (np.mean(between) / 2 if between else 0))


def variogram_score(truth: np.ndarray, draws: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Mean over columns and pairs (a, b) of rows of (|y_a - y_b|^½ - E|x_a - x_b|^½)².

    Args:
        truth: (R, C); ``draws`` (S, R, C).
    """
    total = 0.0
    for block in np.array_split(np.arange(len(a)), max(len(a) // 1000, 1)):
        i, j = a[block], b[block]
        expected = sum(np.sqrt(np.abs(x[i] - x[j])) for x in draws) / len(draws)
        total += ((np.sqrt(np.abs(truth[i] - truth[j])) - expected) ** 2).sum()
    return float(total / (len(a) * truth.shape[1]))


def _subset(pairs: tuple, most: int, *names: str) -> tuple[np.ndarray, np.ndarray]:
    a, b = pairs
    if len(a) > most:
        chosen = np.sort(numpy_generator(*names).choice(len(a), most, replace=False))
        a, b = a[chosen], b[chosen]
    return a, b
