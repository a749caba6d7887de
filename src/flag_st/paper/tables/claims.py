"""The paper's claims, judged against what was measured by rules that were stated beforehand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flag_st.core.errors import FlagError
from flag_st.paper.columns import Column
from flag_st.paper.experiment import Experiment
from flag_st.paper.leads import spread_of
from flag_st.paper.reported import printed_value, stand_ins
from flag_st.paper.summary import summarise
from flag_st.paper.tables.sheet import DASH, Block, Cell, Head, Notes, Sheet

if TYPE_CHECKING:
    import pandas

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be decided here"
KINDS = ("best", "better", "level", "reproduces")
KEYS = {"claim", "where", "printed", "rule", "test"}


@dataclass(frozen=True)
class Test:
    """How a claim is judged on every cohort that it is about.

    Let d be a difference whose sign is such that more is better for the claim, and s its spread
    over seeds (the square root of the summed variances). The claim holds if d - s > margin, does
    not hold if d + s < margin, and cannot be decided otherwise. With one seed of a random method s
    is unknown, so that nothing can be decided.

    Attributes:
        kind: how d is computed. ``best``: the method minus the best other competing method;
            ``better``: the method minus ``other``; ``level``: the method minus the number
            ``level``; ``reproduces``: ``level`` minus the distance from the printed number.
        metric, estimator, scope: which value, as in ``columns.Column``.
        method: whose value it is.
        cohorts: names of the paper's cohorts.
        other, level: see ``kind``.
        margin: by how much d must exceed 0, in the unit of the metric.

    Raises:
        FlagError: an unknown kind, or one that lacks what it needs.
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
    """Name → claim with its ``test`` as a Test: all claims, or those of ``names`` in that order.

    Raises:
        FlagError: unknown names, or unknown or missing keys.
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
    """Whether a claim holds on one cohort, by the rule of ``Test``."""
    if not (isfinite(difference) and isfinite(spread)):
        return OPEN
    if difference - spread > margin:
        return HOLDS
    return FAILS if difference + spread < margin else OPEN


def judge(
    claims: Mapping[str, Mapping[str, Any]],
    experiment: Experiment,
    scores: "pandas.DataFrame",
    runs: "pandas.DataFrame",
    printed: "pandas.DataFrame",
) -> "pandas.DataFrame":
    """Judge every claim on every cohort.

    Returns:
        One row per claim and cohort: method, ours (its value), other (its rival), theirs (the
        value of the rival, or the number compared with), difference, spread, seen (the verdict on
        these numbers), verdict ("cannot be decided here" for a stand-in), lacks (what was not
        run), and why (how the runs differ from the paper's setting).
    """
    import pandas as pd

    differ, rows = stand_ins(runs, experiment, printed), []
    for name, claim in claims.items():
        test: Test = claim["test"]
        numbers = summarise(scores, [Column(test.metric, test.estimator, test.scope)])
        for paper_cohort, cohort in _cohorts(test, experiment, printed):
            part = numbers[numbers["cohort"] == cohort].set_index("method", drop=False)
            cell = printed_value(printed, paper_cohort, None, test.method, test.metric)
            row = {"claim": name, "cohort": paper_cohort}
            row |= _measure(test, paper_cohort, part, experiment, cell)
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


def _cohorts(
    test: Test, experiment: Experiment, printed: "pandas.DataFrame"
) -> list[tuple[str, str]]:
    """(the paper's cohort, ours or ""), followed by our cohorts that the paper does not have.

    The latter decide nothing, but what they show is shown.
    """
    beside = {experiment.paper_cohort(name): name for name in experiment.cohorts}
    asked = [(name, beside.get(name, "")) for name in test.cohorts]
    known = set(printed["cohort"])
    return asked + [(name, name) for name in beside if name not in known]


def _measure(
    test: Test,
    paper_cohort: str,
    part: "pandas.DataFrame",
    experiment: Experiment,
    printed_cell: tuple[float, float, str] | None,
) -> dict[str, Any]:
    """Value, rival and verdict on one cohort, whatever the setting, or what it lacks for that."""
    empty = {"method": test.method, "ours": nan, "other": test.other, "theirs": nan}
    empty |= {"difference": nan, "spread": nan, "seen": OPEN, "verdict": OPEN}
    empty |= {"lacks": "", "why": ""}
    if part.empty:
        known = paper_cohort in {experiment.paper_cohort(name) for name in experiment.cohorts}
        return {**empty, "lacks": f"{test.metric} of {paper_cohort}" if known else paper_cohort}
    wanted = [m for m in (test.method, test.other) if m]
    if missing := [m for m in wanted if m not in part.index]:
        return {**empty, "lacks": ", ".join(missing)}
    sign = experiment.labels.get(test.metric, ("", 0))[1] or 1
    rows = [part.loc[test.method].to_dict()]
    ours, theirs, other = rows[0]["mean"], test.level, test.other
    if test.kind in ("best", "better"):
        other = test.other or _rival(test, part, experiment, sign)
        if not other:
            return {**empty, "lacks": "another method"}
        rows.append(part.loc[other].to_dict())
        theirs = rows[1]["mean"]
    difference = sign * (ours - theirs)
    if test.kind == "reproduces":
        theirs = printed_cell[0] if printed_cell else nan
        difference = test.level - abs(ours - theirs)
    spread = spread_of(experiment, *rows)
    seen = verdict(difference, spread, test.margin)
    found = {"ours": ours, "other": other, "theirs": theirs, "difference": difference}
    return {**empty, **found, "spread": spread, "seen": seen, "verdict": seen}


def _rival(test: Test, part: "pandas.DataFrame", experiment: Experiment, sign: int) -> str:
    """The best other method that does not see the truth, or ""."""
    others = [
        method
        for method in part.index
        if method != test.method
        and not experiment.methods[method].needs_truth
        and isfinite(part.loc[method, "mean"])
    ]
    return max(others, key=lambda method: sign * part.loc[method, "mean"], default="")


def claim_sheet(
    claims: Mapping[str, Mapping[str, Any]], judged: "pandas.DataFrame", experiment: Experiment
) -> Sheet:
    """One row per claim; a claim holds if it holds on every cohort that it is about."""
    heads = ["claim", "where", "printed", "rule", "seen here", "verdict", "because"]
    rows, notes = [], Notes()
    for name, claim in claims.items():
        part = judged[judged["claim"] == name]
        cells = [claim["claim"], claim["where"], str(claim["printed"]), claim["rule"]]
        overall = _overall(part["verdict"])
        row = [Cell(text, kind="words") for text in [*cells, _seen(part)]]
        row.append(Cell(overall, kind="words", mark="" if overall == OPEN else "best"))
        rows.append([*row, _because(part, notes)])
    block = Block("", [], [Head(text, kind="words") for text in heads], rows)
    return Sheet(experiment.name, experiment.title, experiment.caption, [block], notes)


def _overall(verdicts: Sequence[str]) -> str:
    found = set(verdicts)
    return FAILS if FAILS in found else OPEN if OPEN in found else HOLDS


def _because(part: "pandas.DataFrame", notes: Notes) -> Cell:
    """What was not run, and whether runs are stand-ins; footnotes say how they differ."""
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
