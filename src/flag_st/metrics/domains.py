"""Spatial domains: do clusters of the prediction agree with a reference (FLAG Tables 3 and 15)."""

import random
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from flag_st.metrics import policy
from flag_st.metrics.base import Case, Metric

#: The range of resolutions searched for the reference's number of clusters, and steps of the search.
RESOLUTIONS, STEPS = (0.01, 10.0), 12
#: Iterations of Leiden, as scanpy advises with igraph.
ITERATIONS = 2
REFERENCES = ("clusters", "labels")
MATCHES = ("", "_matched")


class Graph:
    """Neighbour graph of spots in the space of principal components, to be clustered by Leiden.

    Args:
        values: (N, G); components and neighbours as in scanpy's ``pca`` and ``neighbors``.
    """

    def __init__(self, values: np.ndarray, components: int, neighbours: int):
        import igraph
        from scipy.sparse import triu
        from sklearn.decomposition import PCA
        from sklearn.neighbors import NearestNeighbors

        components = min(components, *(side - 1 for side in values.shape))
        pca = PCA(components, svd_solver="covariance_eigh", random_state=0)
        x = pca.fit_transform(np.asarray(values, dtype=np.float64)).astype(np.float32)  # (N, C)
        if neighbours > len(x):
            neighbours = 1 + len(x) // 2
        # Exact neighbours: the approximate ones of large slides depend on threads.
        search = NearestNeighbors(algorithm="brute").fit(x)
        # One more than is kept, as in scanpy: it decides among equally near spots.
        found = search.kneighbors(x, min(neighbours, len(x) - 1) + 1)
        upper = triu(fuzzy_union(*(part[:, :neighbours] for part in found))).tocoo()
        self.weights = upper.data.astype(np.float64).tolist()
        edges = np.stack([upper.row, upper.col], axis=1)
        self.igraph = igraph.Graph(n=len(values), edges=edges, directed=False)

    def leiden(self, resolution: float, seed: int) -> np.ndarray:
        """(N,) cluster numbers: modularity with ``resolution``, two iterations."""
        import igraph

        igraph.set_random_number_generator(random.Random(seed))
        try:
            found = self.igraph.community_leiden(
                objective_function="modularity",
                weights=self.weights,
                resolution=resolution,
                n_iterations=ITERATIONS,
            )
        finally:
            igraph.set_random_number_generator(random)
        return np.asarray(found.membership)

    def resolution_for(self, count: int) -> float:
        """The resolution, by bisection, whose number of clusters is nearest to ``count``."""
        low, high = RESOLUTIONS
        best, distance = low, np.inf
        for _ in range(STEPS):
            middle = float(np.sqrt(low * high))
            found = self.leiden(middle, seed=0).max() + 1
            if abs(found - count) < distance:
                best, distance = middle, abs(found - count)
            if found == count:
                break
            low, high = (middle, high) if found < count else (low, middle)
        return best


def fuzzy_union(distances: np.ndarray, indices: np.ndarray):
    """Weights of scanpy's neighbour graph: UMAP's fuzzy union (McInnes et al. 2018, algorithms 2, 3).

    umap-learn computes the same but compiles for half a minute at each start, and every run has its
    own evaluation job.

    Args:
        distances, indices: (N, K) of the nearest spots in ascending order, the spot itself first.

    Returns:
        Symmetric sparse matrix (N, N).
    """
    from scipy.sparse import coo_matrix

    n, k = distances.shape
    itself = indices == np.arange(n)[:, None]
    distances = np.where(itself, 0, distances).astype(np.float32)  # exactly 0
    nearest = np.where(distances > 0, distances, np.inf).min(1)  # (N,)
    nearest = np.where(np.isfinite(nearest), nearest, 0)[:, None]  # (N, 1)
    beyond = np.maximum(distances - nearest, 0)  # (N, K)
    # By bisection, the bandwidth at which the neighbours' memberships add up to log2 K.
    low, high = np.zeros((n, 1), np.float32), np.full((n, 1), np.inf, np.float32)
    width = np.ones((n, 1), np.float32)
    for _ in range(64):
        total = np.exp(-beyond[:, 1:] / width).sum(1, keepdims=True)  # (N, 1)
        open_ = np.abs(total - np.log2(k)) >= 1e-5
        high = np.where(open_ & (total > np.log2(k)), width, high)
        low = np.where(open_ & (total <= np.log2(k)), width, low)
        middle = np.where(np.isinf(high), 2 * width, (low + high) / 2)
        width = np.where(open_, middle, width)
    scale = np.where(nearest > 0, distances.mean(1, keepdims=True), distances.mean())
    width = np.maximum(width, 1e-3 * scale)
    member = np.exp(-beyond / width)  # (N, K)
    rows = np.repeat(np.arange(n), k)
    member[itself] = 0  # no spot is its own neighbour
    directed = coo_matrix((member.ravel(), (rows, indices.ravel())), shape=(n, n)).tocsr()
    union = directed + directed.T - directed.multiply(directed.T)
    union.eliminate_zeros()
    return union


