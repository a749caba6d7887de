"""The court: every entry names what exists, and verdicts come from scores alone."""

import copy

import pandas as pd
import pytest
import yaml
from paper_example import REPORTED, Study, job, load

from flag_st.commands.check import check
from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.paper import claims
from flag_st.paper.collect import read_scores
from flag_st.paper.court import OWN, Court, Tried
from flag_st.paper.reported import read_reported
from flag_st.paper.tables.court import HEADS, court_sheet, verdict_of
from flag_st.planning import config, court

CONFIG = REPORTED.parent


@pytest.fixture(scope="module")
def file():
    return court.read_court()


@pytest.fixture(scope="module")
def loaded():
    return config.load()


@pytest.fixture(scope="module")
def metrics(loaded):
    uses = [entry["use"] for entry in loaded["metrics"].values()]
    return {value for use in uses for value in registry.load(use).columns}


@pytest.fixture(scope="module")
def known():
    return claims.read_claims(CONFIG / "claims.yaml"), read_reported(REPORTED)


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """Runs of eight test slides in the setting of FLAG's paper."""
    study = Study(tmp_path_factory.mktemp("court"), slides=8)
    files = study.collect()
    return Tried(study.experiment(), read_scores(files["scores"]), pd.read_parquet(files["runs"]))


ENTRY = {
    "system": "FLAG",
    "claim": "FLAG errs less than ridge",
    "source": "flag",
    "where": "nowhere",
    "protocol": {"cohort": "HER2ST", "shared": ["HER2ST"], "split": "random"},
    "data": {"HER2ST": "gated"},
    "run": {
        "experiments": ["table_1"],
        "rule": "MSE of FLAG is better than that of ridge",
        "test": {
            "kind": "better",
            "metric": "mse",
            "estimator": "mean",
            "method": "flag",
            "other": "ridge",
            "cohorts": ["HER2ST"],
        },
    },
}
SOURCES = {"flag": {"paper": "FLAG", "id": "arXiv:2605.18055", "seen": "tables"}}


def changed(entry=ENTRY, **over):
    return config.merge(entry, over)


def judged(known, tried, entry, made="table_1"):
    """The rows of one claim, and the cells of its row."""
    asked = Court({"x": entry}, *known)
    rows = asked.judge({made: tried} if made else {})
    sheet = court_sheet(asked, SOURCES, rows, [made] if made else [], tried.experiment)
    return rows, dict(zip(HEADS, sheet.blocks[0].rows[0], strict=True))


# --- the file -------------------------------------------------------------------------------------


def test_the_shipped_claims_name_what_exists(file, loaded, metrics):
    assert court.court_faults(file, loaded, metrics).messages == []


def test_the_shipped_claims_are_of_many_systems_and_many_can_be_tried_on_open_sections(file):
    entries = file["claims"].values()
    assert len(entries) >= 40
    assert len({entry["system"] for entry in entries}) >= 12
    assert sum("run" in e and "her2st_open" in e["data"] for e in entries) >= 10


def test_every_shipped_test_is_whole_and_an_experiment_has_its_methods(file, loaded, known):
    shipped = Court(file["claims"], *known)
    for name, claim in shipped.tests.items():
        run, test = file["claims"][name]["run"], claim.test
        wanted = {test.method, test.other, *run.get("rivals", ())} - {""}
        has = [loaded["experiments"][e] for e in run["experiments"] if e in loaded["experiments"]]
        assert any(wanted <= set(entry["methods"]) for entry in has), name
        for entry in has if claim.table != OWN else ():
            about = entry.get("params", {}).get("paper_cohorts", test.cohorts)
            printed = shipped.printed(name, entry.get("reported", "table_1"))
            assert set(about) <= set(printed["cohort"]), name


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"source": "nobody"}, r"claim x, source: no 'nobody'. Valid: flag"),
        ({"contests": "y"}, r"claim x, contests: no 'y'. Valid: x"),
        (
            {"run": {"experiments": ["table_99"]}},
            r"run.experiments: no 'table_99'. Valid: table_1,",
        ),
        (
            {"run": {"test": {"method": "flog"}}},
            r"run.test.method: no 'flog'. Valid: training_mean",
        ),
        ({"run": {"test": {"metric": "beauty"}}}, r"run.test.metric: no 'beauty'. Valid: "),
        ({"run": {"test": {"cohorts": ["MARS"]}}}, r"run.test.cohorts: no 'MARS'. Valid: "),
        ({"run": {"rivals": ["flog"]}}, r"run.rivals: no 'flog'"),
        ({"protocol": {"shared": ["MARS"]}}, r"protocol.shared: no 'MARS'"),
        ({"table": "table_99"}, r"table: no 'table_99'. Valid: table_1"),
    ],
)
def test_a_name_that_nobody_declares_is_a_fault(over, message, loaded, metrics):
    given = {"sources": SOURCES, "claims": {"x": changed(**over)}}
    (found,) = court.court_faults(given, loaded, metrics).messages
    assert message in found


