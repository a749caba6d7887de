"""The paper's claims, judged against what was measured by rules that were stated beforehand."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flag_st.core.errors import FlagError
from flag_st.paper.columns import Column
from flag_st.paper.experiment import Experiment
from flag_st.paper.leads import paired
from flag_st.paper.reported import paper_of, printed_value, stand_ins
from flag_st.paper.statistics import Paired, power
from flag_st.paper.summary import summarise

if TYPE_CHECKING:
    import pandas

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told here"
VERDICTS = {1: HOLDS, -1: FAILS, 0: OPEN}
KINDS = ("best", "better", "level", "reproduces")


@dataclass(frozen=True)
class Test:
    """How a claim is judged on every cohort that it is about.

    A difference d, whose sign is such that more is better for the claim, is compared with ``margin``
    on the test patients (``paper.statistics``). The claim holds if d is above the margin for certain,
    does not hold if it is below for certain, and cannot be told otherwise. For certain means that the
    sign-flip test over patients gives p ≤ .05 and that the 95 % interval, which adds the spread over
    seeds, leaves the margin out.

    Attributes:
        kind: how d is computed. ``best``: the method minus the best of the other methods that the
            paper compares; ``better``: the method minus ``other``; ``level``: the method minus the
            number ``level``; ``reproduces``: ``level`` minus the distance from the printed number,
            which holds if the whole interval is within that distance and does not hold if all of it
            is beyond.
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

    @property
    def column(self) -> Column:
        return Column(self.metric, self.estimator, self.scope)


@dataclass(frozen=True)
class Claim:
    """A claim: its text, where the paper has it, what is printed there, its rule in words, its test.

    Attributes:
        table: the table of ``config/reported.csv`` that it rests on.
    """

    claim: str
    where: str
    table: str
    printed: str
    rule: str
    test: Test


@dataclass(frozen=True)
class Claims:
    """Name → claim, and the number of slides that each paper tested on each of its cohorts.

    Attributes:
        entries: name → claim.
        tested: start of the names of a paper's tables → cohort → number of slides.
    """

    entries: Mapping[str, Claim]
    tested: Mapping[str, Mapping[str, int]]

    def tested_on(self, claim: Claim, cohort: str) -> int:
        """The number of slides of a cohort in the test of the table that a claim rests on; 0 for none."""
        return self.tested.get(paper_of(claim.table), {}).get(cohort, 0)


def read_claims(path: str | Path, names: Sequence[str] | None = None) -> Claims:
    """All claims of a file, or those of ``names`` in that order.

    Raises:
        FlagError: unknown names, or unknown or missing keys.
    """
    import yaml

    file = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    found = file["claims"]
    if unknown := sorted(set(names or ()) - set(found)):
        raise FlagError(f"{path} has no claim {', '.join(unknown)}", choices=found)
    return Claims(
        {name: _claim(path, name, found[name]) for name in names or found}, file["tested_slides"]
    )


def _claim(path: str | Path, name: str, entry: Mapping[str, Any]) -> Claim:
    keys = list(Claim.__dataclass_fields__)
    if set(entry) != set(keys):
        raise FlagError(f"{path}: claim {name} has keys {', '.join(entry)}", choices=sorted(keys))
    test = read_test(f"{path}: test of {name}", entry["test"])
    return Claim(**{**entry, "printed": str(entry["printed"]), "test": test})


def read_test(where: str, entry: Mapping[str, Any]) -> Test:
    """The test that an entry describes; ``where`` names it in messages.

    Raises:
        FlagError: unknown keys, an unknown kind, or one that lacks what it needs.
    """
    keys = list(Test.__dataclass_fields__)
    if unknown := sorted(set(entry) - set(keys)):
        raise FlagError(f"{where}: {', '.join(unknown)}", choices=keys)
    return Test(**{**entry, "cohorts": tuple(entry["cohorts"])})


@dataclass(frozen=True)
class Judged:
    """What was found for one claim on one cohort and panel.

    Attributes:
        claim, cohort, panel: of what.
        method, ours: the method of the claim and its value.
        other, theirs: its rival and its value, or the number that it is compared with.
        difference, low, high: mean over test patients and its interval.
        p, p_smallest: of the sign-flip test. They, ``needed`` and ``power`` are NaN for a number that
            is reproduced, of which the interval alone decides.
        n, unit: the number of test patients, or of slides where patients are unknown.
        needed: how many units find such a difference in four of five studies.
        paper_n, power: the number of slides that the paper tested, and how probable a verdict is
            with so many if the true difference is the one found here.
        seen: the verdict on these numbers.
        verdict: the same, but "cannot be told here" for a stand-in.
        lacks: what was not run.
        why: how the runs differ from the paper's setting.
    """

    claim: str
    cohort: str
    panel: str
    method: str
    other: str
    ours: float = nan
    theirs: float = nan
    difference: float = nan
    low: float = nan
    high: float = nan
    p: float = nan
    p_smallest: float = nan
    n: int = 0
    unit: str = "slide"
    needed: float = nan
    paper_n: int = 0
    power: float = nan
    seen: str = OPEN
    verdict: str = OPEN
    lacks: str = ""
    why: str = ""


