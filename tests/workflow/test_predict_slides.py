"""New slides as rules of Snakemake: a sheet and an exported model, one folder per slide."""

import os
import random
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import anndata
import pytest
from running import TINY, command, snakemake

from flag_st.commands.trace import trace
from flag_st.core.io import digest
from flag_st.exported.export import export
from flag_st.outputs.folder import FILES, PAGE, RECORD

RUNS = "results/tiny/tiny/tiny"
FILES_OF_A_SLIDE = {*FILES, PAGE, RECORD}


def images(directory: Path) -> dict[str, Path]:
    return {p.stem: p for p in sorted((directory / "results/tiny/data/raw/wsis").glob("*.tif"))}


@pytest.fixture(scope="module")
def copy(tiny_run, tmp_path_factory):
    """A copy of the finished run, so that the others' is not touched."""
    return shutil.copytree(tiny_run, tmp_path_factory.mktemp("slides") / "run")


@pytest.fixture(scope="module")
def predicted(copy):
    """The test slide at its own spots, and a training slide on a grid."""
    (test,) = (p.stem for p in (copy / RUNS / "flag_fitted/seed0/predictions").glob("*.h5ad"))
    other = next(name for name in images(copy) if name != test)
    export(copy / RUNS / "flag_fitted/seed0", copy / "model.flag")
    rows = ["slide\tname\tat\tforce"]
    rows.append(f"{images(copy)[test]}\t{test}\tresults/tiny/data/slides/{test}/spots.h5ad\tyes")
    rows.append(f"{images(copy)[other]}\tgrid\t\tyes")
    (copy / "sheet.tsv").write_text("\n".join(rows) + "\n")
    done = run(copy)
    assert done.returncode == 0, done.stderr[-4000:]
    return test


def run(directory, *words):
    given = ("--config", "slides=sheet.tsv", "model=model.flag")
    return snakemake(directory, "predict_slides", "--configfile", str(TINY), *given, *words)


def jobs(done) -> set[str]:
    return set(re.findall(r"^(?:local)?rule (\w+):", done.stdout + done.stderr, re.M))


def test_each_slide_has_its_folder(copy, predicted):
    for name in (predicted, "grid"):
        folder = copy / "results/new_slides" / name
        found = {path.name for path in folder.iterdir()}
        assert found - {".snakemake_timestamp"} == FILES_OF_A_SLIDE


def test_a_predicted_folder_is_what_its_records_say(copy, predicted):
    """Snakemake puts a file of its own into it after the job has recorded what it made."""
    links = {link.path: link for link in trace(copy / "results/new_slides/explorer.html")}
    found = links[f"results/new_slides/{predicted}"]
    assert found.recorded
    assert found.state == "same", found.note


def test_one_page_leads_to_all_slides_of_the_sheet(copy, predicted):
    text = (copy / "results/new_slides/explorer.html").read_text(encoding="utf-8")
    assert re.findall(r'"source":"([^"]+)"', text) == [
        f"{name}/explorer.js" for name in (predicted, "grid")
    ]


def test_an_encoder_and_a_gene_model_that_learned_go_with_the_model(copy, predicted):
    """The bytes of the pipeline, from one file: the encoder was fitted to the training slides."""
    found = anndata.read_h5ad(copy / f"results/new_slides/{predicted}/prediction.h5ad")
    wanted = anndata.read_h5ad(copy / RUNS / f"flag_fitted/seed0/predictions/{predicted}.h5ad")
    assert list(found.obs_names) == list(wanted.obs_names)
    assert found.X.tobytes() == wanted.X.tobytes()
    assert found.layers["draw_1"].tobytes() == wanted.layers["draw_1"].tobytes()


def test_whole_slides_are_not_made_again(copy, predicted):
    again = run(copy, "-n")
    assert "Nothing to be done" in again.stdout + again.stderr
    shutil.rmtree(copy / "results/new_slides/grid")
    done = run(copy)
    assert done.returncode == 0, done.stderr[-3000:]
    assert jobs(done) == {"predict_slide", "join_slides", "predict_slides"}
    assert done.stderr.count("rule predict_slide:") == 1


