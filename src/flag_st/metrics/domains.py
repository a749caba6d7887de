"""Spatial domains: do clusters of the prediction agree with a reference (FLAG Tables 3 and 15)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from flag_st.metrics import policy
from flag_st.metrics.base import Case, Metric

if TYPE_CHECKING:
    from anndata import AnnData

#: The range of resolutions searched for the reference's number of clusters, and steps of the search.
RESOLUTIONS, STEPS = (0.01, 10.0), 12
REFERENCES = ("clusters", "labels")
MATCHES = ("", "_matched")


def neighbour_graph(values: np.ndarray, components: int = 20, neighbours: int = 15) -> "AnnData":
    """Spots with scanpy's graph of neighbours in the space of principal components.

    Args:
        values: (N, G) expression, which is not scaled.
        components: at most; fewer spots or genes have fewer.
        neighbours: of each spot, itself included, as scanpy counts them.
    """
    import anndata
    import scanpy as sc

    spots = anndata.AnnData(np.asarray(values, dtype=np.float64))
    components = min(components, *(side - 1 for side in values.shape))
    sc.pp.pca(spots, components, svd_solver="covariance_eigh")
    # Exact neighbours, since the approximate ones that scanpy takes for large slides depend on threads.
    sc.pp.neighbors(spots, neighbours, use_rep="X_pca", transformer="sklearn")
    return spots


def leiden(spots: "AnnData", resolution: float, seed: int) -> np.ndarray:
    """(N,) cluster numbers by Leiden on the graph of ``neighbour_graph``, as scanpy advises it."""
    import scanpy as sc

    sc.tl.leiden(
        spots, resolution, random_state=seed, flavor="igraph", n_iterations=2, directed=False
    )
    return spots.obs["leiden"].to_numpy().astype(np.int64)


def resolution_for(spots: "AnnData", count: int) -> float:
    """The resolution, by bisection, whose number of clusters is nearest to ``count``."""
    low, high = RESOLUTIONS
    best, distance = low, np.inf
    for _ in range(STEPS):
        middle = float(np.sqrt(low * high))
        found = leiden(spots, middle, seed=0).max() + 1
        if abs(found - count) < distance:
            best, distance = middle, abs(found - count)
        if found == count:
            break
        low, high = (middle, high) if found < count else (low, middle)
    return best


def leiden_domains(values: np.ndarray, resolution: float = 0.3, seed: int = 0) -> np.ndarray:
    """(N,) Leiden clusters of expression (N, G), with FLAG's settings."""
    return leiden(neighbour_graph(values), resolution, seed)


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
    downstream = True

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

    def _graph(self, values: np.ndarray) -> "AnnData":
        return neighbour_graph(values, self.components, self.neighbours)

    def _clusters(
        self, graph: "AnnData | None", spots: int = 0, resolution: float | None = None
    ) -> list[np.ndarray]:
        if graph is None:
            return [np.zeros(spots, dtype=int)] * self.seeds
        chosen = self.resolution if resolution is None else resolution
        return [leiden(graph, chosen, seed) for seed in range(self.seeds)]

    def _agreement(
        self,
        name: str,
        graph: "AnnData | None",
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
            matched = self._clusters(graph, resolution=resolution_for(graph, count))
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
