"""Smoothing of MERGE's labels: near spots, spots alike, and that only training labels are smoothed."""

import numpy as np
import pytest
import toy
from sklearn.decomposition import PCA
from toy_slides import predict, toy_cohort, toy_slide

from flag_st.data.lattice import steps_apart
from flag_st.methods.base import Run
from flag_st.methods.merge import Merge
from flag_st.methods.merge.smoothing import Smoothing, near_spots, smooth, smoothed, spots_alike
from flag_st.methods.merge.task import SlideTask
from flag_st.methods.spots import SpotTask

SQUARE = np.array([[x, y] for x in range(5) for y in range(5)], float) * 200
#: A hexagonal array as Visium has it: every other row is half a step further.
HEXAGONAL = np.array([[x + 0.5 * (y % 2), y * np.sqrt(0.75)] for y in range(7) for x in range(7)])
BRIEF = {
    "widths": [8, 8, 8],
    "heads": 2,
    "first": {"epochs": 1},
    "training": {"epochs": 1, "validate_every": 1},
}


def test_steps_on_a_square_array_are_those_of_a_rook():
    (row, column), steps = steps_apart(SQUARE, 2)
    found = {(i, j): s for i, j, s in zip(row.tolist(), column.tolist(), steps, strict=True)}
    for i in range(25):
        for j in range(25):
            apart = int(np.abs(SQUARE[i] - SQUARE[j]).sum() / 200)
            assert found.get((i, j)) == (apart if 0 < apart <= 2 else None)


@pytest.mark.parametrize("turned", [0.0, 0.3, 1.2])
def test_steps_on_a_hexagonal_array_are_rings(turned):
    """Six spots at one step, twelve at two; the middle one's are told by their distance."""
    turn = np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]])
    (row, column), steps = steps_apart(HEXAGONAL @ turn.T * 100, 2)
    middle = 24
    distance = np.linalg.norm(HEXAGONAL - HEXAGONAL[middle], axis=1)
    own = row == middle
    for count, ring in ((6, 1), (12, 2)):
        found = set(column[own & (steps == ring)].tolist())
        between = (distance > (0.1 if ring == 1 else 1.1)) & (distance < ring + 0.1)
        assert len(found) == count
        assert found == set(np.flatnonzero(between).tolist())


def test_near_spots_of_a_square_array_by_hand():
    weights = near_spots(SQUARE, 2).toarray()
    np.testing.assert_allclose(weights.sum(1), 1)
    middle, corner = weights[12].reshape(5, 5), weights[0].reshape(5, 5)
    # Four spots at one step and eight at two: 4 × 1 + 8 × ½ = 8.
    expected = np.array(
        [[0, 0, 1, 0, 0], [0, 1, 2, 1, 0], [1, 2, 0, 2, 1], [0, 1, 2, 1, 0], [0, 0, 1, 0, 0]]
    )
    np.testing.assert_allclose(middle, expected / 16)
    # Two at one step and three at two: 3.5.
    assert corner[0, 1] == corner[1, 0] == pytest.approx(1 / 3.5)
    assert corner[1, 1] == corner[0, 2] == corner[2, 0] == pytest.approx(0.5 / 3.5)
    assert np.count_nonzero(corner) == 5


def test_a_spot_without_near_ones_has_itself():
    position = np.concatenate([SQUARE, [[9000.0, 9000.0]]])
    weights = near_spots(position, 2).toarray()
    np.testing.assert_array_equal(weights[25], np.eye(26)[25])
    np.testing.assert_allclose(weights.sum(1), 1)


def test_spots_alike_by_the_formula():
    x = np.random.default_rng(0).normal(size=(40, 30))
    y = PCA(10, svd_solver="full").fit_transform(x)
    r = np.corrcoef(y)
    expected = np.zeros((40, 40))
    for i in range(40):
        others = sorted((j for j in range(40) if j != i), key=lambda j, i=i: -r[i, j])[:6]
        for j in others:
            expected[i, j] = np.exp(-4.5 * (1 - r[i, j]) ** 2) if r[i, j] >= 0 else 0
    expected /= expected.sum(1, keepdims=True)
    found = spots_alike(x, 6).toarray()
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert (np.count_nonzero(found, axis=1) <= 6).all()


def test_equal_spots_are_alike_and_none_is_its_own_neighbour():
    x = np.repeat(np.random.default_rng(0).normal(size=(3, 8)), 20, axis=0)
    found = spots_alike(x, 4).toarray()
    assert (np.diag(found) == 0).all()
    np.testing.assert_allclose(found @ x, x, atol=1e-9)
    assert (np.count_nonzero(found, axis=1) == 4).all()


def test_the_shares_of_the_three_parts():
    slide = toy_slide("A1", 36)
    options = Smoothing(alpha=0.6, beta=0.4)
    x, position = slide.truth, slide.position
    near, alike = near_spots(position, 2) @ x, spots_alike(x, 16) @ x
    expected = 0.4 * x + 0.6 * (0.4 * near + 0.6 * alike)
    np.testing.assert_allclose(smooth(position, x, options), expected, rtol=1e-5)
    assert np.abs(expected - x).max() > 0.1


def test_nothing_is_smoothed_without_a_share_and_a_constant_gene_stays():
    cohort = toy_cohort(2)
    assert smoothed(cohort, Smoothing()) is cohort
    x = cohort[0].truth.copy()
    x[:, 3] = 2.5
    np.testing.assert_allclose(smooth(cohort[0].position, x, Smoothing(0.6))[:, 3], 2.5, rtol=1e-6)


def test_smoothing_follows_its_spots():
    slide = toy_slide("A1", 49)
    order = np.random.default_rng(0).permutation(49)
    once = smooth(slide.position, slide.truth, Smoothing(0.6))
    moved = smooth(slide.position[order], slide.truth[order], Smoothing(0.6))
    np.testing.assert_allclose(moved, once[order], atol=1e-5)


def test_only_labels_that_train_are_smoothed(tmp_path, monkeypatch):
    """In both stages; what validation compares with, and the test slide, stay as they are."""
    train, valid, seen = toy_cohort(2), toy_cohort(1, seed=3), {}

    def watched(task, module, original):
        seen[type(task)] = task
        return original(task, module)

    for task in (SpotTask, SlideTask):
        monkeypatch.setattr(
            task, "validate", lambda self, module, o=task.validate: watched(self, module, o)
        )
    method = toy.made(Merge, smooth={"alpha": 0.6}, **BRIEF)
    method.fit(train, valid, Run(directory=tmp_path))
    labels = np.concatenate([smooth(s.position, s.truth, Smoothing(0.6)) for s in train])
    truth = valid[0].truth - method.mean
    assert np.abs(labels - train.expression).max() > 0.1
    first, second = seen[SpotTask], seen[SlideTask]
    np.testing.assert_allclose(first.y, labels - method.mean, atol=1e-5)
    taught = np.concatenate([graph.y for graph in second.train])
    np.testing.assert_allclose(taught, labels - method.mean, atol=1e-5)
    np.testing.assert_allclose(first.valid[0][1], truth, atol=1e-5)
    np.testing.assert_allclose(second.valid[0].y, truth, atol=1e-5)
    assert predict(method, valid[0]).samples.shape == (1, 40, 12)  # without any truth
