"""A run is opened from a crate or from a folder of results. Of a crate, nothing is unpacked."""

import hashlib
import json
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from flag_st.core.errors import FlagError
from flag_st.crate.metadata import NAME, PROFILES, read_metadata
from flag_st.crate.portable import RESULTS
from flag_st.crate.run import LAST, Job, Run, is_record, open_folder

#: The largest member that is read at once, in bytes, and the most that members may grow when unpacked.
LARGEST, GROWTH = 1 << 30, 1000
#: Members below this size may grow by any factor: they fit into memory anyway.
SMALL = 1 << 20
BLOCK = 1 << 20
AGAIN = "get the file again, or write it with: flag-st crate RESULTS -o crate.zip"


def open_run(path: str | Path) -> Run:
    """The run of a crate or of a folder of results, after every file was compared to its digest.

    Raises:
        FlagError: no crate, an unsafe or damaged one, or an unfinished run.
    """
    path = Path(path)
    if path.is_dir():
        return open_folder(path)[0]
    if not path.is_file():
        raise FlagError(f"{path} does not exist", remedy="name a crate or a folder of results")
    try:
        with zipfile.ZipFile(path) as archive:
            return _opened(path, archive)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, OSError, EOFError) as error:
        raise FlagError(f"{path} is no readable archive ({error})", remedy=AGAIN) from None


def _opened(path: Path, archive: zipfile.ZipFile) -> Run:
    _check_members(path, archive)
    files = _check_digests(path, archive, _entities(path, archive))
    start, end = f"{RESULTS}/logs/", ".json"
    names = [name for name in files if name.startswith(start) and name.endswith(end)]
    if f"{start}{LAST}{end}" not in names:
        raise FlagError(
            f"{path} is no crate of flag-st: it has no record of a report", remedy=AGAIN
        )
    jobs = {}
    for record in names:
        name = record.removeprefix(start).removesuffix(end)
        facts = _json(path, archive, record)
        if not is_record(facts) or not isinstance(facts.get("ended"), str):
            raise FlagError(f"{path}: {record} is no record of a job", remedy=AGAIN)
        jobs[name] = Job(name, facts)
    return Run(str(path), jobs, lambda name: _read(path, name))


def _read(path: Path, name: str) -> bytes:
    with zipfile.ZipFile(path) as archive:
        return _member(path, archive, name)


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > LARGEST:
        raise FlagError(
            f"{path}: {name} has {size} bytes, more than are read at once", remedy=AGAIN
        )
    return archive.read(name)


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse names that lead elsewhere, links, doubles, and members that grow beyond measure."""
    seen = set()
    for info in archive.infolist():
        name, why = info.filename, ""
        # A name ends at a zero byte in infolist(), so that the original one is looked at.
        parts = PurePosixPath(info.orig_filename).parts
        if ".." in parts or info.orig_filename.startswith("/") or "\\" in info.orig_filename:
            why = "leads out of the archive"
        elif ":" in name or "\0" in info.orig_filename or name in seen:
            why = "is no name that a crate gives, or is there twice"
        elif stat.S_ISLNK(info.external_attr >> 16):
            why = "is a link"
        elif info.flag_bits & 1:
            why = "is encrypted"
        elif info.file_size > SMALL and info.file_size > GROWTH * max(1, info.compress_size):
            why = f"would grow to {info.file_size} bytes"
        if why:
            raise FlagError(f"{path}: the member {info.orig_filename!r} {why}", remedy=AGAIN)
        seen.add(name)


def _json(path: Path, archive: zipfile.ZipFile, name: str) -> Any:
    try:
        return json.loads(_member(path, archive, name))
    except (ValueError, RecursionError) as error:
        raise FlagError(f"{path}: {name} is not valid JSON ({error})", remedy=AGAIN) from None


def _entities(path: Path, archive: zipfile.ZipFile) -> Mapping[str, Mapping[str, Any]]:
    """The entities of the metadata, if they are those of a crate of a run."""
    if NAME not in archive.namelist():
        raise FlagError(f"{path} is no RO-Crate: it has no {NAME}", remedy=AGAIN)
    graph = _json(path, archive, NAME)
    try:
        found = read_metadata(graph)
        stated = found["./"].get("conformsTo") or []
        profiles = {entity["@id"] for entity in (stated if isinstance(stated, list) else [stated])}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FlagError(
            f"{path}: {NAME} is no metadata of a crate ({error})", remedy=AGAIN
        ) from None
    if missing := sorted(set(PROFILES) - profiles):
        raise FlagError(f"{path} is no crate of a run: it lacks {missing[0]}", remedy=AGAIN)
    return found


def _check_digests(
    path: Path, archive: zipfile.ZipFile, entities: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """The names of the members that the metadata lists, each of which has its digest.

    Raises:
        FlagError: a member differs, is missing, or is not listed.
    """
    listed = {unquote(name): entity for name, entity in entities.items() if _is_file(entity)}
    members = set(archive.namelist()) - {NAME}
    if odd := sorted(set(listed) ^ members):
        what = "is missing" if odd[0] in listed else f"is not listed in {NAME}"
        raise FlagError(f"{path}: {odd[0]} {what}", remedy=AGAIN)
    for name in sorted(members):
        sha, left = hashlib.sha256(), archive.getinfo(name).file_size
        with archive.open(name) as file:
            while block := file.read(BLOCK):
                sha.update(block)
                left -= len(block)
        if left or sha.hexdigest() != listed[name].get("sha256"):
            raise FlagError(f"{path}: {name} differs from the digest in {NAME}", remedy=AGAIN)
    return sorted(members)


def _is_file(entity: Mapping[str, Any]) -> bool:
    kind = entity.get("@type")
    return "File" in (kind if isinstance(kind, list) else [kind])
