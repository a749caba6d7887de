"""The paper's claims against what was measured, by rules that were stated beforehand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flag_st.core.errors import FlagError
from flag_st.paper.comparison import Column, labels_of, summarise
from flag_st.paper.leads import spread_of
from flag_st.paper.reported import cohort_in_paper, printed_value, stand_ins
from flag_st.paper.sheet import DASH, Block, Cell, Head, Notes, Sheet

if TYPE_CHECKING:
    import pandas

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told here"
KINDS = ("best", "better", "level", "reproduces")
KEYS = {"claim", "where", "printed", "rule", "test"}


@dataclass(frozen=True)
class Test:
    """How a claim is judged, on every cohort it speaks of; with one seed nothing can be told.

    ``d`` is a difference whose sign is such that more is better for the claim, ``s`` its spread
    (root of the summed variances over seeds). The claim holds where d - s > margin, does not hold
    where d + s < margin, and cannot be told between.

    Attributes:
        kind: ``best``: d = method less the best other competing method; ``better``: less
            ``other``; ``level``: less the number ``level``; ``reproduces``: d = ``level`` less
            the distance from the printed number.
        metric, estimator, scope: the value, as ``comparison.Column``.
        method: whose value.
        cohorts: of the paper.
        margin: by how much, in the metric's unit.
    """

    kind: str
    metric: str
    method: str
    cohorts: tuple[str, ...]
    estimator: str = "point"
    scope: str = "slide"
    other: str = ""
    level: float = nan
    margin: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise FlagError(f"claim test of kind {self.kind!r}", choices=KINDS)
        if self.kind == "better" and not self.other:
            raise FlagError("a claim test of kind better needs other")
        if self.kind in ("level", "reproduces") and not isfinite(self.level):
            raise FlagError(f"a claim test of kind {self.kind} needs level")


def read_claims(path: str | Path, names: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
    """Name → claim, with ``test`` as a Test; all, or those of ``names`` in that order.

    Raises:
        FlagError: unknown names, unknown or missing keys.
    """
    import yaml

    claims = yaml.safe_load(Path(path).read_text(encoding="utf-8"))["claims"]
    if unknown := sorted(set(names or ()) - set(claims)):
        raise FlagError(f"{path} has no claim {', '.join(unknown)}", choices=claims)
    claims = {name: claims[name] for name in names or claims}
    for name, claim in claims.items():
        if set(claim) != KEYS:
            raise FlagError(
                f"{path}: claim {name} has keys {', '.join(claim)}", choices=sorted(KEYS)
            )
        test = dict(claim["test"])
        if unknown := sorted(set(test) - set(Test.__dataclass_fields__)):
            choices = Test.__dataclass_fields__
            raise FlagError(f"{path}: test of {name}: {', '.join(unknown)}", choices=choices)
        claim["test"] = Test(**{**test, "cohorts": tuple(test["cohorts"])})
    return claims


def verdict(difference: float, spread: float, margin: float) -> str:
    if not (isfinite(difference) and isfinite(spread)):
        return OPEN
    if difference - spread > margin:
        return HOLDS
    return FAILS if difference + spread < margin else OPEN


def judge(
    claims: Mapping[str, Mapping[str, Any]],
    item: Mapping[str, Any],
    scores: "pandas.DataFrame",
    runs: "pandas.DataFrame",
    printed: "pandas.DataFrame",
) -> "pandas.DataFrame":
    """One row a claim and cohort: ours, other, difference, spread, seen, verdict and its reasons."""
    import pandas as pd

    labels, differ = labels_of(item), stand_ins(runs, item, printed)
    rows = []
    for name, claim in claims.items():
        test: Test = claim["test"]
        numbers = summarise(scores, [Column(test.metric, test.estimator, test.scope)])
        for paper_cohort, cohort in _cohorts(test, item, printed):
            part = numbers[numbers["cohort"] == cohort].set_index("method")
            cell = printed_value(printed, paper_cohort, None, test.method, test.metric)
            direction = labels.get(test.metric, ("", 0))[1]
            row = {"claim": name, "cohort": paper_cohort}
            row |= _measure(test, paper_cohort, part, item, direction, cell)
            texts = [
                text
                for (place, _, method), found in differ.items()
                if place == cohort and method in (test.method, row["other"])
                for text in found
            ]
            if texts and not row["lacks"]:
                row |= {"verdict": OPEN, "why": "; ".join(dict.fromkeys(texts))}
            rows.append(row)
    return pd.DataFrame(rows)


def _cohorts(test: Test, item: Mapping[str, Any], printed) -> list[tuple[str, str]]:
    """(paper's cohort, ours or ""), then cohorts that the paper has not: what they show is shown."""
    beside = {cohort_in_paper(name, item): name for name in item["cohorts"]}
    asked = [(name, beside.get(name, "")) for name in test.cohorts]
    known = set(printed["cohort"])
    return asked + [(name, name) for name in beside if name not in known]


def _measure(
    test: Test, paper_cohort: str, part, item, direction: int, printed_cell
) -> dict[str, Any]:
    """Value, its rival and the verdict on one cohort, whatever the setting; ``lacks`` what for."""
    row = {"method": test.method, "ours": nan, "other": test.other, "theirs": nan}
    row |= {"difference": nan, "spread": nan, "seen": OPEN, "verdict": OPEN}
    row |= {"lacks": "", "why": ""}
    if part.empty:
        known = paper_cohort in {cohort_in_paper(name, item) for name in item["cohorts"]}
        return {**row, "lacks": f"{test.metric} of {paper_cohort}" if known else paper_cohort}
    wanted = [m for m in (test.method, test.other) if m]
    if missing := [m for m in wanted if m not in part.index]:
        return {**row, "lacks": ", ".join(missing)}
    known = part.reset_index().set_index("method", drop=False)
    rows = [known.loc[test.method].to_dict()]
    ours, theirs = rows[0]["mean"], test.level
    if test.kind in ("best", "better"):
        row["other"] = test.other or _rival(test, part, item, direction)
        if not row["other"]:
            return {**row, "lacks": "another method"}
        rows.append(known.loc[row["other"]].to_dict())
        theirs = rows[1]["mean"]
    difference = (direction or 1) * (ours - theirs)
    if test.kind == "reproduces":
        theirs = printed_cell[0] if printed_cell else nan
        difference = test.level - abs(ours - theirs)
    total = spread_of(item, *rows)
    seen = verdict(difference, total, test.margin)
    found = {"ours": ours, "theirs": theirs, "difference": difference, "spread": total}
    return {**row, **found, "seen": seen, "verdict": seen}


def _rival(test: Test, part, item, direction: int) -> str:
    """The best other method that does not see the truth."""
    others = [
        method
        for method in part.index
        if method != test.method
        and not item["methods"][method].get("needs_truth")
        and isfinite(part.loc[method, "mean"])
    ]
    return max(others, key=lambda m: (direction or 1) * part.loc[m, "mean"], default="")


def claim_sheet(
    claims: Mapping[str, Mapping[str, Any]], judged: "pandas.DataFrame", item: Mapping[str, Any]
) -> Sheet:
    """One row a claim; a claim holds if it does on every cohort it speaks of."""
    heads = ["claim", "where", "printed", "rule", "seen here", "verdict", "because"]
    rows, notes = [], Notes()
    for name, claim in claims.items():
        part = judged[judged["claim"] == name]
        cells = [claim["claim"], claim["where"], str(claim["printed"]), claim["rule"]]
        overall = _overall(part["verdict"])
        row = [Cell(text, kind="words") for text in [*cells, _seen(part)]]
        row.append(Cell(overall, kind="words", mark="" if overall == OPEN else "best"))
        rows.append([*row, _because(part, notes)])
    columns = [Head(text, kind="words") for text in heads]
    block = Block("", [], columns, rows)
    return Sheet(item["name"], item["title"], item["caption"], [block], notes)


def _overall(verdicts: Sequence[str]) -> str:
    found = set(verdicts)
    return FAILS if FAILS in found else OPEN if OPEN in found else HOLDS


def _because(part: "pandas.DataFrame", notes: Notes) -> Cell:
    """What was not run; and whether it is a stand-in, with what differs in footnotes."""
    lacks = list(dict.fromkeys(text for text in part["lacks"] if text))
    found = dict.fromkeys(text for why in part["why"] for text in why.split("; ") if text)
    texts = [f"not run: {', '.join(lacks)}"] if lacks else []
    texts += ["stand-in"] if found else []
    keys = sorted((notes.key(text) for text in found), key=lambda key: (len(key), key))
    return Cell("; ".join(texts), kind="words", notes=tuple(keys))


def _seen(part: "pandas.DataFrame") -> str:
    texts = []
    for row in part.to_dict("records"):
        if isfinite(row["ours"]):
            rival = f" against {row['theirs']:.3f}" if isfinite(row["theirs"]) else ""
            who = f" ({row['other'].replace('_', ' ')})" if row["other"] else ""
            texts.append(f"{row['cohort']}: {row['ours']:.3f}{rival}{who}, {row['seen']}")
    return "; ".join(texts) or DASH
