"""``flag-st trace FILE``: from a result back to slides and weights; each file is compared to its record.

The chain follows what Snakemake recorded about every output (``.snakemake/metadata``): its rule, its
inputs and its log. Beside the log is the record of the job itself (``core.provenance.Record``) with its
parameters, which name published weights, and with the digests of its inputs and outputs. Further
digests are in the manifests of ``retrieve`` and, for inputs below 1 MB, in Snakemake's record. Where
nothing recorded a digest, the file's time shows whether it was written after its job ended.
"""

import json
import os
from base64 import urlsafe_b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flag_st.core.errors import FlagError
from flag_st.core.io import digest, read_json
from flag_st.transfer.weights import Checkpoint, checkpoints

#: The state of a file → what it means.
STATES = {
    "same": "as recorded",
    "same time": "not written since it was made; no digest was recorded",
    "changed": "differs from what was recorded",
    "written later": "written after it was made; no digest was recorded",
    "missing": "does not exist",
    "not here": "not on this machine",
    "unpinned": "no digest was recorded",
}
WRONG = ("changed", "written later", "missing")
#: Seconds by which a file's times may differ: some file systems keep whole seconds.
CLOCK = 2.0


@dataclass
class Link:
    """One file of the chain.

    Attributes:
        path: as recorded, so relative to the folder that Snakemake ran in.
        rule: that made it; ``raw`` for files of a source, ``weights`` for files of a published model,
            and ``given`` for other files that no rule made.
        inputs: paths of the files that it was made from.
        recorded: sha256 → who recorded it.
        made: when its job ended, in seconds since the epoch.
        params: parameters of its job.
        facts: commit, device and seed of its job.
        digests: (path, sha256, who recorded it) of inputs and outputs, from the records of its job.
    """

    path: str
    rule: str
    inputs: list[str] = field(default_factory=list)
    recorded: dict[str, str] = field(default_factory=dict)
    made: float | None = None
    params: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    digests: list[tuple[str, str, str]] = field(default_factory=list)
    state: str = ""
    note: str = ""


class Records:
    """The records of the jobs that Snakemake ran in a folder."""

    def __init__(self, directory: Path):
        self.directory, self.folder = directory, directory / ".snakemake" / "metadata"

    def read(self, name: str) -> dict[str, Any] | None:
        """Snakemake's record of an output, None if there is none.

        The file name of a record is the output's in base64, split into folders where it is longer
        than a file name may be.
        """
        if not self.folder.is_dir():
            return None
        code, step = urlsafe_b64encode(name.encode()).decode(), self._longest - 1
        *parts, last = (code[i : i + step] for i in range(0, len(code), step))
        path = self.folder.joinpath(*(f"@{part}" for part in parts), last)
        return read_json(path) if path.is_file() else None

    def of_job(self, log: str) -> tuple[str, dict[str, Any] | None]:
        """The path of the record that a job wrote beside its log, and the record if it is there."""
        path = Path(log).with_suffix(".json")
        found = self.directory / path
        return str(path), read_json(found) if found.is_file() else None

    @property
    def _longest(self) -> int:
        return os.pathconf(self.folder, "PC_NAME_MAX") or 255


def trace(file: str | Path, only: Sequence[str] = ()) -> list[Link]:
    """The chain of ``file``, from itself to its sources; each file is compared to its record.

    Args:
        file: any output of the workflow.
        only: follow only those of several collected runs whose paths contain all these names
            (a method, a cohort, ``seed0``).

    Raises:
        FlagError: no such file, or Snakemake has no record of it.
    """
    records, start = locate(Path(file))
    links, todo = {}, [start]
    while todo:
        name = todo.pop(0)
        if name in links:
            continue
        link = links[name] = _link(records, name, only)
        for source in _sources(records, link):
            links.setdefault(source.path, source).recorded.update(source.recorded)
            link.inputs.append(source.path)
        todo += [path for path in link.inputs if path not in links]
    for link in list(links.values()):
        for path, value, who in link.digests:
            if (name := os.path.normpath(path)) in links:
                links[name].recorded[value] = who
    for link in links.values():
        if link.rule != "weights":
            link.state, link.note = judge(link, records.directory / link.path)
    return list(links.values())


def locate(file: Path) -> tuple[Records, str]:
    """The folder that Snakemake ran in, and its name for ``file``."""
    if not file.exists():
        raise FlagError(f"{file} does not exist")
    whole = Path(os.path.abspath(file))
    for directory in dict.fromkeys([*whole.parents, Path.cwd()]):
        records = Records(directory)
        for name in (os.path.relpath(whole, directory), str(whole)):
            if records.read(name) is not None:
                return records, name
    raise FlagError(
        f"{file}: there is no record of how it was made",
        remedy="give an output of the workflow whose .snakemake folder is still beside its results; "
        "without that folder, run snakemake again: everything that it makes is recorded",
    )


