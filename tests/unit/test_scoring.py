"""The tidy table of a run."""

import os
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas
import pytest
from toy_scoring import GENES, METRICS, G, Mean, S, Spread, pair, pick

from flag_st.core.errors import FlagError
from flag_st.metrics.base import Case
from flag_st.metrics.mse import Mse
from flag_st.metrics.pcc import Pcc
from flag_st.metrics.ssc import Ssc
from flag_st.scoring import slides as scoring
from flag_st.scoring.slides import Pair, score_slides


def test_values_are_those_of_the_metrics():
    one, two = pair("A1", 50), pair("B2", 40)
    table = score_slides([one, two], METRICS)
    assert list(table.columns) == ["slide", "estimator", "metric", "gene", "value"]
    for p in (one, two):
        case = Case(p.truth.astype(float), p.point.astype(float), p.position, GENES)
        for metric in METRICS.values():
            for name, value in metric(case).items():
                if np.ndim(value) == 0:
                    assert pick(table, p.slide, "point", name) == value
                else:
                    for gene, v in zip(GENES, value, strict=True):
                        name = name.removesuffix("_gene")
                        assert pick(table, p.slide, "point", name, gene) == v


def test_draw_is_the_mean_of_the_metric_and_not_the_metric_of_the_mean():
    one = pair("A1")
    table = score_slides([one], METRICS)
    for metric, name in ((Pcc(), "pcc"), (Mse(), "mse"), (Ssc(), "ssc")):
        each = [
            metric(Case(one.truth.astype(float), d.astype(float), one.position, GENES))[name]
            for d in one.draws
        ]
        assert pick(table, "A1", "draw", name) == pytest.approx(np.mean(each), rel=1e-12)
    assert pick(table, "A1", "draw", "mse") > 1.5 * pick(table, "A1", "point", "mse")


def test_values_of_genes_only_for_the_point_estimate():
    table = score_slides([pair()], METRICS)
    by_gene = table[table["gene"] != ""]
    assert set(by_gene["estimator"]) == {"point"}
    assert set(by_gene["metric"]) == {"pcc", "mse", "moran_truth", "moran_prediction"}
    assert not table["metric"].str.endswith("_gene").any()
    assert (by_gene.groupby(["slide", "metric"])["gene"].nunique() == G).all()


def test_what_the_other_slides_pool_stands_beside_each_slide():
    pairs = [pair("A1", 50), pair("B2", 40), pair("C3", 45)]
    table = score_slides(pairs, METRICS)
    for one in pairs:
        rest = score_slides([p for p in pairs if p is not one], METRICS)
        for estimator in ("point", "mean"):
            expected = pick(rest, "", estimator, "pcc")
            assert pick(table, one.slide, estimator, "pcc_rest") == pytest.approx(expected)
    names = set(table["metric"])
    assert "ssc_rest" not in names  # spots of different slides have no common space
    assert not any(name.endswith("_rest") for name in score_slides(pairs[:1], METRICS)["metric"])


def test_pooled_values_are_those_of_all_spots_together():
    one, two = pair("A1", 50), pair("B2", 40)
    two = Pair("B2", GENES, two.truth + 3, two.point + 3, two.draws + 3, two.position)
    table = score_slides([one, two], METRICS)
    truth, point = np.concatenate([one.truth, two.truth]), np.concatenate([one.point, two.point])
    r = [np.corrcoef(truth[:, g], point[:, g])[0, 1] for g in range(G)]
    assert pick(table, "", "point", "pcc") == pytest.approx(np.mean(r), rel=1e-6)
    assert pick(table, "", "point", "pcc") > 0.05 + pick(table, "A1", "point", "pcc")
    assert pick(table, "", "draw", "gsc") > 0
    assert table.query("slide == ''")["metric"].isin(["ssc", "moran_truth"]).sum() == 0


def test_deterministic_method_has_equal_point_and_draw():
    one = pair(draws=0)
    one = Pair("A1", GENES, one.truth, one.point, one.point[None], one.position)
    counted = Mean()
    table = score_slides([one], {**METRICS, "mean": counted})
    wide = table.query("gene == '' and slide == 'A1'").pivot(
        index="metric", columns="estimator", values="value"
    )
    pandas.testing.assert_series_equal(wide["point"], wide["draw"], check_names=False)
    assert len(counted.calls) == 2  # the slide and the pool: not again for the same numbers


def test_one_draw_that_is_not_the_point_is_scored_itself():
    one = pair(draws=1)
    one = Pair("A1", GENES, one.truth, one.point + 1, one.draws, one.position)
    table = score_slides([one], {"mse": Mse()})
    assert pick(table, "A1", "draw", "mse") < pick(table, "A1", "point", "mse")


