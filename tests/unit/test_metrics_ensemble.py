"""Scores of all draws: CRPS, calibration, energy and variogram scores."""

import itertools

import numpy as np
import pytest
import scipy.stats
import scoringrules

from flag_st.core.errors import FlagError
from flag_st.intervals.calibration import Calibration
from flag_st.intervals.conformal import Seen
from flag_st.methods.base import Prediction
from flag_st.metrics.base import Case
from flag_st.metrics.coverage import Coverage, pit
from flag_st.metrics.crps import Crps
from flag_st.metrics.energy import Energy, energy_score, variogram_score
from flag_st.metrics.intervals import Intervals
from flag_st.metrics.mae import Mae
from flag_st.metrics.ssc import neighbour_graph

N, G, S = 40, 6, 5


@pytest.fixture
def arrays():
    rng = np.random.default_rng(8)
    truth = rng.normal(size=(N, G))
    draws = 0.5 * truth + rng.normal(size=(S, N, G))
    return truth, draws, rng.uniform(0, 100, size=(N, 2))


def case(truth, draws, position=None, **known):
    names = tuple(f"g{i}" for i in range(truth.shape[1]))
    return Case(truth, draws.mean(0), position, names, draws, known)


def pairs(count):
    return list(itertools.combinations(range(count), 2))


# --- CRPS ---------------------------------------------------------------------------------------


def test_crps_equals_the_fair_definition(arrays):
    truth, draws, _ = arrays
    found = Crps()(case(truth, draws))
    distance = np.mean([abs(x - truth) for x in draws], axis=0)
    spread = np.mean([abs(draws[i] - draws[j]) for i, j in pairs(S)], axis=0)
    np.testing.assert_allclose(found["crps_gene"], (distance - spread / 2).mean(0), rtol=1e-12)
    assert found["crps"] == pytest.approx((distance - spread / 2).mean(), rel=1e-12)
    fair = scoringrules.crps_ensemble(truth, draws, m_axis=0, estimator="fair", backend="numpy")
    assert found["crps"] == pytest.approx(fair.mean(), rel=1e-12)


def test_crps_does_not_depend_on_the_number_of_draws():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(4000, 5))
    expected = 1 / np.sqrt(np.pi)  # of N(0, 1) against itself
    for count in (2, 4, 30):
        found = Crps()(case(truth, rng.normal(size=(count, 4000, 5))))["crps"]
        assert found == pytest.approx(expected, abs=0.015), count


def test_crps_of_one_draw_is_the_mae(arrays):
    truth, draws, _ = arrays
    one = case(truth, draws[:1])
    assert Crps()(one)["crps"] == pytest.approx(Mae()(one)["mae"])
    np.testing.assert_allclose(Crps()(one)["crps_gene"], Mae()(one)["mae_gene"])


# --- coverage -----------------------------------------------------------------------------------


def calibrated(count, n=3000, genes=8, scale=1.0):
    rng = np.random.default_rng(count)
    level = rng.normal(size=(n, genes))
    draws = level + scale * rng.normal(size=(count, n, genes))
    return Coverage()(case(level + rng.normal(size=(n, genes)), draws))


@pytest.mark.parametrize("count", [3, 9, 19, 25])
def test_calibrated_draws_have_nominal_coverage(count):
    found = calibrated(count)
    defined = [c for c, least in ((50, 3), (80, 9), (90, 19)) if count >= least]
    for c in (50, 80, 90):
        assert np.isfinite(found[f"coverage_{c}"]) == (c in defined)
        assert np.isfinite(found[f"width_{c}"]) == (c in defined)
    for c in defined:
        assert found[f"coverage_{c}"] == pytest.approx(c / 100, abs=0.012)
    assert found["coverage_range_nominal"] == (count - 1) / (count + 1)
    assert found["coverage_range"] == pytest.approx(found["coverage_range_nominal"], abs=0.012)
    assert found["spread_skill"] == pytest.approx(1, abs=0.02)
    assert found["pit_deviation"] < 0.06


