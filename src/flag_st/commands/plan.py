"""``flag-st plan``: what a configuration will cost, before anything is submitted.

The jobs are listed from the configuration alone. The time of a job is taken from an earlier run in
the same results folder; failing that, it is the mean of similar jobs there; failing that, it is the
time limit that the job asks for, which is an upper bound. Disk is found in the same way; where nothing
was measured, it follows from the shapes of the arrays that the job writes.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from flag_st.core import registry
from flag_st.planning.config import genes_of
from flag_st.planning.jobs import Job, list_jobs
from flag_st.planning.rules import AMOUNTS, RULES

#: Assumed spots of a slide that is not prepared yet: Visium has up to 4,992, legacy ST about 400.
SPOTS = 3000
#: Bytes per spot: its patch, its compressed counts, and its features at the width of UNI, D = 1024.
PATCH, COUNTS, FEATURES = 224 * 224 * 3, 9_000, 4 * 1024
#: Width of the widest shipped gene model, assumed where an entry states none.
TARGET_WIDTH = 1152
#: Assumed bytes of files that hold neither arrays nor pictures.
SMALL = 200_000
#: The wildcards that decide what a job of a rule costs, the most telling first.
ENTRIES = ("method", "gene_model", "encoder")


@dataclass
class Cost:
    """Sums over jobs.

    Attributes:
        jobs: their number.
        gpu_hours, cpu_hours: hours of GPUs and of CPU cores.
        bytes: of all outputs.
        measured_times, measured_sizes: jobs whose time or size rests on earlier runs.
        there: jobs that have their outputs already.
    """

    jobs: int = 0
    gpu_hours: float = 0.0
    cpu_hours: float = 0.0
    bytes: float = 0.0
    measured_times: int = 0
    measured_sizes: int = 0
    there: int = 0

    def add(self, other: "Cost") -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


def estimate(config: dict[str, Any], spots: int = SPOTS) -> dict[str, Cost]:
    """The cost of every stage, in the order of the workflow.

    Args:
        config: as ``flag_st.planning.config.load`` returns it.
        spots: assumed for each slide that is not prepared yet.
    """
    own = {job: _earlier(job, config["results"]) for job in list_jobs(config)}
    seconds = _means((job, found[0]) for job, found in own.items())
    sizes = _means((job, found[1]) for job, found in own.items())
    stages: dict[str, Cost] = {}
    for job, (time, size) in own.items():
        rule, wildcards = RULES[job.rule], job.wildcards
        amount = {key: rule.amount(key, config, wildcards) for key in AMOUNTS}
        known_time = _first(time, seconds, job)
        known_size = _first(size, sizes, job)
        hours = (60.0 * amount["runtime"] if known_time is None else known_time) / 3600
        cost = Cost(
            jobs=1,
            gpu_hours=amount["gpu"] * hours,
            cpu_hours=amount["threads"] * hours,
            bytes=_size(config, job, spots) if known_size is None else known_size,
            measured_times=known_time is not None,
            measured_sizes=known_size is not None,
            there=size is not None,
        )
        stages.setdefault(job.rule, Cost()).add(cost)
    return stages


def total(stages: dict[str, Cost]) -> Cost:
    everything = Cost()
    for cost in stages.values():
        everything.add(cost)
    return everything


def _earlier(job: Job, results: str) -> tuple[float | None, float | None]:
    """Seconds and bytes of this very job, where an earlier run left its benchmark and outputs."""
    wildcards = job.wildcards
    benchmark = f"{results}/{RULES[job.rule].benchmark.format(**wildcards)}"
    try:
        with open(benchmark, encoding="utf-8") as file:
            time = float(next(csv.DictReader(file, delimiter="\t"))["s"])
    except (OSError, StopIteration, KeyError, ValueError):
        time = None
    try:
        return time, float(sum(Path(path).stat().st_size for path in job.files(results)))
    except OSError:
        return time, None


def _alike(job: Job) -> list[tuple]:
    """Keys that jobs of about the same cost share, the most specific first."""
    known = job.wildcards
    entry = next((known[name] for name in ENTRIES if name in known), None)
    return [(job.rule, entry, known.get("cohort")), (job.rule, entry)]


def _means(values: Iterable[tuple[Job, float | None]]) -> dict[tuple, float]:
    """The mean over the jobs that share a key of ``_alike``."""
    groups: dict[tuple, list[float]] = defaultdict(list)
    for job, value in values:
        if value is not None:
            for key in _alike(job):
                groups[key].append(value)
    return {key: sum(group) / len(group) for key, group in groups.items()}


def _first(own: float | None, means: dict[tuple, float], job: Job) -> float | None:
    """What was measured of the job itself, else the mean of the jobs most like it, else None."""
    if own is not None:
        return own
    return next((means[key] for key in _alike(job) if key in means), None)


def _size(config: dict[str, Any], job: Job, spots: int) -> float:
    """Bytes that a job writes, from the shapes of its arrays; compression is not considered."""
    known = job.wildcards
    genes = genes_of(config["panels"][known["panel"]]) if "panel" in known else 0
    if job.rule in ("retrieve", "prepare_slide"):
        return spots * (PATCH + COUNTS)
    if job.rule == "cut_patches":
        return spots * PATCH
    if job.rule == "prepare_counts":
        return spots * COUNTS
    if job.rule == "encode_patches":
        return spots * FEATURES
    if job.rule == "embed_genes":
        entry = config["gene_models"][known["gene_model"]]
        width = entry.get("params", {}).get("width", TARGET_WIDTH)
        rows = {"static": genes, "spot": spots}.get(_kind(entry["use"]), spots * genes)
        return 2 * rows * width + spots * genes
    if job.rule == "predict":
        draws = config["defaults"]["samples"]
        layers = draws + 2 if config["methods"][known["method"]].get("stochastic") else 2
        return 4 * spots * genes * layers
    if job.rule == "train":
        return SMALL + 4 * _parameters(json.dumps(config["methods"][known["method"]]), genes)
    return SMALL


def _kind(use: str) -> str:
    """``static``, ``spot`` or ``contextual``; a wrapper has the kind of what it wraps."""
    return getattr(registry.load(use), "kind", "contextual")


@cache
def _parameters(entry: str, genes: int) -> int:
    """Number of parameters of a method's network, 0 if it has none; ``entry`` is JSON, to be hashable."""
    from flag_st.commands.describe import count_parameters

    found = json.loads(entry)
    method = registry.build(found["use"], found.get("params", {}))
    targets = TARGET_WIDTH if found["gene_model"] else 0
    return count_parameters(method, genes, FEATURES // 4, targets)[0] or 0


def as_json(stages: dict[str, Cost]) -> dict[str, Any]:
    return {
        "stages": {name: asdict(cost) for name, cost in stages.items()},
        "total": asdict(total(stages)),
    }


def as_text(stages: dict[str, Cost], spots: int) -> str:
    """A table with one line per stage, and what its numbers rest on."""
    everything = total(stages)
    head = f"{'stage':16}{'jobs':>8}{'GPU-h':>10}{'CPU-h':>10}{'disk':>10}{'times measured':>17}"
    lines = [head] + [_line(name, cost) for name, cost in stages.items()]
    lines += [_line("total", everything), ""]
    guessed = everything.jobs - everything.measured_times
    if everything.measured_times:
        lines.append(
            f"the times of {everything.measured_times} jobs are those of earlier runs in the "
            "results folder, or means of similar jobs there"
        )
    if guessed:
        lines.append(
            f"the times of {guessed} jobs are the limits that they ask for (runtime): upper bounds"
        )
    if everything.jobs - everything.measured_sizes:
        lines.append(f"disk that was not measured assumes {spots} spots per slide (--spots)")
    if everything.there:
        lines.append(f"{everything.there} jobs have their outputs already")
    return "\n".join(lines)


def _line(name: str, cost: Cost) -> str:
    return (
        f"{name:16}{cost.jobs:8}{cost.gpu_hours:10.1f}{cost.cpu_hours:10.1f}"
        f"{_amount(cost.bytes):>10}{cost.measured_times:17}"
    )


def _amount(size: float) -> str:
    """Bytes to one decimal, in a unit of their size."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
