"""Conformal intervals: exact where spots are alike, no less than guaranteed where patients differ."""

from dataclasses import replace

import numpy as np
import pytest

from flag_st.core.errors import FlagError
from flag_st.data.patients import validated_and_trained
from flag_st.intervals.conformal import LEVELS, Conformal, Seen
from flag_st.methods.base import Prediction

GENES = 6


def square(spots):
    """Spots of a square array, 200 µm apart."""
    return 200.0 * np.stack(np.divmod(np.arange(spots), int(np.ceil(np.sqrt(spots)))), -1)


def seen(rng, spots=200, patient="p", shift=0.0, draws=8, scale=1.0):
    """A slide whose truth is Gaussian around the point, with ``scale`` times the spread of the draws."""
    sd = rng.uniform(0.2, 1, (spots, GENES))
    point = np.full((spots, GENES), 20.0)
    samples = point + sd * rng.standard_normal((draws, spots, GENES)) if draws > 1 else point[None]
    truth = point + shift + scale * sd * rng.standard_normal((spots, GENES))
    return Seen(patient, truth, Prediction(samples, point), square(spots))


def covered(calibration, slide, level, joint=False):
    lower, upper = calibration.interval(slide.prediction, level, joint)
    return (slide.truth >= lower) & (slide.truth <= upper)


@pytest.mark.parametrize("draws", [1, 8])
@pytest.mark.parametrize("scale", [0.5, 1, 3])
def test_the_share_of_the_truth_inside_is_the_level_whatever_the_draws_say(draws, scale):
    """Draws that are too narrow by three or too wide by two are put right, and so is a point estimate."""
    rng = np.random.default_rng(1)
    calibration = Conformal.fit([seen(rng, 2000, draws=draws, scale=scale)])
    new = seen(rng, 4000, draws=draws, scale=scale)
    for level in LEVELS:
        assert covered(calibration, new, level).mean() == pytest.approx(level / 100, abs=0.02)


def test_the_quantile_of_a_few_errors_is_the_textbook_one():
    """Nine errors 1 to 9: the smallest interval that holds 80 % of ten spots is the eighth error."""
    point = np.full((9, 1), 20.0)
    truth = point + np.arange(1.0, 10)[:, None]
    calibration = Conformal.fit(
        [Seen("p", truth, Prediction(point[None], point), square(len(point)))]
    )
    assert calibration.factors[:, 0].tolist() == [5, 8, 9, 9]
    assert calibration.floor.tolist() == [1]


def test_each_patient_weighs_the_same():
    """One patient has a hundred spots with the error 1, another has ten with the error 9."""
    slides = []
    for patient, spots, error in (("a", 100, 1.0), ("b", 10, 9.0)):
        point = np.full((spots, 1), 20.0)
        slides.append(Seen(patient, point + error, Prediction(point[None], point), square(spots)))
    calibration = Conformal.fit(slides)
    assert calibration.patients == 2
    assert calibration.factors[:, 0].tolist() == [
        9,
        9,
        9,
        9,
    ]  # 50 % of 111 spots is just above a half
    alone = Conformal.fit([replace(s, patient="a") for s in slides])
    assert alone.factors[LEVELS.index(90), 0] == 1


def test_a_new_patient_is_covered_as_guaranteed():
    """Patients are shifted against each other: few of them calibrate too narrowly, never below the bound."""
    rng = np.random.default_rng(2)
    for patients in (1, 3, 12):
        shares = []
        for _ in range(150):
            known = [seen(rng, 60, f"p{k}", rng.normal(0, 1)) for k in range(patients)]
            calibration = Conformal.fit(known)
            new = seen(rng, 60, "new", rng.normal(0, 1))
            shares.append(covered(calibration, new, 90).mean())
        bound = calibration.guaranteed(90)
        assert bound == pytest.approx(0.9 * patients / (patients + 1))
        assert np.mean(shares) >= bound
    assert np.mean(shares) == pytest.approx(0.9, abs=0.04)


def test_nothing_is_guaranteed_if_training_met_the_patients():
    """Intervals are those of the errors that were seen, but a new patient's errors are others."""
    rng = np.random.default_rng(2)
    known = [seen(rng, patient=name) for name in "abc"]
    apart, met = Conformal.fit(known), Conformal.fit(known, met=True)
    assert np.array_equal(apart.factors, met.factors)
    assert (apart.guaranteed(90), met.guaranteed(90)) == (pytest.approx(0.675), 0)
    assert "no more than 68 % are guaranteed" in apart.sentence(90)
    assert "for a new patient nothing is guaranteed" in met.sentence(90)


@pytest.mark.parametrize(
    ("patients", "met"),
    [("ABC", False), ("AAB", True), ("ABB", False), (["", "", "C"], True), (["A", "", ""], False)],
)
def test_patients_of_validation_who_are_in_training_are_found(patients, met):
    """Unknown donors of both parts may be the same."""
    split = {"train": ["x"], "valid": ["y"], "test": ["z"]}
    assert validated_and_trained(split, dict(zip("xyz", patients, strict=True))) is met


def test_all_genes_of_a_spot_at_once():
    rng = np.random.default_rng(3)
    calibration = Conformal.fit([seen(rng, 2000)])
    new = seen(rng, 4000)
    apart, joint = (covered(calibration, new, 90, j).all(1).mean() for j in (False, True))
    assert apart == pytest.approx(0.9**GENES, abs=0.04)
    assert joint == pytest.approx(0.9, abs=0.02)


def test_expression_is_not_below_zero():
    point = np.full((50, 1), 0.1)
    truth = np.random.default_rng(0).exponential(1, (50, 1))
    calibration = Conformal.fit(
        [Seen("p", truth, Prediction(point[None], point), square(len(point)))]
    )
    lower, upper = calibration.interval(Prediction(point[None], point), 90)
    assert lower.min() == 0
    assert ((truth >= lower) & (truth <= upper)).mean() >= 0.9


def test_draws_without_spread_and_a_gene_that_is_never_there():
    point = np.zeros((50, 2))
    samples = np.zeros((4, 50, 2))
    truth = np.column_stack([np.zeros(50), np.arange(50.0)])
    calibration = Conformal.fit([Seen("p", truth, Prediction(samples, point), square(50))])
    lower, upper = calibration.interval(Prediction(samples, point), 90, joint=True)
    assert np.isfinite(upper).all()
    assert upper[:, 0].max() == 0
    assert ((truth >= lower) & (truth <= upper)).all(1).mean() >= 0.9


def test_it_is_restored_to_the_last_bit():
    calibration = Conformal.fit([seen(np.random.default_rng(4))])
    again = Conformal.restore(calibration.arrays())
    for name in ("factors", "joint", "floor", "spans"):
        np.testing.assert_array_equal(getattr(again, name), getattr(calibration, name))
    assert (again.patients, again.draws) == (calibration.patients, calibration.draws)


def test_what_cannot_be_calibrated_is_refused():
    rng = np.random.default_rng(5)
    with pytest.raises(FlagError, match="as many draws each"):
        Conformal.fit([])
    with pytest.raises(FlagError, match=r"not \[1, 8\]"):
        Conformal.fit([seen(rng), seen(rng, draws=1)])
    calibration = Conformal.fit([seen(rng)])
    with pytest.raises(FlagError, match="one draw has no spread"):
        calibration.interval(seen(rng, draws=1).prediction, 90)
    with pytest.raises(FlagError, match="intervals of 42 %"):
        calibration.interval(seen(rng).prediction, 42)
    with pytest.raises(FlagError, match="lacks joint"):
        Conformal.restore({"factors": calibration.factors})
