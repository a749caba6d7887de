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
    return float(np.median(to_nearest(position)))


def to_nearest(position: np.ndarray) -> np.ndarray:
    """(N,) distance from each of at least two spots (N, 2) to its nearest other spot."""
    return cKDTree(position).query(position, k=2)[0][:, 1]


def nearest(position: np.ndarray, k: int) -> np.ndarray:
    """(N, min(k, N − 1)) indices of the spots nearest to each spot, which is not among them.

    Spots at the same distance are ordered by index.
    """
    return _nearest(position, np.arange(len(position)), k)


def _nearest(position: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    """(R, min(k, N − 1)): ``nearest`` of the spots ``rows`` (R,) alone."""
    k, tree = min(k, len(position) - 1), cKDTree(position)
    found = np.empty((len(rows), k), dtype=np.int64)
    # A few candidates beyond k are asked for, so that spots of a square or hexagonal array that lie at
    # the same distance can be ordered by index. Where the farthest candidate is as near as the k-th
    # spot, there may be more of these, and twice as many candidates are asked for.
    candidates, open_ = k + 9, np.arange(len(rows) if k else 0)
    while len(open_):
        candidates = min(candidates, len(position))
        distance, index = tree.query(position[rows[open_]], k=candidates)
        distance, index = (v.reshape(len(open_), -1) for v in (np.round(distance, 6), index))
        # The spot itself is removed by its index, because a spot with the same coordinates is a
        # neighbour.
        others = np.where(index == rows[open_, None], np.inf, distance)
        order = np.lexsort((index, others), axis=1)[:, :k]
        found[open_] = np.take_along_axis(index, order, axis=1)
        last = np.take_along_axis(others, order[:, -1:], axis=1)  # (R, 1)
        more = (distance[:, -1:] <= last).ravel() & (candidates < len(position))
        open_, candidates = open_[more], 2 * candidates
    return found


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
    # It orders spots at the same distance in its own way. Where that repeats a spot, which takes many
    # at the same place, the ranks are those of ``nearest``.
    known = np.concatenate([np.arange(len(position))[:, None], close], axis=1)  # (N, 1 + near)
    repeats = (beyond[:, :, None] == known[:, None]).any((1, 2)).nonzero()[0]
    beyond[repeats] = _nearest(position, repeats, int(ranks[-1]))[:, ranks - 1]
    return np.concatenate([close, beyond], axis=1)


def grid_tiles(position: np.ndarray, edge_um: float) -> list[np.ndarray]:
    """Indices of the spots in each square of a fixed grid that starts at the image's corner.

    Args:
        position: (N, 2) in µm.
        edge_um: edge of a square in µm. Squares without spots are left out. A spot on a border
            belongs to the square that begins there.
    """
    # A whole number of edges in pixels is no whole number in µm. Nine decimals of an edge are far
    # below a pixel.
    cells = np.floor(np.round(position / edge_um, 9)).astype(np.int64)  # (N, 2)
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
