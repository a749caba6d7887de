"""Spatial structural correlation (FLAG Eqs. 20-22)."""

from typing import ClassVar

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from flag_st.metrics import policy
from flag_st.metrics.base import Case, Metric
from flag_st.metrics.policy import Centred

#: Distances within this share of each other count as equal, so that rounding chooses no neighbours.
SAME = 1e-9
#: With ``ties``, spots that are farther than the k-th by this share are neighbours too.
TIED = 1e-3


def neighbour_graph(position: np.ndarray, k: int = 8, ties: bool = False) -> csr_array:
    """Binary symmetric graph that links i and j if either is among the k nearest of the other.

    Args:
        position: (N, 2); spots at the same place are neighbours.
        k: how many neighbours a spot has; at most N - 1.
        ties: include every spot as near as the k-th, which suits lattices; otherwise spots at
            equal distance are included in the order of their index.

    Returns:
        (N, N) float64 with zero diagonal.
    """
    n = len(position)
    tree = cKDTree(position)
    reach = tree.query(position, k=[min(k, n - 1) + 1])[0][:, 0]  # k-th neighbour, self aside
    near = tree.query_ball_point(position, reach * (1 + (TIED if ties else SAME)))
    rows = np.repeat(np.arange(n), [len(found) for found in near])
    columns = np.concatenate([np.asarray(found, dtype=np.int64) for found in near])
    rows, columns = rows[rows != columns], columns[rows != columns]
    if not ties:
        distance = np.linalg.norm(position[rows] - position[columns], axis=1)
        relative = np.round(distance / np.where(reach > 0, reach, 1.0)[rows] / SAME)
        order = np.lexsort((columns, relative, rows))
        rows, columns = rows[order], columns[order]
        rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
        rows, columns = rows[rank < k], columns[rank < k]
    directed = csr_array((np.ones(len(rows)), (rows, columns)), shape=(n, n))
    return directed.maximum(directed.T).tocsr()


def morans_i(values: Centred, graph: csr_array, genes: np.ndarray | None = None) -> np.ndarray:
    """(G,) Moran's I of each column with binary weights, and -1/(N-1) for constant columns.

    I = N / Σ w · z'Wz / z'z, where z is the column minus its mean. It is computed only for
    ``genes`` (G,); the others are NaN.
    """
    n, total = len(values.values), graph.sum()
    genes = np.ones(len(values.sd), dtype=bool) if genes is None else genes
    result = np.full(len(values.sd), np.nan)
    result[genes] = -1 / (n - 1)
    genes = genes & values.varies
    z = np.ascontiguousarray(values.values[:, genes])  # (N, K)
    lagged = np.einsum("ng,ng->g", z, graph @ z)
    result[genes] = n / total * lagged / np.einsum("ng,ng->g", z, z)
    return result


class Ssc(Metric):
    """Pearson correlation over genes between Moran's I of the truth and of the prediction.

    For smooth predictions, I is too high for all genes, which a correlation does not show.
    Therefore the bias and the mean absolute error of I are reported as well.
    """

    columns: ClassVar = {
        "ssc": ("SSC", 1),
        "ssc_spearman": ("SSC (Spearman)", 1),
        "moran_bias": ("bias of Moran's I", 0),
        "moran_mae": ("MAE of Moran's I", -1),
        "moran_truth": ("Moran's I of truth", 0),
        "moran_prediction": ("Moran's I of prediction", 0),
    }
    pooled = False

    def __init__(self, k: int = 8, ties: bool = False):
        self.k, self.ties = k, ties

    def __call__(self, case: Case) -> dict[str, float | np.ndarray]:
        genes = policy.usable(case)
        prediction = policy.prediction_of(case)
        undefined = dict.fromkeys(self.columns, float("nan"))
        if len(case.truth) < policy.MIN_SPOTS_STRUCTURE:
            nothing = np.full(len(case.genes), np.nan)
            return {**undefined, "moran_truth": nothing, "moran_prediction": nothing}
        graph = graph_of(case, self.k, self.ties)
        y = policy.of_truth(
            case,
            ("moran", self.k, self.ties),
            lambda: morans_i(policy.truth_of(case), graph, genes),
        )
        p = morans_i(prediction, graph, genes)
        by_gene = {"moran_truth": y, "moran_prediction": p}
        if not policy.structure_defined(case):
            return {**undefined, **by_gene}
        return {
            "ssc": policy.pearson(y[genes], p[genes]),
            "ssc_spearman": policy.spearman(y[genes], p[genes]),
            "moran_bias": float((p - y)[genes].mean()),
            "moran_mae": float(np.abs(p - y)[genes].mean()),
            **by_gene,
        }


def graph_of(case: Case, k: int, ties: bool) -> csr_array:
    """The neighbour graph of the case, built once for all predictions of a slide."""
    return policy.of_truth(
        case, ("graph", k, ties), lambda: neighbour_graph(policy.position_of(case), k, ties)
    )
