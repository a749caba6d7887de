"""The certificate of genes: what it says is shown is seldom false, and what is plainly true is shown."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from toy_predicted import toy_predicted

from flag_st.core.errors import FlagError
from flag_st.intervals.calibration import Calibration
from flag_st.intervals.certificate import (
    COARSER,
    CONFIDENCE,
    CORRELATION,
    DO_NOT,
    TRUST,
    VERDICTS,
    Certificate,
    lower_ends,
)
from flag_st.intervals.conformal import Seen
from flag_st.methods.base import Prediction
from flag_st.slides.trust import LIKE, REFUSE, UNLIKE

SIDE, GENES = 17, 400


def fields(rng, length, genes=GENES, side=SIDE):
    """(N, G) stationary Gaussian fields of variance 1, correlated by exp(-(d / 2 length)²)."""
    noise = rng.standard_normal((side, side, genes))
    if length:
        point = np.zeros((side, side))
        point[0, 0] = 1
        smooth = gaussian_filter(noise, (length, length, 0), mode="wrap")
        noise = smooth / np.linalg.norm(gaussian_filter(point, length, mode="wrap"))
    return noise.reshape(side**2, genes)


def slide(rng, patient="p", r=CORRELATION, length=1.0, shrunk=1.0, genes=GENES, side=SIDE):
    """A slide whose prediction correlates with the truth by ``r`` in the long run.

    The prediction is the regression on the signal, whose error is 1 - r² of the variance, times ``shrunk``.
    """
    position = 200.0 * np.stack(np.divmod(np.arange(side**2), side), -1)
    signal, noise = (fields(rng, length, genes, side) for _ in range(2))
    truth = 9 + r * signal + np.sqrt(1 - np.square(r)) * noise
    point = (
        5 + shrunk * np.abs(r) * signal
    )  # four too low everywhere, which the certificate ignores
    return Seen(patient, truth, Prediction(point[None], point), position)


def falsely(slides, limit=CORRELATION):
    """Share of genes whose correlation, which is at the limit, is taken to be above it."""
    return (np.tanh(lower_ends(slides)[0]) > limit).mean()


@pytest.mark.parametrize("length", [0, 1, 1.5])
def test_one_patient_is_seldom_trusted_falsely_although_neighbours_are_alike(length):
    """Spots that are 400 µm apart correlate by up to 0.6."""
    rng = np.random.default_rng(0)
    rate = np.mean([falsely([slide(rng, length=length)]) for _ in range(4)])
    assert rate <= 1 - CONFIDENCE + 0.01


def test_spots_that_are_taken_for_independent_would_be_trusted_falsely():
    """The test above can fail: with 1 / (N - 3) for the variance of Fisher's z, one gene in three is."""
    rng = np.random.default_rng(0)
    one = slide(rng, length=1.5)
    (z, _), naive = lower_ends([one, one]), 1.645 / np.sqrt(SIDE**2 - 3)
    t, p = one.truth - one.truth.mean(0), one.prediction.point - one.prediction.point.mean(0)
    r = (t * p).sum(0) / np.sqrt((t**2).sum(0) * (p**2).sum(0))
    assert (np.arctanh(r) - naive > np.arctanh(CORRELATION)).mean() > 5 * (1 - CONFIDENCE)
    assert (z < np.arctanh(r) - naive).mean() > 0.95


@pytest.mark.parametrize("patients", [2, 3, 10])
@pytest.mark.parametrize("sd", [0.0, 0.3])
def test_patients_who_differ_are_seldom_trusted_falsely(patients, sd):
    """Fisher's z of each patient is Gaussian around the limit."""
    rng, rates = np.random.default_rng(1), []
    for _ in range(4):
        z = np.arctanh(CORRELATION) + sd * rng.standard_normal((patients, GENES))
        rates.append(falsely([slide(rng, f"p{k}", r) for k, r in enumerate(np.tanh(z))]))
    assert np.mean(rates) <= 1 - CONFIDENCE + 0.015


def test_slides_of_one_patient_do_not_count_as_patients():
    """One patient in ten slides is still one: its own luck is in all of them."""
    rng, rates = np.random.default_rng(2), {"apart": [], "together": []}
    for _ in range(3):
        r = np.tanh(np.arctanh(CORRELATION) + 0.5 * rng.standard_normal((2, GENES)))
        made = [slide(rng, f"p{k}", r[k]) for k in (0, 1) for _ in range(5)]
        apart = [replace(one, patient=f"{one.patient}{i}") for i, one in enumerate(made)]
        rates["together"].append(falsely(made))
        rates["apart"].append(falsely(apart))
    assert np.mean(rates["together"]) <= 1 - CONFIDENCE + 0.02
    assert np.mean(rates["apart"]) > 0.15


def test_what_is_plainly_there_is_shown():
    rng = np.random.default_rng(3)
    for slides in ([slide(rng, r=0.9)], [slide(rng, f"p{k}", 0.9) for k in range(3)]):
        assert (Certificate.fit(slides).ranks == VERDICTS.index(TRUST)).mean() > 0.95
        poor = [replace(s, truth=rng.permutation(s.truth)) for s in slides]
        assert (Certificate.fit(poor).ranks == VERDICTS.index(DO_NOT)).all()


