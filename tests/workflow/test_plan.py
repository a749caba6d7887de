"""What is planned, without any data."""

import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from running import ROOT, TINY, snakemake

from flag_st.core.errors import FlagError
from flag_st.planning import config
from flag_st.planning.grid import Plan
from flag_st.planning.jobs import list_jobs
from flag_st.planning.rules import RULES

DEMO = ROOT / "config" / "demo.yaml"
#: A job in what a dry run prints.
BLOCK = re.compile(r"^(?:local)?rule (\w+):\n((?: +.*\n)+)", re.M)


def counts(text: str) -> dict[str, int]:
    """Job counts of a dry run's table."""
    return {name: int(n) for name, n in re.findall(r"^(\w+) +(\d+)$", text, re.M)}


@pytest.fixture(scope="module")
def plans(tmp_path_factory) -> Callable[[Path | None], subprocess.CompletedProcess]:
    """Dry runs of an overlay (None: the shipped configuration), each once."""
    known: dict[Path | None, subprocess.CompletedProcess] = {}

    def plan(overlay: Path | None) -> subprocess.CompletedProcess:
        if overlay not in known:
            words = ["--configfile", str(overlay)] if overlay else []
            directory = tmp_path_factory.mktemp("plan")
            # Enough cores that no job's threads are lowered to them.
            done = snakemake(directory, "-n", "--cores", "64", *words, HF_HUB_OFFLINE="1")
            assert done.returncode == 0, done.stderr[-3000:]
            assert not list(directory.glob("results/**/*.h5ad"))
            known[overlay] = done
        return known[overlay]

    return plan


def test_default_configuration_plans_the_paper_without_data(plans):
    done = plans(None)
    jobs = counts(done.stdout)
    assert jobs["retrieve"] == jobs["prepare_slide"] == 36 + 23 + 23 + 9 + 12
    stages = (
        "check_cohort make_split select_panel encode_patches embed_genes train predict evaluate "
        "evaluate_downstream collect_scores table figure report"
    )
    assert not set(stages.split()) - set(jobs)
    experiments = set(config.load()["experiments"])
    # The whole paper, and all of ours but the search, which settles what the others use, and the figure
    # of guarantees, for which the validation slides of every run would be predicted.
    made = set(re.findall(r"experiments/(\w+)/runs\.parquet", done.stdout))
    assert made == experiments - {"search", "field", "guarantees"}
    for cohort in ("HER2ST", "KIDNEY", "PRAD"):
        assert f"results/{cohort}/random/hmhvg200/flag/seed2/model.safetensors" in done.stdout
    assert re.search(r"rule train:(?:(?!rule ).)*?gpu=1", done.stdout, re.S)