@dataclass(frozen=True)
class _Place:
    """One cohort and panel on which a claim is judged; ``cohort`` is "" where none of ours is run."""

    experiment: Experiment
    paper_cohort: str
    cohort: str
    panel: str
    scores: "pandas.DataFrame"
    printed: "pandas.DataFrame"

    def blank(self, name: str, test: Test) -> Judged:
        return Judged(name, self.paper_cohort, self.panel, test.method, test.other)

    def direction(self, test: Test) -> int:
        return self.experiment.labels.get(test.metric, ("", 0))[1] or 1

    def judge(self, name: str, test: Test, tested: int) -> Judged:
        """Value, rival and verdict, whatever the setting, or what is lacking for that."""
        blank = self.blank(name, test)
        if self.cohort not in self.experiment.cohorts:
            return replace(blank, lacks=self.paper_cohort)
        numbers = summarise(self.scores, [test.column])
        means = numbers.dropna(subset="mean").set_index("method")["mean"]
        if means.empty:
            return replace(blank, lacks=f"{test.metric} of {self.paper_cohort}")
        if missing := [m for m in (test.method, test.other) if m and m not in means]:
            return replace(blank, lacks=", ".join(missing))
        other: str | float = test.other or self._other(test, means)
        if not other:
            return replace(blank, lacks="another method of the paper")
        theirs = means[other] if isinstance(other, str) else other
        found = self._paired(test, other)
        blank = replace(
            blank, other=other if isinstance(other, str) else "", ours=means[test.method]
        )
        return self._judged(replace(blank, theirs=float(theirs)), test, found, tested)

    def _other(self, test: Test, means: "pandas.Series") -> str | float:
        """What the method is compared with: the best published rival, or a number; "" for none."""
        if test.kind == "level":
            return test.level
        if test.kind == "reproduces":
            where = self.paper_cohort, test.method, test.metric
            return self._printed(self.panel, *where) or self._printed(None, *where) or nan
        published = set(self.printed["method"]) - {test.method, ""}
        rivals = [method for method in means.index if method in published]
        return max(rivals, key=lambda m: self.direction(test) * means[m], default="")

    def _printed(self, panel: str | None, cohort: str, method: str, metric: str) -> float | None:
        cell = printed_value(self.printed, cohort, panel, method, metric)
        return cell[0] if cell else None

    def _paired(self, test: Test, other: str | float) -> Paired:
        near = test.kind == "reproduces"
        return paired(
            self.experiment,
            self.scores,
            test.column,
            test.method,
            other,
            0.0 if near else test.margin,
            1 if near else self.direction(test),
        )

    def _judged(self, blank: Judged, test: Test, found: Paired, tested: int) -> Judged:
        low, high = found.interval
        patients = self.experiment.cohorts[self.cohort].patients
        known: dict[str, Any] = {"difference": found.difference, "n": found.n}
        known |= {"low": low, "high": high}
        known["unit"] = "patient" if patients and all(patients.values()) else "slide"
        if test.kind == "reproduces":
            seen = VERDICTS[_within(low, high, test.level)]
            return replace(blank, **known, seen=seen, verdict=seen)
        effect, seen = found.difference - test.margin, VERDICTS[found.sign]
        return replace(
            blank,
            **known,
            p=found.p,
            p_smallest=found.p_smallest,
            needed=found.needed,
            paper_n=tested,
            power=power(tested, effect, found.sd) if tested else nan,
            seen=seen,
            verdict=seen,
        )


def _within(low: float, high: float, level: float) -> int:
    """1 if an interval lies within ±level, -1 if it lies outside, else 0."""
    if -level < low and high < level:
        return 1
    return -1 if low > level or high < -level else 0


def judge(
    claims: Claims,
    experiment: Experiment,
    scores: "pandas.DataFrame",
    runs: "pandas.DataFrame",
    printed: "pandas.DataFrame",
) -> "pandas.DataFrame":
    """Judge every claim on every cohort and panel; one row of ``Judged`` for each.

    Values of a stand-in decide nothing. A setting that the paper does not state is no difference: a
    rival whose encoder is unknown competes with the features that all methods share.
    """
    import pandas as pd

    differ = stand_ins(runs, experiment, printed, unstated=False)
    rows = []
    for name, claim in claims.entries.items():
        for place in _places(claim.test, experiment, scores, printed):
            row = place.judge(name, claim.test, claims.tested_on(claim, place.paper_cohort))
            texts = [
                text
                for method in (row.method, row.other)
                for text in differ.get((place.cohort, place.panel, method), ())
            ]
            if texts and not row.lacks:
                row = replace(row, verdict=OPEN, why="; ".join(dict.fromkeys(texts)))
            rows.append(row)
    return pd.DataFrame(rows)


def _places(
    test: Test, experiment: Experiment, scores: "pandas.DataFrame", printed: "pandas.DataFrame"
) -> Iterator[_Place]:
    """The paper's cohorts of a claim, and then ours that the paper does not have.

    The latter decide nothing, but what they show is shown. ``params.paper_cohorts`` of the table names those
    of the paper's cohorts that it is about, if it is not about all.
    """
    beside = {experiment.paper_cohort(name): name for name in experiment.cohorts}
    wanted = experiment.params.get("paper_cohorts", test.cohorts)
    asked = [(name, beside.get(name, "")) for name in test.cohorts if name in wanted]
    known = set(printed["cohort"])
    asked += [(name, name) for name in beside if name not in known]
    for paper_cohort, cohort in dict.fromkeys(asked):
        part = scores[scores["cohort"] == cohort]
        for panel in part["panel"].unique() if len(part) else [""]:
            rows = part[part["panel"] == panel]
            yield _Place(experiment, paper_cohort, cohort, panel, rows, printed)
