"""The court's file, config/court.yaml: claims that the field has printed, and the run that would test each."""

import csv
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from flag_st.core.code import ROOT
from flag_st.core.errors import Faults, FlagError
from flag_st.planning.config import read_yaml

FOLDER = ROOT / "config"
SCHEMA = ROOT / "workflow" / "schemas" / "court.schema.yaml"
REMEDY = "docs/court.md says what an entry holds"


def read_court(path: str | Path = FOLDER / "court.yaml") -> dict[str, Any]:
    """The keys ``sources`` and ``claims`` of the file, as they are.

    Raises:
        FlagError: lists all entries that are not of the form of ``SCHEMA``.
    """
    court, faults = read_yaml(path), Faults()
    validator = jsonschema.Draft202012Validator(read_yaml(SCHEMA))
    for error in sorted(validator.iter_errors(court), key=lambda e: list(map(str, e.path))):
        where = ".".join(map(str, error.path)) or "top level"
        faults.add(f"{path}: {where}: {error.message}", remedy=REMEDY)
    faults.raise_if_any("the court")
    return court


@cache
def tried() -> frozenset[str]:
    """The experiments that claims of the shipped file name."""
    claims = read_court()["claims"].values()
    return frozenset(
        name for claim in claims for name in claim.get("run", {"experiments": []})["experiments"]
    )


def court_faults(court: Mapping[str, Any], config: Mapping[str, Any], metrics: set[str]) -> Faults:
    """What the entries name and nobody declares, and numbers that are not those of the printed table.

    Args:
        court: as ``read_court`` returns it.
        config: a configuration as ``config.load`` returns it.
        metrics: the values that metrics of the configuration return.
    """
    faults = Faults()
    judged = read_yaml(FOLDER / "claims.yaml")["claims"]
    printed = _printed(FOLDER / "reported.csv")
    experiments = {**config["experiments"], **_overlays()}
    for name, claim in court["claims"].items():
        run = claim.get("run", {})
        test = run.get("test") or judged.get(run.get("judged_as"), {}).get("test", {})
        known = (
            ("source", [claim["source"]], court["sources"]),
            ("contests", [claim.get("contests")], court["claims"]),
            ("run.judged_as", [run.get("judged_as")], judged),
            ("run.experiments", run.get("experiments", []), experiments),
            ("run.rivals", run.get("rivals", []), config["methods"]),
            ("run.test.method", [test.get("method"), test.get("other")], config["methods"]),
            ("run.test.metric", [test.get("metric")], sorted(metrics)),
            ("run.test.cohorts", test.get("cohorts", []), config["cohorts"]),
            ("protocol.shared", claim["protocol"].get("shared", []), config["cohorts"]),
            ("table", [claim.get("table")], dict.fromkeys(key[0] for key in printed)),
            (
                "numbers.method",
                [n.get("method") for n in claim.get("numbers", [])],
                config["methods"],
            ),
        )
        for key, given, choices in known:
            for value in given:
                if value and value not in choices:
                    faults.add(f"court, claim {name}, {key}: no {value!r}", choices=choices)
        for text in _other_numbers(claim, printed):
            faults.add(f"court, claim {name}, numbers: {text}", remedy="look the number up again")
    return faults


def _overlays() -> dict[str, Any]:
    """The experiments that the overlays of the configuration's folder declare."""
    found: dict[str, Any] = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        found |= read_yaml(path).get("experiments", {})
    return found


def _printed(path: Path) -> dict[tuple[str, ...], list[float]]:
    """Table, cohort, method and metric of printed numbers → their values on all panels."""
    found: dict[tuple[str, ...], list[float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            key = tuple(row[name] for name in ("table", "cohort", "method", "metric"))
            found.setdefault(key, []).extend([float(row["value"])] if row["value"] else [])
    return found


def _other_numbers(
    claim: Mapping[str, Any], printed: Mapping[tuple[str, ...], list[float]]
) -> Iterator[str]:
    """What a claim says of its numbers and its table of ``config/reported.csv`` does not."""
    for number in claim.get("numbers", []) if "table" in claim else ():
        key = (claim["table"], *(number.get(name, "") for name in ("cohort", "method", "metric")))
        values = printed.get(key, [])
        if number["value"] not in values:
            yield f"{' '.join(key)} is printed as {values or 'nothing'}, not as {number['value']}"


def require(court: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The entry of a claim.

    Raises:
        FlagError: there is no such claim.
    """
    if name not in court["claims"]:
        raise FlagError(f"the court has no claim {name!r}", choices=sorted(court["claims"]))
    return court["claims"][name]
