"""Every further table and figure: its numbers against an independent computation."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.colors import to_hex
from paper_example import GENES, METHODS, METRICS, REPORTED, SIDE, Study, job, load

from flag_st.core import code, registry
from flag_st.core.errors import FlagError
from flag_st.paper import claims, predictions, rescore
from flag_st.paper.ability import add_ability
from flag_st.paper.by_setting import by_setting
from flag_st.paper.by_slide import by_slide
from flag_st.paper.collect import read_scores
from flag_st.paper.experiment import Experiment
from flag_st.paper.figures import calibration, charts, clusters, matrices, moran, style
from flag_st.paper.reported import paper_of, read_reported
from flag_st.paper.summary import numbers_of
from flag_st.paper.tables.claims import claim_sheet
from flag_st.paper.tables.comparison import compare
from flag_st.paper.tables.differences import difference_sheet
from flag_st.paper.tables.settings import flat
from flag_st.paper.tissue import read_tissue
from flag_st.planning import config

CONFIG = REPORTED.parent


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def collected(study):
    return study.collect()


@pytest.fixture(scope="module")
def scores(collected):
    return read_scores(collected["scores"])


@pytest.fixture(scope="module")
def runs(collected):
    return pd.read_parquet(collected["runs"])


def make(study, collected, kind, name, folder, params=None, files=None, **changes):
    """Run the script of an item; returns its CSV."""
    given, endings = study.inputs, {"tables": "csv tex md html", "figures": "csv png pdf"}[kind]
    out = {ending: folder / f"x.{ending}" for ending in endings.split()}
    item = study.item(params=params or {}, **changes)
    load(f"{kind}/{name}")(
        job(
            {"item": item, "of": given["of"]},
            input={**given["input"], **collected, **(files or {})},
            output=out,
        )
    )
    assert all(path.stat().st_size > 0 for path in out.values())
    return pd.read_csv(out["csv"], keep_default_na=False, na_values=[""])


# --- scores made anew -----------------------------------------------------------------------------


def test_scores_of_draws_average_to_what_the_pipeline_scored(study, scores):
    metrics = {"pcc": METRICS["pcc"], "gsc": METRICS["gsc"]}
    found = rescore.of_draws(
        predictions.pairs(job({"of": study.inputs["of"]}, **study.inputs)), metrics
    )
    ours = found.query("method == 'flag' and metric == 'gsc' and slide == 'A1'")
    assert sorted(ours["seed"]) == [0, 1, 2]  # three draws of the model of seed 0, not of seed 1
    kept = scores.query(
        "method == 'flag' and metric == 'gsc' and slide == 'A1' and estimator == 'draw' and seed == 0"
    )
    assert ours["value"].mean() == pytest.approx(kept["value"].item())


def test_table_of_draws_prints_their_spread(study, collected, tmp_path):
    columns = [{"metric": "pcc", "estimator": "draw", "scope": "pooled", "paper": "pcc"}]
    table = make(
        study,
        collected,
        "tables",
        "uncertainty",
        tmp_path,
        {"columns": columns},
        reported="table_9",
    )
    flag = table.query("method == 'flag'")
    assert flag["n_seeds"].item() == 3
    assert flag["std"].item() > 0
    assert flag[["paper", "paper_std"]].values.tolist() == [[0.6835, 0.0067]]


def test_ssc_with_eight_neighbours_is_the_ssc_of_the_pipeline(study, collected, scores, tmp_path):
    columns = [{"metric": f"ssc_k{k}", "estimator": "draw"} for k in (4, 8)]
    table = make(
        study,
        collected,
        "tables",
        "ssc_neighbours",
        tmp_path,
        {"columns": columns},
        reported="table_12",
    )
    kept = scores.query("method == 'flag' and metric == 'ssc' and estimator == 'draw'")
    found = table.query("method == 'flag' and metric == 'ssc_k8'")["mean"].item()
    assert found == pytest.approx(kept.groupby("seed")["value"].mean().mean())
    assert found != table.query("method == 'flag' and metric == 'ssc_k4'")["mean"].item()


def test_ceilings_are_high_but_not_perfect(study):
    given = job({"of": study.inputs["of"]}, **study.inputs)
    ceilings = rescore.ceilings_of(predictions.tissues(given), predictions.spot_files(given))
    assert set(ceilings) == {("HER2ST", "gsc"), ("HER2ST", "ssc")}
    assert all(0.5 < value < 1 for value in ceilings.values())


# --- facts ----------------------------------------------------------------------------------------


def test_cohort_sizes_are_those_of_the_files(study, collected, tmp_path):
    table = make(study, collected, "tables", "cohorts", tmp_path, reported="table_4")
    counts = [anndata.read_h5ad(study.spots(s)).X.toarray().sum(1) for s in study.slides]
    row = table.iloc[0]
    assert (row["total_slides"], row["patients"], row["genes"]) == (2, 1, len(GENES))
    assert row["total_spots"] == 2 * SIDE**2
    assert row["median_counts"] == np.median(np.concatenate(counts))
    assert row["total_spots_paper"] == 13620


def test_patients_have_the_sections_of_the_files_and_the_papers_beside_them(
    study, collected, tmp_path
):
    """The two sections of the study belong to one patient, whose name the paper does not have."""
    how = {"params": {"by": "patient"}, "reported": "hinge_table_S1"}
    row = make(study, collected, "tables", "cohorts", tmp_path, **how).iloc[0]
    assert (row["row"], row["samples"]) == ("Patient P1", 2)
    assert row["spots_min"] == row["spots_max"] == SIDE**2
    assert row["inter_spot_um"] == pytest.approx(200)
    assert np.isnan(row["samples_paper"])
    for path in map(study.spots, study.slides):
        table = anndata.read_h5ad(path)
        table.uns["patient"] = "A"
        table.write_h5ad(tmp_path / f"{path.parent.name}.h5ad")
    files = {"slides": [str(tmp_path / f"{slide}.h5ad") for slide in study.slides]}
    row = make(study, collected, "tables", "cohorts", tmp_path, files=files, **how).iloc[0]
    assert (row["spots_min_paper"], row["genes_max_paper"]) == (325, 15645)


def test_genes_are_listed_by_the_variance_of_the_truth(study, collected, tmp_path, tissue):
    table = make(study, collected, "tables", "genes", tmp_path)
    assert sorted(table["gene"]) == sorted(GENES)
    variance = dict(zip(tissue.genes, tissue.truth.var(axis=0), strict=True))
    assert table["variance"].tolist() == pytest.approx(sorted(variance.values())[::-1], rel=1e-4)
    assert table["gene"][0] == max(variance, key=variance.get)


def test_settings_are_resolved_and_stand_beside_the_papers(study, collected, tmp_path):
    settings = {"width": 64, "depth": 12, "regions": [1, 8], "base": None}
    settings["training"] = {"lr": 0.002, "noise": {"sigma": 0.5}}
    used = pd.read_parquet(collected["runs"]).assign(settings=json.dumps(settings))
    changed = tmp_path / "runs.parquet"
    used.to_parquet(changed)
    rows = {"dit.hidden_dim": "width", "training.learning_rate": "training.lr"}
    item = {"reported": "table_5", "methods": {"flag": study.item()["methods"]["flag"]}}
    table = make(
        study, collected, "tables", "settings", tmp_path, {"rows": rows}, {"runs": changed}, **item
    ).set_index("setting")
    assert table.loc["width", ["flag", "paper"]].astype(float).tolist() == [64, 384]
    assert table.loc["training.lr", ["flag", "paper"]].astype(float).tolist() == [0.002, 0.0001]
    nested = table.loc[["depth", "regions", "base", "training.noise.sigma"], "flag"].tolist()
    assert nested == ["12", "1–8", "none", "0.5"]
    assert table.loc["training.optimizer", "paper"] == "AdamW"  # the paper's alone
    assert "dit.hidden_dim" not in table.index


def test_cost_of_prediction_is_that_of_the_job(study, collected, tmp_path):
    table = make(study, collected, "tables", "inference_cost", tmp_path, reported="table_10")
    flag = table.query("method == 'flag'").iloc[0]
    assert (flag["n_spots"], flag["draws"]) == (SIDE**2, 3)
    assert flag["seconds_per_spot_draw"] == pytest.approx(6.4 / SIDE**2 / 3)
    assert flag["spots_per_second"] == pytest.approx(SIDE**2 / 6.4)
    assert flag["peak_memory_GB"] == 0.5
    assert flag["inference_time_s_paper"] == 24.39


def test_cost_of_training_is_per_epoch(study, collected, runs, tmp_path):
    table = make(study, collected, "tables", "training_cost", tmp_path, reported="table_11")
    flag, ridge = (table.query("method == @name").iloc[0] for name in ("flag", "ridge"))
    assert flag["epochs"] == 6
    seconds = runs.query("method == 'flag'")["seconds"].iloc[0]
    assert flag["train_s_per_epoch"] == pytest.approx(seconds / 6)
    assert np.isnan(ridge["train_s_per_epoch"])


# --- differences ----------------------------------------------------------------------------------


def paired(study, scores, patients):
    params = {"columns": STRUCTURE, "reference": "ridge"}
    return difference_sheet(study.experiment(params=params, patients=patients), scores)


def test_differences_are_paired_by_patient_and_have_intervals(large):
    study, scores, _ = large
    patients = {"HER2ST": {slide: f"P{i}" for i, slide in enumerate(study.slides)}}
    sheet, table = paired(study, scores, patients)
    assert set(table["method"]) == set(METHODS) - {"ridge"}
    means = scores.query("metric == 'gsc' and estimator == 'draw' and slide != ''")
    means = means.groupby(["method", "slide"])["value"].mean().groupby("method").mean()
    row = table.query("method == 'flag' and metric == 'gsc' and estimator == 'draw'").iloc[0]
    assert row["difference"] == pytest.approx(means["flag"] - means["ridge"])
    assert row["low"] <= row["difference"] <= row["high"]
    assert (row["n_slides"], row["n_patients"]) == (8, 8)
    assert row["p_smallest"] == 2 / 2**8
    assert 1 >= row["p_holm"] >= row["p"] >= row["p_smallest"]
    (block,) = sheet.blocks
    assert block.title == "HER2ST: 8 slides of 8 patients, smallest possible p 0.0078"
    flag = next(cells for cells in block.rows if cells[0].text == "flag")
    first = table.query("method == 'flag'")["difference"].iloc[0]
    assert flag[1].text == f"{first:+.3f}"


def test_one_slide_has_a_difference_and_no_interval(study, scores):
    alone = scores[scores["slide"].isin([study.slides[0], ""])]
    sheet, table = paired(study, alone, {})
    assert table[["low", "high", "p", "p_holm"]].isna().all(axis=None)
    assert not any(cell.mark for row in sheet.blocks[0].rows for cell in row)
    texts = dict(sheet.notes.items()).values()
    assert "with one test patient there is neither an interval nor a test" in texts
    assert any("patients are unknown" in text for text in texts)


def test_ability_is_the_place_between_null_and_ceiling(study, scores, runs):
    columns = [{"metric": "mse"}, {"metric": "pcc"}, {"metric": "gsc_strength_truth"}]
    scale = {"zero": "ridge", "one": "oracle"}
    experiment = study.experiment(params={"columns": columns, "scale": scale})
    sheet, table = compare(experiment, scores, runs, read_reported(REPORTED, "table_1"))
    mse = table[table["metric"] == "mse"].set_index("method")
    flag, null = mse.loc["flag", "mean"], mse.loc["ridge", "mean"]
    assert mse["ability"].to_dict() == pytest.approx(
        {"ridge": 0, "oracle": 1, "flag": (flag - null) / (0 - null)}
    )
    cells = {row[0].text: row for row in sheet.blocks[0].rows}
    assert cells["flag"][2].detail.endswith(f"({1 - flag / null:.0%})")
    assert "%" not in cells["flag"][4].detail  # neither higher nor lower is better
    assert sheet.caption.startswith(
        "Made up. Percentages place a value between ridge (0 %) and oracle (100 %)."
    )
    assert "Nobody is marked best on HER2ST (2 patients)" in sheet.caption
    without = study.experiment(params={"columns": columns, "scale": {**scale, "zero": "absent"}})
    _, table = compare(without, scores, runs, read_reported(REPORTED, "table_1"))
    assert table["ability"].isna().all()


# --- claims ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A study of eight test slides, so that something can be told; its scores and its runs."""
    made = Study(tmp_path_factory.mktemp("large"), slides=8)
    collected = made.collect()
    return made, read_scores(collected["scores"]), pd.read_parquet(collected["runs"])


