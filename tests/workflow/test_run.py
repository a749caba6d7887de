"""The whole DAG on a tiny cohort: outputs, leakage, plug-ins."""

import os
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from running import ROOT, TINY, snakemake

from flag_st.commands.trace import trace
from flag_st.core.io import read_json
from flag_st.core.provenance import Record

RUNS = "results/tiny/tiny/tiny"


def test_everything_is_there(tiny_run):
    for path in (
        "report/index.html",
        "paper/tables/table_1.csv",
        "paper/tables/table_1.tex",
        "paper/tables/table_1.md",
        "paper/figures/gene_maps.png",
        "paper/figures/training_curves.pdf",
    ):
        assert (tiny_run / "results" / path).stat().st_size > 300, path
    scores = pd.read_parquet(tiny_run / "results/experiments/table_1/scores.parquet")
    assert set(scores["method"]) == set(yaml.safe_load(TINY.read_text())["defaults"]["methods"])
    oracle = scores[(scores["method"] == "oracle") & (scores["gene"] == "")]
    value = {m: v["value"].mean() for m, v in oracle.groupby("metric")}
    assert value["mse"] == 0
    assert value["pcc"] == pytest.approx(1)
    assert value["gsc"] == pytest.approx(1)


def test_intervals_are_calibrated_for_all_but_controls_that_see_the_truth(tiny_run):
    made = {path.parts[-3] for path in tiny_run.rglob("calibration.safetensors")}
    assert made == set(yaml.safe_load(TINY.read_text())["defaults"]["methods"]) - {"oracle"}
    scores = pd.read_parquet(tiny_run / "results/experiments/table_1/scores.parquet")
    scores = scores[(scores["metric"] == "calibrated_90") & (scores["gene"] == "")]
    known = scores[scores["slide"] != ""].set_index("method")["value"].notna()
    assert set(known[known].index) == made


def test_downstream_analyses_are_made_for_the_table_that_shows_them(tiny_run, tmp_path):
    """Of the truth, they agree with themselves; nothing that was there is made again."""
    assert not list(tiny_run.rglob("downstream.parquet"))
    directory = shutil.copytree(tiny_run, tmp_path / "run")
    done = snakemake(directory, "--configfile", str(TINY), "--config", "make=[table_3]")
    assert done.returncode == 0, done.stderr[-4000:]
    made = set(re.findall(r"^(?:local)?rule (\w+):", done.stdout + done.stderr, re.M))
    assert made == {
        *("evaluate_downstream", "collect_scores", "collect_runs", "table", "report", "all")
    }
    assert [path.parts[-3] for path in directory.rglob("downstream.parquet")] == ["oracle"]
    scores = pd.read_parquet(directory / "results/experiments/table_3/scores.parquet")
    point = scores[scores["estimator"] == "point"].set_index("metric")["value"]
    assert point["ari_clusters"] == pytest.approx(1)
    assert point["deg_spearman"] == pytest.approx(1)
    assert "pcc" in point


def test_a_second_call_does_nothing(tiny_run):
    again = snakemake(tiny_run, "--configfile", str(TINY), "-n")
    assert "Nothing to be done" in again.stdout + again.stderr


def test_every_job_leaves_a_record_and_a_table_is_traced_to_its_slides(tiny_run):
    results = tiny_run / "results"
    logs = {path.with_suffix("") for path in (results / "logs").rglob("*.log")}
    records = {path.with_suffix("") for path in (results / "logs").rglob("*.json")}
    assert logs == records
    assert len(logs) > 20
    facts = read_json(results / "logs/evaluate/tiny/tiny/tiny/ridge/seed0.json")
    assert facts["rule"] == "evaluate"
    assert facts["wildcards"]["method"] == "ridge"
    assert any(path.endswith("spots.h5ad") for path in facts["inputs"])
    assert facts["versions"]["numpy"]
    links = trace(results / "paper/tables/table_1.csv")
    assert {link.state for link in links} <= {"same", "unpinned"}
    assert {"raw", "retrieve", "train", "predict", "table"} <= {link.rule for link in links}


