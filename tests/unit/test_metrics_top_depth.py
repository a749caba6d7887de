"""PCC of top genes, depth-corrected structure, and the ceilings of the truth."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from flag_st.core.seeds import numpy_generator
from flag_st.data.slide import TRANSFORMS
from flag_st.metrics import ceilings
from flag_st.metrics.base import Case
from flag_st.metrics.depth import TO_COUNTS, Depth, log_depth, residuals
from flag_st.metrics.gsc import Gsc
from flag_st.metrics.pcc import Pcc
from flag_st.metrics.pcc_top import PccTop
from flag_st.metrics.ssc import Ssc

N, G = 80, 60


@pytest.fixture
def arrays():
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(N, G)) + 4
    prediction = truth + rng.normal(size=(N, G)) * np.linspace(0.2, 6, G)
    return truth, prediction, rng.uniform(0, 900, size=(N, 2))


def case(truth, prediction, position=None, **known):
    names = tuple(f"g{i}" for i in range(truth.shape[1]))
    return Case(truth, prediction, position, names, cache=known)


# --- top genes ----------------------------------------------------------------------------------


def test_both_readings_of_pcc_50(arrays):
    truth, prediction, _ = arrays
    r = np.array([np.corrcoef(truth[:, g], prediction[:, g])[0, 1] for g in range(G)])
    variance = np.random.default_rng(0).uniform(size=G)
    found = PccTop()(case(truth, prediction, train_variance=variance))
    for k in (10, 50):
        assert found[f"pcc{k}_best"] == pytest.approx(np.sort(r)[::-1][:k].mean())
        assert found[f"pcc{k}_var"] == pytest.approx(r[np.argsort(variance)[::-1][:k]].mean())
    assert found["pcc10_best"] > found["pcc10_var"] + 0.1


def test_pcc_200_needs_200_genes():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(N, 210))
    prediction, variance = truth + rng.normal(size=truth.shape), rng.uniform(size=210)
    r = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(truth.T, prediction.T, strict=True)])
    found = PccTop()(case(truth, prediction, train_variance=variance))
    assert found["pcc200_var"] == pytest.approx(r[np.argsort(variance)[::-1][:200]].mean())
    fewer = PccTop()(case(truth[:, :199], prediction[:, :199], train_variance=variance[:199]))
    assert np.isnan(fewer["pcc200_var"])
    assert np.isfinite(fewer["pcc50_var"])


def test_variable_genes_need_the_training_variance(arrays):
    found = PccTop()(case(*arrays))
    assert np.isnan([found["pcc10_var"], found["pcc50_var"]]).all()
    assert np.isfinite([found["pcc10_best"], found["pcc50_best"]]).all()


def test_genes_constant_in_truth_do_not_count_among_the_top(arrays):
    truth, prediction, _ = arrays
    truth = truth.copy()
    variance = -np.arange(G, dtype=float)  # g0 is the most variable
    truth[:, :4] = 0
    one = case(truth, prediction, train_variance=variance)
    r, found = Pcc()(one)["pcc_gene"], PccTop()(one)
    assert found["pcc10_var"] == pytest.approx(r[4:10].mean())
    assert found["pcc50_best"] == pytest.approx(np.sort(r[4:])[::-1][:50].mean())
    truth[:, :11] = 0  # 49 are left, and none of the ten most variable
    found = PccTop()(case(truth, prediction, train_variance=variance))
    assert np.isnan([found["pcc50_best"], found["pcc10_var"]]).all()
    assert np.isfinite([found["pcc10_best"], found["pcc50_var"]]).all()


def test_collapsed_genes_count_as_zero_among_the_variable(arrays):
    truth, prediction, _ = arrays
    variance = -np.arange(G, dtype=float)
    before = PccTop()(case(truth, prediction, train_variance=variance))["pcc10_var"]
    r = Pcc()(case(truth, prediction))["pcc_gene"]
    prediction = prediction.copy()
    prediction[:, 2] = 1
    after = PccTop()(case(truth, prediction, train_variance=variance))["pcc10_var"]
    assert after == pytest.approx(before - r[2] / 10)


def test_small_panel_is_undefined():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(N, 9))
    found = PccTop()(case(truth, truth, train_variance=np.ones(9)))
    assert np.isnan(list(found.values())).all()


# --- depth --------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", sorted(TO_COUNTS))
def test_counts_are_recovered(transform):
    assert set(TO_COUNTS) == set(TRANSFORMS)
    counts = np.random.default_rng(0).poisson(5, size=(30, 12)).astype(float)
    depth = np.full((30, 1), 1e4)
    back = TO_COUNTS[transform](TRANSFORMS[transform](counts, depth))
    np.testing.assert_allclose(back, counts, rtol=1e-10, atol=1e-10)


def test_depth_of_predictions_without_a_count():
    values = np.array([[-5.0, 1.0], [1e6, 0.0]])
    found = log_depth(values, "log1p")
    assert found[0] == pytest.approx(np.log1p(np.expm1(1)))
    assert np.isfinite(found).all()


def test_residuals_equal_a_regression():
    rng = np.random.default_rng(1)
    depth, values = rng.normal(8, 1, 50), rng.normal(size=(50, 7)) + 100
    values += np.outer(depth, rng.normal(size=7))
    fit = LinearRegression().fit(depth[:, None], values)
    np.testing.assert_allclose(
        residuals(values, depth), values - fit.predict(depth[:, None]), atol=1e-10
    )
    np.testing.assert_allclose(residuals(values, np.ones(50)), values - values.mean(0))


def test_depth_corrected_values_are_the_metrics_of_residuals(arrays):
    truth, prediction, position = arrays
    one = case(truth, prediction, position, transform="log2p1")
    left = [residuals(v, log_depth(v, "log2p1")) for v in (truth, prediction)]
    other = case(*left, position)
    expected = {**Gsc()(other), **Ssc()(other)}
    found = Depth()(one)
    for name in ("gsc", "gsc_error", "ssc", "ssc_spearman", "moran_bias"):
        assert found[f"{name}_depth"] == pytest.approx(expected[name], rel=1e-9), name
    assert found["gsc_depth"] != pytest.approx(Gsc()(one)["gsc"], abs=1e-3)


def test_caches_of_the_slide_and_of_its_residuals_are_apart(arrays):
    truth, prediction, position = arrays
    mixed = case(truth, prediction, position)
    first, depth, again = Gsc()(mixed), Depth()(mixed), Gsc()(mixed)
    assert first == again
    assert depth == Depth()(case(truth, prediction, position))
    shared = {}
    for p in (prediction, prediction[::-1].copy()):
        one = case(truth, p, position)
        one.cache["truth"] = shared
        assert Depth()(one) == Depth()(case(truth, p, position))


def test_depth_alone_loses_its_score(arrays):
    """Poisson draws of depth times gene mix have structure before, but none after."""
    position = arrays[2]
    rng = np.random.default_rng(2)
    mix = rng.gamma(1, 1, G)
    field = np.exp(np.sin(position[:, 0] / 200) + 0.3 * rng.normal(size=N))
    gene = np.exp(np.sin(position @ rng.normal(size=(2, 3)) / 120) @ rng.normal(size=(3, G)) / 2)
    truth = np.log1p(rng.poisson(20 * field[:, None] * mix * gene))
    null = np.log1p(rng.poisson(20 * field[:, None] * mix))
    one = case(truth, null, position)
    before, after = {**Gsc()(one), **Ssc()(one)}, Depth()(one)
    assert before["gsc"] > 0.2
    assert after["gsc_depth"] < 0.1
    assert before["ssc"] > after["ssc_depth"] + 0.2


def test_constant_genes_stay_constant_after_correction(arrays):
    truth, prediction, position = (a.copy() for a in arrays)
    truth[:, 0], prediction[:, 1] = 2, 5
    found = Depth()(case(truth, prediction, position))
    left = [residuals(v, log_depth(v, "log1p")) for v in (truth, prediction)]
    left[0][:, 0], left[1][:, 1] = 0, 0
    other = case(*left, position)
    assert found["gsc_depth"] == pytest.approx(Gsc()(other)["gsc"], rel=1e-9)
    assert found["ssc_depth"] == pytest.approx(Ssc()(other)["ssc"], rel=1e-9)
    flat = Depth()(case(truth, np.ones_like(prediction), position))
    assert flat["gsc_depth"] == flat["ssc_depth"] == 0


# --- ceilings -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(4)
    position = np.array([(x, y) for x in range(20) for y in range(20)], dtype=float)
    fields = np.sin(position @ rng.normal(size=(2, 4)) / 3)
    rate = np.exp(fields @ rng.normal(size=(4, 40)) * np.linspace(0.05, 0.8, 40))
    return rng.poisson(6 * rate), rate, position


def test_spearman_brown():
    assert ceilings.spearman_brown(0.5) == pytest.approx(2 / 3)
    assert ceilings.spearman_brown(1) == 1
    # Two parallel halves of signal variance 1 and noise variance v each: r = 1/(1 + v), and the
    # mean of both halves has noise v/2.
    v = 0.37
    assert ceilings.spearman_brown(1 / (1 + v)) == pytest.approx(1 / (1 + v / 2))


def test_thinned_counts_agree_as_two_measurements_do(counts):
    """The carried-over ceiling of one measurement is the agreement of two measurements."""
    one, rate, position = counts
    two = np.random.default_rng(9).poisson(6 * rate)
    pair = case(np.log1p(one), np.log1p(two), position)
    found = ceilings.thin_counts(one, position, "A1")
    assert found["gsc"] == pytest.approx(Gsc()(pair)["gsc"], abs=0.04)
    assert found["ssc"] == pytest.approx(Ssc()(pair)["ssc"], abs=0.04)
    assert found["gsc_half"] < found["gsc"] < 1
    assert found["gsc"] == pytest.approx(ceilings.spearman_brown(found["gsc_half"]))


def test_ceilings_rise_with_depth_and_spots(counts):
    _, rate, position = counts
    rng = np.random.default_rng(5)
    found = [ceilings.thin_counts(rng.poisson(d * rate), position, "A1") for d in (0.3, 3, 30)]
    for name in ("gsc", "ssc"):
        assert found[0][name] < found[1][name] < found[2][name]
    values = np.log1p(rng.poisson(6 * rate))
    some = np.arange(0, 400, 4)
    few = ceilings.split_spots(values[some], position[some], "A1")
    many = ceilings.split_spots(values, position, "A1")
    assert few["gsc"] < many["gsc"]
    assert 0 < many["ssc_half"] < 1


def test_split_halves_share_no_spot(counts):
    """Genes of pure noise correlate by chance; halves that shared spots would agree on how."""
    rng = np.random.default_rng(6)
    noise = rng.normal(size=(200, 40))
    found = ceilings.split_spots(noise, rng.uniform(size=(200, 2)), "A1", repeats=5)
    assert abs(found["gsc_half"]) < 0.1


def test_depth_corrected_ceilings():
    """Where depth is all that genes share, the ceiling without depth is none."""
    rng = np.random.default_rng(1)
    field, mix = rng.gamma(2, 1, size=(400, 1)), rng.gamma(3, 1, size=40)
    truth, position = rng.poisson(5 * field * mix), rng.uniform(size=(400, 2))
    assert ceilings.thin_counts(truth, position, "A1")["gsc"] > 0.85
    assert ceilings.thin_counts(truth, position, "A1", depth=True)["gsc_half"] < 0.5
    values = np.log1p(truth)
    split = ceilings.split_spots(values, position, "A1", repeats=1, depth="log1p")
    order = numpy_generator("split spots", "A1", 0).permutation(400)
    r = []
    for half in (order[:200], order[200:]):
        left = residuals(values[half], log_depth(values[half], "log1p"))
        r.append(np.corrcoef(left.T)[np.triu_indices(40, 1)])
    assert split["gsc_half"] == pytest.approx(np.corrcoef(r)[0, 1], rel=1e-9)


def test_normalised_ceilings_halve_the_depth(counts):
    whole, _, position = counts
    total = 20.0 * whole.sum(1, keepdims=True)
    found = ceilings.thin_counts(whole, position, "A1", "log1p_cp10k", total, repeats=1)
    half = numpy_generator("thin counts", "A1", 0).binomial(whole, 0.5)
    r = [
        np.corrcoef(np.log1p(part * 1e4 / (total / 2)).T)[np.triu_indices(40, 1)]
        for part in (half, whole - half)
    ]
    assert found["gsc_half"] == pytest.approx(np.corrcoef(r)[0, 1], rel=1e-9)
    own = ceilings.thin_counts(whole, position, "A1", "log1p_cp10k", repeats=1)
    panel = ceilings.thin_counts(whole, position, "A1", "log1p_cp10k", total / 20, repeats=1)
    assert own == panel != found


def test_ceilings_are_deterministic_and_belong_to_the_slide(counts):
    one, _, position = counts
    first = ceilings.thin_counts(one, position, "A1", repeats=2)
    assert first == ceilings.thin_counts(one, position, "A1", repeats=2)
    assert first != ceilings.thin_counts(one, position, "B1", repeats=2)


def test_ceilings_of_small_slides_are_undefined(counts):
    one, _, position = counts
    found = ceilings.split_spots(np.log1p(one[:58]), position[:58], "A1")
    assert np.isnan(list(found.values())).all()
    found = ceilings.thin_counts(one[:, :9], position, "A1")
    assert np.isnan(list(found.values())).all()