def judged(study, scores, runs, changes=None, **test):
    test = {"kind": "better", "metric": "pcc", "method": "flag", "cohorts": ("HER2ST",), **test}
    claim = claims.Claim("c", "w", "table_1", "p", "r", claims.Test(**test))
    asked = claims.Claims({"x": claim}, {"table": {"HER2ST": 4}})
    experiment, paper = study.experiment(), read_reported(REPORTED, "table_1")
    runs = changes(runs) if changes else runs
    table = claims.judge(asked, experiment, scores, runs, paper)
    sheet = claim_sheet(asked, table, experiment)
    heads = [head.text for head in sheet.blocks[0].columns]
    return table.iloc[0], dict(zip(heads, sheet.blocks[0].rows[0], strict=True))


def test_every_claim_is_judged_on_the_cohorts_and_the_table_that_it_cites():
    """On every cohort once, in an experiment that has its methods and numbers of its paper."""
    files = [CONFIG / name for name in ("her2st_open.yaml", "her2st_hinge.yaml")]
    experiments = config.load(files=files)["experiments"] | config.load()["experiments"]
    where = {n: e for n, e in experiments.items() if e["script"] == "tables/claims"}
    printed = read_reported(REPORTED)
    path, seen = code.ROOT / "config" / "claims.yaml", []
    for experiment, entry in where.items():
        known = claims.read_claims(path, entry["params"]["claims"])
        for name, claim in known.entries.items():
            test = claim.test
            assert {test.method, test.other} - {""} <= set(entry["methods"]), name
            shown = entry["params"].get("paper_cohort", {})
            about = set(test.cohorts) & set(entry["params"].get("paper_cohorts", test.cohorts))
            assert about, name
            assert about <= {shown.get(name, name) for name in entry["cohorts"]}, name
            reported = entry.get("reported") or "table_1"
            assert paper_of(claim.table) == paper_of(reported), (experiment, name)
            rows = printed[printed["table"].map(paper_of) == paper_of(claim.table)]
            assert set(test.cohorts) <= set(rows["cohort"]), name
            assert all(known.tested_on(claim, cohort) for cohort in test.cohorts), name
            if test.kind == "reproduces":
                assert test.metric in set(rows[rows["method"] == test.method]["metric"]), name
            seen += [(name, cohort) for cohort in about]
    entries = claims.read_claims(path).entries
    once = [(name, cohort) for name, claim in entries.items() for cohort in claim.test.cohorts]
    assert sorted(seen) == sorted(once)
    with pytest.raises(FlagError, match="no claim everything"):
        claims.read_claims(path, ["everything"])


