"""A finished run as its records tell it, whether they lie in a folder of results or in a crate."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from flag_st.core.errors import FlagError
from flag_st.core.io import digest, read_json
from flag_st.crate.portable import RESULTS, Names
from flag_st.planning.rules import RULES

#: The job that everything of a finished run leads to.
LAST = "report"
#: Rules that only let others go ahead: a list of checked slides may be newer than what waited for it.
GATES = ("check_cohort", "check_slides")
#: The most files that a message names.
NAMED = 10
#: What every record of a job has, by kind.
FACTS = {
    "rule": str,
    **dict.fromkeys(("wildcards", "params", "inputs", "outputs", "versions"), dict),
}
AGAIN = (
    "give the command of this run again (snakemake, with the same --configfile): it makes what is missing "
    "and what has changed"
)


@dataclass(frozen=True)
class Job:
    """One job.

    Attributes:
        name: of its record below the logs, without its ending, such as ``train/c/s/p/flag/seed0``.
        facts: its record, with names as in ``portable.Names``.
    """

    name: str
    facts: Mapping[str, Any]

    @property
    def rule(self) -> str:
        return self.facts["rule"]

    @property
    def wildcards(self) -> Mapping[str, str]:
        return self.facts["wildcards"]

    @property
    def params(self) -> Mapping[str, Any]:
        return self.facts["params"]

    @property
    def inputs(self) -> Mapping[str, str]:
        """Name → sha256 of the files that it read."""
        return self.facts["inputs"]

    @property
    def outputs(self) -> Mapping[str, str]:
        """Name → sha256 of the files that it made."""
        return self.facts["outputs"]

    @property
    def record(self) -> str:
        """The name of the record itself."""
        return f"{RESULTS}/logs/{self.name}.json"


@dataclass(frozen=True)
class Run:
    """The jobs that the report of a run rests on.

    Attributes:
        title: what messages call the run.
        jobs: name → job.
        read: gives the bytes of a file, by name.
    """

    title: str
    jobs: Mapping[str, Job]
    read: Callable[[str], bytes]

    @cached_property
    def makers(self) -> dict[str, Job]:
        """Name of a file → the job that made it."""
        return {path: job for job in self.jobs.values() for path in job.outputs}

    @property
    def last(self) -> Job:
        return self.jobs[LAST]

    def of(self, rule: str) -> list[Job]:
        return [job for job in self.jobs.values() if job.rule == rule]

    @cached_property
    def _behind(self) -> dict[str, dict[str, Job]]:
        found: dict[str, dict[str, Job]] = {}
        for job in self.jobs.values():
            if name := job.wildcards.get("experiment"):
                makers = (self.makers[path] for path in job.inputs if path in self.makers)
                found.setdefault(name, {}).update({maker.name: maker for maker in makers})
        return found

    def behind(self, experiment: str) -> list[Job]:
        """The jobs whose outputs the jobs of an experiment read."""
        return list(self._behind.get(experiment, {}).values())

    def upstream(self, starts: Iterable[Job]) -> dict[str, Job]:
        """These jobs and all that they rest on, by name."""
        return {job.name: job for job in _walk(starts, self.makers)}

    def manifest(self, job: Job) -> Mapping[str, Mapping[str, str]]:
        """Kind → name (``path``) and ``sha256`` of the raw files that a job found; empty for most jobs.

        Raises:
            FlagError: the list that it left is none.
        """
        if job.rule != "retrieve":
            return {}
        (path,) = job.outputs
        try:
            return {
                kind: {"path": str(file["path"]), "sha256": str(file["sha256"])}
                for kind, file in json.loads(self.read(path))["files"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FlagError(f"{self.title}: {path} is no list of raw files ({error})") from None

    def raw_files(self, job: Job) -> Iterator[tuple[str, str]]:
        """Name and sha256 of the raw files that a job found."""
        return ((file["path"], file["sha256"]) for file in self.manifest(job).values())


def _walk(starts: Iterable[Job], makers: Mapping[str, Job]) -> Iterator[Job]:
    todo, seen = list(starts), set()
    while todo:
        job = todo.pop()
        if job.name in seen:
            continue
        seen.add(job.name)
        yield job
        found = (makers.get(path) for path in job.inputs)
        todo += [maker for maker in found if maker and maker.rule not in GATES]


@dataclass(frozen=True)
class Folder:
    """A folder of results: where the files of a run are.

    Attributes:
        path: the folder.
        names: what its files are called in a crate.
    """

    path: Path
    names: Names

    def place(self, name: str) -> Path:
        return self.path / Path(name).relative_to(RESULTS)

    def read(self, name: str) -> bytes:
        """The bytes of a file; those in JSON have the names of a crate."""
        if name.endswith(".json"):
            return as_json(self.names.value(read_json(self.place(name))))
        return self.place(name).read_bytes()

    def jobs(self) -> dict[str, Job]:
        """Name → job of every record below the logs."""
        logs, found = self.path / "logs", {}
        for path in sorted(logs.rglob("*.json")):
            facts = read_json(path)
            if not is_record(facts):
                continue
            ended = datetime.fromtimestamp(path.stat().st_mtime, UTC)
            files = {key: self.names.digests(facts[key]) for key in ("inputs", "outputs")}
            # Records of earlier versions do not say when their job ended.
            facts = {"ended": ended.isoformat(timespec="seconds"), **facts, **files}
            name = path.relative_to(logs).with_suffix("").as_posix()
            found[name] = Job(name, self.names.value(facts))
        return found


def open_folder(path: str | Path) -> tuple[Run, Folder]:
    """The run whose results a folder holds; each file is compared to its record.

    Raises:
        FlagError: no such folder, or the run is not finished; names what is missing or has changed.
    """
    path = Path(path)
    if not (path / "logs").is_dir():
        raise FlagError(
            f"{path} is no folder of results: it has no logs", remedy="name the folder of a run"
        )
    last = path / "logs" / f"{LAST}.json"
    if not last.is_file():
        begun = [log for log in path.glob("logs/**/*.log") if not log.with_suffix(".json").exists()]
        told = [str(path / "report" / "index.html"), *_first(str(log) for log in sorted(begun))]
        raise _unfinished(path, told)
    folder = Folder(path, Names(read_json(last)["params"]["config"]["results"]))
    known = folder.jobs()
    if LAST not in known:
        raise FlagError(
            f"{last} is no record of a job of this workflow",
            remedy="where the workflow is a module of another one, keep the names of its rules",
        )
    makers = {name: job for job in known.values() for name in job.outputs}
    jobs = {job.name: job for job in _walk([known[LAST]], makers)}
    if faults := [*_missing(jobs.values(), makers), *_changed(jobs.values(), folder)]:
        raise _unfinished(path, list(_first(dict.fromkeys(faults))))
    return Run(str(path), dict(sorted(jobs.items())), folder.read), folder


def _missing(jobs: Iterable[Job], makers: Mapping[str, Job]) -> Iterator[str]:
    """Inputs of which there is no record, or that were made again since they were read."""
    for job in jobs:
        for name, value in job.inputs.items():
            maker = makers.get(name)
            if maker is None and name.startswith(f"{RESULTS}/"):
                yield f"{name}, which has no record"
            elif maker and maker.rule not in GATES and maker.outputs[name] != value:
                yield f"{name}, which was made again after {job.name} had read it"


def _changed(jobs: Iterable[Job], folder: Folder) -> Iterator[str]:
    """Outputs that are not there, or that differ from their records."""
    for job in jobs:
        for name, value in job.outputs.items():
            place = folder.place(name)
            if not place.exists():
                yield f"{name}, which does not exist"
            elif digest(place) != value:
                yield f"{name}, which has changed since {job.name} made it"


def _first(texts: Iterable[str]) -> Iterator[str]:
    texts = list(texts)
    yield from texts[:NAMED]
    if len(texts) > NAMED:
        yield f"{len(texts) - NAMED} more"


def _unfinished(path: Path, told: list[str]) -> FlagError:
    return FlagError(
        f"the run in {path} is not finished. It lacks: {'; '.join(told)}", remedy=AGAIN
    )


def is_record(facts: Any) -> bool:
    """Whether a file holds the record of a job of this workflow."""
    return (
        isinstance(facts, dict)
        and all(isinstance(facts.get(key), kind) for key, kind in FACTS.items())
        and facts["rule"] in RULES
        and set(RULES[facts["rule"]].wildcards) <= set(facts["wildcards"])
    )


def as_json(value: Any) -> bytes:
    """JSON as every file of a crate has it, so that equal values have equal bytes."""
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