def test_prediction_is_the_same_without_any_expression(tiny_run, tmp_path):
    """The script of the rule, run where no file holds expression, writes the same bytes."""
    import runpy

    for method in ("ridge", "flag", "shuffled_profiles"):
        run = tiny_run / RUNS / method / "seed0"
        (made,) = (run / "predictions").glob("*.h5ad")
        features = tiny_run / f"results/tiny/data/features/texture/{made.name}"
        table = anndata.read_h5ad(features)
        assert table.X.shape[1] > 50
        assert not set(anndata.read_h5ad(made).var_names) & set(table.var_names)
        output = tmp_path / f"{method}.h5ad"
        job = SimpleNamespace(
            input=SimpleNamespace(
                model=run / "model.safetensors", features=[features], truth=[], get=lambda _: None
            ),
            output=SimpleNamespace(prediction=output, run=tmp_path / "run.json"),
            record=Record("predict", {}, {}, []),
            params=SimpleNamespace(samples=2),
            wildcards=SimpleNamespace(seed="0", slide=made.stem),
            gpu=0,
        )
        runpy.run_path(str(ROOT / "scripts" / "predict.py"))["main"](job)
        new, old = anndata.read_h5ad(output), anndata.read_h5ad(made)
        assert (new.X == old.X).all()
        assert all((new.layers[k] == old.layers[k]).all() for k in old.layers)


def test_a_new_method_is_one_file_and_one_entry(tiny_run, tmp_path):
    """The README's own example, outside the package, runs through every stage into the table."""
    directory = shutil.copytree(tiny_run, tmp_path / "run")
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    (tmp_path / "mine.py").write_text(code)
    entry = {"methods": {"mine": {"use": "mine.Mine", "params": {"neighbours": 5}}}}
    overlay = tmp_path / "mine.yaml"
    grid = {"make": ["table_1"], "defaults": {"methods": ["training_mean", "mine"]}}
    overlay.write_text(yaml.safe_dump({**entry, **grid}))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = snakemake(
        directory, "--configfile", str(TINY), str(overlay), "--quiet", "rules", PYTHONPATH=path
    )
    assert done.returncode == 0, done.stderr[-4000:]
    table = pd.read_csv(directory / "results/paper/tables/table_1.csv", dtype=str)
    assert table.isin(["mine"]).any(axis=None)
    made = anndata.read_h5ad(next((directory / RUNS / "mine/seed0/predictions").glob("*.h5ad")))
    profiles = np.unique(made.X, axis=0)
    assert len(profiles) > 3  # it looked at the image
    assert (made.layers["draw_0"] == made.X).all()


def test_a_cohort_is_configuration_only(tiny_run, tmp_path):
    """The generated sections, found as a plain folder, pass every check and plan every stage."""
    overlay = tmp_path / "cohort.yaml"
    cohort = {"use": "flag_st.sources.folder.Folder", "params": {"root": None}}
    overlay.write_text(
        yaml.safe_dump({"cohorts": {"mine": cohort}, "defaults": {"cohorts": ["mine"]}})
    )
    folder = tiny_run / "results/tiny/data/raw"
    files = ["--configfile", str(TINY), str(overlay), "--config", f"root={folder}"]
    done = snakemake(tmp_path, "-n", *files)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "results/mine/tiny/tiny/flag/seed0/model.safetensors" in done.stdout
    check = [sys.executable, "-m", "flag_st", "check", *files]
    checked = subprocess.run(check, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    (folder / "metadata").rename(folder / "hidden")
    try:
        checked = subprocess.run(check, capture_output=True, text=True)
    finally:
        (folder / "hidden").rename(folder / "metadata")
    assert checked.returncode == 1
    assert checked.stderr.count("metadata") >= 3  # every slide's fault, at once
    assert "Traceback" not in checked.stderr