def test_a_claim_is_judged_against_its_rival(large):
    row, cells = judged(*large, other="ridge")
    assert row["verdict"] == claims.FAILS  # here ridge is perfectly correlated, flag is not
    assert cells["verdict"].text == claims.FAILS
    assert (row["n"], row["unit"], row["p"]) == (8, "slide", row["p_smallest"])
    assert "p 0.0078 (smallest possible 0.0078)" in cells["seen here"].text
    assert row["low"] <= row["difference"] <= row["high"] < 0
    row, _ = judged(*large, metric="mse", other="ridge")
    assert row["verdict"] == claims.HOLDS  # for an error, lower is better
    assert row["difference"] == pytest.approx(row["theirs"] - row["ours"])


def test_a_sheet_is_about_the_papers_cohorts_that_it_names(large):
    study, scores, runs = large
    test = claims.Test("better", "pcc", "flag", ("HER2ST", "PRAD"), other="ridge")
    asked = claims.Claims({"x": claims.Claim("c", "w", "table_1", "p", "r", test)}, {})
    paper = read_reported(REPORTED, "table_1")
    seen = {}
    for wanted in (None, ["HER2ST"]):
        experiment = study.experiment(params={"paper_cohorts": wanted} if wanted else {})
        table = claims.judge(asked, experiment, scores, runs, paper)
        seen[str(wanted)] = dict(zip(table["cohort"], table["lacks"], strict=True))
    assert seen == {"None": {"HER2ST": "", "PRAD": "PRAD"}, "['HER2ST']": {"HER2ST": ""}}


