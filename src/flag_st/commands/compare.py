"""``flag-st compare A B``: which numbers of two runs differ, and by what the runs differ before them."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from flag_st.commands.score import as_json as without_nan
from flag_st.crate.factors import Change, Factors
from flag_st.crate.metadata import version_of
from flag_st.crate.numbers import Compared, Difference, compare_numbers
from flag_st.crate.read import open_run
from flag_st.crate.run import Run

#: Whose numbers: experiment, cohort and method.
Place = tuple[str, str, str]
NOTHING = (
    "no difference is recorded: look at what records do not hold, such as the kind of processor, and at the "
    "commits of the two runs"
)
COLUMNS = ("experiment", "cohort", "method", "metric", "estimator", "differ", "A", "B", "largest")


@dataclass(frozen=True)
class Comparison:
    """Two runs, what differs in their numbers, and by what they differ before each place."""

    a: Run
    b: Run
    numbers: Compared
    factors: dict[Place, list[Change]]

    @property
    def same(self) -> bool:
        return not self.numbers.differences


def compare(a: str, b: str, tolerance: float = 0.0) -> Comparison:
    """Compare two runs.

    Args:
        a, b: a crate, or a folder of results, each.
        tolerance: the largest distance between two values that is no difference.

    Raises:
        FlagError: one of them is no crate, is damaged or unsafe, or is a run that is not finished.
    """
    first, second = open_run(a), open_run(b)
    numbers = compare_numbers(first, second, tolerance)
    # What is in one run only, or is a verdict, has no runs of its own.
    places = dict.fromkeys(_place(d) for d in numbers.differences if d.values)
    factors = Factors(first, second)
    return Comparison(first, second, numbers, {place: factors.before(*place) for place in places})


def _place(difference: Difference) -> Place:
    return difference.experiment, difference.cohort, difference.method


def as_text(found: Comparison) -> str:
    """The runs, a row for each kind of value that differs, and the factors of each method."""
    lines = [f"{name}: {_head(run)}" for name, run in (("A", found.a), ("B", found.b))]
    count = found.numbers.values
    if found.same:
        return "\n".join([*lines, f"the numbers are the same: all {count} that both runs have"])
    lines += [
        "",
        f"{found.numbers.differing} of {count} numbers differ; below, A and B are means",
        "",
    ]
    rows = [COLUMNS, *(_row(d) for d in found.numbers.differences if not d.note)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if len(rows) > 1:
        lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    noted = [d for d in found.numbers.differences if d.note]
    lines += [f"{' '.join(filter(None, _place(d)))}: {d.note}" for d in noted]
    for factors, places in _grouped(found.factors).items():
        lines += [
            "",
            "what differs before the numbers of "
            + "; ".join(" ".join(filter(None, place)) for place in places),
        ]
        lines += [f"  {c.factor:<12}{c.what}: {c.a} in A, {c.b} in B" for c in factors]
        lines += [f"  {NOTHING}"] * (not factors)
    return "\n".join(lines)


def _head(run: Run) -> str:
    devices = sorted({str(job.facts.get("device")) for job in run.jobs.values()})
    last = run.last
    return f"{run.title}, made {last.facts['ended']} at {version_of(last)[:12]} on {', '.join(devices)}"


def _row(difference: Difference) -> tuple[str, ...]:
    d = difference
    numbers = ("–" if x != x else f"{x:.6g}" for x in (d.a, d.b, d.largest))
    names = (d.experiment, d.cohort, d.method, d.metric, d.estimator)
    return (*names, f"{d.differing} of {d.values}", *numbers)


def _grouped(factors: dict[Place, list[Change]]) -> dict[tuple[Change, ...], list[Place]]:
    """Places with the same factors stand together."""
    found: dict[tuple[Change, ...], list[Place]] = {}
    for place, known in factors.items():
        found.setdefault(tuple(known), []).append(place)
    return found


def as_json(found: Comparison) -> str:
    """The same as JSON; null for what is undefined."""
    names = ("experiment", "cohort", "method")
    plain: dict[str, Any] = {
        "same": found.same,
        "values": found.numbers.values,
        "differing": found.numbers.differing,
        "differences": [asdict(d) for d in found.numbers.differences],
        "factors": [
            {**dict(zip(names, place, strict=True)), "changes": [asdict(c) for c in known]}
            for place, known in found.factors.items()
        ],
    }
    lists = {
        key: [without_nan(x) for x in value]
        for key, value in plain.items()
        if isinstance(value, list)
    }
    return json.dumps({**plain, **lists}, indent=2, ensure_ascii=False)