def test_too_narrow_and_too_wide_draws_are_told_apart():
    narrow, wide = calibrated(19, scale=0.4), calibrated(19, scale=2.5)
    for c in (50, 80, 90):
        assert narrow[f"coverage_{c}"] < c / 100 - 0.15 < c / 100 + 0.05 < wide[f"coverage_{c}"]
    assert narrow["spread_skill"] < 0.6 < 1.5 < wide["spread_skill"]
    assert narrow["pit_1"] > 0.2 > 0.05 > wide["pit_1"]
    assert narrow["pit_deviation"] > 0.3
    assert sum(narrow[f"pit_{b}"] for b in range(1, 11)) == pytest.approx(1)


def test_width_is_that_of_the_quantiles():
    found = calibrated(199, n=500)
    for c in (50, 80, 90):
        expected = 2 * scipy.stats.norm.ppf(0.5 + c / 200)
        assert found[f"width_{c}"] == pytest.approx(expected, rel=0.02)
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(9, N, G))
    widths = Coverage()(case(rng.normal(size=(N, G)), draws))
    assert widths["width_range"] == pytest.approx(np.ptp(draws, axis=0).mean())
    assert widths["width_80"] == pytest.approx(np.ptp(draws, axis=0).mean())
    low, high = np.quantile(draws, [0.25, 0.75], axis=0, method="weibull")
    assert widths["width_50"] == pytest.approx((high - low).mean())


def test_ties_do_not_inflate_coverage():
    """Zero-inflated counts and draws of one law: intervals [0, 0] would always cover a zero."""
    rng = np.random.default_rng(1)
    truth = rng.poisson(0.3, size=(4000, 6)).astype(float)
    found = Coverage()(case(truth, rng.poisson(0.3, size=(19, 4000, 6)).astype(float)))
    for c in (50, 80, 90):
        assert found[f"coverage_{c}"] == pytest.approx(c / 100, abs=0.012)


def test_pit_lies_in_the_slot_of_its_rank(arrays):
    truth, draws, _ = arrays
    u = pit(truth, draws, np.random.default_rng(0))
    rank = (draws < truth).sum(0)
    np.testing.assert_array_equal(np.floor(u * (S + 1)), rank)
    tied = pit(np.zeros((1, 20000)), np.zeros((S, 1, 20000)), np.random.default_rng(0))
    assert scipy.stats.kstest(tied[0], "uniform").pvalue > 1e-3


def test_spread_skill_equals_the_definition(arrays):
    truth, draws, _ = arrays
    found = Coverage()(case(truth, draws))["spread_skill"]
    variance, error = draws.var(0, ddof=1).mean(), ((draws.mean(0) - truth) ** 2).mean()
    assert found == pytest.approx(np.sqrt((S + 1) / S * variance / error))


def test_coverage_is_deterministic_and_belongs_to_the_slide(arrays):
    truth, draws, _ = arrays
    truth, draws = np.round(truth), np.round(draws)
    one, same, other = (Coverage()(case(truth, draws, slide=s)) for s in ("A1", "A1", "B1"))
    for name in one:
        np.testing.assert_equal(one[name], same[name])
    assert one["pit_1"] != other["pit_1"]


def test_one_draw_has_no_coverage(arrays):
    truth, draws, _ = arrays
    found = Coverage()(case(truth, draws[:1]))
    assert np.isnan(list(found.values())).all()


# --- energy and variogram -----------------------------------------------------------------------