def test_a_pooled_value_is_judged_by_what_each_slide_contributes(large):
    pooled = {"other": "ridge", "scope": "pooled", "estimator": "mean"}
    row, _ = judged(*large, metric="mse", **pooled)
    assert (row["n"], row["verdict"]) == (8, claims.HOLDS)
    assert row["difference"] == pytest.approx(row["theirs"] - row["ours"], rel=0.05)
    row, _ = judged(*large, **pooled)  # pooled, the two correlate alike
    assert row["verdict"] == claims.OPEN


def test_few_slides_decide_nothing_and_the_number_that_would_do_is_said(study, scores, runs):
    row, cells = judged(study, scores, runs, other="ridge")
    assert row["verdict"] == claims.OPEN
    assert (row["n"], row["p_smallest"]) == (2, 0.5)
    assert "cannot be told here: at least 6 slides would be needed" in cells["seen here"].text
    assert cells["power of the paper's test"].text == "HER2ST: 0 % with 4 slides; p ≤ 0.05 takes 6"


def test_the_best_competes_with_published_rivals_and_not_with_controls(large):
    """Ridge is ahead here, but the paper does not have it; without a rival nothing is judged."""
    study, scores, runs = large
    row, _ = judged(study, scores, runs, kind="best")
    assert row["lacks"] == "another method of the paper"

    def renamed(table):
        return table.assign(method=table["method"].replace("ridge", "stem"))

    known = study.item()
    known["methods"]["stem"] = {**known["methods"]["ridge"], "label": "Stem"}
    given = Experiment.of(known)
    claim = claims.Claim(
        "c", "w", "table_1", "p", "r", claims.Test("best", "mse", "flag", ("HER2ST",))
    )
    more = pd.concat([scores, renamed(scores[scores["method"] == "ridge"])])
    runs = pd.concat([runs, renamed(runs[runs["method"] == "ridge"])])
    paper = read_reported(REPORTED, "table_1")
    row = claims.judge(claims.Claims({"x": claim}, {}), given, more, runs, paper).iloc[0]
    assert (row["other"], row["verdict"]) == ("stem", claims.HOLDS)


def test_a_rival_whose_encoder_the_paper_does_not_state_can_decide(large):
    study, scores, runs = large
    known = study.item()
    known["methods"]["bleep"] = {**known["methods"]["ridge"], "label": "BLEEP"}
    renamed = [t.assign(method=t["method"].replace("ridge", "bleep")) for t in (scores, runs)]
    claim = claims.Claim(
        "c", "w", "table_1", "p", "r", claims.Test("best", "mse", "flag", ("HER2ST",))
    )
    paper = read_reported(REPORTED, "table_1")
    given = claims.Claims({"x": claim}, {}), Experiment.of(known)
    row = claims.judge(*given, *renamed, paper).iloc[0]
    assert (row["other"], row["why"], row["verdict"]) == ("bleep", "", claims.HOLDS)
    other = renamed[1].assign(split="patient")  # a difference that is known decides nothing
    assert claims.judge(*given, renamed[0], other, paper).iloc[0]["verdict"] == claims.OPEN


def test_a_value_is_judged_against_a_level(large):
    row, _ = judged(*large, kind="level", level=0.5)
    assert row["verdict"] == claims.HOLDS


def test_one_seed_of_a_random_method_decides_nothing(large):
    study, scores, runs = large
    alone = scores[scores["seed"] == 0]
    row, cells = judged(study, alone, runs, other="ridge")
    assert np.isfinite(row["difference"])
    assert (row["seen"], row["verdict"]) == (claims.OPEN, claims.OPEN)
    assert "a second seed would be needed" in cells["seen here"].text


def test_a_number_is_reproduced_if_the_whole_interval_is_within_its_tolerance(large):
    near, _ = judged(*large, kind="reproduces", scope="pooled", estimator="mean", level=0.9)
    far, _ = judged(*large, kind="reproduces", scope="pooled", estimator="mean", level=0.01)
    assert near["theirs"] == far["theirs"] == 0.6835
    assert (near["verdict"], far["verdict"]) == (claims.HOLDS, claims.FAILS)
    edge = near["high"] if near["high"] > 0 else -near["low"]
    open_, _ = judged(
        *large, kind="reproduces", scope="pooled", estimator="mean", level=edge - 1e-4
    )
    assert open_["verdict"] == claims.OPEN


def test_two_panels_are_judged_apart(large):
    study, scores, runs = large
    twice = pd.concat([scores, scores.assign(panel="mine")])
    both = pd.concat([runs, runs.assign(panel="mine")])
    claim = claims.Claim(
        "c",
        "w",
        "table_1",
        "p",
        "r",
        claims.Test("better", "mse", "flag", ("HER2ST",), other="ridge"),
    )
    asked = claims.Claims({"x": claim}, {})
    table = claims.judge(
        asked, study.experiment(), twice, both, read_reported(REPORTED, "table_1")
    ).set_index("panel")
    assert table["seen"].tolist() == [claims.HOLDS] * 2
    assert table["verdict"].to_dict() == {"hmhvg200": claims.HOLDS, "mine": claims.OPEN}


