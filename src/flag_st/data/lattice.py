"""Spots as cells of the array they were printed on, found from their positions alone."""

import numpy as np
from scipy.spatial import cKDTree


def lattice(position: np.ndarray) -> np.ndarray:
    """Integer coordinates of every spot in the two shortest directions of the array.

    Square arrays get rows and columns; hexagonal ones (Visium) axial coordinates, in which the six
    neighbours of a spot are among the eight cells around it. The first axis is the one nearest
    to x. Jitter and a slight rotation are absorbed by a least-squares fit that grows from the
    middle of the section, so that errors of the pitch do not add up across it.

    Args:
        position: (N, 2) in any unit.

    Returns:
        (N, 2) int64, both columns starting at 0. Irregular spots can share a cell.
    """
    if len(position) < 2:
        return np.zeros((len(position), 2), dtype=np.int64)
    basis = _basis(position)  # (2, 2), rows are steps
    centred = position - position.mean(0)  # (N, 2)
    # A real spot as origin: the centre of mass lies between cells.
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
    """Two steps of the array as rows: at 90° on square, at 60° on hexagonal arrays."""
    k = min(7, len(position))
    distance, index = cKDTree(position).query(position, k=k)
    pitch = np.median(distance[:, 1]) or 1.0
    steps = (position[index] - position[:, None])[(distance > 0) & (distance < 1.25 * pitch)]
    if not len(steps):
        return np.eye(2) * pitch
    angle = np.arctan2(steps[:, 1], steps[:, 0])  # (S,)
    # The order of rotational symmetry under which the steps agree best.
    resultant = {m: np.exp(1j * m * angle).mean() for m in (4, 6)}
    m = max(resultant, key=lambda order: abs(resultant[order]))
    first = np.angle(resultant[m]) / m
    directions = first + np.array([0, 2 * np.pi / m])  # (2,)
    return pitch * np.column_stack([np.cos(directions), np.sin(directions)])


def windows(cells: np.ndarray, radius: int) -> np.ndarray:
    """Which spot lies in each cell of the square window around each spot.

    Args:
        cells: (N, 2) integers.

    Returns:
        (N, (2 radius + 1)²) int64 indices of spots, row by row of the window, -1 where no spot
        is. The middle one is always the spot itself.
    """
    steps = np.arange(-radius, radius + 1)
    offsets = np.stack(np.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 2)  # (W, 2)
    cells = cells - cells.min(0) + radius  # no window leaves the non-negative quadrant
    width = cells[:, 1].max() + radius + 1
    keys = cells[:, 0] * width + cells[:, 1]  # (N,)
    wanted = keys[:, None] + offsets[:, 0] * width + offsets[:, 1]  # (N, W)
    order = np.argsort(keys, kind="stable")
    place = np.searchsorted(keys[order], wanted).clip(max=len(keys) - 1)  # (N, W)
    found = order[place]  # (N, W)
    found = np.where(keys[found] == wanted, found, -1)
    found[:, len(offsets) // 2] = np.arange(len(cells))
    return found
