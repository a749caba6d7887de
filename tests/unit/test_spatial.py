"""Geometry of spots: neighbours, pitch, tiles and array cells."""

import subprocess
import sys

import numpy as np
import pytest

from flag_st.data.lattice import lattice, windows
from flag_st.data.spatial import around, grid_tiles, nearest, pitch


def test_grid_tiles_part_the_slide():
    rng = np.random.default_rng(4)
    position = rng.uniform(0, 5000, (200, 2))
    parts = grid_tiles(position, 1000.0)
    assert sorted(np.concatenate(parts)) == list(range(200))
    for part in parts:
        assert len(np.unique(np.floor(position[part] / 1000.0), axis=0)) == 1


@pytest.mark.parametrize("pixel", [0.757, 0.2738, 0.5, 1.1])
def test_a_spot_on_a_border_is_in_the_square_that_begins_there(pixel):
    """As in pixels, although a multiple of 2,048 px is seldom one of its µm."""
    at = np.arange(1, 40) * 2048.0
    spots = np.stack([np.concatenate([at - 1, at]), np.full(78, 5.0)], 1)  # just before, and on
    parts = grid_tiles(spots * pixel, 2048.0 * pixel)
    wanted = [{0}, *({39 + i, i + 1} for i in range(38)), {77}]
    assert [set(part.tolist()) for part in parts] == wanted


def test_nearest_is_right_and_survives_duplicates():
    position = np.array([[0, 0], [0, 0], [1, 0], [5, 0]], dtype=float)
    assert nearest(position, 1)[:3, 0].tolist() == [1, 0, 0]
    assert nearest(position, 9).shape == (4, 3)
    assert all(i not in row for i, row in enumerate(nearest(position, 3)))


@pytest.mark.parametrize("copies", [8, 25, 60])
def test_spots_at_the_same_place_are_ordered_by_index_however_many(copies):
    rng = np.random.default_rng(2)
    position = np.concatenate([np.zeros((copies, 2)), rng.integers(1, 9, (300, 2))]).astype(float)
    position = position[rng.permutation(len(position))]
    apart = np.linalg.norm(position[:, None] - position, axis=-1)
    np.fill_diagonal(apart, -1)
    order = np.stack([np.lexsort((np.arange(len(a)), a)) for a in apart])[:, 1:]
    np.testing.assert_array_equal(nearest(position, 6), order[:, :6])
    # No spot is returned twice, and none is its own neighbour.
    for i, row in enumerate(around(position, near=6, far=8)):
        assert len({i, *row}) == 1 + len(row)


def test_no_spot_of_an_array_is_seen_twice():
    """At the border of a hexagonal array, the 16th and the 22nd spot may be equally far."""
    row, column = np.divmod(np.arange(60 * 60), 60)
    position = np.stack([100 * (column + 0.5 * (row % 2)), 100 * np.sqrt(0.75) * row], 1)
    for i, seen in enumerate(around(position, near=16, far=12)):
        assert len({i, *seen}) == 29


def test_farther_spots_come_by_rank_and_threads_change_nothing():
    position = np.random.default_rng(5).uniform(0, 5000, (400, 2))
    found = around(position, near=8, far=4)
    assert found.shape == (400, 12)
    order = np.linalg.norm(position[:, None] - position, axis=-1).argsort(1)
    ranks = (order[:, None, :] == found[..., None]).argmax(-1)
    np.testing.assert_array_equal(ranks[:, :8], np.tile(np.arange(1, 9), (400, 1)))
    assert (ranks[:, 8:] == ranks[0, 8:]).all()
    assert (np.diff(ranks[0, 8:]) > 8).all()
    assert ranks[0, -1] == 255
    np.testing.assert_array_equal(found, around(position, near=8, far=4, workers=2))
    assert around(position[:9], near=8, far=4).shape == (9, 8)


def test_pitch_is_the_median_distance_to_the_nearest_other_spot():
    position = np.array([[0, 0], [0, 100], [0, 200], [0, 900]], dtype=float)
    assert pitch(position) == 100
    assert pitch(position[:1]) == 1


def test_geometry_does_without_torch():
    code = (
        "import sys, flag_st.data.lattice, flag_st.metrics.ssim; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def turn(position, degrees):
    a = np.deg2rad(degrees)
    return position @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])


@pytest.mark.parametrize("degrees", [0, 7, -20])
def test_square_array_is_found_again(degrees):
    rng = np.random.default_rng(0)
    cells = np.stack(np.meshgrid(np.arange(40), np.arange(33), indexing="ij"), -1).reshape(-1, 2)
    cells = cells[rng.random(len(cells)) < 0.8]
    position = turn(cells * [200.0, 201.5] + rng.normal(0, 8, cells.shape), degrees) + 5000
    np.testing.assert_array_equal(lattice(position), cells - cells.min(0))


@pytest.mark.parametrize("degrees", [0, 3, 90])
def test_hexagonal_array_keeps_its_neighbours(degrees):
    rows, columns = np.meshgrid(np.arange(78), np.arange(64), indexing="ij")
    x = 100 * (columns + 0.5 * (rows % 2))
    position = np.stack([x, 100 * np.sqrt(0.75) * rows], -1).reshape(-1, 2)
    position = turn(position + np.random.default_rng(0).normal(0, 2, position.shape), degrees)
    cells = lattice(position)
    assert len(np.unique(cells, axis=0)) == len(cells)
    apart = np.linalg.norm(position[:, None] - position[None, ::37], axis=-1)
    near = (apart > 0) & (apart < 120)
    steps = (cells[:, None] - cells[None, ::37])[near]
    # All six neighbours, and no more than six kinds of step.
    assert np.abs(steps).max() == 1
    assert len(np.unique(steps, axis=0)) == 6


def test_windows_find_the_spots_around_each():
    cells = np.random.default_rng(0).permutation(
        np.array([(i, j) for i in range(6) for j in range(5) if (i * j) % 4 != 2])
    )
    found = windows(cells, 2)
    where = {tuple(c): n for n, c in enumerate(cells)}
    for n, (i, j) in enumerate(cells):
        around = [(i + a, j + b) for a in range(-2, 3) for b in range(-2, 3)]
        assert found[n].tolist() == [where.get(c, -1) for c in around]