def test_the_court_reads_the_scores_of_the_made_experiments_that_its_claims_name(tmp_path):
    small = {"cohorts": ["tiny"], "split": "tiny", "methods": ["ridge"], "seeds": [0]}
    made = ["court", "field", "table_1", "differences"]  # no claim names the last
    overlay = {"make": made, "experiments": dict.fromkeys(made[1:], small)}
    (tmp_path / "small.yaml").write_text(json.dumps(overlay))
    words = ["--configfile", str(TINY), str(tmp_path / "small.yaml")]
    done = snakemake(tmp_path, "-n", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    blocks = [body for rule, body in BLOCK.findall(done.stdout) if rule == "table"]
    (court,) = [body for body in blocks if "experiment=court\n" in body]
    read = set(re.findall(r"experiments/(\w+)/scores\.parquet", court))
    assert read == {"field", "table_1"}


def test_downstream_scores_are_planned_for_the_runs_that_show_them(plans):
    plan = Plan(config.load())
    shown = {*plan.runs("table_3"), *plan.runs("table_15")}
    done = plans(None)
    assert counts(done.stdout)["evaluate_downstream"] == len(shown)
    assert counts(done.stdout)["evaluate"] > 2 * len(shown)
    for file, runs in collected(done.stdout).items():
        kinds = {Path(path).name for path in runs}
        shows = Path(file).parent.name in ("table_3", "table_15")
        assert kinds == {"scores.parquet", *["downstream.parquet"] * shows}, file


def collected(text: str) -> dict[str, list[str]]:
    """Output → inputs of every job of ``collect_scores`` that a dry run prints."""
    found = {}
    for rule, body in BLOCK.findall(text):
        if rule == "collect_scores":
            files = dict(re.findall(r"^ +(input|output): (.+)$", body, re.M))
            found[files["output"]] = files["input"].split(", ")
    return found


def planned(text: str) -> Counter:
    """(rule, threads, gpu, mem_mb, runtime) of every job that a dry run prints."""
    found = Counter()
    for rule, body in BLOCK.findall(text):
        if rule == "all":
            continue
        known = dict(re.findall(r"(gpu|mem_mb|runtime)=(\d+)", body))
        threads = re.search(r"^ +threads: (\d+)$", body, re.M)
        amounts = [int(known[key]) for key in ("gpu", "mem_mb", "runtime")]
        found[rule, int(threads[1]) if threads else 1, *amounts] += 1
    return found


def estimated(overlay) -> Counter:
    loaded, found = config.load({}, [overlay] if overlay else []), Counter()
    for job in list_jobs(loaded):
        rule, keys = RULES[job.rule], ("threads", "gpu", "mem_mb", "runtime")
        found[job.rule, *(rule.amount(key, loaded, job.wildcards) for key in keys)] += 1
    return found


@pytest.mark.parametrize("overlay", [None, TINY, DEMO], ids=["paper", "tiny", "demo"])
def test_the_estimate_knows_the_jobs_and_resources_that_are_planned(overlay, plans):
    done = plans(overlay)
    assert counts(done.stdout)["report"] == 1
    assert estimated(overlay) == planned(done.stdout + done.stderr)


def test_unknown_keys_are_refused_before_planning(tmp_path):
    overlay = tmp_path / "wrong.yaml"
    overlay.write_text("defaults: {sample: 3}\nmake: [table_99]\n")
    done = snakemake(tmp_path, "-n", "--configfile", str(overlay))
    assert done.returncode != 0
    assert "unknown key sample" in done.stdout + done.stderr


def test_what_is_missing_is_left_out_and_has_its_reason():
    missing = {"PRAD": "no access", "flag": {"KIDNEY": "out of memory"}, "coexpression": "no such"}
    plan = Plan(config.load({"missing": missing, "make": ["table_1"]}))
    runs = plan.runs("table_1")
    assert {run.cohort for run in runs} == {"HER2ST", "KIDNEY"}
    assert {run.cohort for run in runs if run.method == "flag"} == {"HER2ST"}
    absent = plan.absent("table_1")
    assert {"cohort": "KIDNEY", "method": "flag", "reason": "out of memory"} in absent
    methods = plan.config["experiments"]["table_1"]["methods"]
    assert [a["method"] for a in absent if a["cohort"] == "PRAD"] == methods


def test_an_experiment_of_which_nothing_can_be_run_is_not_planned(tmp_path):
    overlay = tmp_path / "o.yaml"
    overlay.write_text("missing: {KIDNEY: no access}\nmake: [table_8, table_2]\n")
    done = snakemake(tmp_path, "-n", "--configfile", str(overlay))
    assert done.returncode == 0, done.stderr[-3000:]
    assert counts(done.stdout)["table"] == 1
    assert "KIDNEY" not in re.sub(r"params.*", "", done.stdout)


def test_missing_names_must_be_known():
    with pytest.raises(FlagError) as fault:
        config.load({"missing": {"triplx": "x", "stem": {"PRAT": "y"}}})
    assert "missing: no 'triplx' in cohorts, methods" in str(fault.value)
    assert "missing.stem: no 'PRAT' in cohorts" in str(fault.value)


def test_truth_is_no_input_of_predict_but_for_declared_controls():
    plan = Plan(config.load())
    allowed = {n for n, e in plan.config["methods"].items() if e.get("needs_truth")}
    assert allowed == {"oracle", "node_only_oracle", "node_only_edm_oracle"}


def test_what_is_a_method_of_its_own_is_trained_once():
    """Where class, arguments, inputs and seed are the same, a method takes the other one's model."""
    loaded = config.load()
    plan = Plan(loaded)

    def parts(method: str) -> list[str]:
        return plan.parts("HER2ST", method)

    assert parts("triplex_plus_gene_noise") == ["triplex"]
    assert parts("flag_calibrated") == ["flag_graph", "graph_regressor", "triplex"]
    assert parts("flag_calibrated_4") == [
        "graph_regressor",
        "triplex",
    ]  # its draws have another number of steps
    assert parts("ridge_plus_gene_noise") == []  # ridge has no seed, and is quickly fitted again
    assert parts("triplex") == []
    other = config.load({"methods": {"triplex_plus_gene_noise": {"encoder": "texture"}}})
    assert Plan(other).parts("HER2ST", "triplex_plus_gene_noise") == []  # reads other features
    without = config.load({"missing": {"triplex": "no licence"}})
    assert Plan(without).parts("HER2ST", "flag_calibrated") == ["flag_graph", "graph_regressor"]
    changed = config.load(
        {"methods": {"triplex_plus_gene_noise": {"params": {"base": {"params": {"width": 64}}}}}}
    )
    assert Plan(changed).parts("HER2ST", "triplex_plus_gene_noise") == []


def test_the_model_of_a_part_is_an_input_of_training(tmp_path):
    overlay = tmp_path / "parts.yaml"
    overlay.write_text(
        "make: [two]\n"
        "experiments:\n"
        "  two:\n"
        "    script: tables/main\n"
        "    title: two\n"
        "    cohorts: [synthetic]\n"
        "    methods: [triplex_plus_gene_noise]\n"
        "    seeds: [0]\n"
        "    params: {columns: [{metric: pcc}]}\n"
    )
    done = snakemake(tmp_path, "-n", "--cores", "64", "--configfile", str(DEMO), str(overlay))
    assert done.returncode == 0, done.stderr[-3000:]
    trained = [text for rule, text in BLOCK.findall(done.stdout) if rule == "train"]
    assert len(trained) == 2
    model = re.search(r"output: (\S*/triplex/seed0/model.safetensors)", "".join(trained))
    assert model
    (noisy,) = (text for text in trained if "method=triplex_plus_gene_noise" in text)
    assert model.group(1) in noisy
