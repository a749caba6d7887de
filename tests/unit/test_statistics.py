"""Intervals, tests and power against closed forms, enumeration and simulation."""

import itertools
from math import inf, isnan, sqrt

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from flag_st.paper import statistics
from flag_st.paper.statistics import Paired, by_unit, compare, power, sign_flip, units_needed
from flag_st.scoring.slides import REST


def seeds_by_units(rng, n, seeds=3, of_unit=0.0, of_seed=0.0, residual=0.01):
    """Values of one method: a spread over units, one over seeds, and a rest."""
    values = of_unit * rng.normal(size=(n, 1)) + of_seed * rng.normal(size=(1, seeds))
    return pd.DataFrame(values + residual * rng.normal(size=(n, seeds)))


# --- the sign-flip test ---------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 5, 6, 9])
def test_sign_flips_are_enumerated(n):
    differences = np.random.default_rng(n).normal(0.3, 1, n)
    means = [
        np.mean(np.array(signs) * differences) for signs in itertools.product([1, -1], repeat=n)
    ]
    expected = np.mean(np.abs(means) >= abs(differences.mean()) - 1e-12)
    assert sign_flip(differences) == pytest.approx(expected)


@pytest.mark.parametrize("n", [1, 2, 4, 6, 8])
def test_the_smallest_p_is_reached_where_all_agree(n):
    pair = Paired(np.linspace(1, 2, n))
    assert pair.p == pytest.approx(pair.p_smallest) == pytest.approx(2 / 2**n)


def test_no_difference_has_p_one_and_many_units_are_drawn_alike():
    assert sign_flip(np.zeros(5)) == 1
    assert isnan(sign_flip(np.zeros(0)))
    values = np.random.default_rng(0).normal(0.2, 1, 40)
    assert sign_flip(values) == sign_flip(values)
    assert sign_flip(values) == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue, abs=0.02)


def test_six_units_are_the_fewest():
    assert statistics.fewest() == 6
    assert Paired(np.linspace(1, 2, 5)).sign == 0  # all agree, and yet p is .0625
    assert Paired(np.linspace(1, 2, 6)).sign == 1
    assert Paired(-np.linspace(1, 2, 6)).sign == -1


# --- the interval ---------------------------------------------------------------------------------


def test_without_seeds_the_interval_is_students():
    values = np.random.default_rng(1).normal(1, 2, 7)
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval()
    assert Paired(values).interval == pytest.approx(tuple(expected))


def test_without_a_spread_over_units_the_interval_is_welchs():
    """Seeds alone differ, many units: Welch's interval of two samples of seeds."""
    rng = np.random.default_rng(2)
    one, two = rng.normal(1, 0.1, 4), rng.normal(0, 0.3, 5)
    pair = compare(*(pd.DataFrame(np.tile(values, (50, 1))) for values in (one, two)))
    expected = scipy.stats.ttest_ind(one, two, equal_var=False).confidence_interval()
    assert pair.interval == pytest.approx(tuple(expected))


@pytest.mark.parametrize("n", range(2, 9))
@pytest.mark.parametrize("of_seed", [0.0, 0.02, 0.05])
def test_the_interval_holds_its_level(n, of_seed):
    rng, missed, repeats = np.random.default_rng([n, int(1000 * of_seed)]), 0, 600
    for _ in range(repeats):
        slides = 0.06 * rng.normal(size=n)
        tables = [seeds_by_units(rng, n, of_seed=of_seed).to_numpy() for _ in range(2)]
        variances = [(float(table.mean(axis=0).var(ddof=1)), 3) for table in tables]
        low, high = Paired(slides + (tables[0] - tables[1]).mean(axis=1), variances).interval
        missed += not low < 0 < high
    assert missed / repeats <= 0.05 + 2.5 * sqrt(0.05 * 0.95 / repeats)


def test_one_seed_of_a_random_method_leaves_the_interval_unknown():
    many, one = (seeds_by_units(np.random.default_rng(3), 8, seeds=s) for s in (3, 1))
    assert np.isnan(compare(many, one).interval).all()
    assert compare(many + 1, one).sign == 0
    assert compare(many + 1, one, random=(True, False)).sign == 1  # no second seed would differ


# --- the verdict ----------------------------------------------------------------------------------


def test_equal_methods_are_rarely_told_apart():
    """False verdicts of either sign, for 1 to 10 slides and 1 to 5 patients, whatever the seeds do."""
    rng, repeats = np.random.default_rng(4), 60
    wrong = {}
    places = [(n, n) for n in range(1, 11)] + [(2 * n, n) for n in range(1, 6)]
    for (slides, patients), of_seed in itertools.product(places, (0.0, 0.01, 0.03, 0.05)):
        owner = np.arange(slides) % patients
        average = (owner == np.arange(patients)[:, None]) * patients / slides  # (patients, slides)
        for _ in range(repeats):
            tables = []
            for _method in range(2):
                own = 0.06 / sqrt(2) * rng.normal(size=(patients, 1))[owner]
                seeds = of_seed * rng.normal(size=(1, 3)) + 0.01 * rng.normal(size=(slides, 3))
                tables.append(average @ (own + seeds))  # (patients, 3)
            variances = [(float(table.mean(axis=0).var(ddof=1)), 3) for table in tables]
            differences = (tables[0] - tables[1]).mean(axis=1)
            wrong.setdefault(patients, []).append(Paired(differences, variances).sign != 0)
    for patients, signs in wrong.items():
        assert patients >= 6 or not any(signs)  # so few can never decide
        assert np.mean(signs) <= 0.05 + 2.5 * sqrt(0.05 * 0.95 / len(signs)), patients
    decidable = [sign for patients, signs in wrong.items() if patients >= 6 for sign in signs]
    assert np.mean(decidable) <= 0.05 + 2 * sqrt(0.05 * 0.95 / len(decidable))