def test_a_stand_in_decides_nothing_but_is_shown(large):
    row, cells = judged(*large, lambda r: r.assign(encoder="texture"), other="ridge")
    assert (row["seen"], row["verdict"]) == (claims.FAILS, claims.OPEN)
    assert "encoder texture" in row["why"]
    assert "does not hold" in cells["seen here"].text
    assert cells["verdict"].text == claims.OPEN


def test_a_cohort_that_the_paper_has_not_is_shown_but_decides_nothing(tmp_path):
    made = Study(tmp_path, cohort="mine")
    collected = made.collect()
    row, cells = judged(
        made, read_scores(collected["scores"]), pd.read_parquet(collected["runs"]), other="ridge"
    )
    assert row["lacks"] == "HER2ST"
    assert cells["seen here"].text.startswith("mine: ")
    assert cells["verdict"].text == claims.OPEN
    assert cells["because"].text == "not run: HER2ST; stand-in"
    assert cells["because"].notes == ("a",)


@pytest.mark.parametrize(
    ("test", "why"),
    [
        ({"other": "flag_supervised"}, "not run: flag_supervised"),
        ({"other": "ridge", "cohorts": ("PRAD",)}, "not run: PRAD"),
        ({"other": "ridge", "metric": "ssim"}, "not run: ssim of HER2ST"),
    ],
)
def test_what_was_not_run_cannot_be_decided(study, scores, runs, test, why):
    row, cells = judged(study, scores, runs, **test)
    assert row["verdict"] == claims.OPEN
    assert why in cells["because"].text


def test_shipped_claims_are_whole_and_about_declared_methods(study):
    shipped = claims.read_claims(CONFIG / "claims.yaml")
    methods, labels = set(config.shipped()["methods"]), study.experiment().labels
    for claim in shipped.entries.values():
        test = claim.test
        assert {test.method, test.other or test.method} <= methods
        assert test.metric in labels


def test_a_claim_of_unknown_form_is_refused(tmp_path):
    whole = {"claim": "c", "where": "w", "table": "table_1", "printed": "p", "rule": "r"}
    test = {"kind": "best", "metric": "pcc", "method": "flag", "cohorts": ["A"]}
    for claim, message in (
        ({**whole, "test": {**test, "kind": "wins"}}, "kind 'wins'.*best, better"),
        ({**whole, "test": {**test, "tolerance": 1}}, "tolerance"),
        ({**whole, "test": {**test, "kind": "better"}}, "needs other"),
        ({"claim": "c", "test": test}, "has keys claim, test"),
    ):
        (tmp_path / "c.yaml").write_text(
            yaml.safe_dump({"claims": {"x": claim}, "tested_slides": {}})
        )
        with pytest.raises(FlagError, match=message):
            claims.read_claims(tmp_path / "c.yaml")


def test_claims_script(study, collected, tmp_path):
    files = {"claims": CONFIG / "claims.yaml"}
    table = make(study, collected, "tables", "claims", tmp_path, files=files)
    assert set(table["claim"]) == set(claims.read_claims(CONFIG / "claims.yaml").entries)


# --- figures --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tissue(study):
    return read_tissue(study.spots("A1"), GENES, "log1p")


def test_moran_figure_draws_what_the_metric_scored(study, collected, tmp_path):
    table = make(study, collected, "figures", "moran", tmp_path)
    kept = read_scores(collected["scores"], genes=True)
    kept = kept.query("method == 'flag' and seed == 0 and slide == 'A1' and estimator == 'point'")
    for name, column in (("moran_truth", "truth"), ("moran_prediction", "prediction")):
        drawn = table.query("method == 'flag' and kind == 'point estimate'").set_index("gene")[
            column
        ]
        scored = kept[kept["metric"] == name].set_index("gene")["value"]
        pd.testing.assert_series_equal(
            drawn, scored.loc[drawn.index], check_names=False, rtol=1e-4, atol=1e-5
        )


def test_correlation_is_pearsons(tissue):
    np.testing.assert_allclose(
        matrices.correlation(tissue.truth), np.corrcoef(tissue.truth.T), atol=1e-12
    )
    constant = np.column_stack([tissue.truth[:, 0], np.ones(len(tissue.truth))])
    assert matrices.correlation(constant).tolist() == [[1, 0], [0, 1]]


def test_genes_that_go_together_stand_together():
    blocks = np.kron([0, 1, 0, 1, 0, 1], [1])
    matrix = np.where(blocks[:, None] == blocks, 0.9, -0.5) + 0.1 * np.eye(6)
    order = matrices.gene_order(matrix)
    assert sorted(map(tuple, blocks[order].reshape(2, 3))) == [(0, 0, 0), (1, 1, 1)]


def test_gene_matrices_draw_the_panels_genes_of_a_pathway(study, collected, tmp_path, tissue):
    known = {"Waves": {"genes": ["GENE1", "ABSENT", "GENE2", "GENE3", "GENE4"]}}
    known["Few"] = {"genes": ["GENE1", "NONE"]}
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"pathways": known}))
    table = make(
        study,
        collected,
        "figures",
        "gene_matrices",
        tmp_path,
        files={"pathways": tmp_path / "p.yaml"},
    )
    assert set(table["pathway"]) == {"Waves"}
    pairs = table.query("panel == 'truth'")
    assert len(pairs) == 6
    for row in pairs.itertuples():
        one, other = (tissue.truth[:, GENES.index(g)] for g in (row.gene, row.other))
        assert row.correlation == pytest.approx(np.corrcoef(one, other)[0, 1], abs=1e-4)


