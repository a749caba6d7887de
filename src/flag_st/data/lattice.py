"""The cell of each spot in its printed array, found from the positions alone."""

import numpy as np
from scipy.spatial import cKDTree

from flag_st.data.spatial import pitch


def lattice(position: np.ndarray) -> np.ndarray:
    """Integer coordinates of every spot in the two shortest directions of the array.

    Spots of a square array get their row and column. Spots of a hexagonal array (Visium) get axial
    coordinates, in which the six neighbours of a spot are among the eight cells around it. The
    first axis is the one closest to x. A least-squares fit that grows from the middle of the
    section absorbs jitter and a slight rotation, so that an error of the pitch does not add up.

    Args:
        position: (N, 2) in any unit.

    Returns:
        (N, 2) int64; both columns start at 0. Irregularly placed spots can share a cell.
    """
    if len(position) < 2:
        return np.zeros((len(position), 2), dtype=np.int64)
    basis = _basis(position)  # (2, 2), rows are steps
    centred = position - position.mean(0)  # (N, 2)
    # The origin is a real spot, because the centre of mass may lie between cells.
    origin = centred[np.argmin((centred**2).sum(1).round(6))]  # (2,)
    distance = np.linalg.norm(centred - origin, axis=1)  # (N,)
    reach = 3 * np.linalg.norm(basis, axis=1).max()
    while True:
        cells = np.rint((centred - origin) @ np.linalg.inv(basis))  # (N, 2)
        near = distance <= reach
        design = np.column_stack([cells[near], np.ones(near.sum())])  # (n, 3)
        if np.linalg.matrix_rank(design) == 3:
            fit = np.linalg.lstsq(design, centred[near], rcond=None)[0]  # (3, 2)
            basis, origin = fit[:2], fit[2]
        if near.all():
            break
        reach *= 1.5
    cells = np.rint((centred - origin) @ np.linalg.inv(basis)).astype(np.int64)  # (N, 2)
    return cells - cells.min(0)


def _basis(position: np.ndarray) -> np.ndarray:
    """(2, 2) two steps of the array as rows, at 90° on square and at 60° on hexagonal arrays."""
    k = min(7, len(position))
    distance, index = cKDTree(position).query(position, k=k)  # (N, k)
    step = pitch(position) or 1.0
    steps = (position[index] - position[:, None])[(distance > 0) & (distance < 1.25 * step)]
    if not len(steps):
        return np.eye(2) * step
    angle = np.arctan2(steps[:, 1], steps[:, 0])  # (S,)
    # m is the order of rotational symmetry under which the steps agree best.
    resultant = {m: np.exp(1j * m * angle).mean() for m in (4, 6)}
    m = max(resultant, key=lambda order: abs(resultant[order]))
    first = np.angle(resultant[m]) / m
    directions = first + np.array([0, 2 * np.pi / m])  # (2,)
    return step * np.column_stack([np.cos(directions), np.sin(directions)])


def array_pitch(position: np.ndarray) -> float:
    """Median distance of spots (N, 2) that are one step of the array apart, in the unit of ``position``.

    Where spots are printed with a jitter, the distance to the nearest other spot is less than that.
    """
    pairs, _ = steps_apart(position, 1)
    if not pairs.size:
        return pitch(position)
    return float(np.median(np.linalg.norm(position[pairs[0]] - position[pairs[1]], axis=1)))


def layout(position: np.ndarray) -> str:
    """``hexagonal`` (Visium) or ``square``: the array that spots at ``position`` (N, 2) are printed in."""
    basis = _basis(position)  # (2, 2)
    return "hexagonal" if _is_hexagonal(basis) else "square"


def _is_hexagonal(basis: np.ndarray) -> bool:
    """Whether two steps are at 60° and not at 90°."""
    return bool(basis[0] @ basis[1] > 0.25 * (basis[0] @ basis[0]))


def steps_apart(position: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of spots that are few steps of the array from each other.

    A step goes to one of the four neighbours on a square array, and to one of the six on a hexagonal
    one.

    Args:
        position: (N, 2) in any unit.
        reach: the largest number of steps.

    Returns:
        (2, P) indices of different spots, each pair in both orders, sorted by the first and then by the
        second; and (P,) steps between them, 1 for spots in the same cell.
    """
    cells, basis = lattice(position), _basis(position)  # (N, 2), (2, 2)
    found = cKDTree(cells).query_pairs(reach, p=np.inf, output_type="ndarray").T  # (2, P)
    pairs = np.concatenate([found, found[::-1]], axis=1)
    pairs = pairs[:, np.lexsort(pairs[::-1])]
    q, r = np.abs(cells[pairs[0]] - cells[pairs[1]]).T  # 2 × (P,)
    steps = q + r
    # Steps of a hexagonal array are at 60°, and one that goes forth in one direction and back in the
    # other leads to a neighbour.
    if _is_hexagonal(basis):
        along = np.abs((cells[pairs[0]] - cells[pairs[1]]).sum(1))
        steps = np.maximum(np.maximum(q, r), along)
    near = steps <= reach
    return pairs[:, near], np.maximum(steps[near], 1)


def windows(cells: np.ndarray, radius: int) -> np.ndarray:
    """The spot in each cell of the square window around each spot.

    Args:
        cells: (N, 2) integers.

    Returns:
        (N, (2 radius + 1)²) int64 indices of spots, row by row of the window, and -1 in empty
        cells. The one in the middle is always the spot itself.
    """
    steps = np.arange(-radius, radius + 1)
    offsets = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)  # (W, 2)
    cells = cells - cells.min(0) + radius  # so that no index of a window is negative
    width = cells[:, 1].max() + radius + 1
    keys = cells[:, 0] * width + cells[:, 1]  # (N,)
    wanted = keys[:, None] + offsets[:, 0] * width + offsets[:, 1]  # (N, W)
    order = np.argsort(keys, kind="stable")
    place = np.searchsorted(keys[order], wanted).clip(max=len(keys) - 1)  # (N, W)
    found = order[place]  # (N, W)
    found = np.where(keys[found] == wanted, found, -1)
    found[:, len(offsets) // 2] = np.arange(len(cells))
    return found
