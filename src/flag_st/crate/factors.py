"""By what two runs differ, upstream of the numbers of one method."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flag_st.crate.numbers import LOOSE
from flag_st.crate.portable import OUTSIDE
from flag_st.crate.run import Job, Run

#: Settings that name places of a machine, or that are told apart from other settings.
NO_SETTINGS = {"root", "directory", "checkpoint", "contents", "code"}
#: Rules whose settings are a factor of their own.
OF_RULES = {
    "retrieve": "data",
    "prepare_slide": "data",
    "prepare_counts": "data",
    "make_split": "split",
    "select_panel": "panel",
}
#: Starts of the names of settings, of any rule, that are a factor of their own.
OF_SETTINGS = {"panel.transform": "unit", "unit": "unit", "panel.": "panel", "patient": "data"}
#: Choices that are wildcards of a run.
OF_CHOICES = {"split": "split", "panel": "panel", "seed": "seeds"}
#: In the order in which they are told.
FACTORS = ("data", "split", "panel", "unit", "seeds", "settings", "code", "environment", "device")
#: Rules that score a method.
SCORED = ("evaluate", "evaluate_downstream")
#: The factor and what it is of, and a value.
Fact = tuple[tuple[str, str], str]
#: The most values of a factor that are told.
TOLD = 6


@dataclass(frozen=True, order=True)
class Change:
    """One thing that differs.

    Attributes:
        factor: one of ``FACTORS``.
        what: the setting, the file or the package, and where it is used.
        a, b: its values in the two runs.
    """

    factor: str
    what: str
    a: str
    b: str


class Factors:
    """What differs between two runs upstream of a place.

    Args:
        a, b: the runs.
    """

    def __init__(self, a: Run, b: Run) -> None:
        self.runs = a, b
        # Thousands of places share jobs, and many share all of them.
        self._known: list[dict[str, list[Fact]]] = [{}, {}]
        self._found: dict[tuple, list[Change]] = {}

    def before(self, experiment: str, cohort: str, method: str) -> list[Change]:
        """What differs between the jobs that the numbers of a method rest on, in the order of ``FACTORS``.

        Args:
            experiment, cohort, method: whose numbers. "" stands for all cohorts, and a method of
                which the experiment has no run for all methods.
        """
        ends = [_ends(run, experiment, cohort, method) for run in self.runs]
        key = tuple(tuple(sorted(job.name for job in jobs)) for jobs in ends)
        if key not in self._found:
            found = set(self._between(ends))
            order = sorted(found, key=lambda change: (FACTORS.index(change.factor), change))
            self._found[key] = order
        return self._found[key]

    def _between(self, ends: list[list[Job]]) -> Iterator[Change]:
        chosen = [{name: _values(jobs, name) for name in LOOSE} for jobs in ends]
        free = [name for name in LOOSE if chosen[0][name] != chosen[1][name]]
        for name in free:
            yield Change(OF_CHOICES[name], name, *(_told(values[name]) for values in chosen))
        left, right = (
            _keyed(run.upstream(starts), free) for run, starts in zip(self.runs, ends, strict=True)
        )
        for key in sorted(set(left) | set(right)):
            sides = left.get(key, []), right.get(key, [])
            if all(sides):
                yield from self._jobs(sides)
            elif key[0] == "retrieve":
                slide = (sides[0] or sides[1])[0].wildcards["slide"]
                yield Change("data", f"slide {slide}", *("there" if s else "–" for s in sides))

    def _jobs(self, sides: tuple[list[Job], list[Job]]) -> Iterator[Change]:
        """What differs between the jobs of one kind."""
        first, second = (self._facts(place, jobs) for place, jobs in enumerate(sides))
        for key in sorted(set(first) | set(second)):
            values = first.get(key, set()), second.get(key, set())
            if values[0] != values[1]:
                yield Change(*key, *map(_told, values))

    def _facts(self, place: int, jobs: list[Job]) -> dict[tuple[str, str], set[str]]:
        """(factor, what) → the values that these jobs of one run have."""
        found: dict[tuple[str, str], set[str]] = {}
        run, known = self.runs[place], self._known[place]
        for job in jobs:
            if job.name not in known:
                known[job.name] = list(_facts_of(run, job))
            for key, value in known[job.name]:
                found.setdefault(key, set()).add(value)
        return found


def _ends(run: Run, experiment: str, cohort: str, method: str) -> list[Job]:
    """The jobs that the numbers of a method come from: those that scored it or, where there are none,
    those that predicted or trained it."""
    runs = [job for job in run.behind(experiment) if "seed" in job.wildcards]
    runs = [job for job in runs if cohort in ("", job.wildcards["cohort"])]
    # Rows of a figure may be of no method, such as those of the truth.
    ours = [job for job in runs if job.wildcards["method"] == method] or runs
    return [job for job in ours if job.rule in SCORED] or ours


def _values(jobs: list[Job], name: str) -> set[str]:
    return {str(job.wildcards[name]) for job in jobs}


def _keyed(jobs: Mapping[str, Job], free: list[str]) -> dict[tuple, list[Job]]:
    """Jobs by rule and wildcards, without those in which the runs made other choices."""
    found: dict[tuple, list[Job]] = {}
    for job in jobs.values():
        left_out = [*free, *(["scope"] if "split" in free else [])]
        known = tuple(sorted((k, str(v)) for k, v in job.wildcards.items() if k not in left_out))
        found.setdefault((job.rule, known), []).append(job)
    return found


def _facts_of(run: Run, job: Job) -> Iterator[Fact]:
    for name, value in _flat({k: v for k, v in job.params.items() if k not in NO_SETTINGS}):
        yield (_factor(job.rule, name), f"{name} of {job.rule}"), value
    for name, value in job.inputs.items():
        if name.startswith(OUTSIDE):
            yield ("data", f"{name} of {job.rule}"), value[:12]
    for kind, file in run.manifest(job).items():
        yield ("data", f"{kind} of {job.wildcards['slide']}"), file["sha256"][:12]
    yield ("code", f"code of {job.rule}"), str(job.params.get("code"))
    yield ("device", f"device of {job.rule}"), str(job.facts.get("device"))
    for package, version in job.facts["versions"].items():
        yield ("environment", package), version
    yield ("environment", "system"), str((job.facts.get("machine") or {}).get("system"))


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every setting under its dotted name, as text."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, json.dumps(value, sort_keys=True, ensure_ascii=False)


def _factor(rule: str, name: str) -> str:
    own = next((factor for start, factor in OF_SETTINGS.items() if name.startswith(start)), None)
    return own or OF_RULES.get(rule, "settings")


def _told(values: set[str]) -> str:
    found = sorted(values)
    more = [f"{len(found) - TOLD} more"] * (len(found) > TOLD)
    return ", ".join([*found[:TOLD], *more]) or "–"
