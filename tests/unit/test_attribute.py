"""What explains the gap to a printed number: shares from the scores, and overlays of what is missing."""

import shutil

import pytest
import yaml
from paper_example import Study

from flag_st.commands.attribute import attribute
from flag_st.commands.cli import main
from flag_st.core.errors import FlagError
from flag_st.paper.collect import read_scores
from flag_st.planning import config


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A folder of results that has the experiment ``claims``."""
    root = tmp_path_factory.mktemp("attribute")
    files = Study(root / "study").collect()
    place = root / "experiments" / "claims"
    place.mkdir(parents=True)
    shutil.copy(files["scores"], place / "scores.parquet")
    return root


@pytest.fixture(scope="module")
def loaded():
    return config.load()


@pytest.fixture(scope="module")
def found(results, loaded):
    (one,) = attribute(loaded, "flag_pcc_number", results)
    return one


def test_ours_is_the_mean_of_the_scores_and_a_step_is_another_of_them(found, results):
    scores = read_scores(results / "experiments" / "claims" / "scores.parquet")
    pcc = scores.query("method == 'flag' and metric == 'pcc' and estimator == 'mean'")
    pooled = pcc["slide"] == ""
    assert (found.printed, found.ours) == (0.6835, pytest.approx(pcc[pooled]["value"].mean()))
    steps = {(step.factor, step.change): step.value for step in found.steps}
    assert steps["pooling", "per slide"] == pytest.approx(pcc[~pooled]["value"].mean())
    assert ("pooling", "pooled") not in steps  # that is ours
    draws = scores.query(
        "method == 'flag' and metric == 'pcc' and estimator == 'draw' and slide == ''"
    )
    assert steps["estimator", "one draw"] == pytest.approx(draws["value"].mean())
    assert steps["estimator", "one draw"] < found.ours


def test_the_text_gives_shares_of_the_gap(found):
    text = found.as_text()
    step = next(step for step in found.steps if step.change == "per slide")
    share = 100 * (step.value - found.ours) / (found.printed - found.ours)
    assert f"{share:.0f} % of the gap" in text
    assert "printed 0.683" in text
    assert "not run: claims_HER2ST_split" in text


def test_the_overlay_is_one_that_the_workflow_takes(found, loaded):
    factors = {step.factor for step in found.steps if step.run}
    assert factors == {"split", "panel", "unit", "seeds", "pixel size", "validation"}
    overlay = yaml.safe_load(found.as_text().partition("# An overlay")[2].partition("\n")[2])
    made = config.load(overlay)
    for name in overlay["make"]:
        entry, base = made["experiments"][name], loaded["experiments"]["claims"]
        changed = {
            key
            for key, before in (
                ("cohorts", ["HER2ST"]),
                ("split", base["split"]),
                ("panels", base["panels"]),
                ("methods", ["flag"]),
                ("seeds", base["seeds"]),
            )
            if entry[key] != before
        }
        assert len(changed) == 1, name
    assert made["cohorts"]["HER2ST_pixels"]["prepare"]["pixel_scale"] == 1.1


def test_a_run_that_is_there_is_used(found, results, loaded, tmp_path):
    shutil.copytree(results / "experiments", tmp_path / "experiments")
    shutil.copytree(
        tmp_path / "experiments" / "claims", tmp_path / "experiments" / "claims_HER2ST_seeds"
    )
    (one,) = attribute(loaded, "flag_pcc_number", tmp_path)
    seeds = next(step for step in one.steps if step.factor == "seeds")
    assert seeds.value == pytest.approx(found.ours)
    assert "claims_HER2ST_seeds" not in one.overlay["make"]


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ("nothing", r"no claim 'nothing'\. Valid: bleep_"),
        (
            "flag_time",
            r"no run here tests flag_time\. Remedy: what is missing: the same graphics card",
        ),
        ("merge_graph", r"merge_graph has no printed pcc of merge"),
        ("flag_graph", r"flag_graph needs claims_parts.*make=\[claims_parts\]"),
    ],
)
def test_what_cannot_be_attributed_says_why(results, loaded, claim, message):
    with pytest.raises(FlagError, match=message):
        attribute(loaded, claim, results)


def test_the_command_prints_it(results, found, capsys):
    assert main(["attribute", "flag_pcc_number", str(results)]) == 0
    assert capsys.readouterr().out.strip() == found.as_text()
