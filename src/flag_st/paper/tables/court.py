"""The court's table: what the field claims, what would test it, and the verdict where there is one."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flag_st.paper.claims import OPEN
from flag_st.paper.court import Court
from flag_st.paper.experiment import Experiment
from flag_st.paper.tables.claims import because, overall, seen, verdict_cell
from flag_st.paper.tables.sheet import DASH, Block, Cell, Head, Notes, Sheet

if TYPE_CHECKING:
    import pandas

HEADS = [
    "claim",
    "source",
    "printed",
    "protocol",
    "data",
    "rule",
    "seen here",
    "verdict",
    "missing",
]


def court_sheet(
    court: Court,
    sources: Mapping[str, Mapping[str, str]],
    judged: "pandas.DataFrame",
    made: Sequence[str],
    experiment: Experiment,
) -> Sheet:
    """One block per system and one row per claim.

    Args:
        sources: name → paper, as in ``config/court.yaml``.
        judged: as ``Court.judge`` returns it.
        made: the experiments that this run makes.
    """
    notes = Notes()
    systems: dict[str, list[list[Cell]]] = {}
    for name, entry in court.entries.items():
        part = judged[judged["claim"] == name]
        row = _row(court, name, sources[entry["source"]], part, made, notes)
        systems.setdefault(entry["system"], []).append(row)
    heads = [Head(text, kind="words") for text in HEADS]
    blocks = [Block(system, [], heads, rows) for system, rows in systems.items()]
    return Sheet(experiment.name, experiment.title, experiment.caption, blocks, notes)


def _row(
    court: Court,
    name: str,
    source: Mapping[str, str],
    part: "pandas.DataFrame",
    made: Sequence[str],
    notes: Notes,
) -> list[Cell]:
    entry, claim = court.entries[name], court.tests.get(name)
    where = f"{source['paper']} ({source['id']}), {entry['where']}"
    through = f", in {source['through']}" if "through" in source else ""
    read = f"What was read of {source['paper']}: {source['seen']}{through}."
    data = "; ".join(f"{data}: {access}" for data, access in entry["data"].items())
    texts = [_printed(entry), _protocol(entry), data, claim.rule if claim else DASH]
    cells = [
        Cell(entry["claim"], kind="words"),
        Cell(where, kind="words", notes=(notes.key(read),)),
    ]
    cells += [Cell(text, kind="words") for text in (*texts, seen(part))]
    found = because(part, notes)
    missing = [*_not_made(entry, made), *filter(None, [found.text]), *entry.get("missing", ())]
    if contested := entry.get("contests"):
        missing.append(f"speaks against: {court.entries[contested]['claim']}")
    last = Cell("; ".join(missing), kind="words", notes=found.notes)
    return [*cells, verdict_cell(verdict_of(part)), last]


def verdict_of(part: "pandas.DataFrame") -> str:
    """The verdict of the first experiment that decides a claim, of whose rows ``part`` is made."""
    found = [overall(rows["verdict"]) for _, rows in part.groupby("experiment", sort=False)]
    return next((verdict for verdict in found if verdict != OPEN), OPEN)


def _not_made(entry: Mapping[str, Any], made: Sequence[str]) -> list[str]:
    """The experiments of a claim, if none of them is made here."""
    names = entry.get("run", {}).get("experiments", [])
    return [f"experiment {' or '.join(names)}"] if names and not set(names) & set(made) else []


def _printed(entry: Mapping[str, Any]) -> str:
    """The numbers as they were seen."""
    texts = []
    for number in entry.get("numbers", ()):
        keys = ("row", "method", "cohort", "panel", "metric")
        what = " ".join(number[key] for key in keys if key in number).replace("_", " ")
        texts.append(f"{what} {number['value']:g}".strip())
    return "; ".join(texts) or DASH


def _protocol(entry: Mapping[str, Any]) -> str:
    stated = {key: value for key, value in entry["protocol"].items() if key != "shared"}
    return "; ".join(f"{key}: {value}" for key, value in stated.items()) or "not stated"
