"""What runs again after a change: all that it touches and nothing else, by one command."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml
from running import TINY, snakemake

from flag_st.planning.lock import lock
from flag_st.sources.synthetic import Synthetic

SCORES = {"evaluate", "collect_scores", "table"}
ITEMS = {"collect_scores", "collect_runs", "table", "figure", "explorer", "report"}
RUN = {"train", "calibrate", "predict", "evaluate"} | ITEMS
TARGETS = {"fit_gene_model", "embed_genes"}
FEATURES = {"fit_encoder", "encode_patches"}


def changed(layer: str, name: str, **keys) -> dict:
    return {layer: {name: keys}}


#: What is changed → the overlay, and the rules that have to run.
SETTINGS = {
    "nothing": ({}, set()),
    "the size of the panel": (
        changed("panels", "tiny", size=10),
        {"check_cohort", "select_panel"} | TARGETS | RUN,
    ),
    "a second panel": (
        {
            **changed("panels", "five", size=5),
            **changed("experiments", "table_1", panels=["tiny", "five"]),
        },
        {"check_cohort", "select_panel"} | TARGETS | RUN - {"figure", "explorer"},
    ),
    "the seed of the split": (
        changed("splits", "tiny", seed=1),
        {"make_split", "select_panel"} | FEATURES | TARGETS | RUN,
    ),
    "how slides are prepared": (
        changed("cohorts", "tiny", prepare={"min_counts": 2}),
        {"check_cohort", "prepare_slide", "select_panel"} | FEATURES | TARGETS | RUN,
    ),
    "how sections are generated": (
        changed("cohorts", "tiny", params={"genes": 121}),
        {"retrieve", "check_cohort", "prepare_slide", "select_panel"} | FEATURES | TARGETS | RUN,
    ),
    "a metric": ({"defaults": {"metrics": ["pcc", "mse", "mae"]}}, SCORES | {"report"}),
    "the params of a metric": (
        changed("metrics", "ssc", params={"k": 6}),
        SCORES | {"report"},
    ),
    # The maps, and so the explorer, state a seed of their own.
    "the seeds": ({"defaults": {"seeds": [0, 1]}}, RUN - {"explorer"}),
    "the number of draws": (
        {"defaults": {"samples": 3}},
        {"calibrate", "predict", "evaluate"} | ITEMS - {"collect_runs"},
    ),
    "the field of view of an encoder": (
        changed("encoders", "texture", field_um=224),
        {"check_cohort", "cut_patches", "encode_patches"} | RUN,
    ),
    # No figure shows the one method that is built on either of these two.
    "the params of an encoder that learns": (
        changed("encoders", "ssl_vit", params={"steps": 5}),
        FEATURES | RUN - {"figure", "explorer"},
    ),
    "the params of a gene model": (
        changed("gene_models", "geneformer_mini", params={"epochs": 2}),
        TARGETS | RUN - {"figure", "explorer"},
    ),
    "the params of a method": (changed("methods", "ridge", params={"components": 7}), RUN),
}


def planned(directory: Path, *words: str) -> set[str]:
    """The rules of a dry run, without the target."""
    done = snakemake(directory, "-n", *words, "--quiet", "rules")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    table = re.findall(r"^(\w+) +\d+$", done.stdout + done.stderr, re.M)
    assert bool(table) != ("Nothing to be done" in done.stdout + done.stderr)
    return set(table) - {"all", "total"}


def overlaid(path: Path, overlay: dict) -> tuple[str, ...]:
    path.write_text(yaml.safe_dump(overlay))
    return ("--configfile", str(TINY), str(path))


@pytest.mark.parametrize("what", SETTINGS)
def test_a_changed_setting_runs_all_that_it_touches(tiny_run, tmp_path, what):
    overlay, rules = SETTINGS[what]
    assert planned(tiny_run, *overlaid(tmp_path / "changed.yaml", overlay)) == rules


def test_one_command_makes_the_whole_table_anew(tiny_run, tmp_path):
    """Two settings at once: of the panel, and of a stage above it of which the check knows nothing."""
    directory = shutil.copytree(tiny_run, tmp_path / "run")
    overlay = {
        "make": ["table_1"],
        "defaults": {"methods": ["training_mean", "ridge"]},
        **changed("panels", "tiny", size=10),
        **changed("encoders", "texture", params={"block": 32}),
    }
    words = overlaid(tmp_path / "size.yaml", overlay)
    done = snakemake(directory, *words)
    assert done.returncode == 0, done.stderr[-4000:]
    assert planned(directory, *words) == set()
    scores = pd.read_parquet(directory / "results/experiments/table_1/scores.parquet")
    assert scores[scores["gene"] != ""].groupby("method")["gene"].nunique().max() == 10


@pytest.mark.parametrize("verb", [("-n",), ()], ids=["dry run", "run"])
def test_results_without_snakemake_s_records_are_told(tiny_run, tmp_path, verb):
    """Snakemake then takes everything for unchanged; the records beside the logs say otherwise."""
    directory = tmp_path / "copy"
    shutil.copytree(tiny_run / "results", directory / "results")
    unchanged = snakemake(directory, *verb, "--configfile", str(TINY))
    for done in (
        unchanged,
        snakemake(directory, *verb, *overlaid(tmp_path / "x.yaml", OTHER_RIDGE)),
    ):
        assert done.returncode == 0, done.stderr[-3000:]
        assert "Nothing to be done" in done.stdout + done.stderr
    assert "made with other settings" not in unchanged.stdout + unchanged.stderr
    said = done.stdout + done.stderr
    assert re.search(r"\d finished jobs were made with other settings", said)
    (files,) = re.findall(r"--forcerun (.+)", said)
    # One of the two is built on the other's entry.
    models = re.findall(r"(\w+)/seed0/model\.safetensors", files)
    assert models == ["ridge", "ridge_plus_gene_noise"]
    assert "panel" not in files
    words = overlaid(tmp_path / "x.yaml", OTHER_RIDGE)
    assert planned(directory, *words, "--forcerun", *files.split()) == RUN


OTHER_RIDGE = changed("methods", "ridge", params={"components": 7})


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """A finished run up to the panel, on a folder of one's own with four sections; a fifth waits."""
    directory = tmp_path_factory.mktemp("own")
    source = Synthetic(patients=5, sections=1, spots=[5, 5], genes=120)
    for slide in SLIDES:
        source.fetch(slide, directory / ("spare" if slide == "P5S1" else "sections"))
    params = {"root": str(directory / "sections")}
    cohort = {"use": "flag_st.sources.folder.Folder", "params": params}
    overlay = {"cohorts": {"mine": cohort}, "defaults": {"cohorts": ["mine"]}}
    done = snakemake(directory, *OWN, *overlaid(directory / "own.yaml", overlay))
    assert done.returncode == 0, done.stderr[-4000:]
    return directory


