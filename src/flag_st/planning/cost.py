"""``flag-st plan``: what a configuration will cost, before anything is submitted.

Every job of the grid is listed from the configuration alone. Its time is that of an earlier run in
the same results folder, else the mean of jobs like it there, else what its entry declares, which is
the limit it asks for and so an upper bound; its disk likewise, else from the sizes of what it writes.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from flag_st.core import registry
from flag_st.planning.grid import Plan, RunKey
from flag_st.planning.rules import Rule, paths, read_rules

#: Spots of a slide that is not prepared yet; a Visium array has at most 4,992, legacy ST about 400.
SPOTS = 3000
#: Bytes of a spot: its patch, its compressed counts, its features where D is UNI's 1024.
PATCH, COUNTS, FEATURES = 224 * 224 * 3, 9_000, 4 * 1024
#: The widest of the shipped gene models, for those whose entry names no width.
TARGET_WIDTH = 1152
#: What an experiment reads that rests on predictions.
PREDICTED = {"scores", "predictions", "records"}
#: Bytes of what is neither arrays nor pictures.
SMALL = 200_000
#: What jobs of a rule differ by in cost, most telling first.
ENTRIES = ("method", "gene_model", "encoder")


class Job(NamedTuple):
    """One job of the workflow; ``values`` are its wildcards."""

    rule: str
    values: tuple[tuple[str, Any], ...]

    @property
    def wildcards(self) -> dict[str, Any]:
        return dict(self.values)

    def alike(self) -> list[tuple]:
        """Keys of jobs that cost about the same, nearest first."""
        known = self.wildcards
        entry = next((known[name] for name in ENTRIES if name in known), None)
        return [(self.rule, entry, known.get("cohort")), (self.rule, entry)]


@dataclass
class Cost:
    """Sums over jobs: hours of GPUs and of CPU cores, and bytes."""

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


def list_jobs(config: dict[str, Any]) -> list[Job]:
    """Every job that the experiments to make stand for, each once. No data is touched."""
    plan = Plan(config)
    found: dict[Job, None] = {}
    runs = {name: plan.runs(name) for name in config["make"]}
    grid = list(dict.fromkeys(run for several in runs.values() for run in several))

    def need(rule: str, **wildcards: Any) -> None:
        found[Job(rule, tuple(wildcards.items()))] = None

    for cohort in dict.fromkeys(run.cohort for run in grid):
        for slide in plan.slides(cohort):
            need("retrieve", cohort=cohort, slide=slide)
        need("check_cohort", cohort=cohort)
        for slide in plan.slides(cohort):
            need("prepare_slide", cohort=cohort, slide=slide)
    for run in grid:
        _inputs(plan, run, need)
    for run in grid:
        need("train", **vars(run))
    predicted = {r: None for n in runs if set(plan.reads(n)) & PREDICTED for r in runs[n]}
    for run in predicted:
        for slide in plan.split(run.cohort, run.split).test:
            need("predict", **vars(run), slide=slide)
    for run in {r: None for n in runs if "scores" in plan.reads(n) for r in runs[n]}:
        need("evaluate", **vars(run))
    for name in (n for n in runs if runs[n]):
        script = config["experiments"][name]["script"]
        if "scores" in plan.reads(name):
            need("collect_scores", experiment=name)
        need("collect_runs", experiment=name)
        need("table" if script.startswith("tables/") else "figure", experiment=name)
        if script == "figures/gene_maps":
            need("explorer", experiment=name)
    need("report")
    return list(found)


def _inputs(plan: Plan, run: RunKey, need: Callable[..., None]) -> None:
    """The jobs that a run shares with others of its cohort, split and panel."""
    method, split = plan.config["methods"][run.method], plan.split(run.cohort, run.split)
    fold = {"cohort": run.cohort, "split": run.split}
    need("make_split", **fold)
    need("select_panel", **fold, panel=run.panel)
    encoder, gene_model = method["encoder"], method["gene_model"]
    fitted = plan.config["encoders"][encoder].get("fits")
    if fitted:
        need("fit_encoder", **fold, encoder=encoder)
    scope = run.split if fitted else "data"
    for slide in (*split.train, *split.valid, *split.test):
        need("encode_patches", cohort=run.cohort, scope=scope, encoder=encoder, slide=slide)
    if gene_model:
        target = {**fold, "panel": run.panel, "gene_model": gene_model}
        if plan.config["gene_models"][gene_model].get("fits"):
            need("fit_gene_model", **target)
        for slide in split.train:
            need("embed_genes", **target, slide=slide)


def estimate(config: dict[str, Any], spots: int = SPOTS) -> dict[str, Cost]:
    """Cost of every stage, in the order in which stages are first needed.

    Args:
        config: as ``flag_st.planning.config.load`` returns it.
        spots: of a slide that is not prepared yet.
    """
    jobs, rules, results = list_jobs(config), read_rules(), config["results"]
    own = {job: _earlier(job, rules[job.rule], results) for job in jobs}
    seconds = _means((job, found[0]) for job, found in own.items())
    sizes = _means((job, found[1]) for job, found in own.items())
    stages: dict[str, Cost] = {}
    for job, (time, size) in own.items():
        amount = {k: a.of(config, job.wildcards) for k, a in rules[job.rule].amounts.items()}
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


def _earlier(job: Job, rule: Rule, results: str) -> tuple[float | None, float | None]:
    """Seconds and bytes of this very job, where an earlier run left its benchmark and outputs."""
    (benchmark,) = paths((rule.benchmark,), results, job.wildcards)
    outputs = [Path(path) for path in paths(rule.outputs, results, job.wildcards)]
    try:
        with open(benchmark, encoding="utf-8") as file:
            time = float(next(csv.DictReader(file, delimiter="\t"))["s"])
    except (OSError, StopIteration, KeyError, ValueError):
        time = None
    try:
        return time, float(sum(path.stat().st_size for path in outputs))
    except OSError:
        return time, None


def _means(values: Iterable[tuple[Job, float | None]]) -> dict[tuple, float]:
    """Mean over the jobs that share a key of ``Job.alike``."""
    groups: dict[tuple, list[float]] = defaultdict(list)
    for job, value in values:
        if value is not None:
            for key in job.alike():
                groups[key].append(value)
    return {key: sum(group) / len(group) for key, group in groups.items()}


def _first(own: float | None, means: dict[tuple, float], job: Job) -> float | None:
    if own is not None:
        return own
    return next((means[key] for key in job.alike() if key in means), None)


def _size(config: dict[str, Any], job: Job, spots: int) -> float:
    """Bytes that a job writes, from the shapes of its arrays; compression is left out."""
    known = job.wildcards
    genes = config["panels"][known["panel"]]["size"] if "panel" in known else 0
    if job.rule in ("retrieve", "prepare_slide"):
        return spots * (PATCH + COUNTS)
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
    """Parameters of a method's network, 0 without one; ``entry`` is JSON, so that it hashes."""
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
    """A table of stages, and what its numbers rest on."""
    everything = total(stages)
    head = f"{'stage':16}{'jobs':>8}{'GPU-h':>10}{'CPU-h':>10}{'disk':>10}{'times measured':>17}"
    lines = [head] + [_line(name, cost) for name, cost in stages.items()]
    lines += [_line("total", everything), ""]
    guessed = everything.jobs - everything.measured_times
    if everything.measured_times:
        lines.append(
            f"times of {everything.measured_times} jobs are those of earlier runs in the results "
            "folder, or the mean of jobs like them"
        )
    if guessed:
        lines.append(
            f"times of {guessed} jobs are what their entries ask for (runtime): upper bounds"
        )
    if everything.jobs - everything.measured_sizes:
        lines.append(f"disk that is not measured assumes {spots} spots a slide (--spots)")
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