def test_a_slide_that_is_added_to_the_sheet_is_predicted_at_once(copy, predicted):
    """The new sheet is checked again, and that alone ran; the others are not predicted again."""
    sheet = (copy / "sheet.tsv").read_text()
    first = next(iter(images(copy).values()))
    (copy / "longer.tsv").write_text(f"{sheet}{first}\tadded\t\tyes\n")
    words = ("--configfile", str(TINY), "--config", "slides=longer.tsv", "model=model.flag")
    planned = snakemake(copy, "predict_slides", *words, "-n")
    assert planned.returncode == 0, planned.stderr[-3000:]
    assert jobs(planned) == {"check_slides", "predict_slide", "join_slides", "predict_slides"}
    assert re.findall(r"wildcards: slide=(\w+)", planned.stdout + planned.stderr) == ["added"]


def test_another_model_and_another_row_predict_at_once(copy, predicted):
    (copy / "other.flag").write_bytes((copy / "model.flag").read_bytes())
    row = (copy / "sheet.tsv").read_text().replace("name\tat\tforce", "name\tat\tforce\tdraws")
    (copy / "draws.tsv").write_text(row.replace("grid\t\tyes", "grid\t\tyes\t3"))
    for given, wanted in (
        (["slides=sheet.tsv", "model=other.flag"], {"grid", predicted}),
        (["slides=draws.tsv", "model=model.flag"], {"grid"}),
    ):
        words = ("--configfile", str(TINY), "--config", *given, "-n")
        planned = snakemake(copy, "predict_slides", *words)
        assert planned.returncode == 0, planned.stderr[-3000:]
        text = planned.stdout + planned.stderr
        assert set(re.findall(r"wildcards: slide=(\w+)", text)) >= wanted


def files_of(folder: Path) -> dict[str, str]:
    """Digest of every file of the predicted slides."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(p.relative_to(folder)): digest(p) for p in found if ".snakemake" not in p.name}


def test_killed_anywhere_and_repeated_the_folders_are_the_same(copy, predicted):
    made = copy / "results/new_slides"
    wanted, moments = files_of(made), random.Random(1)
    given = ("--config", "slides=sheet.tsv", "model=model.flag")
    words = ("predict_slides", "--configfile", str(TINY), *given, "--quiet", "all")
    shutil.rmtree(made)
    for _ in range(3):
        process = subprocess.Popen(
            command(copy, *words),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        with suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(5, 18))
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for name in ("grid", predicted):  # a folder that is there is whole
            if (made / name).exists():
                assert {p.name for p in (made / name).iterdir()} >= FILES_OF_A_SLIDE
    done = run(copy)
    assert done.returncode == 0, done.stderr[-4000:]
    found = files_of(made)
    assert {name: found.get(name) for name in wanted} == wanted
    assert not [name for name in found if "/." in f"/{name}"]


def test_a_changed_line_of_the_sheet_predicts_its_slide_by_the_same_command(copy, predicted):
    """The check has other parameters then, and so has the job below it."""
    sheet = copy / "sheet.tsv"
    text = sheet.read_text()
    try:
        sheet.write_text(text.replace("grid\t\tyes", "grid\t\tno"))
        planned = run(copy, "-n")
    finally:
        sheet.write_text(text)
    assert jobs(planned) == {"check_slides", "predict_slide", "join_slides", "predict_slides"}
    assert (planned.stdout + planned.stderr).count("rule predict_slide:") == 1


def test_faults_of_all_slides_are_told_before_the_first(copy, predicted):
    bad = copy / "bad.tsv"
    (copy / "text.tif").write_bytes(b"II*\0" + bytes(99))
    first = next(iter(images(copy).values()))
    bad.write_text(f"slide\tname\tpixel_um\n{first}\tgood\t\n{first}\ttwice\t9\ntext.tif\t\t\n")
    done = snakemake(
        copy,
        "predict_slides",
        "--configfile",
        str(TINY),
        "--config",
        "slides=bad.tsv",
        "model=model.flag",
    )
    assert done.returncode
    assert "predict_slide" not in jobs(done)
    assert "slide twice" in done.stderr
    assert "slide text" in done.stderr
    assert not (copy / "results/new_slides/good").exists()


@pytest.mark.parametrize(
    ("given", "why"),
    [([], "needs a sheet of slides"), (["slides=gone.tsv", "model=model.flag"], "gone.tsv")],
)
def test_what_is_missing_is_said(copy, predicted, given, why):
    words = ["--config", *given] if given else []
    done = snakemake(copy, "predict_slides", "--configfile", str(TINY), "-n", *words)
    assert done.returncode
    assert why in done.stdout + done.stderr