def test_costly_metric_sees_point_and_first_draw_only():
    one, counted = pair(), Mean()
    table = score_slides([one], {"mean": counted})
    assert pick(table, "A1", "draw", "mean") == pytest.approx(one.draws[0].mean(), abs=1e-6)
    assert len([c for c in counted.calls if c.position is not None]) == 2


def test_ensemble_metric_sees_all_draws():
    one = pair()
    table = score_slides([one], {"spread": Spread()})
    assert set(table["estimator"]) == {"ensemble"}
    assert pick(table, "A1", "ensemble", "spread") == pytest.approx(one.draws.std(0).mean())
    gene = one.draws.std(0).mean(0)[4]
    assert pick(table, "A1", "ensemble", "spread", "g4") == pytest.approx(gene)


def test_each_draw_on_request():
    one = pair()
    table = score_slides([one], {"mse": Mse()}, each_draw=True)
    each = [pick(table, "A1", f"draw_{k}", "mse") for k in range(S)]
    assert pick(table, "A1", "draw", "mse") == pytest.approx(np.mean(each))
    assert len(set(each)) == S


def test_facts_reach_the_metrics_and_truth_is_shared():
    counted = Mean()
    one = pair("A1", grid=np.zeros((50, 2)))
    score_slides([one], {"pcc": Pcc(), "mean": counted}, facts={"train_variance": np.ones(G)})
    point, draw, pooled = (case.cache for case in counted.calls[:3])
    assert point["slide"] == "A1"
    assert point["grid"] is one.facts["grid"]
    assert point["truth"] is draw["truth"]
    assert point["truth"] is not pooled["truth"]
    assert "grid" not in pooled
    assert "train_variance" in pooled


def test_labels_come_first():
    table = score_slides([pair()], {"mse": Mse()}, labels={"cohort": "c", "seed": 3})
    assert list(table.columns[:3]) == ["cohort", "seed", "slide"]
    assert (table["seed"] == 3).all()


def test_order_of_slides_changes_no_value():
    one, two = pair("A1", 50), pair("B2", 40)
    keys = ["slide", "estimator", "metric", "gene"]
    first = score_slides([one, two], METRICS).query("slide != ''").set_index(keys).sort_index()
    second = score_slides([two, one], METRICS).query("slide != ''").set_index(keys).sort_index()
    pandas.testing.assert_frame_equal(first, second, check_exact=True)


def test_faults_are_told():
    one, two = pair("A1"), pair("B2", 40)
    other = Pair("B2", GENES[::-1], two.truth, two.point, two.draws, two.position)
    with pytest.raises(FlagError, match="A1 and B2 have different genes"):
        score_slides([one, other], METRICS)
    with pytest.raises(FlagError, match="no test slide"):
        score_slides([], METRICS)
    with pytest.raises(FlagError, match=r"slide A1: draws \(49, 12\) but \(N, G\) is \(50, 12\)"):
        Pair("A1", GENES, one.truth, one.point, one.draws[:, 1:], one.position)
    with pytest.raises(FlagError, match="metric again returns mse"):
        score_slides([one], {"mse": Mse(), "again": Mse()})
    bad = one.draws.copy()
    bad[1, 3, 2] = np.nan
    with pytest.raises(FlagError, match=r"slide A1 .*1 of 12 genes .*g2"):
        score_slides([Pair("A1", GENES, one.truth, one.point, bad, one.position)], METRICS)


def test_import_is_light():
    code = (
        "import sys, flag_st.scoring.slides as s; print([m for m in ('pandas', 'anndata', 'scipy', "
        "'torch', 'scanpy') if m in sys.modules])"
    )
    source = str(Path(scoring.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": source},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    assert scoring.COLUMNS[-1] == "value"


def test_array_and_expert_domains_are_known_to_metrics(tmp_path):
    """In the order of the prediction's spots, which need not be the slide's."""
    from flag_st.scoring.run import read_facts

    obs = pandas.DataFrame(
        {"array_row": [1, 2, 3], "array_col": [7, 8, 9], "domain": ["L1", "", "WM"]},
        index=["a", "b", "c"],
    )
    table = anndata.AnnData(X=np.ones((3, 2), dtype=np.float32), obs=obs)
    table.write_h5ad(tmp_path / "spots.h5ad")
    facts = read_facts(tmp_path / "spots.h5ad", np.array(["c", "a", "b"]))
    assert facts["grid"].tolist() == [[3, 9], [1, 7], [2, 8]]
    assert facts["domains"].tolist() == ["WM", "L1", ""]
    anndata.AnnData(X=np.ones((3, 2), dtype=np.float32), obs=obs[[]]).write_h5ad(
        tmp_path / "plain.h5ad"
    )
    assert read_facts(tmp_path / "plain.h5ad", np.array(["a"])) == {}
