"""Draws of a generative method with the level of a regression and the covariance of its errors."""

import numpy as np
import pytest
import torch
import toy
from toy_slides import fitted, predict, reloaded

from flag_st.core.errors import FlagError
from flag_st.core.seeds import Draws, entropy
from flag_st.data.slide import Cohort
from flag_st.methods.calibrated import Calibrated, covariance, shrunk, stack, transport, within

USE = "flag_st.methods.calibrated.Calibrated"
RIDGE = {"use": "flag_st.methods.ridge.Ridge", "params": {"components": 5}}
#: A method that makes draws and has no network.
WIDE = {"use": "flag_st.methods.noise.PlusNoise", "params": {"base": RIDGE, "covariance": "genes"}}
STFLOW = {
    "use": "flag_st.methods.stflow.StFlow",
    "params": {"width": 16, "depth": 1, "regions": 1, "training": {"epochs": 2}},
}


def spd(seed: int, size: int = 6) -> np.ndarray:
    factor = np.random.default_rng(seed).normal(size=(size, 2 * size))
    return factor @ factor.T / size


def test_the_map_takes_one_covariance_to_the_other():
    source, target = spd(0), spd(1)
    found = transport(source, target)
    np.testing.assert_allclose(found, found.T, atol=1e-9)
    np.testing.assert_allclose(found @ source @ found.T, target, atol=1e-9)
    assert np.linalg.eigvalsh(found).min() > 0  # the gradient of a convex function: optimal


def test_the_map_of_equal_covariances_is_the_identity_and_that_of_variances_their_ratio():
    np.testing.assert_allclose(transport(spd(0), spd(0)), np.eye(6), atol=1e-8)
    wide = transport(np.diag([1.0, 4.0]), np.diag([9.0, 1.0]))
    np.testing.assert_allclose(wide, np.diag([3.0, 0.5]), atol=1e-9)


def test_no_other_map_with_this_result_moves_the_draws_less():
    """Of all maps R with R S Rᵀ = T, which are T^½ Q S^-½ with a rotation Q."""
    source, target = spd(0), spd(1)
    best = transport(source, target)

    def moved(found: np.ndarray) -> float:
        step = found - np.eye(len(found))
        return float(np.trace(step @ source @ step.T))

    for seed in range(20):
        rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))
        other = np.linalg.cholesky(target) @ rotation @ np.linalg.inv(np.linalg.cholesky(source))
        np.testing.assert_allclose(other @ source @ other.T, target, atol=1e-8)
        assert moved(best) < moved(other)


def test_a_singular_covariance_is_mapped_as_well():
    source = np.diag([1.0, 0.0])
    found = transport(source, np.diag([4.0, 0.0]))
    assert found[0, 0] == pytest.approx(2)
    assert np.isfinite(found).all()


def cohorts():
    return toy.cohort("a", "b"), toy.cohort("v", "w", "x"), toy.slide("t", spots=200)


def mean_of_others(method: Calibrated, slide, seed: int = 0) -> np.ndarray:
    """The mean of as many draws of STFlow as the drift is computed from, none of which is used itself."""
    others = Draws(entropy(seed, "point"), slide.id)
    made = method.parts["draws"].predict(slide.without_truth(), method.samples, others)
    return made.samples.mean(0, dtype=float)


@pytest.mark.parametrize("deviations", ["draws", "gaussian"])
def test_deviations_have_the_covariance_of_validation_errors_within_slides(tmp_path, deviations):
    train, test = toy.cohort("a", "b"), toy.slide("t", spots=8000)
    valid = Cohort([toy.slide(name, spots=1000) for name in "vw"], train.genes)
    params = {"draws": WIDE, "deviations": deviations, "shrinkage": 0.0, "clip": False}
    method = fitted(Calibrated(**params), train, tmp_path, valid)
    errors = []
    for slide in valid:
        off = slide.expression - predict(method, slide).point
        errors.append(off - off.mean(0))
    found = predict(method, test, 2)
    drawn = np.cov((found.samples[0] - found.point).T)
    np.testing.assert_allclose(drawn, covariance(np.concatenate(errors)), atol=0.06)


def test_draws_are_around_the_point_estimate_on_validation_slides(tmp_path):
    """Draws that are clipped lie above their point estimate, which validation slides tell."""
    train, valid, _ = cohorts()
    flag = {
        "use": "flag_st.methods.flag.Flag",
        "params": {
            "backbone": {"kind": "alone", "width": 16, "depth": 1, "heads": 2},
            "training": {"epochs": 2},
        },
    }
    method = fitted(Calibrated(flag, {"ridge": RIDGE}, clip=False), train, tmp_path, valid)
    own, found = (
        [predict(one, slide, 8) for slide in valid] for one in (method.parts["draws"], method)
    )
    before, after = (
        np.mean([(p.samples - p.point).mean((0, 1)) for p in made], axis=0) for made in (own, found)
    )
    assert np.abs(before).max() > 0.01
    assert np.abs(after).max() < 1e-5