def test_a_number_that_is_not_printed_is_a_fault(loaded, metrics):
    number = {"cohort": "HER2ST", "method": "flag", "metric": "gsc"}
    for value, faults in ((0.8926, 0), (0.9826, 1)):
        entry = changed(table="table_1", numbers=[{**number, "value": value}])
        given = {"sources": SOURCES, "claims": {"x": entry}}
        assert len(court.court_faults(given, loaded, metrics).messages) == faults


@pytest.mark.parametrize(
    ("over", "message"),
    [
        (
            {"verdict": "holds"},
            r"claims.x: .*'verdict' was unexpected",
        ),  # a verdict cannot be typed in
        ({"data": {"HER2ST": "somewhere"}}, r"claims.x.data.HER2ST: 'somewhere' is not one of"),
        ({"run": {"judged_as": "gsc_best"}}, r"claims.x.run: .* is valid under each of"),
        ({"source": None}, r"claims.x.source: None is not of type"),
    ],
)
def test_an_entry_of_another_form_is_refused(tmp_path, over, message):
    given = {"sources": SOURCES, "claims": {"x": changed(**over)}}
    (tmp_path / "court.yaml").write_text(yaml.safe_dump(given))
    with pytest.raises(FlagError, match=message):
        court.read_court(tmp_path / "court.yaml")


def test_a_claim_without_a_source_or_a_run_must_say_why(tmp_path):
    entry = {key: value for key, value in ENTRY.items() if key not in ("source", "run")}
    (tmp_path / "court.yaml").write_text(yaml.safe_dump({"sources": {}, "claims": {"x": entry}}))
    with pytest.raises(
        FlagError, match=r"(?s)2 faults.*'source' is a required.*not valid under any"
    ):
        court.read_court(tmp_path / "court.yaml")


def test_check_reads_the_court_if_its_table_is_made(loaded, monkeypatch, capsys):
    broken = {"sources": SOURCES, "claims": {"x": changed(source="nobody")}}
    monkeypatch.setattr(court, "read_court", lambda: copy.deepcopy(broken))
    small = {"defaults": {"cohorts": ["synthetic"], "encoder": "texture", "metrics": ["pcc"]}}
    for made, code in (("table_4", 0), ("court", 1)):
        assert check(config.load({**small, "make": [made]}), data=False) == code
    assert "fault: court, claim x, source: no 'nobody'" in capsys.readouterr().err


# --- verdicts -------------------------------------------------------------------------------------


def test_a_claim_is_judged_by_the_rule_of_the_claims(known, tried):
    rows, cells = judged(known, tried, ENTRY)
    assert rows["experiment"].tolist() == ["table_1"]
    assert cells["verdict"].text == claims.HOLDS  # the made-up FLAG errs less
    assert "difference" in cells["seen here"].text
    assert cells["missing"].text == ""
    contrary = changed(run={"test": {"method": "ridge", "other": "flag"}})
    assert judged(known, tried, contrary)[1]["verdict"].text == claims.FAILS