def test_energy_score_equals_the_definition(arrays):
    truth, draws, position = arrays
    scale = np.linspace(0.5, 3, G)
    found = Energy()(case(truth, draws, position, train_variance=scale**2))["energy"]
    y, x = truth / scale, draws / scale
    distance = np.mean([np.linalg.norm(one - y, axis=1) for one in x], axis=0)
    between = np.mean([np.linalg.norm(x[i] - x[j], axis=1) for i, j in pairs(S)], axis=0)
    assert found == pytest.approx((distance - between / 2).mean(), rel=1e-12)
    library = scoringrules.es_ensemble(y, x.transpose(1, 0, 2), estimator="fair", backend="numpy")
    assert found == pytest.approx(library.mean(), rel=1e-12)


def test_energy_score_of_one_gene_is_the_crps(arrays):
    truth, draws, _ = arrays
    one = energy_score(truth[:, :1], draws[:, :, :1], np.ones(1))
    assert one == pytest.approx(Crps()(case(truth[:, :1], draws[:, :, :1]))["crps"], rel=1e-12)


def test_energy_score_needs_the_training_variance(arrays):
    found = Energy()(case(*arrays))
    assert np.isnan(found["energy"])
    assert np.isfinite([found["variogram_genes"], found["variogram_spots"]]).all()
    truth, draws, _ = arrays
    without = energy_score(truth[:, 1:], draws[:, :, 1:], np.ones(G - 1))
    assert energy_score(truth, draws, np.r_[0.0, np.ones(G - 1)]) == pytest.approx(without)


def test_variogram_scores_equal_the_definition(arrays):
    truth, draws, position = arrays
    found = Energy()(case(truth, draws, position))
    terms = []
    for a, b in pairs(G):
        expected = np.mean([np.sqrt(abs(x[:, a] - x[:, b])) for x in draws], axis=0)
        terms.append((np.sqrt(abs(truth[:, a] - truth[:, b])) - expected) ** 2)
    assert found["variogram_genes"] == pytest.approx(np.mean(terms), rel=1e-12)
    library = scoringrules.vs_ensemble(truth, draws.transpose(1, 0, 2), p=0.5, backend="numpy")
    # The library sums over ordered pairs.
    assert found["variogram_genes"] == pytest.approx(library.mean() / (G * (G - 1)), rel=1e-9)
    graph = neighbour_graph(position, 8).toarray()
    terms = []
    for i, j in pairs(N):
        if graph[i, j]:
            expected = np.mean([np.sqrt(abs(x[i] - x[j])) for x in draws], axis=0)
            terms.append((np.sqrt(abs(truth[i] - truth[j])) - expected) ** 2)
    assert found["variogram_spots"] == pytest.approx(np.mean(terms), rel=1e-12)


def test_variogram_score_sees_dependence_that_crps_does_not():
    rng = np.random.default_rng(3)
    shared = rng.normal(size=(600, 1))
    truth = shared + 0.3 * rng.normal(size=(600, 6))
    right = rng.normal(size=(8, 600, 1)) + 0.3 * rng.normal(size=(8, 600, 6))
    order = np.argsort(rng.random(size=(8, 600, 6)), axis=1)
    wrong = np.take_along_axis(right, order, axis=1)  # each gene's values, shuffled over spots
    scores = [
        (Crps()(case(truth, d))["crps"], variogram_score(truth.T, d.transpose(0, 2, 1), *ij))
        for d in (right, wrong)
        for ij in [np.triu_indices(6, 1)]
    ]
    assert scores[1][0] == pytest.approx(scores[0][0], rel=0.03)
    assert scores[1][1] > 1.5 * scores[0][1]


def test_subset_of_pairs_is_fixed_and_unbiased(arrays):
    truth, _, position = arrays
    rng = np.random.default_rng(0)
    many = np.repeat(truth, 20, axis=1) + rng.normal(size=(N, 20 * G))
    ensemble = many + rng.normal(size=(S, N, 20 * G))
    whole = Energy(pairs=10**6, links=10**6)(case(many, ensemble, position))
    some = Energy(pairs=1500, links=60)(case(many, ensemble, position))
    assert some == pytest.approx(
        Energy(pairs=1500, links=60)(case(many, ensemble, position)), nan_ok=True
    )
    for name in ("variogram_genes", "variogram_spots"):
        assert some[name] != whole[name]
        assert some[name] == pytest.approx(whole[name], rel=0.05)