def test_weights_are_those_of_least_squares_and_never_negative():
    rng = np.random.default_rng(0)
    good, poor = rng.normal(size=(2, 500, 6))
    truth = 0.75 * good + 0.1 * poor
    level = np.arange(6.0)
    each = [np.stack([good + 3, poor - level])] * 2  # the level is no part of the pattern
    np.testing.assert_allclose(stack(each, [truth + level, truth]), [0.75, 0.1], atol=1e-9)
    away = [np.stack([good, -truth])]
    np.testing.assert_allclose(stack(away, [truth])[1], 0, atol=1e-12)
    np.testing.assert_array_equal(stack([np.ones((2, 5, 6))], [truth[:5]]), [0, 0])


def test_covariance_has_the_errors_variances_and_correlations_between_both():
    errors, expression = spd(0), 4 * spd(1)
    for share in (0, 0.25, 1):
        found = shrunk(errors, expression, share)
        np.testing.assert_allclose(np.diag(found), np.diag(errors))
        scale = np.sqrt(np.outer(np.diag(found), np.diag(found)))
        each = [m / np.sqrt(np.outer(np.diag(m), np.diag(m))) for m in (errors, expression)]
        np.testing.assert_allclose(found / scale, (1 - share) * each[0] + share * each[1])
    constant = shrunk(np.diag([1.0, 0.0]), np.ones((2, 2)), 0.5)
    np.testing.assert_allclose(constant, np.diag([1.0, 0.0]))


def test_the_point_estimate_is_the_stack_of_all(tmp_path):
    train, valid, test = cohorts()
    params = {"draws": STFLOW, "regressions": {"ridge": RIDGE}, "clip": False}
    method = fitted(Calibrated(**params), train, tmp_path, valid)
    own, other = (
        mean_of_others(method, test),
        predict(method.parts["ridge"], test).point.astype(float),
    )
    weights = method.weights
    point = predict(method, test, 3).point
    level = (weights[0] * own.mean(0) + weights[1] * other.mean(0)) / weights.sum()
    np.testing.assert_allclose(point.mean(0), level, atol=1e-6)
    pattern = weights[0] * within(own) + weights[1] * within(other)
    np.testing.assert_allclose(within(point), pattern, atol=1e-6)
    assert weights[1] > 0.5  # expression of the toy is linear in the features


def test_without_a_regression_the_pattern_is_scaled_and_the_level_stays(tmp_path):
    train, valid, test = cohorts()
    method = fitted(Calibrated(WIDE), train, tmp_path, valid)
    own = predict(method.parts["draws"], test).point
    found = predict(method, test, 3)
    expected = own.mean(0) + method.weights[0] * within(own)
    np.testing.assert_allclose(found.point, np.maximum(expected, 0), atol=1e-6)
    assert found.samples.min() >= 0


def test_a_draw_and_the_point_are_the_same_however_many_are_made(tmp_path):
    """STFlow's own point estimate is the mean of the draws asked for, and would be the draw if it is alone."""
    train, valid, test = cohorts()
    method = fitted(Calibrated(STFLOW, clip=False), train, tmp_path, valid)
    one, many = predict(method, test, 1), predict(method, test, 10)
    np.testing.assert_allclose(one.samples[0], many.samples[0], atol=1e-6)
    np.testing.assert_allclose(one.point, many.point, atol=1e-6)
    spread = (many.samples - many.point).std((1, 2))
    assert spread[8:].mean() == pytest.approx(spread[:8].mean(), rel=0.1)


def test_it_survives_its_file_and_counts_both_networks(tmp_path):
    train, valid, test = cohorts()
    params = {"draws": STFLOW, "regressions": {"ridge": RIDGE}}
    method = fitted(Calibrated(**params), train, tmp_path, valid)
    again = reloaded(method, USE, params, tmp_path)
    first = predict(method, test, 2)
    np.testing.assert_array_equal(predict(again, test, 2).samples, first.samples)
    np.testing.assert_array_equal(predict(again, test, 2).point, first.point)
    two = Calibrated(STFLOW, {"other": STFLOW}).build(5, 6)
    one = Calibrated(STFLOW).build(5, 6)
    assert isinstance(two, torch.nn.Module)
    count = [sum(p.numel() for p in net.parameters()) for net in (one, two)]
    assert count[1] == 2 * count[0] > 0


def test_wrong_arguments_name_the_remedy():
    with pytest.raises(FlagError, match="draws names a method that makes none"):
        Calibrated(RIDGE)
    with pytest.raises(FlagError, match="a regression is called draws"):
        Calibrated(STFLOW, {"draws": RIDGE})
    with pytest.raises(FlagError, match="shrinkage 2 and samples 8"):
        Calibrated(STFLOW, shrinkage=2)
    with pytest.raises(FlagError, match=r"shrinkage 0\.5 and samples 1"):
        Calibrated(STFLOW, samples=1)
    with pytest.raises(FlagError, match=r"draws, gaussian, not .noise."):
        toy.made(Calibrated, draws=STFLOW, deviations="noise")


def test_it_takes_over_what_its_parts_need():
    patches = {"use": "flag_st.methods.bleep.Bleep", "params": {"inputs": "patches"}}
    assert Calibrated(STFLOW, {"bleep": patches}).needs == {"patches"}
