"""The paper's claims against what was measured, by rules that were stated beforehand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan, sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flag_st.errors import FlagError
from flag_st.paper.comparison import Column, labels_of, summarise
from flag_st.paper.reported import cohort_in_paper, printed_value, stand_ins
from flag_st.paper.sheet import DASH, Block, Cell, Head, Sheet

if TYPE_CHECKING:
    import pandas

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told here"
KINDS = ("best", "better", "level", "reproduces")
KEYS = {"claim", "where", "printed", "rule", "test"}


@dataclass(frozen=True)
class Test:
    """How a claim is judged, on every cohort it speaks of.

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


def read_claims(path: str | Path) -> dict[str, dict[str, Any]]:
    """Name → claim, with ``test`` as a Test.

    Raises:
        FlagError: unknown or missing keys.
    """
    import yaml

    claims = yaml.safe_load(Path(path).read_text(encoding="utf-8"))["claims"]
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
    if not isfinite(difference):
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
    """One row a claim and cohort: ours, other, difference, spread, seen, verdict and its reason."""
    import pandas as pd

    labels, differ = labels_of(item), stand_ins(runs, item, printed)
    beside = {cohort_in_paper(name, item): name for name in item["cohorts"]}
    rows = []
    for name, claim in claims.items():
        test: Test = claim["test"]
        column = Column(test.metric, test.estimator, test.scope)
        numbers = summarise(scores, [column])
        for paper_cohort in test.cohorts:
            cohort = beside.get(paper_cohort, "")
            part = numbers[numbers["cohort"] == cohort].set_index("method")
            row = {"claim": name, "cohort": paper_cohort}
            printed_cell = printed_value(printed, paper_cohort, None, test.method, test.metric)
            direction = labels.get(test.metric, ("", 0))[1]
            row |= _measure(test, paper_cohort, part, item, direction, printed_cell)
            texts = [d for key, found in differ.items() if key[0] == cohort for d in found
                     if key[2] in (test.method, row["other"])]  # fmt: skip
            if not row["why"] and texts:
                row |= {"verdict": OPEN, "why": "stand-in: " + "; ".join(dict.fromkeys(texts))}
            rows.append(row)
    return pd.DataFrame(rows)


def _measure(
    test: Test, paper_cohort: str, part, item, direction: int, printed_cell
) -> dict[str, Any]:
    """Value, its rival and the verdict on one cohort, whatever the setting."""
    row = {"method": test.method, "ours": nan, "other": test.other, "theirs": nan}
    row |= {"difference": nan, "spread": nan, "seen": OPEN, "verdict": OPEN, "why": ""}
    if part.empty:
        return {**row, "why": f"{paper_cohort} was not run, or without {test.metric}"}
    wanted = [m for m in (test.method, test.other) if m]
    if missing := [m for m in wanted if m not in part.index]:
        return {**row, "why": f"{', '.join(missing)} was not run"}
    ours, spread = part.loc[test.method, "mean"], part.loc[test.method, "std"]
    theirs, their_spread = test.level, 0.0
    if test.kind in ("best", "better"):
        row["other"] = test.other or _rival(test, part, item, direction)
        if not row["other"]:
            return {**row, "why": "no other method was run"}
        theirs, their_spread = part.loc[row["other"], "mean"], part.loc[row["other"], "std"]
    difference = (direction or 1) * (ours - theirs)
    if test.kind == "reproduces":
        theirs = printed_cell[0] if printed_cell else nan
        difference = test.level - abs(ours - theirs)
    total = sqrt(sum(s**2 for s in (spread, their_spread) if isfinite(s)))
    seen = verdict(difference, total, test.margin)
    return {**row, "ours": ours, "theirs": theirs, "difference": difference,
            "spread": total, "seen": seen, "verdict": seen}  # fmt: skip


def _rival(test: Test, part, item, direction: int) -> str:
    """The best other method that does not see the truth."""
    others = [
        m for m in part.index
        if m != test.method and not item["methods"][m].get("needs_truth")
        and isfinite(part.loc[m, "mean"])
    ]  # fmt: skip
    return max(others, key=lambda m: (direction or 1) * part.loc[m, "mean"], default="")


def claim_sheet(
    claims: Mapping[str, Mapping[str, Any]], judged: "pandas.DataFrame", item: Mapping[str, Any]
) -> Sheet:
    """One row a claim; a claim holds if it does on every cohort it speaks of."""
    heads = ["claim", "where", "printed", "rule", "seen here", "verdict", "because"]
    rows = []
    for name, claim in claims.items():
        part = judged[judged["claim"] == name]
        cells = [claim["claim"], claim["where"], str(claim["printed"]), claim["rule"]]
        cells += [_seen(part), _overall(part["verdict"])]
        cells.append("; ".join(dict.fromkeys(text for text in part["why"] if text)))
        rows.append([Cell(text, kind="words") for text in cells])
    columns = [Head(text, kind="words") for text in heads]
    return Sheet(item["name"], item["title"], item["caption"], [Block("", [], columns, rows)])


def _overall(verdicts: Sequence[str]) -> str:
    found = set(verdicts)
    return FAILS if FAILS in found else OPEN if OPEN in found else HOLDS


def _seen(part: "pandas.DataFrame") -> str:
    texts = []
    for row in part.to_dict("records"):
        if isfinite(row["ours"]):
            rival = f" against {row['theirs']:.3f}" if isfinite(row["theirs"]) else ""
            who = f" ({row['other'].replace('_', ' ')})" if row["other"] else ""
            texts.append(f"{row['cohort']}: {row['ours']:.3f}{rival}{who}, {row['seen']}")
    return "; ".join(texts) or DASH