def test_a_claim_can_be_one_of_the_papers_own(known, tried):
    entry = {**ENTRY, "run": {"experiments": ["table_1"], "judged_as": "pcc_reproduces"}}
    rows, cells = judged(known, tried, entry)
    expected = known[0].entries["pcc_reproduces"]
    assert cells["rule"].text == expected.rule
    assert rows["theirs"].dropna().tolist() == [0.6835]


def test_another_protocol_decides_nothing(known, tried):
    for protocol, why in (
        ({"split": "leave_one_patient_out"}, "split random"),
        ({"panel": "50 genes"}, "panel hmhvg200, the paper's is 50 genes"),
        ({"encoder": "a ResNet-18"}, "encoder uni, the paper's is a ResNet-18"),
        ({"shared": ["KIDNEY"]}, "cohort HER2ST is not known to be one of the paper's"),
    ):
        rows, cells = judged(known, tried, changed(protocol=protocol))
        assert (rows["seen"].item(), rows["verdict"].item()) == (claims.HOLDS, claims.OPEN)
        assert why in rows["why"].item()
        assert cells["verdict"].text == claims.OPEN
        assert cells["missing"].text == "stand-in"


def test_the_printed_table_is_that_beside_the_experiment(known):
    entry = {**ENTRY, "run": {"experiments": ["x"], "judged_as": "hinge_pretraining_helps"}}
    asked = Court({"x": entry}, *known)
    assert set(asked.printed("x", "hinge_table_S2")["cohort"]) == {"HER2ST"}
    assert set(asked.printed("x", "table_1")["table"]) == {"hinge_table_2"}  # of another paper


def test_a_split_that_is_not_stated_is_no_difference(known, tried):
    """Before, a split without a printed one made every run a stand-in, and nothing could be decided."""
    entry = changed()
    del entry["protocol"]["split"]
    rows, cells = judged(known, tried, entry)
    assert (rows["why"].item(), cells["verdict"].text) == ("", claims.HOLDS)


def test_best_competes_with_the_rivals_of_the_entry(known, tried):
    entry = changed(run={"rivals": ["ridge"], "test": {"kind": "best", "other": ""}})
    rows, cells = judged(known, tried, entry)
    assert (rows["other"].item(), cells["verdict"].text) == ("ridge", claims.HOLDS)


def test_what_is_not_made_is_missing(known, tried):
    rows, cells = judged(known, tried, ENTRY, made=None)
    assert rows.empty
    assert (cells["verdict"].text, cells["missing"].text) == (claims.OPEN, "experiment table_1")
    entry = {key: value for key, value in ENTRY.items() if key != "run"}
    cells = judged(known, tried, {**entry, "missing": ["the data"], "contests": "x"})[1]
    assert cells["verdict"].text == claims.OPEN
    assert cells["missing"].text == "the data; speaks against: FLAG errs less than ridge"


def test_the_first_experiment_that_decides_gives_the_verdict():
    verdicts = [("a", claims.OPEN), ("b", claims.FAILS), ("c", claims.HOLDS)]
    rows = pd.DataFrame(verdicts, columns=["experiment", "verdict"])
    assert verdict_of(rows) == claims.FAILS
    assert verdict_of(rows[:1]) == claims.OPEN
    assert verdict_of(rows[:0]) == claims.OPEN


def test_the_script_judges_what_was_made(tmp_path, tried):
    study = Study(tmp_path / "study")
    files = study.collect()
    out = {ending: tmp_path / f"court.{ending}" for ending in ["csv", "tex", "md", "html"]}
    inputs = {
        "court": CONFIG / "court.yaml",
        "claims": CONFIG / "claims.yaml",
        "reported": REPORTED,
    }
    inputs |= {"tried_scores": [files["scores"]], "tried_runs": [files["runs"]]}
    params = {"item": study.item(name="court", title="The court"), "of": {"tried": [study.item()]}}
    load("tables/court")(job(params, input=inputs, output=out))
    table = pd.read_csv(out["csv"])
    assert set(table["experiment"]) == {"table_1"}
    assert {"stflow_before_triplex", "triplex_before_flag"} <= set(table["claim"])
    text = out["md"].read_text()
    for entry in court.read_court()["claims"].values():
        assert entry["claim"] in text
