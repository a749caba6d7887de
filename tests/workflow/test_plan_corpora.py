"""What a gene model learns from, by the files that Snakemake would hand to its job."""

import json
import re
from pathlib import Path

import pytest
from running import snakemake

from flag_st.core.errors import FlagError
from flag_st.planning import config
from flag_st.planning.grid import Plan
from flag_st.planning.jobs import list_jobs

SLIDES, FURTHER = ("A1", "A2", "B1", "C1", "C2"), ("A3", "B2", "D1")
OVERLAY = """
make: [table_1]
defaults:
  cohorts: [own]
  split: own
  panel: own
  encoder: texture
cohorts:
  own: {use: flag_st.sources.folder.Folder, params: {root: null}}
splits:
  own: {scheme: leave_one_out, by: slide, only: [A2, C2], seed: 1}
panels:
  own: {top: 30, vocabulary: known.txt}
experiments:
  table_1: {methods: [hinge, hinge_others, hinge_open, hinge_oracle], seeds: [0]}
"""
JOB = re.compile(r"^(?:local)?rule (\w+):\n((?: +.*\n)+)", re.M)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cohort of file names: planning opens none of the files."""
    for kind, names in (("st", SLIDES), ("counts", (*SLIDES, *FURTHER))):
        (tmp_path / "root" / kind).mkdir(parents=True)
        for name in names:
            (tmp_path / "root" / kind / f"{name}.h5ad").touch()
    for name in (*SLIDES, *FURTHER):
        path = tmp_path / "root/metadata" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"patient": name[0]}))
    (tmp_path / "known.txt").write_text("ERBB2\nCD3E\n")
    (tmp_path / "overlay.yaml").write_text(OVERLAY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(folder) -> dict[str, list[dict[str, str]]]:
    """Rule → inputs and outputs of each of its jobs, as a dry run prints them."""
    words = ["--configfile", str(folder / "overlay.yaml"), "--config", f"root={folder}/root"]
    done = snakemake(folder, "-n", *words)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    jobs: dict[str, list[dict[str, str]]] = {}
    for rule, body in JOB.findall(done.stdout + done.stderr):
        files = dict(re.findall(r"^ +(input|output): (.+)$", body, re.M))
        jobs.setdefault(rule, []).append(files)
    return jobs


def sections(files: str) -> set[str]:
    """The slides and sections whose counts are among the inputs of a job."""
    paths = [Path(path) for path in files.split(", ")]
    return {path.parent.name for path in paths if path.name in ("spots.h5ad", "counts.h5ad")}


def test_held_out_slides_are_no_input_of_any_corpus_but_the_oracle(folder):
    jobs = planned(folder)
    loaded = config.load({"root": f"{folder}/root"}, files=[folder / "overlay.yaml"])
    plan = Plan(loaded)
    found = {}
    for job in jobs["fit_gene_model"]:
        _, fold, _, _, model, _ = Path(job["output"]).parts[1:]
        found[fold, model.removeprefix("cellfm_mini").lstrip("_")] = sections(job["input"])
    assert len(found) == 2 * 4
    for (fold, corpus), seen in found.items():
        split = plan.split("own", fold)
        further = set(FURTHER)
        if corpus == "others":
            further = {name for name in FURTHER if name[0] != split.test[0][0]}
            assert further != set(FURTHER) or split.test == ("C2",)
        wanted = set(split.train) | (further if corpus else set())
        wanted |= set(split.test) if corpus == "oracle" else set()
        assert seen == wanted, (fold, corpus)
        assert not seen & set(split.valid)
        assert bool(seen & set(split.test)) == (corpus == "oracle")


def test_sections_without_an_image_are_input_of_gene_models_alone(folder):
    jobs = planned(folder)
    raw = {Path(job["input"]).stem for job in jobs["prepare_counts"]}
    assert raw == set(FURTHER)
    readers = {
        rule
        for rule, found in jobs.items()
        for job in found
        if sections(job.get("input", "")) & set(FURTHER)
    }
    assert readers == {"fit_gene_model"}
    # In particular, the panel is chosen on slides alone, by the genes of its vocabulary.
    for job in jobs["select_panel"]:
        assert sections(job["input"]) == set(SLIDES)
        assert "known.txt" in job["input"]


def test_the_list_of_jobs_is_that_of_the_plan(folder):
    jobs = planned(folder)
    listed = list_jobs(config.load({"root": f"{folder}/root"}, files=["overlay.yaml"]))
    for rule in ("prepare_counts", "fit_gene_model", "select_panel"):
        files = {f for job in listed if job.rule == rule for f in job.files("results")}
        assert {job["output"] for job in jobs[rule]} == files


def test_a_cohort_without_such_sections_is_refused_before_anything_runs(folder):
    for path in (folder / "root/counts").iterdir():
        path.unlink()
    words = ["--configfile", str(folder / "overlay.yaml"), "--config", f"root={folder}/root"]
    done = snakemake(folder, "-n", *words)
    assert done.returncode != 0
    said = " ".join((done.stdout + done.stderr).split())
    assert "the cohort has no sections with counts and no image" in said
    assert "gene_models.cellfm_mini_o" in said
    with pytest.raises(FlagError, match="no sections with counts"):
        list_jobs(config.load({"root": f"{folder}/root"}, files=[folder / "overlay.yaml"]))