def test_large_ensembles_are_summed_in_blocks():
    rng = np.random.default_rng(0)
    truth, draws = rng.normal(size=(4, 80)), rng.normal(size=(S, 4, 80))
    a, b = np.triu_indices(80, 1)  # 3,160 pairs: several blocks
    found = variogram_score(truth.T, draws.transpose(0, 2, 1), a, b)
    expected = np.sqrt(abs(draws[..., a] - draws[..., b])).mean(0)
    terms = (np.sqrt(abs(truth[:, a] - truth[:, b])) - expected) ** 2
    assert found == pytest.approx(terms.mean(), rel=1e-12)


# --- faults -------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", [Crps(), Coverage(), Energy()], ids=lambda m: type(m).__name__)
def test_draw_that_is_not_finite_is_refused(arrays, metric):
    truth, draws, position = arrays
    point, draws = draws.mean(0), draws.copy()
    draws[2, [1, 7], 3] = np.inf
    names = tuple(f"g{i}" for i in range(G))
    one = Case(truth, point, position, names, draws, {"slide": "A1"})
    with pytest.raises(FlagError, match=r"a draw of slide A1 .* 1 of 6 genes .*g3.* 2 of 40 spots"):
        metric(one)


# --- calibrated intervals -----------------------------------------------------------------------


def with_intervals(scale, n=3000, genes=4, draws=6, told=True):
    """Draws whose spread is too small by ``scale``, and larger where the errors are if it is ``told``."""
    rng = np.random.default_rng(7)

    def slide():
        sd = rng.uniform(0.1, 2, (n, genes))
        point = np.full((n, genes), 30.0)
        spread = sd if told else rng.permutation(sd)
        samples = point + spread * rng.normal(size=(draws, n, genes)) / scale
        return point + sd * rng.normal(size=(n, genes)), Prediction(samples, point)

    position = 100.0 * np.stack(np.divmod(np.arange(n), 60), -1)
    calibration = Calibration.fit([Seen(p, *slide(), position) for p in "abc"])
    truth, made = slide()
    names = tuple(f"g{i}" for i in range(genes))
    facts = {"calibration": calibration}
    return Intervals()(Case(truth, made.point, position, names, made.samples, facts))


@pytest.mark.parametrize("scale", [0.5, 4])
def test_intervals_cover_what_they_say_whatever_the_size_of_the_spread(scale):
    found = with_intervals(scale)
    for level in (50, 80, 90, 95):
        assert found[f"calibrated_{level}"] == pytest.approx(level / 100, abs=0.02)
        coarse = found[f"calibrated_neighbourhood_{level}"]
        assert coarse == pytest.approx(level / 100, abs=0.02)
    assert found["calibrated_joint_90"] == pytest.approx(0.9, abs=0.02)
    assert found["calibrated_90_gene"].mean() == pytest.approx(found["calibrated_90"])
    assert found["calibrated_guarantee_90"] == pytest.approx(0.9 * 3 / 4)
    widths = [found[f"calibrated_width_{level}"] for level in (50, 80, 90, 95)]
    assert widths == sorted(widths)


def test_the_risk_falls_only_where_the_spread_knows_the_errors():
    knows, guesses = with_intervals(1), with_intervals(1, told=False)
    assert knows["risk_1"] < knows["risk_5"] < 0.6 < knows["risk_9"] < 1
    assert guesses["risk_5"] == pytest.approx(1, abs=0.1)


def test_without_a_calibration_nothing_is_defined():
    truth = np.ones((5, 2))
    found = Intervals()(Case(truth, truth, None, ("a", "b"), truth[None]))
    assert set(found) == set(Intervals.columns)
    assert np.isnan(np.hstack(list(found.values()))).all()
