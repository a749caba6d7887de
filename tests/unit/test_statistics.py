"""Intervals and tests against scipy, loops and closed forms."""

import itertools

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from flag_st.core.errors import FlagError
from flag_st.paper import statistics

SLIDES = {"A1": "A", "A2": "A", "A3": "A", "B1": "B", "C1": "C", "C2": "C", "D1": "D", "E1": "E"}


def tidy(values, **facts):
    """Scores from (method, seed, slide) → value."""
    facts = {"cohort": "c", "estimator": "point", "metric": "pcc", **facts}
    rows = [
        {**facts, "method": m, "seed": s, "slide": slide, "gene": "", "value": v}
        for (m, s, slide), v in values.items()
    ]
    return pd.DataFrame(rows)


def example(methods=("flag", "ridge", "mean"), seeds=(0, 1, 2), slides=SLIDES, **facts):
    rng = np.random.default_rng(7)
    level = {slide: rng.normal() for slide in slides}
    return tidy(
        {
            (m, s, slide): level[slide] + 0.3 * i + 0.2 * rng.normal()
            for (i, m), s, slide in itertools.product(enumerate(methods), seeds, slides)
        },
        **facts,
    )


def paired(scores, method, reference):
    """Difference of each slide, averaged over seeds, by loops."""
    found = {}
    for slide in sorted(scores["slide"].unique()):
        of = [
            scores[(scores["slide"] == slide) & (scores["method"] == m)]["value"].mean()
            for m in (method, reference)
        ]
        found[slide] = of[0] - of[1]
    return found


# --- bootstrap ----------------------------------------------------------------------------------


def loop_bootstrap(difference, patients, resamples):
    rng = np.random.default_rng(11)
    names = sorted(set(patients.values()))
    means = []
    for _ in range(resamples):
        drawn = []
        for name in rng.choice(names, len(names)):
            own = [difference[s] for s in difference if patients[s] == name]
            drawn += list(rng.choice(own, len(own)))
        means.append(np.mean(drawn))
    return np.array(means)


def test_bootstrap_equals_a_loop_over_patients_and_slides():
    scores = example()
    found = statistics.bootstrap(scores, SLIDES, "flag", resamples=40_000)
    for _, row in found.iterrows():
        difference = paired(scores, row["method"], "flag")
        assert row["estimate"] == pytest.approx(np.mean(list(difference.values())))
        means = loop_bootstrap(difference, SLIDES, 8000)
        low, high = np.quantile(means, [0.025, 0.975])
        sd = means.std()
        assert row["low"] == pytest.approx(low, abs=0.06 * sd)
        assert row["high"] == pytest.approx(high, abs=0.06 * sd)
        assert (row["n_patients"], row["n_slides"]) == (5, 8)
    assert set(found["method"]) == {"ridge", "mean"}


def test_bootstrap_of_independent_slides_equals_scipy():
    slides = {f"S{i}": f"P{i}" for i in range(25)}
    scores = example(("flag",), (0,), slides)
    found = statistics.bootstrap(scores, slides, resamples=40_000).iloc[0]
    expected = scipy.stats.bootstrap(
        (scores["value"],), np.mean, n_resamples=40_000, method="percentile", rng=0
    ).confidence_interval
    width = expected.high - expected.low
    assert found["low"] == pytest.approx(expected.low, abs=0.02 * width)
    assert found["high"] == pytest.approx(expected.high, abs=0.02 * width)
    assert found["reference"] == ""


def test_slides_of_one_patient_do_not_count_as_many():
    rng = np.random.default_rng(1)
    level = {p: rng.normal() for p in "ABCDEF"}
    slides = {f"{p}{i}": p for p in level for i in range(10)}
    scores = tidy({("m", 0, s): level[p] + 0.01 * rng.normal() for s, p in slides.items()})
    by_patient = statistics.bootstrap(scores, slides).iloc[0]
    by_slide = statistics.bootstrap(scores, {s: s for s in slides}).iloc[0]
    ratio = (by_patient["high"] - by_patient["low"]) / (by_slide["high"] - by_slide["low"])
    assert ratio == pytest.approx(np.sqrt(10), rel=0.1)


def test_groups_are_kept_apart_and_genes_left_out():
    one, two = example(metric="pcc"), example(metric="mse").assign(value=9.0)
    genes = one.assign(gene="ERBB2", value=-100.0)
    found = statistics.bootstrap(pd.concat([one, two, genes]), SLIDES)
    alone = statistics.bootstrap(one, SLIDES)
    pd.testing.assert_frame_equal(found[found["metric"] == "pcc"], alone)
    assert (found[found["metric"] == "mse"]["estimate"] == 9).all()
    assert len(found) == 6


def test_bootstrap_is_paired():
    """A difference that is the same on all slides has no interval, however slides vary."""
    scores = example(("flag",))
    shifted = scores.assign(method="other", value=scores["value"] + 0.25)
    found = statistics.bootstrap(pd.concat([scores, shifted]), SLIDES, "flag").iloc[0]
    assert found["low"] == pytest.approx(0.25)
    assert found["high"] == pytest.approx(0.25)


