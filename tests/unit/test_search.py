"""The search: which epoch counts, which candidate is chosen, and which settings are shown."""

import json

import numpy as np
import pandas as pd
import pytest
from paper_example import job, load

from flag_st.core import registry
from flag_st.paper.experiment import Experiment
from flag_st.paper.tables.search import UNEQUAL, candidates, search_sheet

HISTOGENE, BLEEP, RIDGE = (
    f"flag_st.methods.{name}" for name in ("histogene.HisToGene", "bleep.Bleep", "ridge.Ridge")
)
#: Candidate → class, its arguments, and of each seed: validation loss and PCC of the epochs.
TRIED = {
    "histogene": (
        HISTOGENE,
        {},
        # The best PCC is not where the weights were kept.
        [([3.0, 1.0, 2.0], [0.9, 0.4, 0.8]), ([1.0, 2.0], [0.5, 0.7])],
    ),
    "histogene_fast": (
        HISTOGENE,
        {"training": {"lr": 0.001}, "centre": "both"},
        [([2.0, 1.5], [0.1, 0.6]), ([np.nan, 1.1, 1.0], [np.nan, 0.2, 0.5])],
    ),
    "histogene_patches": (HISTOGENE, {"inputs": "patches"}, [([1.0], [0.99]), ([1.0], [0.99])]),
    "bleep": (BLEEP, {}, [([5.0], [0.3]), ([5.0], [0.3])]),
    "bleep_cosine": (BLEEP, {"normalise": True}, [([4.0], [0.2]), ([4.0], [0.2])]),
    "ridge": (RIDGE, {}, [None]),
}


@pytest.fixture
def given(tmp_path):
    """Item, runs and histories of one cohort."""
    runs, histories = [], []
    for method, (use, params, seeds) in TRIED.items():
        for seed, scores in enumerate(seeds):
            path = tmp_path / f"{method}{seed}.csv"
            loss, pcc = scores or ([], [])
            names = {"epoch": range(len(loss)), "valid_loss": loss, "valid_pcc": pcc}
            pd.DataFrame(names if scores else {"epoch": []}).to_csv(path, index=False)
            place = {"cohort": "HER2ST", "split": "random", "panel": "p", "method": method}
            facts = {"use": use, "settings": json.dumps(registry.resolve(use, params))}
            runs.append({**place, "seed": seed, "seconds": 10.0 + seed, **facts})
            histories.append(str(path))
    methods = {m: {"label": m.title(), "needs_patches": m.endswith("patches")} for m in TRIED}
    item = {"name": "search", "title": "Search", "caption": "c", "methods": methods}
    item |= {"reported": "table_1", "params": {}, "cohorts": {}, "metrics": {}, "missing": []}
    return item | {"patients": {}}, pd.DataFrame(runs), histories


@pytest.fixture
def study(given):
    """The same with the experiment as scripts know it."""
    item, runs, histories = given
    return Experiment.of(item), runs, histories


def test_scores_are_of_the_weights_that_were_kept(study):
    table = candidates(*study).set_index("method")
    assert table.loc["histogene", "valid_pcc"] == pytest.approx((0.4 + 0.5) / 2)
    assert table.loc["histogene", "valid_pcc_std"] == pytest.approx(np.std([0.4, 0.5], ddof=1))
    assert table.loc["histogene_fast", "valid_pcc"] == pytest.approx((0.6 + 0.5) / 2)
    assert table.loc["histogene_fast", "valid_loss"] == pytest.approx(1.25)
    assert table.loc["histogene", ["n_seeds", "epochs", "seconds"]].tolist() == [2, 5, 21]
    assert np.isnan(table.loc["ridge", "valid_pcc"])


def test_the_best_candidate_of_each_method_and_input_is_chosen(study):
    table = candidates(*study)
    chosen = table[table["chosen"]]["method"].tolist()
    assert chosen == ["histogene_fast", "histogene_patches", "bleep"]
    families = dict(zip(table["method"], table["family"], strict=True))
    assert families["histogene_fast"] == families["histogene"] == "Histogene"
    assert families["histogene_patches"] == "Histogene_Patches"


def test_of_equal_candidates_the_first_is_chosen(study):
    experiment, runs, histories = study
    table = candidates(experiment, runs, histories[:2] + histories[:2] + histories[4:])
    assert table[table["chosen"]]["method"].tolist()[0] == "histogene"


def test_settings_are_shown_where_they_differ_with_the_defaults_of_the_class(study):
    table = candidates(*study).set_index("method")["settings"]
    assert table["histogene"] == "centre training, lr 0.0001"
    assert table["histogene_fast"] == "centre both, lr 0.001"
    assert table["bleep_cosine"] == "normalise True"
    assert table["ridge"] == "–"


def test_unequal_budgets_are_pointed_out(study):
    experiment, runs, histories = study
    table = candidates(experiment, runs, histories)
    assert search_sheet(experiment, table).warning == UNEQUAL
    equal = table[~table["method"].isin(["ridge", "histogene_patches"])]
    sheet = search_sheet(experiment, equal)
    assert sheet.warning == ""
    budget = {row[0].text: [c.text for c in row[1:]] for row in sheet.blocks[-1].rows}
    assert budget["Histogene"] == ["2", "4", "10", "0.01"]


def test_folds_of_a_seed_are_one_run(study):
    experiment, runs, histories = study
    runs["seed"] = 0
    runs["split"] = [f"fold{i}" for i in range(len(runs))]
    table = candidates(experiment, runs, histories).set_index("method")
    assert table.loc["histogene", "n_seeds"] == 1
    assert table.loc["histogene", "valid_pcc"] == pytest.approx(0.45)
    assert table.loc["histogene", "epochs"] == 5


def test_script_needs_no_score_of_a_test_slide(given, tmp_path):
    item, runs, histories = given
    runs.to_parquet(tmp_path / "runs.parquet")
    out = {kind: tmp_path / f"x.{kind}" for kind in ("csv", "tex", "md", "html")}
    given = {"runs": tmp_path / "runs.parquet", "history": histories}
    load("tables/search")(job({"item": item}, input=given, output=out))
    found = pd.read_csv(out["csv"])
    assert found["valid_pcc"].tolist() == pytest.approx(
        candidates(Experiment.of(item), runs, histories)["valid_pcc"].tolist(), nan_ok=True
    )
    assert "Budget" in out["md"].read_text()
