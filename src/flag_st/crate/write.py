"""``flag-st crate``: a finished run as one archive, by the profile Provenance Run Crate."""

import hashlib
import io
import shutil
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import yaml

from flag_st.core.code import ROOT
from flag_st.core.errors import FlagError
from flag_st.core.io import digest, writing
from flag_st.crate import metadata
from flag_st.crate.metadata import CONFIGURATION, Content, Description
from flag_st.crate.portable import personal
from flag_st.crate.run import Folder, Job, Run, as_json, open_folder

#: What of the repository is in a crate: the workflow, its settings, and the versions that were tested.
WORKFLOW = ("Snakefile", "workflow", "scripts", "config", "envs", metadata.PINS)
READ_ME = f"""# A run of flag-st

{metadata.DESCRIPTION} `{metadata.NAME}` says what was made from what.

Tables and figures are in `results/paper`, the scores behind them in `results/experiments`, and the records in
`results/logs`. `flag-st compare THIS OTHER` says how the numbers of another run differ, and why.
"""
#: Rules whose outputs are in a crate as files; those of all others are there by digest.
SHOWN = ("table", "figure", "collect_scores")
#: Every member has the date at which archives of this format begin, since the run's own is in the metadata.
DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        files: number of files in the crate.
        others: number of files that it has by digest.
        left_out: name → why it is there by digest only, of files that would be in the crate.
    """

    files: int
    others: int
    left_out: dict[str, str]


def write_crate(
    results: str | Path, out: str | Path, predictions: bool = False, force: bool = False
) -> Written:
    """Write the crate of a finished run. Equal results, with equal records, give equal bytes.

    Args:
        results: the folder of the results.
        out: path of the archive.
        predictions: whether predictions are in it as files.
        force: whether a file that is there may be replaced.

    Raises:
        FlagError: the run is not finished; ``out`` is there already; a setting holds a token or the path
            of a person; the library ``rocrate`` is missing.
    """
    out = Path(out)
    if out.exists() and not force:
        raise FlagError(f"{out} is there already", remedy="name another file, or add --force")
    run, folder = open_folder(results)
    own = _own(run, folder)
    workflow, note = workflow_files(run.last)
    shown, left_out = _shown(run, folder, workflow, predictions)
    members: dict[str, bytes | Path] = dict(sorted({**shown, **own}.items()))
    files = {name: _content(data) for name, data in members.items()}
    others = _others(run, folder, set(files))
    described = Description(run, files, others, note).as_json()
    with writing(out) as temporary:
        _pack(temporary, {metadata.NAME: described, **members})
    return Written(len(files), len(others), left_out)


def _configuration(run: Run) -> bytes:
    """Every entry as the run had it; to be read, since the shipped files would be merged below it."""
    config = run.last.params["config"]
    return yaml.safe_dump(config, sort_keys=True, allow_unicode=True).encode()


def _own(run: Run, folder: Folder) -> dict[str, bytes]:
    """The settings, the records and the lists of raw files.

    Raises:
        FlagError: one of them holds a token, or a path of this machine that was not recognised as one.
    """
    found = {CONFIGURATION: _configuration(run), metadata.README: READ_ME.encode()}
    for job in run.jobs.values():
        found[job.record] = as_json(job.facts)
        if job.rule == "retrieve":
            found |= {name: folder.read(name) for name in job.outputs}
    for name, data in found.items():
        if said := personal(data, folder.path):
            raise FlagError(
                f"{name} of the crate would hold {said}",
                remedy="keep what is private out of the configuration, and run again",
            )
    return found


def _shown(
    run: Run, folder: Folder, workflow: dict[str, bytes], predictions: bool
) -> tuple[dict[str, bytes | Path], dict[str, str]]:
    """The workflow and the results that are in the crate, and those that say too much to be in it."""
    every: dict[str, bytes | Path] = {**workflow}
    for job in run.jobs.values():
        shown = [name for name in job.outputs if job.rule in SHOWN]
        if job.rule == "predict" and predictions:
            shown = [name for name in job.outputs if name.endswith(".h5ad")]
        every |= {name: folder.place(name) for name in shown}
    said = {name: personal(_bytes(data), folder.path) for name, data in every.items()}
    left_out = {name: f"it holds {what}" for name, what in said.items() if what}
    return {name: data for name, data in every.items() if name not in left_out}, left_out


def _bytes(data: bytes | Path) -> bytes:
    return data if isinstance(data, bytes) else data.read_bytes()


def _content(data: bytes | Path) -> Content:
    if isinstance(data, bytes):
        return Content(hashlib.sha256(data).hexdigest(), len(data))
    return Content(digest(data), data.stat().st_size)


def _others(run: Run, folder: Folder, files: set[str]) -> dict[Content, set[str]]:
    """The names of what the run made or read and the crate does not hold, by content."""
    sizes: dict[str, int] = {}
    names: dict[str, set[str]] = {}
    for job in run.jobs.values():
        for name, value in job.outputs.items():
            if name not in files:
                sizes[value] = _size(folder.place(name))
        for name, value in (*job.inputs.items(), *job.outputs.items(), *run.raw_files(job)):
            if name not in files:
                names.setdefault(value, set()).add(name)
    return {Content(value, sizes.get(value)): names[value] for value in sorted(names)}


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def workflow_files(job: Job) -> tuple[dict[str, bytes], str]:
    """The files of the workflow at the commit of a job, and what is to be said about them.

    Where that commit is not at hand, they are those of this copy of the project.
    """
    commit = job.facts.get("commit")
    code = "The code of each job is named by its digest, params.code of its record."
    if commit and (found := _at(commit)):
        differed = ", from which the working tree of the run differed" * bool(
            job.facts.get("dirty")
        )
        return found, f"The files of the workflow are those of commit {commit}{differed}. {code}"
    note = (
        "The files of the workflow are those of the copy of flag-st that wrote this crate, because commit "
        f"{commit} of the run was not at hand. {code}"
    )
    files = [path for name in WORKFLOW for path in sorted(_below(ROOT / name))]
    own = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in files}
    return _at("HEAD") or own, note


def _below(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path] if path.is_file() else []
    return [p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts]


def _at(commit: str) -> dict[str, bytes]:
    """Name → bytes of the files of the workflow at a commit; nothing if git does not have it."""
    # Without locks: nothing that is killed here may leave the checkout locked.
    words = ["git", "--no-optional-locks", "-C", str(ROOT), "archive", "--format=tar", commit, "--"]
    try:
        done = subprocess.run([*words, *WORKFLOW], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        files = ((member.name, archive.extractfile(member)) for member in archive.getmembers())
        return {name: file.read() for name, file in files if file is not None}


def _pack(path: Path, members: dict[str, bytes | Path]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, DATE)
            info.compress_type, info.create_system = zipfile.ZIP_DEFLATED, 3
            info.external_attr = 0o644 << 16
            if isinstance(data, bytes):
                archive.writestr(info, data)
                continue
            info.file_size = data.stat().st_size  # which decides how long its numbers are
            with open(data, "rb") as source, archive.open(info, "w") as target:
                shutil.copyfileobj(source, target)