OWN = "results/mine/tiny/tiny/panel.parquet", "results/mine/data/checked.json"
SLIDES = [f"P{number}S1" for number in range(1, 6)]
ONE = "retrieve", "check_cohort", "prepare_slide", "select_panel"
CHANGED = set(ONE)


def older(path: Path) -> None:
    """Another file of the same size and an older date, as `rsync -t` or an archive brings it."""
    text = path.read_text()
    assert "section 1" in text
    path.write_text(text.replace("section 1", "section 9"))
    os.utime(path, (1.6e9, 1.6e9))


def touched(path: Path) -> None:
    os.utime(path)


def kept_date(path: Path) -> None:
    """Another file of the same size and date."""
    state = path.stat()
    older(path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def added(path: Path) -> None:
    folder = path.parents[1]
    shutil.copytree(folder.parent / "spare", folder, dirs_exist_ok=True)


def taken_away(path: Path) -> None:
    for file in list(path.parents[1].rglob("P3S1.*")):
        file.unlink()


def renamed(path: Path) -> None:
    for file in list(path.parents[1].rglob("P3S1.*")):
        file.rename(file.with_stem("P6S1"))


@pytest.mark.parametrize(
    ("change", "more", "rules"),
    [
        (older, (), CHANGED),
        (touched, (), set()),
        (kept_date, (), set()),
        (kept_date, ("--config", "verify=true"), CHANGED),
        (added, (), CHANGED | {"make_split"}),
        (taken_away, (), {"check_cohort", "select_panel", "make_split"}),
        (renamed, (), CHANGED | {"make_split"}),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_sections_that_hold_something_else_are_noticed(own, change, more, rules):
    words = *OWN, "--configfile", str(TINY), str(own / "own.yaml"), *more
    sections, kept = own / "sections", own / "kept"
    shutil.copytree(sections, kept)
    try:
        change(sections / "metadata" / "P1S1.json")
        assert planned(own, *words) == rules
    finally:
        shutil.rmtree(sections)
        kept.rename(sections)


def test_a_replaced_section_is_made_anew_once(own):
    words = *OWN, "--configfile", str(TINY), str(own / "own.yaml")
    older(own / "sections/metadata/P1S1.json")
    done = snakemake(own, *words)
    assert done.returncode == 0, done.stderr[-4000:]
    told = re.search(
        r"jobs ran \((.*)\)", done.stdout
    )  # the check runs beside what was there before
    assert told
    assert sorted(told[1].split(", ")) == sorted(f"{rule} 1" for rule in ONE)
    assert planned(own, *words, "--config", "verify=true") == set()


def test_a_second_run_in_one_results_folder_is_refused(tmp_path):
    """Each has a working directory of its own, so that Snakemake's lock does not know of the other."""
    results = tmp_path / "shared"
    words = (f"{results}/tiny/tiny/split.json", "--configfile", str(TINY))
    words = (*words, "--config", f"results={results}")
    with lock(results):
        (tmp_path / "second").mkdir()
        done = snakemake(tmp_path / "second", *words)
        assert done.returncode != 0
        assert f"another run works in {results} (process {os.getpid()} on " in done.stderr
        assert "Traceback" not in done.stderr
        assert not (results / "tiny").exists()
        assert planned(tmp_path / "second", *words) == {"make_split"}  # planning needs no lock
    assert snakemake(tmp_path / "second", *words).returncode == 0


HOLD = """
import sys
from flag_st.planning.lock import lock
held = lock(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_a_killed_run_leaves_no_lock(tmp_path):
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(Exception, match=f"process {process.pid} on .*Remedy: wait"):
        lock(tmp_path)
    process.kill()
    process.communicate()
    lock(tmp_path).close()


PLUGIN = """
from pathlib import Path

from flag_st.sources.synthetic import Synthetic


class Thief(Synthetic):
    '''Removes, while it is retrieved, what another job has made.'''

    def __init__(self, victim: str):
        super().__init__(patients=3, sections=1, spots=[5, 5], genes=120)
        self.victim = Path(victim)

    def inputs(self, slide):
        return [self.victim]

    def fetch(self, slide, directory):
        self.victim.unlink()
        return super().fetch(slide, directory)
"""


def test_a_run_whose_target_was_removed_meanwhile_fails(tmp_path):
    (tmp_path / "thief.py").write_text(PLUGIN)
    split = "results/thieves/tiny/split.json"
    cohort = {"use": "thief.Thief", "params": {"victim": split}}
    overlay = {"cohorts": {"thieves": cohort}, "defaults": {"cohorts": ["thieves"]}}
    words = overlaid(tmp_path / "thief.yaml", overlay)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    targets = (split, "results/thieves/data/sources/P1S1.json")
    done = snakemake(tmp_path, *targets, *words, PYTHONPATH=path)
    assert (tmp_path / targets[1]).exists()
    assert done.returncode != 0
    assert f"1 file of this run no longer there:\n  {split}\n" in done.stdout
    assert "give the same command again" in done.stdout


ENCODER = """
from pathlib import Path

from flag_st.encoders.texture import Texture


class Weighted(Texture):
    def __init__(self, weights: str):
        super().__init__()
        self.factor = float(Path(weights).read_text())

    def encode(self, patches, progress=lambda items, **_: items):
        return self.factor * super().encode(patches, progress)
"""


def test_weights_that_params_name_are_compared_by_content(tmp_path):
    """A file at the same path that holds something else makes the features anew; a touched one does not."""
    (tmp_path / "weighted.py").write_text(ENCODER)
    weights = tmp_path / "weights.txt"
    weights.write_text("2.0")
    overlay = {
        "encoders": {"mine": {"use": "weighted.Weighted", "params": {"weights": str(weights)}}}
    }
    overlay["defaults"] = {"encoder": "mine"}
    words = overlaid(tmp_path / "mine.yaml", overlay)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    target = "results/tiny/data/features/mine/P1S1.h5ad"

    def dry() -> str:
        done = snakemake(tmp_path, "-n", target, *words, "--quiet", "rules", PYTHONPATH=path)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout + done.stderr

    done = snakemake(tmp_path, target, *words, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr[-3000:]
    weights.touch()
    assert "Nothing to be done" in dry()
    weights.write_text("3.0")
    os.utime(weights, (1.6e9, 1.6e9))
    assert set(re.findall(r"^(\w+) +1$", dry(), re.M)) == {"encode_patches", "total"}


def test_another_field_of_view_makes_the_features_of_its_encoder_anew(tmp_path):
    """Those of the other encoder stay, and so do the standard patches."""
    fields = ("texture", "texture_224um")
    targets = [f"results/tiny/data/features/{encoder}/P1S1.h5ad" for encoder in fields]
    done = snakemake(tmp_path, *targets, *overlaid(tmp_path / "same.yaml", {}))
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (anndata.read_h5ad(tmp_path / target).X for target in targets)
    assert first.shape == second.shape
    assert not np.allclose(first, second)

    def dry(overlay: dict) -> str:
        words = overlaid(tmp_path / "changed.yaml", overlay)
        done = snakemake(tmp_path, "-n", *targets, *words, "--quiet", "rules")
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout + done.stderr

    assert "Nothing to be done" in dry({})
    text = dry(changed("encoders", "texture_224um", field_um=300))
    assert dict(re.findall(r"^(\w+) +(\d+)$", text, re.M)) == {
        "cut_patches": "1",
        "encode_patches": "1",
        "total": "2",
    }