def test_gene_matrices_draw_the_most_variable_genes(study, collected, tmp_path, tissue):
    table = make(
        study,
        collected,
        "figures",
        "gene_matrices",
        tmp_path,
        {"variable": 5},
        {"pathways": CONFIG / "pathways.yaml"},
    )
    order = np.argsort(-tissue.truth.var(axis=0))[:5]
    pairs = table.query("panel == 'truth'")
    assert {*pairs["gene"], *pairs["other"]} == {tissue.genes[i] for i in order}
    assert len(pairs) == 10


def test_shipped_pathways_are_lists_of_distinct_symbols():
    for genes in matrices.read_pathways(CONFIG / "pathways.yaml").values():
        assert len(genes) == len(set(genes)) >= 20
    with pytest.raises(FlagError, match=r"no pathway Angiogenesis.*Hypoxia"):
        matrices.read_pathways(CONFIG / "pathways.yaml", ["Angiogenesis"])


def test_matched_labels_undo_a_renumbering():
    reference = np.array([0, 0, 1, 1, 2, 2, 3])
    shuffled = np.array([2, 0, 3, 1])[reference]
    assert clusters.matched(shuffled, reference).tolist() == reference.tolist()
    # A cluster without a partner gets a number that the reference does not use.
    found = clusters.matched(np.array([0, 0, 1, 2]), np.array([0, 0, 1, 1]))
    assert len(set(found)) == 3
    assert found[0] == 0


def test_domains_of_the_truth_agree_with_themselves(study, collected, tmp_path):
    table = make(study, collected, "figures", "domains", tmp_path, {"resolution": 1.0})
    agreement = table.groupby("method")["ari"].first()
    assert agreement["truth"] == agreement["oracle"] == 1
    assert agreement["flag"] < 1
    assert len(table) == 5 * SIDE**2


def test_concentration_is_that_of_numpy(study, collected, tmp_path, tissue):
    table = make(study, collected, "figures", "concentration", tmp_path, {"sizes": [4, 12, 99]})
    row = table.query("slide == 'A1' and genes == 4").iloc[0]
    values = np.corrcoef(tissue.truth[:, :4])[np.triu_indices(SIDE**2, 1)]
    values = values[np.isfinite(values)]
    assert row["0.5"] == pytest.approx(np.median(values), abs=1e-4)
    assert row["sd"] == pytest.approx(values.std(ddof=1), abs=1e-4)
    assert table["genes"].max() == len(GENES)  # no larger than the panel is


STRUCTURE = [
    {"metric": "pcc", "estimator": "mean"},
    {"metric": "pcc", "estimator": "draw"},
    {"metric": "gsc", "estimator": "mean"},
    {"metric": "gsc", "estimator": "draw", "paper": "gsc"},
]


def numbers(study, scores, runs, columns):
    experiment = study.experiment(params={"columns": columns})
    return experiment, numbers_of(experiment, scores, runs, read_reported(REPORTED, "table_1"))


def points(axes):
    """Places of all symbols that are no part of a line."""
    return {tuple(place) for found in axes.collections for place in found.get_offsets().tolist()}


def lines(axes, marker):
    """x and y of the lines with a marker, by their colour."""
    return {
        to_hex(line.get_color()).upper(): (line.get_xdata().tolist(), line.get_ydata().tolist())
        for line in axes.lines
        if line.get_marker() == marker
    }


def test_bars_are_as_long_as_the_means_and_diamonds_are_the_papers(study, scores, runs):
    style.use()
    experiment, table = numbers(study, scores, runs, STRUCTURE)
    table["std"] = 0.01
    axes = charts.bars(table, experiment).axes[3]
    means = table[table["column"] == 3].set_index("method")["mean"]
    assert [bar.get_width() for bar in axes.patches] == [means[m] for m in METHODS]
    assert (0.8926, 0) in points(axes)  # FLAG is at the top
    ends = [set(ends[:, 0]) for ends in axes.collections[0].get_segments()]
    assert ends == [{means[m] - 0.01, means[m] + 0.01} for m in METHODS]


def test_methods_are_in_order_whatever_the_number_of_cohorts(study, scores, runs):
    experiment, table = numbers(study, scores, runs, STRUCTURE[:2])
    two = pd.concat([table, table.assign(cohort="KIDNEY")], ignore_index=True)
    figure = charts.bars(two, experiment)
    figure.canvas.draw()
    for axes in figure.axes[::2]:
        assert [text.get_text() for text in axes.get_yticklabels()] == list(METHODS)
        bottom, top = axes.get_ylim()
        assert bottom > top  # the first is at the top
    assert [axes.get_title() for axes in figure.axes[1:3]] == [
        "HER2ST: PCC ↑\none draw",
        "KIDNEY: PCC ↑\nmean of draws",
    ]


def test_methods_of_one_label_are_told_apart(study):
    methods = {name: {"label": label} for name, label in zip("abc", "FGF", strict=True)}
    names = charts.names_of(study.experiment(methods=methods))
    assert names == {"a": "F (a)", "b": "G", "c": "F (c)"}