def test_a_true_difference_is_found():
    rng = np.random.default_rng(5)
    signs = [
        compare(0.1 + seeds_by_units(rng, 8, of_unit=0.05), seeds_by_units(rng, 8)).sign
        for _ in range(50)
    ]
    assert np.mean(signs) > 0.9


def test_a_margin_has_to_be_exceeded():
    values = np.linspace(0.09, 0.11, 8)
    assert [Paired(values, margin=m).sign for m in (0.05, 0.1, 0.15)] == [1, 0, -1]


# --- power ----------------------------------------------------------------------------------------


def test_power_is_the_share_of_studies_that_find_the_effect():
    rng, effect, sd = np.random.default_rng(6), 0.06, 0.06
    found = [Paired(rng.normal(effect, sd, 8)).sign == 1 for _ in range(300)]
    assert power(8, effect, sd) == pytest.approx(np.mean(found), abs=0.08)
    assert power(5, 100, 0.1) == 0  # no p below .0625
    assert power(10, 0.0, sd) == pytest.approx(0.025, abs=1e-6)


def test_the_units_needed_are_the_fewest_with_the_planned_power():
    n = units_needed(0.03, 0.06)
    assert power(int(n), 0.03, 0.06) >= statistics.PLANNED > power(int(n) - 1, 0.03, 0.06)
    assert units_needed(10, 0.06) == 6
    assert units_needed(0, 0.06) == inf
    assert isnan(units_needed(0.03, float("nan")))


# --- from scores to units -------------------------------------------------------------------------


def scores_of(values, metric="pcc"):
    """Rows from (seed, split, slide) → value."""
    rows = [
        {"method": "m", "seed": s, "split": f, "slide": slide, "metric": metric, "value": v}
        for (s, f, slide), v in values.items()
    ]
    return pd.DataFrame(rows)


def test_each_patient_counts_once_and_folds_are_one_run():
    table = scores_of(
        {(0, "a", "A1"): 1, (0, "b", "A2"): 3, (0, "a", "B1"): 5, (1, "a", "A1"): 2}
        | {(1, "b", "A2"): 4, (1, "a", "B1"): 6, (0, "a", ""): 100}
    )
    found = by_unit(table, "m", {"A1": "A", "A2": "A", "B1": "B"})
    assert found.to_dict("index") == {"A": {0: 2, 1: 3}, "B": {0: 5, 1: 6}}


def test_pooled_values_become_pseudo_values():
    """Of a mean over spots the jackknife gives back each slide's own mean where slides are alike."""
    slides = {"A": np.array([1.0, 2]), "B": np.array([3.0, 5]), "C": np.array([6.0, 10])}
    whole = np.concatenate(list(slides.values())).mean()
    rest = {
        (0, "", name): np.concatenate([v for other, v in slides.items() if other != name]).mean()
        for name in slides
    }
    own = {(0, "", name): -1.0 for name in slides}  # what the slides have alone is not asked for
    table = pd.concat(
        [scores_of({(0, "", ""): whole} | own), scores_of(rest, "pcc" + REST)], ignore_index=True
    )
    found = by_unit(table, "m", {name: name for name in slides}, "pooled")
    assert found[0].to_dict() == pytest.approx({k: v.mean() for k, v in slides.items()})


def test_a_fold_of_one_slide_is_its_own_pooled_value_and_unknown_ones_are_left_out():
    single = scores_of({(0, "a", "A"): 1.0, (0, "a", ""): 1.0, (0, "b", "B"): 2.0})
    assert by_unit(single, "m", {"A": "A", "B": "B"}, "pooled")[0].to_dict() == {"A": 1, "B": 2}
    several = scores_of({(0, "a", "A"): 1.0, (0, "a", "B"): 2.0, (0, "a", ""): 1.4})
    assert by_unit(several, "m", {"A": "A", "B": "B"}, "pooled").empty


def test_units_without_a_value_of_both_are_left_out():
    one, two = pd.DataFrame({0: [1.0, 2, np.nan]}), pd.DataFrame({0: [0.5, np.nan, 1]})
    assert compare(one, two, (False, False)).differences.tolist() == [0.5]
    assert compare(one, 0.5, (False,)).differences.tolist() == [0.5, 1.5]
    assert compare(one, 0.5, (False,), direction=-1).differences.tolist() == [-0.5, -1.5]


# --- several comparisons --------------------------------------------------------------------------


def test_holm():
    """The example of Holm's correction by hand, and NaN values are no members of the family."""
    np.testing.assert_allclose(statistics.holm([0.03, 0.9, 0.01, 0.02]), [0.06, 0.9, 0.04, 0.06])
    np.testing.assert_allclose(
        statistics.holm([0.02, np.nan, 0.6, 0.7]), [0.06, np.nan, 1.0, 1.0], equal_nan=True
    )
    assert len(statistics.holm([])) == 0


def test_holm_is_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(3).random(20) ** 3
    np.testing.assert_allclose(statistics.holm(p), multitest.multipletests(p, method="holm")[1])
