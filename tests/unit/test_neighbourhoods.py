"""The coarser scale: what is averaged, and intervals of the means, from closed forms."""

from statistics import NormalDist

import numpy as np
import pytest

from flag_st.intervals import conformal
from flag_st.intervals.calibration import Calibration, coarser
from flag_st.intervals.conformal import LEVELS, Seen
from flag_st.intervals.neighbourhoods import averaged, neighbourhoods
from flag_st.methods.base import Prediction

SIDE = 40


def square(side=SIDE):
    return 200.0 * np.stack(np.divmod(np.arange(side**2), side), -1)


def hexagonal(side=SIDE):
    row, column = np.divmod(np.arange(side**2), side)
    return 100.0 * np.column_stack([column + row % 2 / 2, row * 3**0.5 / 2])


def field(rng, position, shared=0.0):
    """Errors of variance 1, of which the share ``shared`` is the same at all spots of a slide."""
    own = rng.standard_normal((len(position), 1))
    return np.sqrt(shared) * rng.standard_normal() + np.sqrt(1 - shared) * own


def slide(rng, patient="p", shared=0.0, position=None, point=20.0):
    position = square() if position is None else position
    made = np.full((len(position), 1), point)
    truth = made + field(rng, position, shared)
    return Seen(patient, truth, Prediction(made[None], made), position)


@pytest.mark.parametrize(("position", "most"), [(square(), 5), (hexagonal(), 7)])
def test_a_spot_is_averaged_with_those_one_step_away(position, most):
    weights = neighbourhoods(position).toarray()
    assert weights.sum(1) == pytest.approx(np.ones(len(position)))
    counts = (weights > 0).sum(1)
    middle = SIDE * (SIDE // 2) + SIDE // 2
    assert counts[middle] == most == counts.max()
    assert counts[0] < most  # a corner of the array
    assert weights[middle][weights[middle] > 0] == pytest.approx(np.full(most, 1 / most))
    reach = np.linalg.norm(position - position[middle], axis=1)[weights[middle] > 0].max()
    assert reach == pytest.approx(200 if most == 5 else 100)


def test_a_spot_that_is_alone_is_its_own_neighbourhood():
    for position in (np.zeros((1, 2)), 1000.0 * np.array([[0, 0], [1, 0], [1, 1], [9, 9]])):
        assert neighbourhoods(position).toarray()[-1, -1] == 1


def test_draws_and_point_are_averaged_by_themselves():
    rng = np.random.default_rng(0)
    made = Prediction(rng.normal(size=(3, SIDE**2, 2)), rng.normal(size=(SIDE**2, 2)))
    weights = neighbourhoods(square())
    rows = weights[[0]].toarray()[0] > 0
    found = averaged(made, weights)
    assert found.samples[:, 0] == pytest.approx(made.samples[:, rows].mean(1))
    assert found.point[0] == pytest.approx(made.point[rows].mean(0))


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_the_width_is_that_of_the_mean_of_errors_that_are_more_or_less_alike(shared):
    """The mean of five errors has the variance shared + (1 - shared) / 5, and each spot the variance 1.

    Sixty slides of a patient each stand for the distribution over slides.
    """
    rng = np.random.default_rng(1)
    calibration = Calibration.fit([slide(rng, f"p{k}", shared) for k in range(60)])
    new = slide(rng)
    spot = calibration.spot.interval(new.prediction, 90)
    weights = neighbourhoods(new.position)
    mean = calibration.neighbourhood.interval(new.prediction, 90, weights=weights)
    z = NormalDist().inv_cdf(0.95)
    inner = (weights.toarray() > 0).sum(1) == 5  # margins have fewer, and so are a little wider
    share = np.mean(1 / (weights.toarray() > 0).sum(1))
    assert inner.mean() > 0.9
    assert np.mean(spot[1] - spot[0]) == pytest.approx(2 * z, rel=0.12)
    wanted = 2 * z * np.sqrt(shared + (1 - shared) * share)
    assert np.mean(mean[1] - mean[0]) == pytest.approx(wanted, rel=0.12)


def test_a_new_patient_s_neighbourhoods_are_covered_as_guaranteed():
    """Patients are shifted against each other, by as much as their spots differ."""
    rng = np.random.default_rng(2)
    for patients in (1, 3, 12):
        shares = []
        for _ in range(150):
            known = [slide(rng, f"p{k}", 0.5, square(8)) for k in range(patients)]
            calibration = Calibration.fit(known).neighbourhood
            new = coarser(slide(rng, "new", 0.5, square(8)))
            lower, upper = calibration.interval(new.prediction, 90)
            shares.append(((new.truth >= lower) & (new.truth <= upper)).mean())
        assert np.mean(shares) >= calibration.guaranteed(90)
    assert np.mean(shares) == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize("r", [0.0, 0.6, 0.8])
def test_an_interval_is_told_from_what_is_known_without_the_slide(r):
    """A prediction with the correlation r has intervals √(1 - r²) times as wide as the whole range."""
    rng = np.random.default_rng(3)
    signal = rng.standard_normal((20_000, 1))
    point = 20 + r**2 * signal / max(r, 1e-9)
    truth = 20 + r * signal + np.sqrt(1 - r**2) * rng.standard_normal((20_000, 1))
    known = Seen("p", truth, Prediction(point[None], point), np.zeros((20_000, 2)))
    spot = conformal.Conformal.fit([known])
    lower, upper = spot.interval(known.prediction, 90)
    z = NormalDist().inv_cdf(0.95)
    assert spot.spans[LEVELS.index(90)] == pytest.approx(2 * z, rel=0.03)
    assert np.mean(upper - lower) / (2 * z) == pytest.approx(np.sqrt(1 - r**2), rel=0.03)
    if r:
        assert spot.informative(lower, upper, 90).all()


def test_blocks_of_spots_change_nothing(monkeypatch):
    rng = np.random.default_rng(4)
    known = slide(rng, position=square(9))
    weights = neighbourhoods(known.position)
    calibration = Calibration.fit([known])
    whole = calibration.neighbourhood.interval(known.prediction, 90, weights=weights)
    monkeypatch.setattr(conformal, "BLOCK", 7)
    parts = calibration.neighbourhood.interval(known.prediction, 90, weights=weights)
    assert np.array_equal(whole, parts)
    means = coarser(known).prediction
    assert np.allclose(calibration.neighbourhood.interval(means, 90), whole)
    again = Calibration.restore(calibration.arrays())
    assert np.array_equal(again.neighbourhood.factors, calibration.neighbourhood.factors)
