"""The graph of MERGE: near spots, clusters as stars around their centres, and the centres all joined."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from flag_st.data.spatial import nearest


@dataclass(frozen=True)
class Hierarchy:
    """Which spots are joined; the ``graph`` argument of MERGE.

    Attributes:
        neighbours: how many nearest spots each spot is joined to.
        space: clusters of spots by their positions; 0 for none.
        features: clusters of spots by their features; 0 for none.
    """

    neighbours: int = 8
    space: int = 5
    features: int = 5


def hierarchy(
    position: np.ndarray, z: np.ndarray, options: Hierarchy, as_released: bool = False
) -> Tensor:
    """Edges in both directions, and of every spot with itself, possibly repeated.

    The graph depends on where spots are and on their features, not on the order that they come in.

    Args:
        position: (N, 2) in any unit. z: (N, d) features.
        as_released: neighbours are found by x alone, and spots are joined as if they were the centres
            whose numbers, counted within their cluster, are theirs.

    Returns:
        (2, E) indices.
    """
    order = np.lexsort(position.T)
    p, z = position[order], z[order]  # (N, 2), (N, d)
    seen = np.stack([p[:, 0]] * 2, 1) if as_released else p  # (N, 2)
    near = nearest(seen, options.neighbours)  # (N, k)
    own = np.arange(len(p))
    parts = [np.stack([np.repeat(own, near.shape[1]), near.ravel()])]
    centres: list[int] = []
    for x, clusters in ((p, options.space), (z, options.features)):
        members = _clusters(x, clusters) if clusters else []
        places = [int(np.linalg.norm(z[m] - z[m].mean(0), axis=1).argmin()) for m in members]
        true = [int(m[k]) for m, k in zip(members, places, strict=True)]
        parts += [_star(m, c) for m, c in zip(members, true, strict=True)]
        if as_released:
            parts.append(_clique(centres + places))
        centres += true
    if not as_released:
        parts.append(_clique(centres))
    pairs = np.concatenate(parts, axis=1)
    both = np.concatenate([pairs, pairs[::-1], [own, own]], axis=1)
    return torch.as_tensor(order[both])  # (2, E)


def _clusters(x: np.ndarray, clusters: int) -> list[np.ndarray]:
    """Members of each cluster of the rows of ``x``; always the same for the same rows."""
    from sklearn.cluster import KMeans

    clusters = min(clusters, len(np.unique(x, axis=0)))
    label = KMeans(clusters, n_init=10, max_iter=1000, random_state=0).fit_predict(x)  # (N,)
    return [np.flatnonzero(label == k) for k in range(clusters)]


def _star(members: np.ndarray, centre: int) -> np.ndarray:
    others = members[members != centre]
    return np.stack([others, np.full_like(others, centre)])  # (2, n - 1)


def _clique(spots: list[int]) -> np.ndarray:
    """(2, P) every pair of different spots once."""
    found = np.unique(np.array(spots, dtype=np.int64))
    first, second = np.triu_indices(len(found), 1)
    return np.stack([found[first], found[second]])
