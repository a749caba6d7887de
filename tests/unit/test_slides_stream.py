"""Patches of a new slide are, byte for byte, those that the pipeline cuts."""

import json
import tracemalloc

import anndata
import h5py
import numpy as np
import pytest
import slide_pictures as made

from flag_st.core.errors import FlagError
from flag_st.data.prepare import prepare
from flag_st.slides.image import open_image
from flag_st.slides.stream import patches, top_left
from flag_st.sources.folder import Folder
from flag_st.sources.synthetic import Synthetic


def streamed(image, position, **options) -> np.ndarray:
    found = np.zeros((len(position), 224, 224, 3), np.uint8)
    rows = np.zeros(len(position), int)
    for where, cut in patches(image, position, **options):
        found[where] = cut
        rows[where] += 1
    assert (rows == 1).all()
    return found


def prepared(files, slide, out) -> tuple[anndata.AnnData, np.ndarray]:
    prepare(files, slide, out / "spots.h5ad", out / "patches.h5", patches_from="wsi")
    with h5py.File(out / "patches.h5") as file:
        return anndata.read_h5ad(out / "spots.h5ad"), file["img"][:]


@pytest.mark.parametrize("pixel", [1.0, 0.9702, 1.0317])
@pytest.mark.parametrize("whole", [True, False])
def test_the_same_bytes_as_the_pipeline_s(tmp_path, pixel, whole):
    """Positions in whole pixels come back from µm a little beside them."""
    files = Synthetic(1, 1, spots=(5, 6), genes=20).fetch("P1S1", tmp_path / "made")
    facts = json.loads(files.metadata.read_text()) | {"pixel_size_um_estimated": pixel}
    files.metadata.write_text(json.dumps(facts))
    table = anndata.read_h5ad(files.st)
    shift = 0 if whole else 0.37
    table.obsm["spatial"] = np.round(table.obsm["spatial"]) + shift
    table.write_h5ad(files.st)
    spots, wanted = prepared(files, "P1S1", tmp_path)
    with open_image(files.wsi, pixel) as image:
        np.testing.assert_array_equal(streamed(image, spots.obsm["spatial_um"]), wanted)


def test_the_same_bytes_on_a_real_section(her2st, tmp_path):
    spots, wanted = prepared(Folder(her2st).fetch("A1", tmp_path), "A1", tmp_path)
    with open_image(her2st / "wsis" / "A1.tif", spots.uns["pixel_size_um"]) as image:
        np.testing.assert_array_equal(streamed(image, spots.obsm["spatial_um"]), wanted)


@pytest.mark.parametrize("pixel", [0.2631, 0.2738, 0.4994, 0.5, 0.7])
def test_a_way_through_um_moves_no_corner(pixel):
    centre = np.arange(40000, dtype=float).reshape(-1, 2)
    exact = (centre - (112 / pixel) // 2).astype(np.int64)
    np.testing.assert_array_equal(top_left(centre * pixel / pixel, 224, 0.5, pixel), exact)
    np.testing.assert_array_equal(top_left(centre, 224, 0.5, pixel), exact)


@pytest.fixture
def image(tmp_path):
    made.tiff(**made.TILE)(tmp_path / "slide.tif")
    with open_image(tmp_path / "slide.tif", 0.5) as opened:
        yield opened


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_batches_keep_the_order(image, batch):
    position = np.random.default_rng(0).uniform(0, (350, 270), (10, 2))
    found = [(rows, len(cut)) for rows, cut in patches(image, position, batch)]
    assert all(rows.stop - rows.start == number <= batch for rows, number in found)
    assert [rows.start for rows, _ in found] == list(range(0, 10, batch))
    for rows, cut in patches(image, position, batch):
        for (x, y), patch in zip(position[rows], cut, strict=True):
            corner = np.trunc(np.array([x, y]) * 2 - 112) / 2
            np.testing.assert_array_equal(patch, image.read(tuple(corner), 112.0, 224))


def test_no_position_gives_no_patch(image):
    assert list(patches(image, np.zeros((0, 2)))) == []


def test_memory_holds_one_batch(image):
    position = np.random.default_rng(0).uniform(0, (350, 270), (600, 2))
    for _ in patches(image, position[:8], 8):
        pass
    tracemalloc.start()
    for _, cut in patches(image, position, 8):
        bytes_of_one = cut.nbytes
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * bytes_of_one  # 75 batches would be 75 times as much


def test_a_damaged_part_is_a_fault(tmp_path):
    made.with_zeroed_tiles(tmp_path / "slide.ome.tif")
    with (
        open_image(tmp_path / "slide.ome.tif", 0.5) as opened,
        pytest.raises(FlagError, match=r"slide.ome.tif is damaged"),
    ):
        list(patches(opened, np.array([[50, 50], [340, 260]])))
