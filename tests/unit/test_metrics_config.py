"""Every configured metric keeps the contract and the policy for degenerate cases."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.intervals.calibration import Calibration
from flag_st.intervals.conformal import Seen
from flag_st.methods.base import Prediction
from flag_st.metrics.base import Case, Metric
from flag_st.scoring.slides import REST, Pair, columns, score_slides

ROOT = Path(__file__).parents[2]
ENTRIES = yaml.safe_load((ROOT / "config" / "metrics.yaml").read_text())["metrics"]
METRICS = {name: registry.build(e["use"], e["params"]) for name, e in ENTRIES.items()}
N, G, S = 64, 24, 3
COSTLY = {"domains"}


def case(n=N, genes=G, constant=(), collapsed=(), labelled=True):
    rng = np.random.default_rng(0)
    position = np.array([(x, y) for x in range(8) for y in range(8)], dtype=float)[:n] * 100
    truth = rng.normal(size=(n, genes)) + np.sin(position[:, :1] / 100)
    draws = truth + rng.normal(size=(S, n, genes))
    truth[:, list(constant)] = 0
    draws[:, :, list(collapsed)] = 1
    known = {"train_variance": np.ones(genes), "slide": "A1"}
    known["calibration"] = Calibration.fit([Seen("p", truth, Prediction(draws), position)])
    if labelled:
        known["domains"] = np.where(np.arange(n) < n // 2, "core", "rim")
    names = tuple(f"g{i}" for i in range(genes))
    return Case(truth, draws.mean(0), position, names, draws, known)


def test_every_plugin_of_the_folder_is_configured():
    folder = ROOT / "src" / "flag_st" / "metrics"
    plugins = {
        f"flag_st.metrics.{path.stem}.{name}"
        for path in folder.glob("*.py")
        for name in re.findall(r"^class (\w+)\(Metric\)", path.read_text(), re.MULTILINE)
    }
    assert {entry["use"] for entry in ENTRIES.values()} == plugins


def test_names_are_distinct_and_described():
    for name, (label, direction) in columns(METRICS).items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert label
        assert direction in (-1, 0, 1)


@pytest.mark.parametrize("name", METRICS)
def test_values_are_the_declared_ones(name):
    metric, one = METRICS[name], case()
    assert isinstance(metric, Metric)
    found = metric(one)
    assert set(found) == set(metric.columns)
    for key, value in found.items():
        assert np.shape(value) in ((), (G,)), key
        assert np.isfinite(value).any() or key in UNDEFINED_HERE, key


#: Few genes and draws: top 50 of 24 genes, wide intervals of 3 draws.
UNDEFINED_HERE = {"pcc50_best", "pcc50_var", "pcc200_var", "deg_overlap_50", "deg_excess_50"} | {
    f"{kind}_{level}" for kind in ("coverage", "width") for level in (80, 90)
}


#: Errors and coverage are known of a gene that is constant.
DEFINED_ALWAYS = {"mse_gene", "mae_gene", "crps_gene", "calibrated_90_gene"}


@pytest.mark.parametrize("name", METRICS)
def test_prediction_that_is_not_finite_is_refused(name):
    one = case()
    one.prediction[3, 2] = one.draws[1, 3, 2] = np.nan
    with pytest.raises(FlagError, match=r"slide A1 .*1 of 24 genes .*g2.* 1 of 64 spots"):
        METRICS[name](one)


@pytest.mark.parametrize("name", [n for n in METRICS if n not in COSTLY])
@pytest.mark.parametrize("n", [1, 2, 29])
def test_small_slides_do_not_fail(name, n):
    found = METRICS[name](case(n))
    assert set(found) == set(METRICS[name].columns)


@pytest.mark.parametrize("name", METRICS)
def test_degenerate_genes_do_not_fail_and_are_not_left_out(name):
    constant, collapsed = (0, 5), tuple(range(6, G))
    found = METRICS[name](case(constant=constant, collapsed=collapsed))
    for key, value in found.items():
        if np.ndim(value) and key not in DEFINED_ALWAYS:
            np.testing.assert_array_equal(np.isnan(value), np.isin(range(G), constant))
    for key in {"pcc", "pcc10_var", "gsc", "ssc", "gsc_depth", "ssc_depth"} & set(found):
        assert np.isfinite(found[key]), key
        assert found[key] < 0.6, key


def test_whole_table_of_all_metrics():
    pairs = [
        Pair(
            slide,
            one.genes,
            one.truth.astype(np.float32),
            one.prediction.astype(np.float32),
            one.draws.astype(np.float32),
            one.position,
            {"domains": one.cache["domains"]} if slide == "A1" else {},
        )
        for slide, one in (("A1", case()), ("B1", case(labelled=False)))
    ]
    facts = {"train_variance": np.ones(G)}
    table = score_slides(pairs, METRICS, facts)
    again = score_slides(pairs, METRICS, facts)
    assert table.equals(again)
    named = {name.removesuffix(REST) for name in table["metric"]}
    assert named <= {name.removesuffix("_gene") for name in columns(METRICS)}
    assert not table.duplicated(["slide", "estimator", "metric", "gene"]).any()
    wide = table[table["gene"] == ""].pivot(
        index="metric", columns=["slide", "estimator"], values="value"
    )
    ensemble = [n for m in METRICS.values() if m.ensemble for n in m.columns]
    single = [n for m in METRICS.values() if not m.ensemble for n in m.columns]
    assert wide["A1"].loc[[n for n in single if n in wide.index], "point"].notna().sum() > 30
    assert wide["A1"].loc[[n for n in ensemble if n in wide.index], "point"].isna().all()
    assert np.isfinite(wide.loc["deg_overlap_20", ("A1", "draw")])
    assert np.isnan(wide.loc["ari_labels", ("B1", "draw")])  # nobody labelled its spots
