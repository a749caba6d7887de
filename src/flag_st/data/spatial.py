"""Geometry of spots from their positions alone: pitch, neighbours and the tiles of a slide."""

import numpy as np
from scipy.spatial import cKDTree

#: The rank by distance of the farthest spot that ``around`` returns.
FARTHEST = 255


def pitch(position: np.ndarray) -> float:
    """Median distance from a spot to its nearest other spot, in the unit of ``position`` (N, 2).

    A single spot has no pitch; 1.0 is returned for it.
    """
    if len(position) < 2:
        return 1.0
    return float(np.median(cKDTree(position).query(position, k=2)[0][:, 1]))


def nearest(position: np.ndarray, k: int) -> np.ndarray:
    """(N, min(k, N − 1)) indices of the spots nearest to each spot, which is not among them.

    Spots at the same distance are ordered by index.
    """
    k = min(k, len(position) - 1)
    # The spot itself is removed by its index, because a spot with the same coordinates is a
    # neighbour. A few candidates beyond k are asked for so that spots of a square or hexagonal
    # array that lie at the same distance can be ordered by index.
    candidates = min(k + 9, len(position))
    distance, index = cKDTree(position).query(position, k=candidates)
    distance, index = distance.reshape(len(position), -1), index.reshape(len(position), -1)
    own = index == np.arange(len(position))[:, None]
    distance = np.where(own, np.inf, distance)
    order = np.lexsort((index, np.round(distance, 6)), axis=1)[:, :k]
    return np.take_along_axis(index, order, axis=1)


def around(position: np.ndarray, near: int, far: int, workers: int = 1) -> np.ndarray:
    """(N, ≤ near + far) indices of the spots nearest to each spot, then of spots farther away.

    The ranks by distance of the farther spots grow geometrically from ``near`` to ``FARTHEST``, so
    that a few spots represent both the neighbourhood and its surroundings.

    Args:
        position: (N, 2) in any unit.
        near: how many nearest spots to return.
        far: how many farther spots to return; fewer where the slide is too small.
        workers: threads of the search, which do not change its result.
    """
    close = nearest(position, near)  # (N, near)
    ranks = np.unique(np.geomspace(near + 1, FARTHEST, far + 1)[1:].round().astype(int))
    ranks = ranks[(ranks > near) & (ranks < len(position))] if far else ranks[:0]
    if not len(ranks):
        return close
    # The tree returns these ranks alone, since returning all nearer spots as well would take most
    # of the time of building a graph. It counts the spot itself as rank 1.
    _, beyond = cKDTree(position).query(position, k=(ranks + 1).tolist(), workers=workers)
    return np.concatenate([close, beyond], axis=1)


def grid_tiles(position: np.ndarray, edge_um: float) -> list[np.ndarray]:
    """Indices of the spots in each square of a fixed grid that starts at the image's corner.

    Args:
        position: (N, 2) in µm.
        edge_um: edge of a square in µm. Squares without spots are left out.
    """
    cells = np.floor(position / edge_um).astype(np.int64)  # (N, 2)
    _, member = np.unique(cells, axis=0, return_inverse=True)
    order = np.argsort(member.ravel(), kind="stable")
    return np.split(order, np.cumsum(np.bincount(member.ravel()))[:-1])


def compact_tiles(position: np.ndarray, spots: int) -> list[np.ndarray]:
    """Cut a slide across its longer side until no tile has more than ``spots`` spots.

    Args:
        position: (N, 2) in any unit.

    Returns:
        The indices of each tile's spots; the sizes differ by no more than rounding.
    """

    def cut(index: np.ndarray, tiles: int) -> list[np.ndarray]:
        if tiles == 1:
            return [index]
        axis = np.ptp(position[index], axis=0).argmax()
        order = index[np.argsort(position[index, axis], kind="stable")]
        left = tiles // 2
        at = len(order) * left // tiles
        return cut(order[:at], left) + cut(order[at:], tiles - left)

    return cut(np.arange(len(position)), -(-len(position) // spots))
