"""Bad files, stage by stage: refused by name with the remedy, without a traceback or any output.

Scripts run here as in the workflow, on files of which one is spoiled. Of raw slides there are many more
faults: tests/unit/test_checks.py.
"""

import json
import os
import re
import shutil
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import stages

from flag_st.core.errors import FlagError
from flag_st.core.inputs import check_inputs
from flag_st.core.io import CONTRACT, load_arrays, save_arrays


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """What an undisturbed run makes; every stage has succeeded once."""
    folder = tmp_path_factory.mktemp("template")
    stages.make_all(folder)
    return folder


@pytest.fixture
def folder(template, tmp_path) -> Path:
    """The same files, as links: a case makes its own copy of the one that it spoils."""
    work = shutil.copytree(template, tmp_path / "work", copy_function=os.link)
    for manifest in work.glob("sources/*.json"):  # they name the raw files of this folder
        text = own_copy(manifest).read_text()
        manifest.write_text(text.replace(str(template), str(work)))
    return work


def own_copy(path: Path) -> Path:
    """The others share theirs."""
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    return path


# Ways to spoil any file


def missing(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def text(path: Path) -> None:
    path.write_text("gene,value\nERBB2,1\n")


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def zeros(path: Path) -> None:
    """As a file system leaves what was never written out."""
    path.write_bytes(bytes(path.stat().st_size))


# Ways to spoil a format


def table(change):
    """An h5ad, through AnnData; ``change`` may return a new one."""

    def spoil(path: Path) -> None:
        found = anndata.read_h5ad(path)
        changed = change(found)
        (found if changed is None else changed).write_h5ad(path)

    return spoil


def older(path: Path) -> None:
    """Of the contract version before this one, whatever the format."""
    if path.suffix == ".h5ad":
        table(lambda t: t.uns.update(contract=CONTRACT - 1))(path)
    elif path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            file.attrs["contract"] = CONTRACT - 1
    elif path.suffix == ".json":
        facts(contract=CONTRACT - 1)(path)
    else:
        arrays, known = load_arrays(path)
        save_arrays(path, arrays, {**known, "contract": CONTRACT - 1})


def facts(**values):
    def spoil(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return spoil


def without(*names: str):
    """A JSON object, an HDF5 file or a parquet table without these keys."""

    def spoil(path: Path) -> None:
        if path.suffix == ".json":
            known = json.loads(path.read_text())
            path.write_text(json.dumps({k: v for k, v in known.items() if k not in names}))
        elif path.suffix == ".parquet":
            pd.read_parquet(path).drop(columns=list(names)).to_parquet(path)
        else:
            with h5py.File(path, "r+") as file:
                for name in names:
                    del file[name]

    return spoil


def put(key, where, value):
    """A value into a dense matrix of an HDF5 file."""

    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file[key][where] = value

    return spoil


def rows(key, count):
    """Only the first rows of a dataset."""
    return replaced(key, lambda values: values[:count])


def floats(key):
    return replaced(key, lambda values: values.astype(np.float32))


def replaced(key, change):
    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            values = file[key][:]
            del file[key]
            file[key] = change(values)

    return spoil


def attribute(key, value):
    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file.attrs[key] = value

    return spoil


def panel(change):
    def spoil(path: Path) -> None:
        change(pd.read_parquet(path)).to_parquet(path)

    return spoil


SPOTS, PATCHES = "slides/P1S1/spots.h5ad", "slides/P1S1/patches.h5"
FEATURES, TARGETS = "features/P1S1.h5ad", "targets/P1S1.h5"
PANEL, SPLIT, SOURCE = "panel.parquet", "split.json", "sources/P1S1.json"
MODEL, FITTED = "run/model.safetensors", "gene_model.safetensors"
RUN, SCORES, PREDICTION = "run/run.json", "run/scores.parquet", "run/predictions/P3S1.h5ad"
TESTED, TRUTH = "features/P3S1.h5ad", "slides/P3S1/spots.h5ad"

WAYS = {
    missing: "does not exist",
    empty: "is empty",
    cut_off: "damaged or of another format",
    text: "damaged or of another format",
    zeros: "damaged or of another format",
    directory: "is a directory",
    older: f"of contract version {CONTRACT - 1}, this release reads version {CONTRACT}",
}
#: input of a job, a stage that reads it, the file
KINDS = [
    ("manifest", "prepare_slide", SOURCE),
    ("spots", "encode_patches", SPOTS),
    ("patches", "encode_patches", PATCHES),
    ("features", "train", FEATURES),
    ("targets", "train", TARGETS),
    ("panel", "embed_genes", PANEL),
    ("split", "select_panel", SPLIT),
    ("predictions", "evaluate", PREDICTION),
    ("truth", "evaluate", TRUTH),
    ("scores", "collect_scores", SCORES),
    ("runs", "collect_runs", RUN),
]
#: Kinds without a contract version of their own.
PLAIN = ("panel", "scores", "runs")
#: stage, file, what is done to it, what is said: before any work, by the look at a job's inputs.
CONTENT = [
    ("check_cohort", SOURCE, without("files"), "has no files"),
    ("prepare_slide", SOURCE, facts(files={"st": {"path": "x"}}), "without path or sha256"),
    (
        "prepare_slide",
        SOURCE,
        facts(files={"st": {"path": "gone.h5ad", "sha256": ""}}),
        "names gone.h5ad, which does not exist",
    ),
    ("prepare_slide", SOURCE, lambda p: p.write_text("[1]"), "holds a list instead of an object"),
    ("prepare_slide", SOURCE, lambda p: p.write_bytes(b'{"a": "\xff"}'), "utf-8"),
    ("encode_patches", PATCHES, without("img"), "has no img"),
    ("encode_patches", PATCHES, without("barcode", "coords"), "has no barcode, coords"),
    ("encode_patches", PATCHES, rows("barcode", 3), r"has 14 img, 14 coords, 3 barcode"),
    ("encode_patches", PATCHES, floats("img"), "images of float32, wanted uint8"),
    ("encode_patches", SPOTS, table(lambda t: t.obsm.clear()), "has no obsm/spatial_um"),
    ("select_panel", SPOTS, table(lambda t: t[:0].copy()), "holds no spot"),
    ("select_panel", SPOTS, table(lambda t: t[[0, 0, 1]].copy()), "names 1 spots twice"),
    ("select_panel", SPLIT, without("train"), "has no train"),
    ("select_panel", SPLIT, facts(train=[]), "empty part train"),
    ("select_panel", SPLIT, facts(train=["P3S1"]), "in more than one part"),
    ("fit_gene_model", PANEL, without("gene"), "has no gene"),
    ("fit_gene_model", PANEL, panel(lambda t: t[:0]), "holds no gene"),
    ("fit_gene_model", PANEL, panel(lambda t: pd.concat([t, t[:2]])), "names 2 genes twice"),
    ("train", FEATURES, table(lambda t: t[:0].copy()), "holds no spot"),
    ("train", FEATURES, table(lambda t: t[[0, 0, 1]].copy()), "names 1 spots twice"),
    ("train", FEATURES, table(lambda t: t.obsm.clear()), "has no obsm/spatial_um"),
    ("train", FEATURES, put("obsm/spatial_um", (0, 1), np.nan), "not a finite"),
    ("train", FEATURES, put("obsm/spatial_um", (0, 1), np.inf), "not a finite"),
    ("train", FEATURES, without("uns/patient"), "has no uns/patient"),
    ("train", TARGETS, without("embedding"), "has no embedding"),
    ("train", TARGETS, rows("genes", 3), r"embedding \(12, 8\) for 14 spots and 3 genes"),
    ("train", TARGETS, attribute("kind", "other"), "of kind other"),
    ("evaluate", PREDICTION, table(lambda t: t.layers.clear()), "says 1 draws and has no draw_0"),
    ("evaluate", PREDICTION, without("uns/unit"), "has no uns/unit"),
    ("collect_scores", SCORES, without("metric", "value"), "has no metric, value"),
    ("collect_runs", RUN, without("config"), "has no config"),
    ("collect_runs", RUN, facts(config={}), "config without use"),
    ("collect_runs", RUN, without("seconds"), "has no time"),
]
#: stage, file, what is done to it, what is said: by the scripts, from what the files hold together.
TOGETHER = [
    ("retrieve", "raw/st/P1S1.h5ad", missing, "no file .*P1S1.h5ad"),
    ("retrieve", "raw/wsis/P1S1.tif", missing, "no file .*P1S1.tif"),
    ("retrieve", "raw/metadata/P1S1.json", missing, "no file .*P1S1.json"),
    ("check_cohort", "raw/st/P1S1.h5ad", cut_off, "counts file .*truncated"),
    ("check_cohort", "raw/wsis/P1S1.tif", empty, "slide image file .* is empty"),
    ("check_cohort", "raw/metadata/P1S1.json", directory, "metadata file .* is a directory"),
    ("prepare_slide", "raw/st/P1S1.h5ad", text, "counts file .* damaged"),
    ("prepare_slide", "raw/wsis/P1S1.tif", zeros, "slide image file .* damaged"),
    ("embed_genes", FITTED, missing, "not a readable model file"),
    ("embed_genes", FITTED, empty, "not a readable model file"),
    ("embed_genes", FITTED, cut_off, "not a readable model file"),
    ("embed_genes", FITTED, older, "contract version"),
    ("predict", MODEL, missing, "not a readable model file"),
    ("predict", MODEL, empty, "not a readable model file"),
    ("predict", MODEL, cut_off, "not a readable model file"),
    ("predict", MODEL, text, "not a readable model file"),
    ("predict", MODEL, zeros, "not a readable model file"),
    ("predict", MODEL, directory, "not a readable model file"),
    ("predict", MODEL, older, "contract version"),
    ("predict", MODEL, lambda p: shutil.copy(p.parents[1] / FITTED, p), "which is not a method"),
    ("predict", TESTED, table(lambda t: t[:, :5].copy()), "5 features, .* was trained on"),
    ("select_panel", SPLIT, facts(train=["P9S9"]), "names P9S9, whose spots are not among"),
    ("train", FEATURES, put("X", (1, 2), np.nan), "NaN or infinite features in 1 of 14"),
    ("train", FEATURES, put("X", (1, 2), np.inf), "NaN or infinite features in 1 of 14"),
    ("train", SPOTS, table(lambda t: t[:5].copy()), "lacks 9 spots"),
    ("train", SPOTS, table(lambda t: t[:, :5].copy()), "lacks .* genes"),
    ("predict", TESTED, put("X", (1, 2), np.nan), "NaN or infinite features in 1 of 13"),
    ("evaluate", TRUTH, table(lambda t: t[:5].copy()), "lacks 8 spots"),
    ("evaluate", TRUTH, table(lambda t: t[:, :5].copy()), "lacks .* genes"),
]


def inputs(job: stages.Job, folder: Path) -> dict[str, list[Path]]:
    """As Snakemake hands them to a script."""
    given = {k: v if isinstance(v, list) else [v] for k, v in job.input.items()}
    return {name: [folder / path for path in paths] for name, paths in given.items()}


def names(case) -> str:
    stage, file, spoil, _ = case
    return f"{stage}-{Path(file).name}-{spoil.__qualname__.split('.')[0]}"


def refused(folder: Path, job: stages.Job, path: Path, spoil, said: str) -> None:
    """Exit 1 with file, fault and remedy; no traceback, and nothing under a final name."""
    outputs = [folder / name for name in job.output.values()]
    for output in outputs:
        output.unlink(missing_ok=True)
    spoil(path)
    code, log = job.run(folder)
    assert code == 1
    assert "Traceback" not in log
    assert str(path) in log
    assert re.search(said, log), log
    assert "Remedy: " in log
    assert not [o for o in outputs if o.exists()]
    assert not list(folder.rglob("*.part.*"))


@pytest.mark.parametrize("spoil", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize(("name", "stage", "file"), KINDS, ids=lambda x: x)
def test_file_fault(folder, name, stage, file, spoil):
    if spoil is older and name in PLAIN:
        pytest.skip("it has no contract version")
    job, path = stages.stage(stage, folder), own_copy(folder / file)
    check_inputs(inputs(job, folder))
    refused(folder, job, path, spoil, f"inputs: 1 fault.*(?s:.*){WAYS[spoil]}")


@pytest.mark.parametrize("case", [*CONTENT, *TOGETHER], ids=names)
def test_fault_of_what_files_hold(folder, case):
    stage, file, spoil, said = case
    refused(folder, stages.stage(stage, folder), own_copy(folder / file), spoil, said)


def test_sound_inputs_have_no_fault(folder):
    for name in stages.STAGES:
        check_inputs(inputs(stages.stage(name, folder), folder))


def test_all_faults_of_all_inputs_are_told_at_once(folder):
    for file, spoil in ((FEATURES, empty), (SPOTS, cut_off), (PANEL, missing)):
        spoil(own_copy(folder / file))
    with pytest.raises(FlagError, match="inputs: 3 faults"):
        check_inputs(inputs(stages.stage("train", folder), folder))


def test_there_are_at_least_sixty_kinds():
    assert len(KINDS) * len(WAYS) - len(PLAIN) + len(CONTENT) + len(TOGETHER) >= 60
