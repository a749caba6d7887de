"""From a table back to slides and weights; files that differ from their records are named."""

import hashlib
import json
import os
from base64 import urlsafe_b64encode

import pytest

from flag_st.commands import cli
from flag_st.commands.trace import Records, trace, weights
from flag_st.core.errors import FlagError

RUNS = "results/c/s/p"
TABLE = "results/paper/tables/t.csv"
UNI = {"use": "flag_st.encoders.vit.Uni", "params": {"repo": "lab/uni", "file": "m.bin"}}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class Folder:
    """A results folder with Snakemake's records and those of the jobs, as a run leaves them."""

    def __init__(self, path):
        self.path = path
        (path / ".snakemake/metadata").mkdir(parents=True)

    def write(self, name, text):
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text(text)

    def made(self, name, rule, inputs=(), text="", checksums=True):
        """An output with its record; inputs are small, so that Snakemake records their digests."""
        self.write(name, text or name)
        sums = {i: "sha256:" + sha((self.path / i).read_text()) for i in inputs}
        record = {
            "rule": rule,
            "input": list(inputs),
            "endtime": (self.path / name).stat().st_mtime,
            "input_checksums": sums if checksums else {},
            "log": [f"logs/{name}.log"],
        }
        code = urlsafe_b64encode(name.encode()).decode()
        (self.path / ".snakemake/metadata" / code).write_text(json.dumps(record))

    def job(self, name, **facts):
        """The record that a job itself wrote beside its log."""
        plain = {"commit": "c0ffee", "dirty": True, "device": "cpu", "wildcards": {}, "params": {}}
        self.write(f"logs/{name}.json", json.dumps(plain | {"inputs": {}, "outputs": {}} | facts))

    def state(self, name=TABLE, **more):
        return {link.path: link.state for link in trace(self.path / name, **more)}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two runs in one table; weights lie where a person put them."""
    monkeypatch.setenv("FLAG_ST_MODELS", str(tmp_path / "models"))
    found = Folder(tmp_path / "work")
    found.write("../models/lab/uni/m.bin", "weights")
    found.write("raw/A1.h5ad", "counts")
    files = {"st": {"path": "raw/A1.h5ad", "sha256": sha("counts")}}
    found.made("results/c/data/sources/A1.json", "retrieve", text=json.dumps({"files": files}))
    spots = "results/c/data/slides/A1/spots.h5ad"
    found.made(spots, "prepare_slide", ["results/c/data/sources/A1.json"])
    features = "results/c/data/features/uni/A1.h5ad"
    entry = {**UNI, "params": {**UNI["params"], "revision": "r1", "sha256": sha("weights")}}
    found.made(features, "encode_patches", [spots])
    found.job(features, params={"code": "3f2a", "encoder": entry, "threads": 3})
    for method in ("ridge", "flag"):
        run = f"{RUNS}/{method}/seed0"
        model = f"{run}/model.safetensors"
        found.made(model, "train", [features], text=method, checksums=False)
        digests = {"inputs": {features: sha(features)}, "outputs": {model: sha(method)}}
        found.job(model, wildcards={"seed": "0"}, **digests)
        inputs = [f"{run}/model.safetensors", features]
        found.made(f"{run}/predictions/A1.h5ad", "predict", inputs, checksums=False)
        found.made(f"{run}/scores.parquet", "evaluate", [f"{run}/predictions/A1.h5ad", spots])
    scores = [f"{RUNS}/{m}/seed0/scores.parquet" for m in ("ridge", "flag")]
    found.made("results/experiments/t/scores.parquet", "collect_scores", scores)
    found.write("reported.csv", "printed")
    found.made(TABLE, "table", ["results/experiments/t/scores.parquet", "reported.csv"])
    return found


def test_chain_ends_at_slides_and_weights(folder):
    links = {link.path: link for link in trace(folder.path / TABLE)}
    assert next(iter(links)) == TABLE
    rules = {path: link.rule for path, link in links.items()}
    assert rules["raw/A1.h5ad"] == "raw"
    assert rules["lab/uni@r1/m.bin"] == "weights"
    assert rules["reported.csv"] == "given"
    assert rules[f"{RUNS}/flag/seed0/model.safetensors"] == "train"
    assert links["results/c/data/features/uni/A1.h5ad"].inputs[-1] == "lab/uni@r1/m.bin"
    states = {link.state for link in links.values()}
    assert states == {"same", "same time"}
    # Nobody noted a digest of what was used without one: its time alone speaks.
    assert links[TABLE].state == "same time"
    assert links[f"{RUNS}/flag/seed0/model.safetensors"].state == "same"
    assert links["results/c/data/features/uni/A1.h5ad"].state == "same"


@pytest.mark.parametrize(
    ("name", "who"),
    [
        ("raw/A1.h5ad", "results/c/data/sources/A1.json recorded"),
        ("results/c/data/features/uni/A1.h5ad", "seed0/model.safetensors.json recorded"),
        ("results/c/data/slides/A1/spots.h5ad", "the record of"),
        ("reported.csv", f"the record of {TABLE} recorded"),
        ("results/experiments/t/scores.parquet", f"the record of {TABLE} recorded"),
    ],
)
def test_a_changed_file_is_named_with_who_knows(folder, name, who, capsys):
    folder.write(name, "other bytes")
    assert cli.main(["trace", str(folder.path / TABLE)]) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"changed: {name} sha256 is {sha('other bytes')[:12]}")
    assert who in last


def test_changed_weights_are_named(folder):
    folder.write("../models/lab/uni/m.bin", "others")
    assert folder.state()["lab/uni@r1/m.bin"] == "changed"
    (folder.path / "../models/lab/uni/m.bin").unlink()
    assert folder.state()["lab/uni@r1/m.bin"] == "not here"


def test_without_a_digest_the_time_tells(folder):
    path = folder.path / TABLE
    path.write_text("edited")
    os.utime(path, (path.stat().st_mtime + 60,) * 2)
    assert folder.state()[TABLE] == "written later"


def test_a_missing_file_is_named(folder, capsys):
    (folder.path / f"{RUNS}/flag/seed0/predictions/A1.h5ad").unlink()
    assert cli.main(["trace", str(folder.path / TABLE)]) == 1
    assert f"missing: {RUNS}/flag/seed0/predictions/A1.h5ad" in capsys.readouterr().out


def test_one_cell_is_traced_by_the_names_of_its_run(folder, capsys):
    found = folder.state(only=["flag", "seed0"])
    assert f"{RUNS}/flag/seed0/scores.parquet" in found
    assert not any("ridge" in path for path in found)
    assert cli.main(["trace", str(folder.path / TABLE), "--only", "flagg"]) == 1
    assert "no run is of flagg" in capsys.readouterr().err


def test_a_prediction_is_traced_alone_and_as_json(folder, capsys):
    name = str(folder.path / f"{RUNS}/ridge/seed0/predictions/A1.h5ad")
    assert cli.main(["trace", name, "--json"]) == 0
    found = {link["path"]: link for link in json.loads(capsys.readouterr().out)}
    assert TABLE not in found
    assert found["raw/A1.h5ad"]["recorded"]
    assert found[f"{RUNS}/ridge/seed0/model.safetensors"]["commit"] == "c0ffee"


def test_text_tells_commit_and_counts(folder, capsys):
    assert cli.main(["trace", str(folder.path / TABLE)]) == 0
    text = capsys.readouterr().out
    assert "seed 0 at commit c0ffee (with changes)" in text
    assert "same: as recorded" in text


@pytest.mark.parametrize(
    ("file", "said"), [("nothing.csv", "does not exist"), ("raw/A1.h5ad", "no record.*Remedy")]
)
def test_what_is_no_output_is_refused(folder, file, said):
    with pytest.raises(FlagError, match=said):
        trace(folder.path / file)


def test_records_of_long_names_lie_in_folders(tmp_path):
    """As Snakemake does where base64 of a path is longer than a file name may be."""
    from snakemake.persistence.file import FilePersistence

    records = Records(tmp_path)
    records.folder.mkdir(parents=True)
    name = "results/" + "a" * 300
    writer = FilePersistence.__new__(FilePersistence)
    writer._max_len = None
    path = writer._record_path(str(records.folder), name)
    os.makedirs(os.path.dirname(path))
    with open(path, "w") as file:
        file.write('{"rule": "train"}')
    assert records.read(name) == {"rule": "train"}
    assert records.read("results/other") is None


def test_weights_of_parts_and_wrappers_are_found():
    both = {"use": "x.Both", "params": {"parts": {"uni": UNI}}}
    pins = {"use": "x.Gene", "params": {"repo": "lab/gene", "sha256": {"a.bin": "A0", "b": "B0"}}}
    found = {link.path: set(link.recorded) for link in weights([both, pins, "text", 3])}
    assert found == {
        "lab/uni@main/m.bin": set(),
        "lab/gene@main/a.bin": {"a0"},
        "lab/gene@main/b": {"b0"},
    }
