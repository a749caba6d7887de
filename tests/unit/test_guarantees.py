"""The figure of guarantees, on a tiny cohort whose patients are shifted against each other."""

import numpy as np
import pandas as pd
import pytest
from paper_example import Study, job, load

from flag_st.intervals.calibration import Calibration
from flag_st.intervals.conformal import LEVELS, Seen
from flag_st.methods.base import Prediction
from flag_st.metrics.intervals import Intervals
from flag_st.metrics.pcc import Pcc
from flag_st.paper.collect import read_scores
from flag_st.paper.figures import guarantees, style
from flag_st.scoring.slides import Pair, score_slides

GENES, SIDE = tuple("abcd"), 12
PATIENTS = {"A1": "A", "A2": "A", "B1": "B", "C1": ""}
METRICS = {"pcc": Pcc(), "intervals": Intervals()}


def predicted(rng, slide, shift):
    """A slide whose spots have errors of known size, and draws whose spread knows it."""
    position = 200.0 * np.stack(np.divmod(np.arange(SIDE**2), SIDE), -1)
    sd = rng.uniform(0.2, 2, (SIDE**2, len(GENES)))
    point = 20 + rng.normal(size=sd.shape)
    draws = point + sd * rng.normal(size=(5, *sd.shape))
    truth = point + shift + sd * rng.normal(size=sd.shape)
    return Seen(slide, truth, Prediction(draws, point), position)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Collected scores of two methods, one of which is a control without intervals, and two seeds."""
    root, paths = tmp_path_factory.mktemp("guarantees"), []
    for method in ("flag", "oracle"):
        for seed in (0, 1):
            rng = np.random.default_rng([seed, len(method)])
            known = [predicted(rng, patient, rng.normal()) for patient in "XYZ"]
            pairs = []
            for slide in PATIENTS:
                made = predicted(rng, slide, rng.normal())
                given = made.prediction
                pairs.append(
                    Pair(slide, GENES, made.truth, given.point, given.samples, made.position)
                )
            facts = {"calibration": Calibration.fit(known)} if method == "flag" else {}
            labels = {
                "cohort": "HER2ST",
                "split": "s",
                "panel": "p",
                "method": method,
                "seed": seed,
            }
            paths.append(str(root / f"{method}{seed}.parquet"))
            score_slides(pairs, METRICS, facts, labels).to_parquet(paths[-1], index=False)
    files = {"input": {"scores": paths}, "output": {"scores": str(root / "scores.parquet")}}
    load("collect_scores")(job({}, **files))
    return root


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study(tmp_path_factory.mktemp("study"))


def make(study, scores, out):
    files = {ending: str(out / f"x.{ending}") for ending in ("csv", "png", "pdf")}
    uses = {n: f"{type(m).__module__}.{type(m).__name__}" for n, m in METRICS.items()}
    item = study.item(patients={"HER2ST": PATIENTS}, metrics=uses)
    given = {"input": {"scores": scores}, "output": files}
    load("figures/guarantees")(job({"item": item}, **given))
    assert all((out / f"x.{ending}").stat().st_size > 0 for ending in files)
    return pd.read_csv(files["csv"], keep_default_na=False)


def test_the_figure_holds_coverage_by_patient_and_the_risk(study, folder, tmp_path):
    table = make(study, str(folder / "scores.parquet"), tmp_path)
    assert set(table["method"]) == {"flag"}  # the control has no intervals
    # An unknown patient is one by itself, under the name of the slide.
    assert set(table["patient"]) == {"A", "B", "C1"}
    scores = pd.read_parquet(folder / "scores.parquet").query("method == 'flag' and gene == ''")
    for level in LEVELS:
        rows = scores[
            (scores["metric"] == f"calibrated_{level}") & scores["slide"].isin(["A1", "A2"])
        ]
        found = table.query(f"curve == 'covered' and patient == 'A' and x == {level}")["value"]
        assert len(rows) == 4  # two slides and two seeds
        assert found.item() == pytest.approx(100 * rows["value"].mean(), rel=1e-5)
    risk = table[table["curve"] == "relative error"].groupby("x")["value"].mean()
    assert list(risk.index) == [10 * t for t in range(1, 10)]
    assert risk.is_monotonic_increasing
    assert risk[10] < 0.7
    guaranteed = table[table["curve"] == "guaranteed"]["value"]
    assert guaranteed.to_numpy() == pytest.approx(90 * 3 / 4)


def test_its_lines_are_the_numbers(study, folder):
    style.use()
    experiment = study.experiment()
    table = guarantees.guarantee_numbers(read_scores(folder / "scores.parquet"), experiment)
    left, right = guarantees.draw(table, experiment).axes
    risk = table[table["curve"] == "relative error"].groupby("x")["value"].mean()
    assert left.lines[0].get_ydata() == pytest.approx([*risk, 1.0])
    covered = table[table["curve"] == "covered"]
    assert right.lines[0].get_ydata() == pytest.approx(
        covered.groupby("x")["value"].mean().tolist()
    )
    assert sorted(right.collections[0].get_offsets()[:, 1]) == pytest.approx(
        sorted(covered["value"])
    )
    assert right.lines[-1].get_ydata() == pytest.approx([50 * 0.75, 95 * 0.75])


def test_without_the_metric_it_says_what_to_add(study, folder, tmp_path):
    scores = pd.read_parquet(folder / "scores.parquet").query("metric == 'pcc'")
    scores.to_parquet(tmp_path / "scores.parquet", index=False)
    assert make(study, str(tmp_path / "scores.parquet"), tmp_path).empty
