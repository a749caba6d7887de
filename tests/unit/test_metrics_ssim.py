"""SSIM of gene maps, against scikit-image and against sums over one window."""

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from flag_st.metrics.base import Case
from flag_st.metrics.ssim import Map, Raster, Ssim, cells, local_ssim


def case(truth, prediction, position=None, **known):
    names = tuple(f"g{i}" for i in range(truth.shape[1]))
    return Case(truth, prediction, position, names, cache=known)


def full(height, width):
    return np.array([(r, c) for r in range(height) for c in range(width)])


@pytest.fixture
def maps():
    """A complete 16 by 12 array with 5 genes."""
    rng = np.random.default_rng(0)
    grid = full(16, 12)
    truth = np.sin(grid @ rng.normal(size=(2, 5)) / 2) + 0.3 * rng.normal(size=(192, 5)) + 3
    prediction = 0.7 * truth + 0.5 * rng.normal(size=(192, 5)) + 1
    return truth, prediction, grid


def windows(truth, prediction, cell, span):
    """SSIM of each window from its definition: {centre: (G,)}."""
    at = {tuple(c): i for i, c in enumerate(cell)}
    found = {}
    for centre in at:
        near = [
            at[r, c]
            for r in range(centre[0] - 3, centre[0] + 4)
            for c in range(centre[1] - 3, centre[1] + 4)
            if (r, c) in at
        ]
        if len(near) < 24.5:
            continue
        x, y = truth[near], prediction[near]
        c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
        covariance = (x * y).mean(0) - x.mean(0) * y.mean(0)
        found[centre] = (
            (2 * x.mean(0) * y.mean(0) + c1)
            * (2 * covariance + c2)
            / ((x.mean(0) ** 2 + y.mean(0) ** 2 + c1) * (x.var(0) + y.var(0) + c2))
        )
    return found


def test_complete_array_equals_scikit_image(maps):
    truth, prediction, grid = maps
    raster = Raster.of(cells(np.empty((0, 2)), grid))
    span = np.ptp(truth, axis=0)
    found = local_ssim(Map.of(truth, raster), Map.of(prediction, raster), raster, span)
    assert raster.valid.sum() == 192 - 4 * 5  # fewer than half are measured around corners
    image = np.full((16, 12, 5), np.nan)
    image[raster.valid] = found
    for g in range(5):
        a, b = (v[:, g].reshape(16, 12) for v in (truth, prediction))
        _, expected = structural_similarity(
            a, b, win_size=7, data_range=span[g], use_sample_covariance=False, full=True
        )
        np.testing.assert_allclose(image[3:-3, 3:-3, g], expected[3:-3, 3:-3], rtol=1e-9)


def test_array_with_holes_equals_the_definition(maps):
    truth, prediction, grid = maps
    kept = np.random.default_rng(1).random(192) < 0.7
    truth, prediction, grid = truth[kept], prediction[kept], grid[kept]
    expected = windows(truth, prediction, grid, np.ptp(truth, axis=0))
    assert 0 < len(expected) < kept.sum()
    found = Ssim()(case(truth, prediction, grid=grid))
    by_gene = np.mean(list(expected.values()), axis=0)
    np.testing.assert_allclose(found["ssim_gene"], by_gene, rtol=1e-10)
    assert found["ssim"] == pytest.approx(by_gene.mean(), rel=1e-10)


def test_truth_against_itself_is_one_and_amplitude_matters(maps):
    truth, prediction, grid = maps
    assert Ssim()(case(truth, truth.copy(), grid=grid))["ssim"] == pytest.approx(1, abs=1e-12)
    one = Ssim()(case(truth, prediction, grid=grid))["ssim"]
    assert Ssim()(case(truth, 3 * prediction, grid=grid))["ssim"] < one - 0.05
    assert Ssim()(case(5 * truth, 5 * prediction, grid=grid))["ssim"] == pytest.approx(one)


def test_background_does_not_count(maps):
    """Far away spots make the map larger and emptier, but do not change the score."""
    truth, prediction, grid = maps
    one = Ssim()(case(truth, prediction, grid=grid))
    lone = np.concatenate([grid, [[80, 90]]])
    two = Ssim()(case(np.vstack([truth, truth[:1]]), np.vstack([prediction, truth[:1]]), grid=lone))
    np.testing.assert_allclose(two["ssim_gene"], one["ssim_gene"], rtol=1e-12)


def test_order_of_spots_does_not_matter(maps):
    truth, prediction, grid = maps
    order = np.random.default_rng(2).permutation(192)
    one = Ssim()(case(truth, prediction, grid=grid))
    two = Ssim()(case(truth[order], prediction[order], grid=grid[order]))
    np.testing.assert_allclose(two["ssim_gene"], one["ssim_gene"], rtol=1e-12)


def test_visium_columns_are_halved():
    visium = np.array([(r, 2 * c + r % 2) for r in range(6) for c in range(5)])
    visium += np.array([2, 4])
    np.testing.assert_array_equal(cells(np.empty((0, 2)), visium), full(6, 5))
    odd = visium + np.array([0, 1])
    assert len(np.unique(cells(np.empty((0, 2)), odd), axis=0)) == 30
    np.testing.assert_array_equal(cells(np.empty((0, 2)), full(6, 5) + 3), full(6, 5))


def test_cells_from_positions_of_a_square_array():
    grid = full(9, 7)
    jitter = np.random.default_rng(0).uniform(-20, 20, size=(63, 2))
    position = grid * 200.0 + [1234, -567] + 0.2 * jitter
    np.testing.assert_array_equal(cells(position), grid)


def test_positions_stand_in_for_the_grid(maps):
    truth, prediction, grid = maps
    one = Ssim()(case(truth, prediction, grid=grid))
    two = Ssim()(case(truth, prediction, grid * 100.0))
    assert one["ssim"] == pytest.approx(two["ssim"], rel=1e-12)


def test_spots_of_one_cell_are_averaged(maps):
    truth, prediction, grid = maps
    twice = [np.vstack([v - 0.1, v + 0.1]) for v in (truth, prediction)]
    two = Ssim()(case(*twice, grid=np.vstack([grid, grid])))
    raster = Raster.of(grid)
    span = np.ptp(truth, axis=0) + 0.2
    one = local_ssim(Map.of(truth, raster), Map.of(prediction, raster), raster, span)
    np.testing.assert_allclose(two["ssim_gene"], one.mean(0), rtol=1e-10)


def test_constant_genes(maps):
    truth, prediction, grid = (a.copy() for a in maps)
    truth[:, 0], prediction[:, 1] = 0, 2.5
    found = Ssim()(case(truth, prediction, grid=grid))
    assert np.isnan(found["ssim_gene"][0])
    # A flat prediction is scored as it is: some luminance, hardly any structure.
    expected = windows(truth[:, 1:], prediction[:, 1:], grid, np.ptp(truth[:, 1:], axis=0))
    by_gene = np.mean(list(expected.values()), axis=0)
    np.testing.assert_allclose(found["ssim_gene"][1:], by_gene, rtol=1e-10)
    assert found["ssim"] == pytest.approx(by_gene.mean())


def test_too_few_spots_or_no_window(maps):
    truth, prediction, grid = maps
    for part in (slice(0, 48), slice(0, 192, 3)):
        spread = grid[part] * (1 if part.stop == 48 else 5)
        found = Ssim()(case(truth[part], prediction[part], grid=spread))
        assert np.isnan(found["ssim"])
        assert np.isnan(found["ssim_gene"]).all()
        assert len(found["ssim_gene"]) == 5