def test_noise_of_the_measurement_is_left_to_a_coarser_scale():
    """A smooth signal under noise of single spots: r is 1/√5 there, and of means about 1/√1.8."""
    rng, slides = np.random.default_rng(4), []
    for patient in "abcdefgh":
        one = slide(rng, patient, r=1.0, length=2)
        truth = one.truth + 2 * rng.standard_normal(one.truth.shape)
        point = 0.2 * one.prediction.point
        slides.append(replace(one, truth=truth, prediction=Prediction(point[None], point)))
    found = Certificate.fit(slides)
    assert (found.verdicts == COARSER).mean() > 0.9
    assert np.median(found.correlation[0]) < CORRELATION < np.median(found.correlation[1])


def test_a_map_of_the_right_shape_and_the_wrong_size_is_not_trusted():
    """Four times too large: the error is nine times the signal's variance."""
    rng = np.random.default_rng(5)
    found = Certificate.fit([slide(rng, f"p{k}", 0.95, shrunk=4) for k in range(3)])
    assert (found.correlation[0] > CORRELATION).mean() > 0.95
    assert (found.explained[0] < 0).all()
    assert set(found.verdicts) == {DO_NOT}


def test_explained_variance_is_one_minus_the_error_s_share():
    """By the closed form r² of a regression; the mean over three patients is within its interval."""
    rng = np.random.default_rng(6)
    slides = [slide(rng, f"p{k}", 0.8, length=0) for k in range(20)]
    found = Certificate.fit(slides)
    assert np.median(found.explained[0]) == pytest.approx(0.8**2, abs=0.03)
    assert np.median(found.correlation[0]) == pytest.approx(0.8, abs=0.02)
    assert (found.explained[0] < 0.8**2).mean() == pytest.approx(CONFIDENCE, abs=0.04)


def test_constant_genes_perfect_predictions_and_small_slides():
    rng = np.random.default_rng(7)
    one = slide(rng, genes=4, r=0.9)
    truth, point = one.truth.copy(), one.prediction.point.copy()
    truth[:, 0] = 0.0  # never there
    point[:, 1] = 3.0  # predicted to be the same everywhere
    point[:, 2] = truth[:, 2]
    found = Certificate.fit([replace(one, truth=truth, prediction=Prediction(point[None], point))])
    assert found.verdicts.tolist()[:3] == [DO_NOT, DO_NOT, TRUST]
    assert np.isnan(found.correlation[0, 0])
    assert found.correlation[0, 1] == pytest.approx(0, abs=1e-6)
    assert found.explained[0, 1] == pytest.approx(0, abs=1e-6)
    small = slide(rng, r=0.99, side=7)  # 49 spots
    assert (Certificate.fit([small]).ranks == 0).all()
    assert np.isnan(lower_ends([small])).all()  # which JSON and tables know, other than infinity
    # A second patient on whom a gene is constant leaves it to the first.
    other = replace(one, patient="q", truth=0 * one.truth)
    assert np.allclose(lower_ends([one, other]), lower_ends([one]))


def test_it_is_restored_and_says_what_it_rests_on():
    rng = np.random.default_rng(8)
    made = Certificate.fit([slide(rng, f"p{k}", genes=3) for k in range(2)])
    again = Certificate.restore(made.arrays())
    assert np.array_equal(again.correlation, made.correlation)
    assert np.array_equal(again.ranks, made.ranks)
    assert "of 2 patients" in again.sentence()
    alone = Certificate.fit([slide(rng, genes=3)])
    assert "one patient; nothing is shown" in alone.sentence()
    met = Certificate.fit([slide(rng, f"p{k}", genes=3) for k in range(2)], met=True)
    assert "nothing is shown of a new patient" in met.sentence()
    with pytest.raises(FlagError, match="lacks explained"):
        Certificate.restore({"correlation": made.correlation})


# --- verdicts at the spots of a new slide ---------------------------------------------------------


def with_widths(made, spot, around):
    """The slide with intervals whose widths are these multiples of what is known without it."""

    def scaled(one, prediction, factor, weights=None):
        lower, upper = one.interval(prediction, 90, weights=weights)
        spans = np.broadcast_to((upper - lower).max(0) / factor, one.spans.shape)
        return replace(one, spans=spans)

    both = made.intervals
    found = Calibration(
        scaled(both.spot, made.prediction, spot),
        scaled(both.neighbourhood, made.prediction, around, made.weights),
    )
    return replace(made, intervals=found)


@pytest.mark.parametrize(
    ("spot", "around", "wanted"),
    [(0.9, 0.9, [0, 1, 2]), (5, 0.9, [0, 1, 1]), (5, 5, [0, 0, 0]), (0.9, 5, [0, 0, 2])],
)
def test_an_interval_that_says_nothing_lowers_the_verdict(spot, around, wanted):
    made = with_widths(toy_predicted(spots=100), spot, around)
    usual = (made.trust.spots["verdict"] == LIKE).to_numpy()
    assert usual.mean() > 0.8
    found = made.ranks[usual][:, [0, 1, 6]]  # one gene of each verdict
    assert np.median(found, axis=0).tolist() == wanted


def test_nothing_is_trusted_where_the_tissue_is_unlike_that_of_training():
    made = with_widths(toy_predicted(spots=100), 0.9, 0.9)
    spots = made.trust.spots.assign(verdict=[UNLIKE] * 10 + [LIKE] * 90)
    ranks = replace(made, trust=replace(made.trust, spots=spots)).ranks
    assert (ranks[:10] == 0).all()
    assert (ranks[10:, 6] == 2).all()
    forced = replace(made, trust=replace(made.trust, spots=spots, verdict=REFUSE))
    assert (forced.ranks == 0).all()
    assert toy_predicted(draws=1).ranks is None  # the intervals were calibrated on several