def leiden_domains(values: np.ndarray, resolution: float = 0.3, seed: int = 0) -> np.ndarray:
    """(N,) Leiden clusters of expression (N, G), with FLAG's settings."""
    return Graph(values, components=20, neighbours=15).leiden(resolution, seed)


class Domains(Metric):
    """ARI and NMI of Leiden clusters of the prediction, mean and sd over seeds.

    The clusters are compared with two references: ``clusters`` are those of the truth with the same
    seed and resolution, and ``labels`` are expert domains (``domains`` in the cache; unlabelled spots
    are clustered but not compared). Values named ``matched`` use the resolution that gives as many
    clusters as the reference has, since a fixed one gives another number for every method.

    Args:
        components, neighbours, resolution: of PCA, neighbour graph and Leiden (FLAG: 20, scanpy's
            default of 15, 0.3); expression is not scaled.
        seeds: number of Leiden runs.
    """

    columns: ClassVar = {
        f"{score}_{reference}{match}{sd}": (
            f"{score.upper()}, {reference}{match.replace('_', ', ')}{' (sd)' * bool(sd)}",
            0 if sd else 1,
        )
        for score in ("ari", "nmi")
        for reference in REFERENCES
        for match in MATCHES
        for sd in ("", "_sd")
    } | {"n_clusters": ("clusters", 0), "n_clusters_truth": ("clusters of truth", 0)}
    pooled = False
    every_draw = False

    def __init__(
        self,
        components: int = 20,
        neighbours: int = 15,
        resolution: float = 0.3,
        seeds: int = 10,
    ):
        self.components, self.neighbours = components, neighbours
        self.resolution, self.seeds = resolution, seeds

    def __call__(self, case: Case) -> dict[str, float | np.ndarray]:
        truth, _ = policy.checked(case)
        prediction = policy.prediction_of(case)
        result: dict[str, float | np.ndarray] = dict.fromkeys(self.columns, float("nan"))
        genes = policy.usable(case)
        if not policy.structure_defined(case):
            return result
        reference = policy.of_truth(
            case, "leiden", lambda: self._clusters(self._graph(truth[:, genes]))
        )
        # Numerical noise must not be clustered: constant genes are left out, and with no gene
        # left all spots are one cluster.
        varying = genes & prediction.varies
        graph = self._graph(case.prediction[:, varying]) if varying.sum() > 1 else None
        found = self._clusters(graph, len(truth))
        result["n_clusters"] = float(np.mean([c.max() + 1 for c in found]))
        result["n_clusters_truth"] = float(np.mean([c.max() + 1 for c in reference]))
        everyone = np.ones(len(truth), dtype=bool)
        result |= self._agreement("clusters", graph, found, reference, everyone)
        if case.cache.get("domains") is not None:
            labels = np.asarray(case.cache["domains"]).astype(str)
            codes = [np.unique(labels, return_inverse=True)[1]] * self.seeds
            result |= self._agreement("labels", graph, found, codes, labels != "")
        return result

    def _graph(self, values: np.ndarray) -> Graph:
        return Graph(values, self.components, self.neighbours)

    def _clusters(self, graph: Graph | None, spots: int = 0, resolution: float | None = None):
        if graph is None:
            return [np.zeros(spots, dtype=int)] * self.seeds
        chosen = self.resolution if resolution is None else resolution
        return [graph.leiden(chosen, seed) for seed in range(self.seeds)]

    def _agreement(
        self,
        name: str,
        graph: Graph | None,
        found: Sequence[np.ndarray],
        reference: Sequence[np.ndarray],
        compared: np.ndarray,
    ) -> dict[str, float]:
        from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

        count = len(np.unique(reference[0][compared]))
        if count < 2:
            return {}
        matched = found
        if graph is not None:
            matched = self._clusters(graph, resolution=graph.resolution_for(count))
        result = {}
        for match, clusters in zip(MATCHES, (found, matched), strict=True):
            for score, function in (
                ("ari", adjusted_rand_score),
                ("nmi", normalized_mutual_info_score),
            ):
                pairs = zip(reference, clusters, strict=True)
                values = [function(r[compared], c[compared]) for r, c in pairs]
                result[f"{score}_{name}{match}"] = float(np.mean(values))
                result[f"{score}_{name}{match}_sd"] = float(np.std(values, ddof=1))
        return result
