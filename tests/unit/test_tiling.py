"""Tiles: in training about every spot once, in prediction each spot in one tile."""

from dataclasses import replace

import numpy as np
import pytest
import toy

from flag_st.core.errors import FlagError
from flag_st.core.seeds import torch_generator
from flag_st.data.tiling import Tiling, random_tile

SLIDES = [toy.slide("a", spots=120), toy.slide("b", spots=55)]


def test_random_tiles_are_compact_and_seeded():
    slide = SLIDES[0]
    index = random_tile(slide.position, 30, torch_generator(1))
    assert len(np.unique(index)) == 30
    spread = np.linalg.norm(slide.position[index] - slide.position[index].mean(0), axis=1).max()
    assert spread < np.linalg.norm(slide.position - slide.position.mean(0), axis=1).max()
    assert np.array_equal(index, random_tile(slide.position, 30, torch_generator(1)))


@pytest.mark.parametrize("shape", ["nearest", "compact", "grid"])
def test_prediction_sees_each_spot_in_one_tile(shape):
    tiling = Tiling(shape, spots=25, edge_px=2000.0)
    for slide in SLIDES:
        tiles = tiling.cut(slide)
        assert sorted(np.concatenate(tiles)) == list(range(len(slide)))
        assert (len(tiles) == 1) == (shape == "nearest")
        if shape == "compact":
            assert max(map(len, tiles)) <= 25


@pytest.mark.parametrize("shape", ["nearest", "compact"])
def test_an_epoch_has_about_one_random_tile_for_each_tile_of_spots(shape):
    batches = list(Tiling(shape, spots=25, per_step=3).batches(SLIDES, torch_generator(0)))
    assert [len(batch) for batch in batches] == [3, 3, 1]
    tiles = [tile for batch in batches for tile in batch]
    assert sorted(i for i, _ in tiles) == [0] * 5 + [1] * 2  # 120 / 25 and 55 / 25, rounded
    assert all(len(index) == 25 for _, index in tiles)


def test_an_epoch_of_the_grid_has_every_square_once_in_random_order():
    tiling = Tiling("grid", edge_px=2000.0, per_step=2)
    batches = [list(tiling.batches(SLIDES, torch_generator(seed))) for seed in (0, 0, 1)]
    found = [[(i, tuple(index)) for batch in epoch for i, index in batch] for epoch in batches]
    wanted = [(i, tuple(t)) for i, slide in enumerate(SLIDES) for t in tiling.cut(slide)]
    assert sorted(found[0]) == sorted(wanted)
    assert found[0] == found[1] != found[2]


def test_squares_in_pixels_want_a_pixel_size():
    with pytest.raises(FlagError, match=r"pixel size is unknown.*tiling\.shape: nearest"):
        Tiling("grid").cut(replace(SLIDES[0], pixel_um=float("nan")))
