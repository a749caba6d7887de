"""Pyramids written in bands: the bytes of one written whole, and nothing left of a broken one."""

import numpy as np
import openslide
import pytest
from PIL import Image

from flag_st.data.pyramid import TILE, write_bands, write_pyramid

LEVELS = {"factor": 2, "smallest": 256, "compression": "lzw", "predictor": True}
PIXELS = np.random.default_rng(0).integers(0, 255, (1111, 907, 3), dtype=np.uint8)


def bands(rows: int):
    return (PIXELS[top : top + rows] for top in range(0, len(PIXELS), rows))


@pytest.mark.parametrize("rows", [TILE, 3 * TILE, 8 * TILE])
def test_bands_of_any_height_give_the_same_bytes(tmp_path, rows):
    write_pyramid(tmp_path / "whole.tif", Image.fromarray(PIXELS), (0.5, 0.5), **LEVELS)
    write_bands(tmp_path / "bands.tif", (907, 1111), bands(rows), (0.5, 0.5), **LEVELS)
    assert (tmp_path / "bands.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bands.tif", "whole.tif"]


def test_levels_are_box_averages_down_to_the_last_row(tmp_path):
    write_bands(tmp_path / "a.tif", (907, 1111), bands(TILE), (0.5, 0.5), **LEVELS)
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        assert slide.level_dimensions == ((907, 1111), (454, 556), (227, 278), (114, 139))
        level = Image.fromarray(PIXELS)
        for number, size in enumerate(slide.level_dimensions):
            found = np.asarray(slide.read_region((0, 0), number, size))[..., :3]
            np.testing.assert_array_equal(found, np.asarray(level))
            level = level.reduce(2)


def test_a_band_that_fails_leaves_nothing(tmp_path):
    def broken():
        yield PIXELS[:TILE]
        raise ValueError("the second band")

    with pytest.raises(ValueError, match="the second band"):
        write_bands(tmp_path / "a.tif", (907, 1111), broken(), (0.5, 0.5), **LEVELS)
    assert list(tmp_path.iterdir()) == []