def _link(records: Records, name: str, only: Sequence[str]) -> Link:
    record = records.read(name)
    if record is None:
        return Link(name, "given")
    inputs = [os.path.normpath(path) for path in record.get("input") or []]
    if record["rule"] in ("collect_scores", "collect_runs"):
        inputs = [path for path in inputs if set(only) <= set(Path(path).parts)]
        if not inputs:
            raise FlagError(f"{name}: no run is of {', '.join(only)}")
    link = Link(name, record["rule"], inputs, made=record.get("endtime"))
    for path, value in (record.get("input_checksums") or {}).items():
        if value.startswith("sha256:"):
            link.digests.append((path, value.removeprefix("sha256:"), f"the record of {name}"))
    for log in record.get("log") or []:
        who, facts = records.of_job(log)
        if facts is not None:
            link.params = facts.get("params", {})
            link.facts = {key: facts.get(key) for key in ("commit", "dirty", "device")}
            link.facts["seed"] = facts["wildcards"].get("seed")
            digests = {**facts["inputs"], **facts["outputs"]}
            link.digests += [(path, value, who) for path, value in digests.items()]
    return link


def _sources(records: Records, link: Link) -> list[Link]:
    """Raw files and weights that ``link`` was made from and that are no inputs to Snakemake."""
    if link.rule in ("encode_patches", "fit_encoder", "embed_genes", "fit_gene_model"):
        return list(weights(link.params))
    manifest = records.directory / link.path
    if link.rule != "retrieve" or not manifest.is_file():
        return []
    files = read_json(manifest)["files"].values()
    return [Link(f["path"], "raw", recorded={f["sha256"]: link.path}) for f in files]


def weights(params: Any) -> Iterator[Link]:
    """Files of published models that the plug-ins among ``params`` name."""
    for place in checkpoints(params):
        link = Link(f"{place.repo}@{place.revision}/{place.file}", "weights")
        if place.sha256:
            link.recorded[place.sha256.lower()] = "the configuration"
        link.state, link.note = _judge_weights(place, link)
        yield link


def _judge_weights(place: Checkpoint, link: Link) -> tuple[str, str]:
    try:
        path = place.here()
    except FlagError:
        path = None
    if path is None:
        return "not here", ""
    if not link.recorded:
        return "unpinned", str(path)
    return _compare(link, path)


def judge(link: Link, path: Path) -> tuple[str, str]:
    """The state of a file, and the evidence for it."""
    if not path.exists():
        return "missing", ""
    if link.recorded:
        return _compare(link, path)
    if link.made is None:
        return "unpinned", ""
    later = path.stat().st_mtime - link.made
    return ("written later", f"by {later:.0f} s") if later > CLOCK else ("same time", "")


def _compare(link: Link, path: Path) -> tuple[str, str]:
    now = digest(path)
    wrong = {value: who for value, who in link.recorded.items() if value != now}
    if not wrong:
        return "same", now[:12]
    value, who = next(iter(wrong.items()))
    return "changed", f"sha256 is {now[:12]}, {who} recorded {value[:12]}"


def as_text(links: Sequence[Link]) -> str:
    """One line per file; at the end, the files that are wrong, by name."""
    width = max(len(link.rule) for link in links)
    lines = []
    for link in links:
        run = ""
        if link.facts.get("commit"):
            dirty = " (with changes)" * bool(link.facts["dirty"])
            seed = f", seed {link.facts['seed']}" if link.facts["seed"] else ""
            run = f"{seed} at commit {link.facts['commit'][:12]}{dirty}"
        note = f" ({link.note})" * bool(link.note)
        lines.append(f"{link.rule:{width}}  {link.path}  {link.state}{note}{run}")
    lines.append("")
    for state, meaning in STATES.items():
        if number := sum(link.state == state for link in links):
            lines.append(f"{number:6} {state}: {meaning}")
    wrong = [link for link in links if link.state in WRONG]
    lines += [f"{link.state}: {link.path} {link.note}".rstrip() for link in wrong]
    return "\n".join(lines)


def as_json(links: Sequence[Link]) -> str:
    """The chain as JSON: a list of links, each with the paths of its inputs."""
    keys = ("path", "rule", "inputs", "recorded", "state", "note")
    plain = [{**{key: getattr(link, key) for key in keys}, **link.facts} for link in links]
    return json.dumps(plain, indent=2)