def test_structure_figure_leads_from_mean_to_draw(study, scores, runs):
    style.use()
    experiment, table = numbers(study, scores, runs, STRUCTURE)
    experiment.params["scale"] = {"zero": "ridge", "one": "oracle"}
    table = add_ability(table, experiment, {("HER2ST", "gsc"): 0.9})
    figure = charts.structure_against_accuracy(table, experiment)
    (axes,) = figure.axes
    flag = table[table["method"] == "flag"].set_index("column")["mean"]
    mean, draw = (flag[0], flag[2]), (flag[1], flag[3])
    assert {mean, draw} <= points(axes)
    x, y = lines(axes, "")[style.colour(0)]
    assert set(zip(x, y, strict=True)) == {mean, draw}
    levels = [line.get_ydata()[0] for line in axes.lines if line.get_ls() == ":"]
    assert levels == [table.set_index(["method", "column"])["mean"]["ridge", 3], 0.9]
    # The draws of the others are their means: one symbol for each.
    assert len(points(axes)) == 2 + len(METHODS) - 1


def test_panel_size_figure_has_a_line_per_method_over_the_sizes(study, scores, runs):
    style.use()
    larger = scores.assign(panel="hmhvg400", value=scores["value"] / 2)
    both = pd.concat([scores, larger])
    used = pd.concat([runs, runs.assign(panel="hmhvg400", genes=24)])
    experiment, table = numbers(study, both, used, STRUCTURE[:1])
    table["size"] = table["panel"].map({"hmhvg200": 12, "hmhvg400": 24})
    table["paper"] = table["mean"] + 0.1
    axes = charts.against_size(table, experiment).axes[0]
    x, y = lines(axes, "o")[style.colour(0)]
    assert x == pytest.approx([12, 24])
    assert y[1] == pytest.approx(y[0] / 2)
    assert lines(axes, "D")[style.colour(0)] == (x, [value + 0.1 for value in y])


def test_curse_figure_has_a_row_per_head_over_genes_per_width(study):
    style.use()
    traits = {
        f"{head}_{edges}_{width}": {"head": head, "edges": edges, "width": width}
        for head in ("raw", "edm")
        for edges in ("none", "pearson")
        for width in (40, 10)
    }
    methods = {name: {"label": name, "params": params} for name, params in traits.items()}
    experiment = study.experiment(params={"columns": STRUCTURE[:1]}, methods=methods)
    rows = [
        {"cohort": "HER2ST", "column": 0, "method": name, "size": size, "mean": size, "std": None}
        for name in traits
        for size in (80, 20)
    ]
    figure = charts.OVER["width"](pd.DataFrame(rows), experiment)
    raw, edm = figure.axes
    assert "raw" in raw.get_title()
    assert "edm" in edm.get_title()
    circles, squares = lines(raw, "o"), lines(raw, "s")
    for edges in (0, 1):
        assert circles[style.colour(edges)][0] == [2, 8]  # width 10
        assert squares[style.colour(edges)][0] == [0.5, 2]  # width 40
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names[:2] == ["edges none, width 10", "edges none, width 40"]


def test_slides_are_tested_over_slides_and_over_patients(large, tmp_path):
    """Eight slides of as many patients: both p values by hand, and the figure shows every slide."""
    from scipy.stats import wilcoxon

    study, scores, _ = large
    params = {"columns": [{"metric": "mse", "estimator": "mean"}], "reference": "flag"}
    experiment = study.experiment(params=params, patients={})
    table = by_slide(experiment, scores)
    wide = table.pivot(index="slide", columns="method", values="value")
    assert len(wide) == len(study.slides)
    rows = table.drop_duplicates("method").set_index("method")
    assert rows.loc["ridge", "p_slides"] == wilcoxon(wide["ridge"] - wide["flag"]).pvalue
    assert rows.loc["ridge", "p_patients"] == pytest.approx(2 / 2 ** len(wide))
    assert np.isnan(rows.loc["flag", "p_slides"])
    style.use()
    (axes,) = charts.per_slide(table, experiment).axes
    dots = sorted(x for found in axes.collections for x, _ in found.get_offsets())
    assert dots == pytest.approx(sorted(wide.to_numpy().ravel()))
    texts = [text.get_text() for text in axes.texts]
    assert (
        texts[0] == f"{rows.loc['ridge', 'p_slides']:.2g} | {rows.loc['ridge', 'p_patients']:.2g}"
    )
    assert (len(texts), texts[-1]) == (3, "p slides | patients")
    # As PCC-200 of a panel of 50 genes.
    (axes,) = charts.per_slide(table.assign(value=np.nan, p_slides=np.nan), experiment).axes
    assert [text.get_text() for text in axes.texts] == ["undefined"]


def test_settings_figure_has_a_line_over_each_setting(study, scores, runs, tmp_path):
    style.use()
    settings = {"flag": (50, None), "ridge": (50, 5), "oracle": (10, None)}
    used = runs.assign(
        settings=[
            json.dumps({"steps": settings[m][0], "budget": settings[m][1]}) for m in runs["method"]
        ]
    )
    params = {"columns": STRUCTURE[:1], "settings": {"steps": {"label": "of training"}}}
    params["settings"]["budget"] = {"label": "of a draw", "unset": "steps"}
    experiment = study.experiment(params=params)
    printed = read_reported(REPORTED, "table_1")
    table = by_setting(experiment, numbers_of(experiment, scores, used, printed), used)
    found = {(r.setting, r.method): r.value for r in table.itertuples()}
    assert found == {
        ("of training", "flag"): 50,
        ("of training", "oracle"): 10,
        ("of a draw", "flag"): 50,
        ("of a draw", "ridge"): 5,
    }
    for axes in charts.against_settings(table, experiment).axes:
        ((x, _),) = lines(axes, "o").values()
        assert x == pytest.approx([5, 50] if "of a draw" in axes.get_title() else [10, 50])


