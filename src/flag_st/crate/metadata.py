"""What a crate says of its run: Provenance Run Crate 0.5, by the library ``rocrate``."""

from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

from flag_st.core.extras import extra
from flag_st.crate.portable import RESULTS
from flag_st.crate.run import Job, Run, as_json

#: The file that makes a folder or an archive an RO-Crate.
NAME = "ro-crate-metadata.json"
#: Identifier → name of the profiles that a crate conforms to.
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
TERMS = "https://w3id.org/ro/terms/workflow-run/context"
WORKFLOW, CONFIGURATION, PINS = "workflow/Snakefile", "configuration.yaml", "constraints.txt"
README = "README.md"
DESCRIPTION = (
    "Spatial gene expression from histology. The files of the workflow, the resolved configuration, the record of "
    "every job, tables, figures and scores are in this crate; slides, models and predictions that are not are "
    "named by their digests."
)
LICENCE = (
    "The workflow is licensed under Apache-2.0. Results are under the licences of the slides and models that they "
    "were made from, which config/sources.tsv lists where they are public."
)
DEVICE = {"name": "device", "propertyID": "device"}
#: Types of files by their suffixes; all others are plain text.
TYPES = {
    ".csv": "text/csv",
    ".h5ad": "application/x-hdf5",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".parquet": "application/vnd.apache.parquet",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".py": "text/x-python",
    ".tex": "application/x-tex",
    ".tsv": "text/tab-separated-values",
    ".yaml": "application/yaml",
}


@dataclass(frozen=True)
class Content:
    """Digest and size in bytes of a file."""

    sha256: str
    size: int | None = None