def test_bootstrap_is_deterministic_and_does_not_depend_on_the_order_of_rows():
    scores = example()
    one = statistics.bootstrap(scores, SLIDES, "flag", 500)
    two = statistics.bootstrap(scores.sample(frac=1, random_state=0), SLIDES, "flag", 500)
    keys = ["method"]
    pd.testing.assert_frame_equal(
        one.sort_values(keys, ignore_index=True), two.sort_values(keys, ignore_index=True)
    )
    other = statistics.bootstrap(scores, SLIDES, "flag", 500, seed=1)
    assert (one["low"] != other["low"]).all()


def test_bootstrap_leaves_out_undefined_slides():
    scores = example(seeds=(0,))
    scores.loc[(scores["slide"] == "B1") & (scores["method"] == "ridge"), "value"] = np.nan
    found = statistics.bootstrap(scores, SLIDES, "flag").set_index("method")
    kept = {s: d for s, d in paired(scores, "ridge", "flag").items() if s != "B1"}
    assert found.loc["ridge", "estimate"] == pytest.approx(np.mean(list(kept.values())))
    assert found.loc["ridge", ["n_patients", "n_slides"]].tolist() == [4, 7]
    assert found.loc["mean", ["n_patients", "n_slides"]].tolist() == [5, 8]
    assert np.isfinite(found[["low", "high"]].to_numpy(dtype=float)).all()


# --- tests --------------------------------------------------------------------------------------


def test_wilcoxon_equals_scipy_on_slides():
    scores = example()
    found = statistics.wilcoxon(scores, "flag").set_index("method")
    for method in ("ridge", "mean"):
        difference = list(paired(scores, method, "flag").values())
        expected = scipy.stats.wilcoxon(difference, method="exact")
        assert found.loc[method, "p"] == pytest.approx(expected.pvalue)
        assert found.loc[method, "statistic"] == expected.statistic
        assert found.loc[method, "difference"] == pytest.approx(np.mean(difference))
    assert (found["n"] == 8).all()
    assert found["p_smallest"].tolist() == [2 / 2**8] * 2


def test_wilcoxon_reaches_its_smallest_p_when_all_agree():
    scores = example(("flag",))
    rng = np.random.default_rng(0)
    worse = scores.assign(method="m", value=scores["value"] - rng.uniform(0.1, 1, len(scores)))
    found = statistics.wilcoxon(pd.concat([scores, worse]), "flag").iloc[0]
    assert found["p"] == pytest.approx(found["p_smallest"])
    assert found["p"] == pytest.approx(0.0078125)


def test_wilcoxon_splits_zero_differences():
    scores = example(("flag",), (0,))
    change = np.array([0.0, 0.0, 0.3, -0.35, 0.4, 0.5, 0.2, 0.7])
    other = scores.assign(method="m", value=scores["value"] + change)
    found = statistics.wilcoxon(pd.concat([scores, other]), "flag").iloc[0]
    expected = scipy.stats.wilcoxon(change, zero_method="zsplit")
    assert expected.pvalue != scipy.stats.wilcoxon(change[2:]).pvalue
    assert found["p"] == pytest.approx(expected.pvalue)
    assert (found["n"], found["n_zero"]) == (8, 2)


def test_wilcoxon_of_equal_methods():
    scores = example(("flag",))
    table = pd.concat([scores, scores.assign(method="copy")])
    found = statistics.wilcoxon(table, "flag").iloc[0]
    assert (found["n"], found["n_zero"]) == (8, 8)
    assert np.isnan(found["p"])
    assert np.isnan(found["p_holm"])


def test_holm():
    # Textbook example: 0.01·4, 0.02·3, 0.03·2 -> raised to 0.06, 0.9·1.
    np.testing.assert_allclose(statistics.holm([0.03, 0.9, 0.01, 0.02]), [0.06, 0.9, 0.04, 0.06])
    np.testing.assert_allclose(
        statistics.holm([0.02, np.nan, 0.6, 0.7]), [0.06, np.nan, 1.0, 1.0], equal_nan=True
    )
    assert len(statistics.holm([])) == 0


def test_holm_equals_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.random.default_rng(0).uniform(size=30) ** 3
    np.testing.assert_allclose(statistics.holm(p), multitest.multipletests(p, method="holm")[1])


def test_holm_runs_over_methods_and_metrics():
    scores = pd.concat([example(metric="pcc"), example(metric="ssc")])
    found = statistics.wilcoxon(scores, "flag")
    assert len(found) == 4
    np.testing.assert_allclose(found["p_holm"], statistics.holm(found["p"]))
    assert found["p_holm"].min() == pytest.approx(min(1, 4 * found["p"].min()))


# --- faults -------------------------------------------------------------------------------------


def test_faults_are_told():
    scores = example()
    with pytest.raises(FlagError, match=r"reference method 'stem'.*flag"):
        statistics.wilcoxon(scores, "stem")
    with pytest.raises(FlagError, match="patients of 1 slides are unknown, such as B1"):
        statistics.bootstrap(scores, {**SLIDES, "B1": ""})
    with pytest.raises(FlagError, match="lack the columns seed"):
        statistics.bootstrap(scores.drop(columns="seed"), SLIDES)
