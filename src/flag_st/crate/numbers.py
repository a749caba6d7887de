"""Which numbers of two runs differ, and by how much."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isfinite, nan
from typing import TYPE_CHECKING

from flag_st.core.errors import FlagError
from flag_st.crate.portable import RESULTS
from flag_st.crate.run import Job, Run

if TYPE_CHECKING:
    import pandas

#: Columns of scores by which values are told apart, apart from those in ``LOOSE``.
COLUMNS = ("cohort", "method", "estimator", "metric", "slide", "gene")
#: Choices of the runs of an experiment. Where two experiments made other choices, values are compared
#: as means over them, and the choice is what differs.
LOOSE = ("split", "panel", "seed")
#: What a row of ``Difference`` is about.
ROW = ["cohort", "method", "estimator", "metric"]
#: Scripts whose items show the time and memory that a run took, which no two runs share.
COSTS = ("tables/training_cost", "tables/inference_cost")


@dataclass(frozen=True)
class Difference:
    """Values of one kind that differ.

    Attributes:
        experiment, cohort, method, estimator, metric: of what; "" where the item has no such column.
        values, differing: how many values there are, and how many of them differ.
        a, b: means over slides (not over genes); NaN where there is none.
        largest: the largest distance between two values; NaN if each is in one run only.
        note: what differs if it is not a number.
    """

    experiment: str
    cohort: str = ""
    method: str = ""
    estimator: str = ""
    metric: str = ""
    values: int = 0
    differing: int = 0
    a: float = nan
    b: float = nan
    largest: float = nan
    note: str = ""


@dataclass(frozen=True)
class Compared:
    """The comparison of the numbers of two runs.

    Attributes:
        values: how many there are, in one of the runs or both.
        differing: how many of them differ, or are in one run only.
        differences: what differs, verdicts included.
    """

    values: int
    differing: int
    differences: list[Difference]


def compare_numbers(a: Run, b: Run, tolerance: float = 0.0) -> Compared:
    """Compare the scores of every experiment, the verdicts on claims, and items without scores.

    Args:
        a, b: the runs.
        tolerance: the largest distance that is no difference; two undefined values are equal.
    """
    values, differing, found = 0, 0, []
    first, second = _items(a), _items(b)
    for name in sorted(set(first) | set(second)):
        if name not in first or name not in second:
            found.append(Difference(name, note=f"only in {'A' if name in first else 'B'}"))
            continue
        try:
            compared = _item(a, b, first[name], second[name], tolerance)
        except (ValueError, KeyError, TypeError) as error:
            raise FlagError(
                f"{name} of {a.title} and {b.title} cannot be compared ({error})",
                remedy="compare runs of the same version of flag-st, or make the item again",
            ) from None
        values += compared.values
        differing += compared.differing
        found += compared.differences
    return Compared(values, differing, found)


def _item(a: Run, b: Run, first: Job, second: Job, tolerance: float) -> Compared:
    name = first.wildcards["experiment"]
    path = f"{RESULTS}/experiments/{name}/scores.parquet"
    if path in a.makers and path in b.makers:
        found = _scores(name, a.read(path), b.read(path), tolerance)
    else:
        found = _drawn(a, b, first, second, tolerance)
    verdicts = _verdicts(a, b, first, second)
    return replace(found, differences=[*found.differences, *verdicts])


def _items(run: Run) -> dict[str, Job]:
    """Name of an experiment → the job that made its table or figure."""
    return {job.wildcards["experiment"]: job for job in (*run.of("table"), *run.of("figure"))}


def loose(a: "pandas.DataFrame", b: "pandas.DataFrame") -> list[str]:
    """The columns of ``LOOSE`` in which two tables do not have the same values."""
    return [name for name in LOOSE if set(a[name]) != set(b[name])]


def _scores(experiment: str, a: bytes, b: bytes, tolerance: float) -> Compared:
    import pandas as pd

    tables = [pd.read_parquet(io.BytesIO(data)) for data in (a, b)]
    apart = [*COLUMNS, *(name for name in LOOSE if name not in loose(*tables))]
    left, right = (_by(table, apart) for table in tables)
    every = left.index.union(right.index)
    there = every.isin(left.index) & every.isin(right.index)
    both = pd.DataFrame({"a": left.reindex(every), "b": right.reindex(every)})
    both["distance"] = (both["a"] - both["b"]).abs()
    undefined = both["a"].isna() & both["b"].isna()
    same = (both["a"] == both["b"]) | (both["distance"] <= tolerance) | undefined
    both["differs"] = ~(same & there)
    kinds = [set(zip(table["cohort"], table["method"], strict=True)) for table in tables]
    rows = [
        Difference(experiment, *kind, note=f"only in {'A' if kind in kinds[0] else 'B'}")
        for kind in sorted(kinds[0] ^ kinds[1])
    ]
    for key, part in both.groupby(ROW, sort=True):
        if part["differs"].any() and key[:2] in kinds[0] & kinds[1]:
            rows.append(_difference(experiment, key, part))
    return Compared(len(both), int(both["differs"].sum()), rows)


def _by(table: "pandas.DataFrame", names: list[str]) -> "pandas.Series":
    """The value of each combination of names: the mean, where several runs share it."""
    plain = table.astype(dict.fromkeys(names, str))
    return plain.groupby(names, sort=True)["value"].mean()


def _difference(experiment: str, key: tuple, part: "pandas.DataFrame") -> Difference:
    wholes = part[part.index.get_level_values("gene") == ""]
    shown = wholes if len(wholes) else part
    return Difference(
        experiment,
        **dict(zip(ROW, map(str, key), strict=True)),
        values=len(part),
        differing=int(part["differs"].sum()),
        a=float(shown["a"].mean()),
        b=float(shown["b"].mean()),
        largest=float(part.loc[part["differs"], "distance"].max()),
    )


def _drawn(a: Run, b: Run, first: Job, second: Job, tolerance: float) -> Compared:
    """Compare the numbers that an item without scores shows, in the order of its rows."""
    name = first.wildcards["experiment"]
    if first.params.get("script") in COSTS:
        return Compared(0, 0, [])
    tables = [_shown(run, job) for run, job in ((a, first), (b, second))]
    left, right = tables
    if list(left.columns) != list(right.columns) or len(left) != len(right):
        note = f"{len(left)} rows in A, {len(right)} in B, or other columns"
        return Compared(left.size, left.size, [Difference(name, note=note)])
    rows = []
    for (cohort, method), part in _groups(left):
        cells = part.to_numpy(), right.loc[part.index].to_numpy()
        pairs = list(zip(cells[0].ravel(), cells[1].ravel(), strict=True))
        distances = [d for x, y in pairs if (d := _distance(x, y)) > tolerance or d != d]
        if distances:
            largest = max((d for d in distances if isfinite(d)), default=nan)
            row = Difference(name, cohort, method, values=len(pairs), largest=largest)
            rows.append(replace(row, differing=len(distances)))
    return Compared(left.size, sum(row.differing for row in rows), rows)


def _shown(run: Run, job: Job) -> "pandas.DataFrame":
    import pandas as pd

    path = next(name for name in job.outputs if name.endswith(".csv"))
    return pd.read_csv(io.BytesIO(run.read(path)), dtype=str, keep_default_na=False)


def _groups(table: "pandas.DataFrame") -> Iterator[tuple[tuple[str, str], "pandas.DataFrame"]]:
    keys = [
        table[name] if name in table else table.index.map(lambda _: "")
        for name in ("cohort", "method")
    ]
    yield from table.groupby(keys, sort=True)


def _distance(x: str, y: str) -> float:
    """Between two cells: 0 if they are equal, NaN if they differ and are no numbers."""
    if x == y:
        return 0.0
    try:
        return abs(float(x) - float(y))
    except ValueError:
        return nan


def _verdicts(a: Run, b: Run, first: Job, second: Job) -> list[Difference]:
    """Claims on which the verdict is not the same."""
    if first.params.get("script") not in ("tables/claims", "tables/court"):
        return []
    keys = ("experiment", "claim", "cohort", "panel")
    found = []
    for run, job in ((a, first), (b, second)):
        rows = _shown(run, job).to_dict("records")
        found.append({tuple(row.get(key, "") for key in keys): row["verdict"] for row in rows})
    name = first.wildcards["experiment"]
    return [
        Difference(name, key[2], note=f"{key[1]}: {left} in A, {right} in B")
        for key in sorted(set(found[0]) | set(found[1]))
        if (left := found[0].get(key, "not judged")) != (right := found[1].get(key, "not judged"))
    ]