@dataclass
class Description:
    """The metadata of a crate.

    Attributes:
        run: whose crate it is.
        files: name → content of the files in the crate.
        others: names of what the run made or read and the crate leaves out, by content.
        note: what is to be said about the files of the workflow.
    """

    run: Run
    files: Mapping[str, Content]
    others: Mapping[Content, Iterable[str]]
    note: str
    crate: Any = field(init=False)

    def __post_init__(self) -> None:
        self.crate = extra("rocrate.rocrate", "crate").ROCrate(version="1.1")
        self.model = extra("rocrate.model", "crate")

    def as_json(self) -> bytes:
        """The bytes of ``ro-crate-metadata.json``; equal runs have equal bytes."""
        self._root()
        self._workflow()
        for name in sorted(self.files):
            if name != WORKFLOW:
                self._file(name)
        for content, names in self.others.items():
            self._other(content, sorted(names))
        jobs = [self._action(job) for job in self.run.jobs.values()]
        self._run(jobs)
        known = self.crate.metadata.generate()
        head = (NAME, "./")
        graph = sorted(known["@graph"], key=lambda e: (e["@id"] not in head, e["@id"]))
        return as_json({**known, "@graph": [_plain(entity) for entity in graph]})

    def _add(self, kind: str, identifier: str, /, **facts: Any) -> Any:
        """A contextual entity; facts that are not known are left out."""
        known = {key: value for key, value in facts.items() if value not in (None, [], "")}
        entity = self.model.ContextEntity(self.crate, identifier, {"@type": kind, **known})
        return self.crate.add(entity)

    def _root(self) -> None:
        root, ended = self.crate.root_dataset, self.run.last.facts["ended"]
        root["name"] = "A run of flag-st"
        items = ", ".join(self.run.last.params["config"]["make"])
        root["description"] = f"{DESCRIPTION} Items of this run: {items}. {self.note}"
        root["license"] = LICENCE
        root["dateCreated"] = root["datePublished"] = ended
        self.crate.metadata.extra_contexts.append(TERMS)
        profiles = [
            self._add("CreativeWork", name, name=title, version=name.rpartition("/")[2])
            for name, title in PROFILES.items()
        ]
        root["conformsTo"] = profiles

    def _workflow(self) -> None:
        engine = self.run.last.facts["versions"].get("snakemake")
        workflow = self.crate.add_workflow(
            dest_path=WORKFLOW,
            main=True,
            lang="snakemake",
            lang_version=engine,
            properties={
                "name": "flag-st",
                "encodingFormat": "text/plain",
                **self._facts(self.files[WORKFLOW]),
            },
        )
        workflow["license"] = self._add(
            "CreativeWork",
            "https://spdx.org/licenses/Apache-2.0",
            name="Apache License 2.0",
            identifier="Apache-2.0",
        )
        workflow["version"] = version_of(self.run.last)
        scripts = sorted({tool_of(job) for job in self.run.jobs.values()})
        workflow["hasPart"] = [self._tool(name) for name in scripts]
        workflow["softwareRequirements"] = [{"@id": PINS}, *self._packages()]

    def _tool(self, name: str) -> dict[str, str]:
        """A reference to a script. One that somebody added and git does not have is named only."""
        if name in self.files:
            return {"@id": quote(name)}
        return {"@id": self._add("SoftwareSourceCode", "#" + quote(name), name=name).id}

    def _packages(self) -> list[Any]:
        """The packages of all jobs; several versions of one where jobs had several."""
        found = {pair for job in self.run.jobs.values() for pair in job.facts["versions"].items()}
        return [
            self._add("SoftwareApplication", f"#{name}-{v}", name=name, softwareVersion=v)
            for name, v in sorted(found)
        ]

    def _facts(self, content: Content) -> dict[str, str]:
        # The size as text: the vocabulary wants it so.
        size = {} if content.size is None else {"contentSize": str(content.size)}
        return {"sha256": content.sha256, **size}

    def _file(self, name: str) -> None:
        facts: dict[str, Any] = dict(self._facts(self.files[name]))
        facts["encodingFormat"] = TYPES.get("." + name.rpartition(".")[2], "text/plain")
        if name == README:
            facts["about"] = {"@id": "./"}
        elif name == CONFIGURATION:
            facts["name"] = "the configuration, every entry as the run had it"
        elif name.startswith("scripts/"):
            kind = ["File", "SoftwareSourceCode"]
            facts |= {"@type": kind, "name": name, "version": version_of(self.run.last)}
        elif job := self._recorded(name):
            facts |= {"name": f"record of {job.name}", "about": {"@id": action_id(job)}}
        elif maker := self.run.makers.get(name):
            item = maker.params.get("item") or {}
            facts["name"] = item.get("title") or name
        self.crate.add_file(dest_path=name, properties={"name": name, **facts})

    def _recorded(self, name: str) -> Job | None:
        start, end = f"{RESULTS}/logs/", ".json"
        return self.run.jobs.get(name.removeprefix(start).removesuffix(end))

    def _other(self, content: Content, names: list[str]) -> None:
        """A file that is not here, under all its names. Its digest is its identifier, by RFC 6920."""
        known = names if len(names) > 1 else names[0]
        self._add("CreativeWork", digest_id(content.sha256), name=known, **self._facts(content))

    def _ids(self, known: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
        """References to files, of which names and digests are given."""
        found = [quote(name) if name in self.files else digest_id(value) for name, value in known]
        return [{"@id": name} for name in dict.fromkeys(found)]

    def _action(self, job: Job) -> Any:
        start, ended = times(job)
        return self._add(
            "CreateAction",
            action_id(job),
            name=job.name.replace("/", " "),
            description=f"The settings are in {job.record}, as params.",
            instrument=self._tool(tool_of(job)),
            object=self._ids([*job.inputs.items(), *self.run.raw_files(job)]),
            result=self._ids(job.outputs.items()),
            startTime=start,
            endTime=ended,
        )

    def _run(self, jobs: Iterable[Any]) -> None:
        every = self.run.jobs.values()
        made = self.run.makers
        given = {pair for job in every for pair in job.inputs.items() if pair[0] not in made}
        given |= {pair for job in every for pair in self.run.raw_files(job)}
        results = {(name, self.files[name].sha256) for name in made if name in self.files}
        devices = sorted({job.facts.get("device") or "unknown" for job in every})
        action = self._add(
            "CreateAction",
            "#run",
            name="Run of flag-st",
            description=f"The settings are in {CONFIGURATION}.",
            instrument={"@id": WORKFLOW},
            object=[{"@id": CONFIGURATION}, *self._ids(sorted(given))],
            result=self._ids(sorted(results)),
            startTime=min(times(job)[0] for job in every),
            endTime=max(times(job)[1] for job in every),
            actionStatus="http://schema.org/CompletedActionStatus",
            resourceUsage=[
                self._add("PropertyValue", f"#device-{n}", value=device, **DEVICE)
                for n, device in enumerate(devices)
            ],
        )
        self.crate.root_dataset["mentions"] = [action, *jobs]


def _plain(entity: Mapping[str, Any]) -> dict[str, Any]:
    """An entity without lists of one value, as RO-Crate recommends."""
    single = {key: v[0] for key, v in entity.items() if isinstance(v, list) and len(v) == 1}
    return {**entity, **single}


def action_id(job: Job) -> str:
    return "#" + quote(job.name)


def tool_of(job: Job) -> str:
    """The script that a job ran."""
    own = job.params.get("script")
    return f"scripts/{own if job.rule in ('table', 'figure') else job.rule}.py"


def version_of(job: Job) -> str:
    """The commit that a job ran at, with a mark if the working tree differed from it."""
    commit = job.facts.get("commit") or "unknown commit"
    return commit + "-dirty" * bool(job.facts.get("dirty"))


def times(job: Job) -> tuple[str, str]:
    """When a job started and ended, in ISO 8601."""
    ended = datetime.fromisoformat(job.facts["ended"])
    start = ended - timedelta(seconds=float(job.facts.get("seconds") or 0))
    return start.isoformat(timespec="seconds"), ended.isoformat(timespec="seconds")


def digest_id(sha256: str) -> str:
    code = urlsafe_b64encode(bytes.fromhex(sha256)).decode().rstrip("=")
    return f"ni:///sha-256;{code}"


def read_metadata(graph: Any) -> dict[str, dict[str, Any]]:
    """Identifier → entity of the metadata of a crate, as parsed JSON.

    Raises:
        KeyError, TypeError: it is no such metadata.
    """
    return {entity["@id"]: entity for entity in graph["@graph"]}
