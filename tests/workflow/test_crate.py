"""A crate of a real run, and the same run with another seed."""

import getpass
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml
from rocrate.rocrate import ROCrate
from running import ROOT, TINY, snakemake

from flag_st.commands import cli
from flag_st.crate.metadata import CONFIGURATION
from flag_st.crate.read import open_run
from flag_st.planning import config

RUNS = "results/tiny/tiny/tiny"


@pytest.fixture(scope="module")
def crate(tiny_run, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("crate") / "tiny.zip"
    assert cli.main(["crate", str(tiny_run / "results"), "-o", str(path)]) == 0
    return path


def test_a_moved_run_has_the_same_crate_and_the_same_numbers(tiny_run, crate, tmp_path, capsys):
    moved = shutil.copytree(tiny_run / "results", tmp_path / "elsewhere" / "res")
    again = tmp_path / "again.zip"
    assert cli.main(["crate", str(moved), "-o", str(again)]) == 0
    assert again.read_bytes() == crate.read_bytes()
    for other in (again, moved):
        assert cli.main(["compare", str(crate), str(other)]) == 0
        assert "the numbers are the same" in capsys.readouterr().out


def test_a_crate_holds_every_job_and_nothing_of_the_machine(tiny_run, crate):
    found = ROCrate(crate)
    run, *jobs = found.root_dataset["mentions"]
    records = set((tiny_run / "results/logs").rglob("*.json"))
    # The check of the cohort only lets the others go ahead.
    assert len(jobs) == len(open_run(crate).jobs) == len(records) - 1
    assert {entity.id for entity in run["result"]} >= {
        "results/paper/tables/table_1.csv",
        "results/paper/figures/gene_maps.png",
        "results/experiments/table_1/scores.parquet",
    }
    # Three files of each of three sections, and the printed numbers, pages and styles of the report.
    assert len(run["object"]) > 10
    assert all(e.id == CONFIGURATION or e["sha256"] for e in run["object"])
    with zipfile.ZipFile(crate) as archive:
        for name in archive.namelist():
            text = archive.read(name).decode("latin-1")
            for word in (str(tiny_run), str(ROOT), f"/{getpass.getuser()}/", f"{Path.home()}/"):
                assert word not in text, name


def test_a_crate_has_the_configuration_with_every_entry_resolved(crate):
    with zipfile.ZipFile(crate) as archive:
        found = yaml.safe_load(archive.read(CONFIGURATION))
    known = config.load({}, [TINY])
    assert found["methods"]["flag_fitted"]["encoder"] == "ssl_vit"
    assert found == {k: v for k, v in known.items() if k in found}
    assert set(known) - set(found) == {"root", "slides", "model", "verify"}


def test_another_seed_is_named(tiny_run, crate, tmp_path, capsys):
    """The run is made again for one method, and only its numbers are compared."""
    directory = shutil.copytree(tiny_run, tmp_path / "run")
    overlay = tmp_path / "seed.yaml"
    grid = {"seeds": [1], "methods": ["shuffled_profiles"]}
    overlay.write_text(yaml.safe_dump({"make": ["table_1"], "defaults": grid}))
    done = snakemake(directory, "--configfile", str(TINY), str(overlay), "--quiet", "rules")
    assert done.returncode == 0, done.stderr[-4000:]
    assert cli.main(["compare", str(crate), str(directory / "results")]) == 1
    text = capsys.readouterr().out
    assert "table_1 tiny ridge: only in A" in text
    rows = [line.split()[:4] for line in text.splitlines() if line.startswith("table_1 ")]
    assert ["table_1", "tiny", "shuffled_profiles", "gsc"] in rows
    told = text.partition("what differs before the numbers of ")[2].splitlines()
    assert told[0] == "table_1 tiny shuffled_profiles"
    assert [line.split() for line in told[1:]] == [
        ["seeds", "seed:", "0", "in", "A,", "1", "in", "B"]
    ]


def test_a_run_without_an_output_is_refused(tiny_run, tmp_path, capsys):
    results = shutil.copytree(tiny_run / "results", tmp_path / "results")
    (results.parent / RUNS / "flag/seed0/model.safetensors").unlink()
    assert cli.main(["crate", str(results), "-o", str(tmp_path / "c.zip")]) == 1
    told = capsys.readouterr().err
    assert f"It lacks: {RUNS}/flag/seed0/model.safetensors, which does not exist. Remedy" in told
