"""A small folder of results with the record of every job, as a run leaves it; no job is run for it."""

import hashlib
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from flag_st.crate.metadata import NAME
from flag_st.planning.rules import RULES

KEYS = {"cohort": "toy", "split": "half", "panel": "small", "slide": "A1", "experiment": "table_1"}
ENDED = "2026-01-02T03:04:05+00:00"
SETTINGS: dict[str, Any] = {
    "raw": "counts",  # what the raw file of the slide holds
    "slides": {"train": ["A0"], "valid": ["A2"], "test": ["A1"]},
    "panel": {"size": 2},
    "seed": 0,
    "values": {"ridge": 0.25, "flag": 0.5},
    "of_flag": {"width": 16},
    "code": {"ridge": "c0de00", "flag": "c0de01"},
    "torch": "2.13.0",
    "device": "cpu",
    "verdict": "holds",
    "weights": "",
}


@dataclass
class Results:
    """Writes the files and records of jobs, as rules name them.

    Attributes:
        path: the folder of the results.
        facts: what is in every record.
    """

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)

    def job(
        self, rule: str, inputs: list[str], data: bytes, *, params: dict[str, Any], **keys: Any
    ) -> list[str]:
        """Write the outputs of a job, each with ``data`` and its own name, and the job's record."""
        known = {name: str(value) for name, value in {**KEYS, **keys}.items()}
        wildcards = {name: known[name] for name in RULES[rule].wildcards}
        made = RULES[rule].files(str(self.path), wildcards)
        for name in made:
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            own = data if rule in ("retrieve", "collect_scores") or name.endswith(".csv") else b""
            Path(name).write_bytes(own or data + Path(name).suffix.encode())
        digests = [{n: sha(Path(n).read_bytes()) for n in names} for names in (inputs, made)]
        record = {
            **{"rule": rule, "wildcards": wildcards, "params": params, "contract": 2},
            **{"inputs": digests[0], "outputs": digests[1], "commit": None, "dirty": None},
            **{"ended": ENDED, "seconds": 1.5, **self.facts},
        }
        log = self.path / RULES[rule].log.format(**wildcards)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")
        log.with_suffix(".json").write_text(json.dumps(record))
        return made


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make(path: Path, **changed: Any) -> Path:
    """A finished run of two methods on one slide; ``changed`` are other ``SETTINGS``."""
    known = {**SETTINGS, **changed}
    versions = {"python": "3.11.7", "torch": known["torch"], "snakemake": "9.27.1"}
    made = Results(path, {"versions": versions, "device": known["device"]})
    # The raw file lies in somebody's home, as it would.
    raw = path.parent / "home" / "jane" / f"{path.name}.h5ad"
    raw.parent.mkdir(parents=True, exist_ok=True)
    raw.write_text(known["raw"])
    manifest = {"files": {"st": {"path": str(raw), "sha256": sha(known["raw"].encode())}}}
    source = {"name": "toy", "params": {}}
    places = {"root": str(raw.parent), "directory": str(path), "source": source, "code": "c0de"}
    sources = made.job("retrieve", [], json.dumps(manifest).encode(), params=places)
    spots = made.job("prepare_slide", sources, known["raw"].encode(), params={"patient": "A"})[:1]
    split = made.job("make_split", [], b"split", params={"split": known["slides"]})
    genes = json.dumps(known["panel"]).encode()
    panel = made.job("select_panel", [*spots, *split], genes, params={"panel": known["panel"]})
    named = [str(raw.parent / folder / "m.bin") for folder in ("x", "y")]  # of one name
    for file in named:
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_text(Path(file).parent.name)
    runs, scores = [], []
    for method, value in known["values"].items():
        keys = {"method": method, "seed": known["seed"]}
        params = {
            "code": known["code"][method],
            "panel": known["panel"],
            "weights": known["weights"],
        }
        params |= {"method": known["of_flag"]} if method == "flag" else {}
        model = made.job(
            "train", [*spots, *panel, *named], f"{value}".encode(), params=params, **keys
        )
        inputs = [*made.job("predict", model[:1], f"{value}".encode(), params={}, **keys), *spots]
        runs.append(model[2])
        params = {"panel": known["panel"]}
        scores += made.job(
            "evaluate", [*inputs, *panel], f"{value}".encode(), params=params, **keys
        )
    items = _items(made, known, runs, scores)
    config = {"results": str(path), "make": ["table_1"], "weights": known["weights"]}
    made.job("report", items, b"page", params={"config": config})
    return path


def _items(made: Results, known: dict[str, Any], runs: list[str], scores: list[str]) -> list[str]:
    """What is made once for the experiment."""
    table = made.path / "scores.parquet"
    rows = [
        {"method": method, "metric": metric, "gene": gene, "value": value * factor}
        for method, value in known["values"].items()
        for metric, gene, factor in (("pcc", "", 1.0), ("pcc", "GENE", 1.5), ("ssc", "", 2.0))
    ]
    same = {"cohort": "toy", "split": "half", "panel": "small", "slide": "A1", "estimator": "point"}
    same["seed"] = known["seed"]
    pd.DataFrame(rows).assign(**same).to_parquet(table)
    collected = made.job("collect_scores", scores, table.read_bytes(), params={})
    table.unlink()
    collected += made.job("collect_runs", runs, b"runs", params={})
    verdict = f"claim,cohort,panel,verdict\nbest,toy,small,{known['verdict']}\n"
    params = {"script": "tables/claims", "item": {"title": "Claims"}}
    return made.job("table", collected, verdict.encode(), params=params)


def rewrite(crate: Path, out: Path, **changed: bytes | None) -> Path:
    """A copy of an archive with other bytes in some members; None leaves a member out."""
    with zipfile.ZipFile(crate) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            data = changed.get(info.filename, old.read(info))
            if data is not None:
                new.writestr(info, data)
    return out


def reseal(crate: Path, out: Path, **changed: bytes) -> Path:
    """The same with the digests of the other bytes in the metadata, as somebody could write them."""
    with zipfile.ZipFile(crate) as archive:
        metadata = json.loads(archive.read(NAME))
    for entity in metadata["@graph"]:
        if entity["@id"] in changed:
            entity["sha256"] = sha(changed[entity["@id"]])
    return rewrite(crate, out, **changed, **{NAME: json.dumps(metadata).encode()})


def add(crate: Path, out: Path, info: zipfile.ZipInfo, data: bytes = b"x") -> Path:
    """A copy of an archive with one member more."""
    rewrite(crate, out)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as new:
        new.writestr(info, data)
    return out
