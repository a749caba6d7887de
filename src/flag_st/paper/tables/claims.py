"""The table of claims: what each says, what was seen, and the verdict."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from flag_st.paper.claims import FAILS, HOLDS, OPEN, Claims
from flag_st.paper.experiment import Experiment
from flag_st.paper.statistics import ALPHA, fewest
from flag_st.paper.tables.sheet import DASH, Block, Cell, Head, Notes, Sheet

if TYPE_CHECKING:
    import pandas


def claim_sheet(claims: Claims, judged: "pandas.DataFrame", experiment: Experiment) -> Sheet:
    """One row per claim; a claim holds if it holds on every cohort that it is about."""
    heads = ["claim", "where", "printed", "rule", "seen here", "power of the paper's test"]
    heads += ["verdict", "because"]
    rows, notes = [], Notes()
    for name, claim in claims.entries.items():
        part = judged[judged["claim"] == name]
        texts = [claim.claim, claim.where, claim.printed, claim.rule, seen(part), _power(part)]
        verdict = overall(part["verdict"])
        row = [Cell(text, kind="words") for text in texts]
        row.append(verdict_cell(verdict))
        rows.append([*row, because(part, notes)])
    block = Block("", [], [Head(text, kind="words") for text in heads], rows)
    return Sheet(experiment.name, experiment.title, experiment.caption, [block], notes)


def verdict_cell(verdict: str) -> Cell:
    return Cell(verdict, kind="words", mark="" if verdict == OPEN else "best")


def overall(verdicts: Sequence[str]) -> str:
    """The verdict on a claim that has one verdict on each cohort and panel."""
    found = set(verdicts)
    return FAILS if FAILS in found else OPEN if OPEN in found else HOLDS


def because(part: "pandas.DataFrame", notes: Notes) -> Cell:
    """What was not run, and whether runs are stand-ins; footnotes say how they differ."""
    lacks = list(dict.fromkeys(text for text in part["lacks"] if text))
    found = dict.fromkeys(text for why in part["why"] for text in why.split("; ") if text)
    texts = [f"not run: {', '.join(lacks)}"] if lacks else []
    texts += ["stand-in"] if found else []
    keys = sorted((notes.key(text) for text in found), key=lambda key: (len(key), key))
    return Cell("; ".join(texts), kind="words", notes=tuple(keys))


def seen(part: "pandas.DataFrame") -> str:
    """The values of a claim on every cohort and panel where it was run."""
    rows = [row for row in part.to_dict("records") if isfinite(row["ours"])]
    return "; ".join(_one(row) for row in rows) or DASH


def _one(row: Mapping[str, Any]) -> str:
    """Values, difference with its interval, p with the smallest possible one, and the verdict."""
    who = f" ({row['other'].replace('_', ' ')})" if row["other"] else ""
    rival = f" against {row['theirs']:.3f}{who}" if isfinite(row["theirs"]) else ""
    texts = [f"{row['cohort']}: {row['ours']:.3f}{rival}"]
    interval = f" [{row['low']:+.3f}, {row['high']:+.3f}]" if isfinite(row["low"]) else ""
    if isfinite(row["difference"]):
        texts.append(f"difference {row['difference']:+.3f}{interval} over {_units(row)}")
    if isfinite(row["p"]):
        texts.append(f"p {row['p']:.2g} (smallest possible {row['p_smallest']:.2g})")
    return ", ".join([*texts, row["seen"] + _enough(row)])


def _enough(row: Mapping[str, Any]) -> str:
    """What would do where nothing can be told."""
    if row["seen"] != OPEN or not isfinite(row["p"]):
        return ""
    if not isfinite(row["low"]) and row["n"] > 1:
        return ": a second seed would be needed"
    if row["n"] < fewest():
        return f": at least {fewest()} {row['unit']}s would be needed"
    if isfinite(row["needed"]):
        return f": {row['needed']:.0f} {row['unit']}s would probably do"
    return ": there is next to no difference"


def _units(row: Mapping[str, Any]) -> str:
    return f"{row['n']} {row['unit']}{'s' * (row['n'] != 1)}"


def _power(part: "pandas.DataFrame") -> str:
    """The power of each claim at the size of the paper's own test."""
    texts = [
        f"{row['cohort']}: {100 * row['power']:.0f} % with {row['paper_n']} slides"
        for row in part.to_dict("records")
        if row["paper_n"] and isfinite(row["power"])
    ]
    few = [row["paper_n"] for row in part.to_dict("records") if 0 < row["paper_n"] < fewest()]
    if few and texts:
        texts.append(f"p ≤ {ALPHA:.2g} takes {fewest()}")
    return "; ".join(texts) or DASH
