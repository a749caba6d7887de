"""Texture features against closed forms and naive loops, and against real sections."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage, stats
from skimage.color import hed2rgb

from flag_st.encoders import texture
from flag_st.encoders.texture import Texture

DATA = Path(
    os.environ.get("FLAG_ST_HER2ST") or Path(__file__).parents[3] / "shared" / "data" / "her2st"
)
GENES = 200


def random_patches(n: int, seed: int = 0) -> np.ndarray:
    """Smooth coloured noise: every statistic of it is non-trivial."""
    small = np.random.default_rng(seed).integers(40, 250, (n, 28, 28, 3))
    patches = np.repeat(np.repeat(small, 8, axis=1), 8, axis=2)
    noise = np.random.default_rng(seed + 1).integers(-8, 8, patches.shape)
    return np.clip(patches + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (255, 0, 0), (228, 210, 228)])
def test_blank_patches_give_finite_features(colour):
    features = Texture().encode(np.full((2, 224, 224, 3), colour, dtype=np.uint8))
    assert features.shape == (2, 203)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()


def test_neither_batch_nor_order_nor_block_changes_a_bit():
    patches = random_patches(5)
    together = Texture().encode(patches)
    alone = np.concatenate([Texture().encode(patches[i : i + 1]) for i in range(5)])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(Texture(block=2).encode(patches), together)
    order = [3, 0, 4, 2, 1]
    np.testing.assert_array_equal(Texture().encode(patches[order]), together[order])
    assert np.unique(together, axis=0).shape[0] == 5


def test_reads_an_hdf5_dataset_in_blocks(tmp_path):
    patches, seen = random_patches(5), []
    with h5py.File(tmp_path / "patches.h5", "w") as file:
        dataset = file.create_dataset("img", data=patches)

        def progress(items, **_):
            for item in items:
                seen.append(item)
                yield item

        from_disk = Texture(block=2).encode(dataset, progress)
    np.testing.assert_array_equal(from_disk, Texture().encode(patches))
    assert seen == [0, 2, 4]


def test_moments_are_those_of_scipy():
    planes = np.random.default_rng(0).gamma(2.0, size=(3, 20, 30))
    flat = planes.reshape(3, -1)
    expected = np.concatenate([flat.mean(1), flat.std(1), stats.skew(flat, axis=1)])
    np.testing.assert_allclose(texture.moments(planes), expected, rtol=1e-10)


def test_colour_planes_separate_the_stains():
    stains = np.zeros((4, 4, 3))
    stains[:2, :, 0], stains[2:, :, 1] = 0.15, 0.1  # haematoxylin above, eosin below
    planes = texture.colour_planes(hed2rgb(stains).astype(np.float32))
    np.testing.assert_allclose(planes[8, :2], 0.15, atol=1e-3)
    np.testing.assert_allclose(planes[8, 2:], 0.0, atol=1e-3)
    np.testing.assert_allclose(planes[9, 2:], 0.1, atol=1e-3)


def naive_patterns(plane: np.ndarray, radius: int) -> np.ndarray:
    """The definition, pixel by pixel: run length of a circular pattern, or bin 9."""
    height, width = plane.shape
    bins = np.zeros(10)
    for y in range(radius, height - radius):
        for x in range(radius, width - radius):
            angle = np.arange(8) * np.pi / 4
            ring = [
                int(plane[y + radius * round(np.sin(a)), x + radius * round(np.cos(a))])
                >= int(plane[y, x]) + 3
                for a in angle
            ]
            changes = sum(ring[i] != ring[i - 1] for i in range(8))
            bins[sum(ring) if changes <= 2 else 9] += 1
    return bins / bins.sum()


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_binary_patterns_follow_their_definition(radius):
    plane = np.random.default_rng(radius).integers(0, 12, (17, 23)).astype(np.uint8)
    found = texture.binary_patterns(plane, radius)
    np.testing.assert_allclose(found, naive_patterns(plane, radius), atol=1e-12)
    turned = texture.binary_patterns(np.ascontiguousarray(np.rot90(plane)), radius)
    np.testing.assert_allclose(turned, found, atol=1e-12)


def test_patterns_of_the_brightest_pixels_follow_their_definition():
    plane = np.random.default_rng(0).integers(246, 256, (17, 23)).astype(np.uint8)
    for radius in texture.RADII:
        found = texture.binary_patterns(plane, radius)
        np.testing.assert_allclose(found, naive_patterns(plane.astype(int), radius), atol=1e-12)


def test_percentiles_are_those_of_numpy_to_the_last_bit():
    planes = np.random.default_rng(0).normal(size=(4, 112, 112)).astype(np.float32)
    wanted = np.percentile(planes.reshape(4, -1), texture.PERCENTILES, axis=1).ravel()
    np.testing.assert_array_equal(texture.percentiles(planes), wanted)


@pytest.mark.parametrize("sigma", [1.0, 1.5, 3.0])
def test_filters_are_those_of_scipy_to_the_last_bit(sigma):
    plane = np.random.default_rng(0).normal(size=(56, 60)).astype(np.float32)
    wanted = ndimage.gaussian_filter(plane, sigma, truncate=3)
    np.testing.assert_array_equal(texture.gauss(plane, sigma), wanted)
    wanted = ndimage.gaussian_laplace(plane, sigma, truncate=3)
    np.testing.assert_array_equal(texture.laplace_of_gauss(plane, sigma), wanted)


def test_haar_energies_find_scale_and_direction():
    columns = np.tile(np.repeat([0.0, 1.0], 4), (112, 14))  # vertical stripes, 4 px wide
    edges, corners, anisotropy = texture.haar_energies(columns).reshape(-1, 3).T
    assert edges.argmax() == 2  # halving twice leaves stripes of one pixel
    assert edges[2] == pytest.approx(np.log(4.0), abs=1e-5)  # (a + c - b - d)^2 = 2^2
    assert anisotropy[2] == pytest.approx(1.0, abs=1e-4)
    assert corners == pytest.approx([np.log(1e-6)] * 5)
    turned = texture.haar_energies(columns.T)
    np.testing.assert_allclose(turned, texture.haar_energies(columns), atol=1e-12)


def discs(centres, radius: int) -> np.ndarray:
    """A (112, 112) plane of haematoxylin 0.2 in discs and 0 elsewhere."""
    y, x = np.mgrid[:112, :112]
    inside = [(y - cy) ** 2 + (x - cx) ** 2 <= radius**2 for cy, cx in centres]
    return 0.2 * np.any(inside, axis=0).astype(np.float32)


@pytest.mark.parametrize("count", [1, 7])
def test_nuclei_are_counted_and_sized(count):
    plane = discs([(16, 15 * k + 10) for k in range(count)], radius=4)
    plane[100, 100] = 0.2  # a speck
    area = int((discs([(50, 50)], 4) > 0).sum())
    share, number, size, spread, stain, _ = texture.nuclei(plane, 1 - plane, 0.1)
    assert number == pytest.approx(count / 100)
    assert share == pytest.approx((count * area + 1) / 112**2)
    assert (size, spread, stain) == pytest.approx((np.log(area), 0.0, 0.2), abs=1e-6)
    assert not texture.nuclei(plane, 1 - plane, 0.3).any()


def test_blobs_prefer_their_own_size():
    plane = discs([(20, 20), (20, 60), (60, 40), (90, 80)], radius=4)
    strength = {width: texture.blobs(plane, width)[3] for width in texture.BLOBS}
    assert max(strength, key=strength.get) == 3.0  # radius = width * sqrt(2)
    assert texture.blobs(plane, 3.0)[2] == pytest.approx(4 / 100)


def test_fibres_tell_stripes_from_noise():
    stripes = np.tile(np.sin(np.arange(112) / 3), (112, 1))
    noise = np.random.default_rng(0).normal(size=(112, 112))
    assert texture.fibres(stripes, 4.0)[2:] == pytest.approx([1.0, 1.0], abs=1e-3)
    assert texture.fibres(noise, 4.0)[3] < 0.1


def crop(section: str) -> tuple[np.ndarray, np.ndarray, pd.Index]:
    """Patches of 112 µm at 0.5 µm/px around the spots; counts; genes."""
    import anndata
    import openslide
    from PIL import Image

    table = anndata.read_h5ad(DATA / "st" / f"{section}.h5ad")
    facts = json.loads((DATA / "metadata" / f"{section}.json").read_text())
    side = round(112 / facts["pixel_size_um_estimated"])
    slide = openslide.OpenSlide(DATA / "wsis" / f"{section}.tif")
    patches = [
        slide.read_region((int(x - side / 2), int(y - side / 2)), 0, (side, side))
        .convert("RGB")
        .resize((224, 224), Image.Resampling.BICUBIC)
        for x, y in table.obsm["spatial"]
    ]
    return np.stack([np.asarray(p) for p in patches]), table.X.toarray(), table.var_names


@pytest.mark.skipif(not (DATA / "wsis" / "C4.tif").exists(), reason=f"no HER2ST data in {DATA}")
def test_ridge_on_the_features_predicts_a_real_section():
    """Sections C2 and C3 predict C4 of the same patient: mean gene PCC 0.68 when written."""
    pytest.importorskip("openslide")
    sections = {name: crop(name) for name in ("C2", "C3", "C4")}
    genes = sorted(set.intersection(*(set(g) for _, _, g in sections.values())))
    counts = {n: c[:, g.get_indexer(genes)] for n, (_, c, g) in sections.items()}
    seen = np.concatenate([counts["C2"], counts["C3"]])
    best = np.argsort(-seen.mean(0))[:GENES]
    features = {n: Texture().encode(p) for n, (p, _, _) in sections.items()}
    x = np.concatenate([features["C2"], features["C3"]])
    scale = x.mean(0), np.maximum(x.std(0), 1e-6)
    z, new = ((v - scale[0]) / scale[1] for v in (x, features["C4"]))
    y, truth = np.log1p(seen[:, best]), np.log1p(counts["C4"][:, best])
    weights = np.linalg.solve(z.T @ z + 1000 * np.eye(z.shape[1]), z.T @ (y - y.mean(0)))
    predicted = np.clip(new, -6, 6) @ weights
    pcc = [stats.pearsonr(predicted[:, g], truth[:, g]).statistic for g in range(GENES)]
    assert np.mean(pcc) > 0.6
