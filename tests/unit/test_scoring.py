"""The tidy table of a run, and the score of two files."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import anndata
import numpy as np
import pandas
import pytest
import scipy.sparse

from flag_st import scoring
from flag_st.errors import FlagError
from flag_st.io import CONTRACT
from flag_st.metrics.base import Case, Metric
from flag_st.metrics.gsc import Gsc
from flag_st.metrics.mae import Mae
from flag_st.metrics.mse import Mse
from flag_st.metrics.pcc import Pcc
from flag_st.metrics.ssc import Ssc
from flag_st.scoring import Pair, score_slides
from flag_st.scoring_files import score_files

G, S = 12, 3
GENES = tuple(f"g{i}" for i in range(G))
METRICS = {"pcc": Pcc(), "mse": Mse(), "gsc": Gsc(), "ssc": Ssc()}


def pair(slide="A1", n=50, draws=S, seed=0, **facts):
    rng = np.random.default_rng([seed, n])
    position = rng.uniform(0, 500, size=(n, 2))
    truth = np.sin(position @ rng.normal(size=(2, G)) / 90) + rng.normal(size=(n, G)) / 2
    samples = truth + rng.normal(size=(draws, n, G))
    point = samples.mean(0) if draws else truth + rng.normal(size=(n, G))
    one = (a.astype(np.float32) for a in (truth, point, samples))
    return Pair(slide, GENES, *one, position, facts)


def pick(table, slide, estimator, metric, gene=""):
    found = table.query(
        "slide == @slide and estimator == @estimator and metric == @metric and gene == @gene"
    )
    assert len(found) == 1
    return float(found["value"].iloc[0])


class Mean(Metric):
    """The mean of the prediction, counting its calls."""

    columns: ClassVar = {"mean": ("mean", 0)}
    every_draw = False

    def __init__(self):
        self.calls = []

    def __call__(self, case: Case):
        self.calls.append(case)
        return {"mean": float(case.prediction.mean())}


class Spread(Metric):
    columns: ClassVar = {"spread": ("spread", 0), "spread_gene": ("spread", 0)}
    ensemble = True

    def __call__(self, case: Case):
        by_gene = case.draws.std(0).mean(0)
        return {"spread": float(by_gene.mean()), "spread_gene": by_gene}


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


# --- two files ----------------------------------------------------------------------------------


def write(folder, one, sparse=False, order=None, layers=True):
    folder.mkdir(exist_ok=True)
    spots = [f"{i}x{i}" for i in range(len(one.truth))]
    truth = anndata.AnnData(scipy.sparse.csr_matrix(one.truth) if sparse else one.truth.copy())
    truth.obs_names, truth.var_names = spots, list(GENES)
    truth.obsm["spatial"] = one.position
    made = anndata.AnnData(one.point.copy())
    made.obs_names, made.var_names = spots, list(GENES)
    for k, draw in enumerate(one.draws if layers else []):
        made.layers[f"draw_{k}"] = scipy.sparse.csr_matrix(draw) if sparse else draw
    if order is not None:
        made = made[order[0], order[1]].copy()
    truth.write_h5ad(folder / "truth.h5ad")
    made.write_h5ad(folder / "prediction.h5ad")
    return folder / "truth.h5ad", folder / "prediction.h5ad"


@pytest.mark.parametrize("sparse", [False, True])
def test_files_score_as_arrays_do_in_any_order(tmp_path, sparse):
    one = pair(draws=11)
    rng = np.random.default_rng(0)
    paths = write(tmp_path, one, sparse, (rng.permutation(50), rng.permutation(G)))
    found = score_files(*paths, {**METRICS, "mae": Mae(), "spread": Spread(), "mean": Mean()})
    table = score_slides([one], {**METRICS, "spread": Spread(), "mean": Mean()})
    for name in ("pcc", "mse", "gsc", "ssc", "mean"):
        for estimator in ("point", "draw"):
            expected = pick(table, "A1", estimator, name)
            assert found[name][estimator] == pytest.approx(expected, rel=1e-5), name
    assert found["spread"] == {"ensemble": pytest.approx(one.draws.std(0).mean(), rel=1e-5)}
    json.dumps(found)


def test_prediction_without_draws(tmp_path):
    found = score_files(*write(tmp_path, pair(), layers=False), {"mse": Mse(), "s": Spread()})
    assert list(found["mse"]) == ["point"]
    assert found["spread"] == {"ensemble": 0}


def test_files_that_do_not_match_are_refused(tmp_path):
    one = pair()
    paths = write(tmp_path, one, order=(np.arange(48), np.arange(G)))
    with pytest.raises(FlagError, match=r"prediction.h5ad lacks 2 spots of \S*truth.h5ad, .*48x48"):
        score_files(*paths, METRICS)
    more = anndata.read_h5ad(paths[0])[5:]
    more.write_h5ad(paths[0])
    with pytest.raises(FlagError, match=r"truth.h5ad lacks 5 spots of \S*prediction.h5ad"):
        score_files(paths[0], write(tmp_path / "b", one)[1], METRICS)
    paths = write(tmp_path, one, order=(np.arange(50), np.arange(1, G)))
    with pytest.raises(FlagError, match=r"lacks 1 genes .* g0"):
        score_files(*paths, METRICS)


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_files_with_repeated_names_are_refused(tmp_path):
    truth, prediction = write(tmp_path, pair())
    table = anndata.read_h5ad(prediction)
    table.obs_names = ["0x0", *table.obs_names[:-1]]
    table.write_h5ad(prediction)
    with pytest.raises(FlagError, match="spots named more than once, such as 0x0"):
        score_files(truth, prediction, METRICS)


def test_files_that_cannot_be_read_are_named(tmp_path):
    truth, prediction = write(tmp_path, pair())
    with pytest.raises(FlagError, match=r"nowhere.h5ad does not exist"):
        score_files(truth, tmp_path / "nowhere.h5ad", METRICS)
    (tmp_path / "text.h5ad").write_text("no HDF5")
    with pytest.raises(FlagError, match=r"text.h5ad is not a readable h5ad"):
        score_files(tmp_path / "text.h5ad", prediction, METRICS)
    table = anndata.read_h5ad(truth)
    del table.obsm["spatial"]
    table.write_h5ad(truth)
    with pytest.raises(FlagError, match=r"truth.h5ad has no obsm\['spatial'\]"):
        score_files(truth, prediction, METRICS)


def test_import_is_light():
    code = (
        "import sys, flag_st.scoring as s; print([m for m in ('pandas', 'anndata', 'scipy', "
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
    from flag_st.evaluation import read_facts

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


def test_a_prepared_slide_is_a_truth_for_its_predictions(tmp_path):
    """Its counts of more genes, in the unit of the prediction; counts alone are refused."""
    one, rng = pair(), np.random.default_rng(1)
    truth, prediction = write(tmp_path, one)
    made = anndata.read_h5ad(prediction)
    made.uns["unit"] = "log1p"
    made.write_h5ad(prediction)
    counts = rng.poisson(3, (50, G + 2)).astype(np.float32)
    table = anndata.AnnData(counts, obsm={"spatial_um": one.position})
    table.obs_names, table.var_names = made.obs_names, [*made.var_names, "more", "still more"]
    table.uns = {"contract": CONTRACT, "slide": "A1"}
    table.write_h5ad(tmp_path / "spots.h5ad")
    found = score_files(tmp_path / "spots.h5ad", prediction, {"mse": Mse()})
    expected = ((np.log1p(counts[:, :G]) - made.X) ** 2).mean()
    assert found["mse"]["point"] == pytest.approx(expected, rel=1e-5)
    raw = anndata.read_h5ad(truth)
    raw.X = counts[:, :G]
    raw.write_h5ad(truth)
    with pytest.raises(FlagError, match=r"truth.h5ad holds counts, the prediction log1p"):
        score_files(truth, prediction, METRICS)