def test_charts_of_nothing_are_drawn(study, scores, runs):
    """No seed to spread over, no printed number, and at last no value at all."""
    style.use()
    experiment, table = numbers(study, scores, runs, STRUCTURE)
    table = add_ability(table.assign(size=12, seconds=1.0, std=np.nan, paper=np.nan), experiment)
    for values in (table, table.assign(mean=np.nan)):
        assert len(charts.bars(values, experiment).axes) == 4
        assert len(charts.against_size(values, experiment).axes) == 4
        assert len(charts.structure_against_accuracy(values, experiment).axes) == 1
        assert len(charts.against_time(values, "SSC", experiment).axes) == 1
    unknown = table[["cohort", "method"]].assign(metric="coverage_50", value=np.nan)
    assert len(calibration.draw(unknown.drop_duplicates(), experiment).axes) == 2


def test_charts_are_the_same_bytes_again(study, scores, runs, tmp_path):
    style.use()
    experiment, table = numbers(study, scores, runs, STRUCTURE)
    table["size"] = 12
    table = add_ability(table, experiment)
    for chart in (charts.bars, charts.against_size, charts.structure_against_accuracy):
        for name in "ab":
            output = {kind: str(tmp_path / f"{name}.{kind}") for kind in ("csv", "png", "pdf")}
            style.save(chart(table, experiment), table, output)
        for kind in ("png", "pdf"):
            one, two = ((tmp_path / f"{name}.{kind}").read_bytes() for name in "ab")
            assert one == two, f"{chart} {kind}"


@pytest.mark.parametrize("name", ["structure_accuracy", "bars", "panel_size", "runtime_quality"])
def test_score_figures_run(study, collected, tmp_path, name):
    table = make(study, collected, "figures", name, tmp_path, {"columns": STRUCTURE})
    assert set(table["method"]) == set(METHODS)


def test_calibration_figure_holds_the_scored_coverage(study, collected, scores, tmp_path):
    table = make(study, collected, "figures", "calibration", tmp_path)
    kept = scores.query("method == 'flag' and metric == 'coverage_50' and slide != ''")[
        "value"
    ].mean()
    found = table.query("method == 'flag' and metric == 'coverage_50'")["value"].item()
    assert found == pytest.approx(kept, rel=1e-5)
    shares = table[(table["method"] == "flag") & table["metric"].str.startswith("pit_")]["value"]
    assert shares.sum() == pytest.approx(1, abs=1e-4)


def test_training_dynamics_draw_every_curve(study, collected, tmp_path):
    table = make(study, collected, "figures", "training_dynamics", tmp_path)
    assert set(table["curve"]) == {"loss", "valid_loss"}


# --- shipped entries ------------------------------------------------------------------------------


def test_shipped_entries_name_scripts_metrics_and_printed_tables_that_exist():
    from flag_st.planning.config import ROOT, read_yaml

    uses = read_yaml(CONFIG / "metrics.yaml")["metrics"]
    metrics = {n: m["use"] for n, m in uses.items()}
    labels = Experiment("x", "", "", "", {}, {}, {}, metrics).labels
    printed = read_reported(REPORTED)
    for key, entry in config.shipped()["experiments"].items():
        assert (ROOT / "scripts" / f"{entry['script']}.py").exists(), key
        table = printed[printed["table"] == entry.get("reported", "table_1")]
        assert len(table), key
        for column in entry.get("params", {}).get("columns", []):
            assert column["metric"] in labels or column["metric"].startswith("ssc_k"), key
            assert column.get("paper", "") in {"", *table["metric"]}, key


def test_shipped_entries_name_settings_that_their_methods_have():
    resolved = config.load()
    for key, entry in resolved["experiments"].items():
        methods = {name: resolved["methods"][name] for name in entry["methods"]}
        if entry["script"] == "tables/settings":
            names = set()
            for method in methods.values():
                names |= dict(flat(registry.resolve(method["use"], method["params"]))).keys()
            assert set(entry["params"]["rows"].values()) <= names, key
        if entry.get("params", {}).get("over") == "width":
            for name, method in methods.items():
                assert {"head", "edges", "width"} <= set(method["params"]), name
        for setting in entry.get("params", {}).get("settings", {}):
            for name, method in methods.items():
                known = dict(flat(registry.resolve(method["use"], method["params"])))
                assert setting in known, name


def test_moran_needs_no_more_than_the_section(tissue, study):
    shown = next(
        predictions.sections(job({"of": study.inputs["of"]}, **study.inputs), study.experiment())
    )[2]
    table = moran.moran_table(tissue, shown)
    assert len(table) == len(shown) * len(GENES)


def test_scales_of_the_configuration_name_methods():
    loaded = config.load()
    scales = [
        e["params"]["scale"]
        for e in loaded["experiments"].values()
        if "scale" in e.get("params", {})
    ]
    assert scales
    for scale in scales:
        assert set(scale) == {"zero", "one"}
        assert set(scale.values()) <= set(loaded["methods"])
