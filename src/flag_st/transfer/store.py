"""Downloads whose size is known beforehand, which resume, and which are verified before use.

A partial or unverified file never has its final name. The hidden folder ``.download`` beside the
files keeps partial files, locks and one record per file (origin, revision, bytes, sha256).
"""

import errno
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from flag_st.core.errors import FlagError
from flag_st.core.io import digest, read_json, write_json

log = logging.getLogger(__name__)

FULL = {errno.ENOSPC, errno.EDQUOT}


@dataclass(frozen=True)
class RemoteFile:
    """One file, as its origin lists it.

    Attributes:
        path: relative to the store's root, with forward slashes.
        size: bytes.
        sha256, git: expected digests of the bytes and of the git blob, or None if the origin does
            not state them.
    """

    path: str
    size: int
    sha256: str | None = None
    git: str | None = None

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.path).parts
        if not parts or self.path.startswith("/") or ".." in parts or parts[0] == ".download":
            raise FlagError(f"{self.path!r} is no file name to download to")

    def fault(self, file: Path) -> str | None:
        """How ``file`` differs from this file, or None if it does not."""
        size = file.stat().st_size
        if size != self.size:
            return f"{size} bytes instead of {self.size}"
        if self.sha256 and (found := digest(file)) != self.sha256:
            return f"sha256 {found} instead of {self.sha256}"
        if not self.sha256 and self.git and (found := git_digest(file)) != self.git:
            return f"git digest {found} instead of {self.git}"
        return None


#: A function that appends to the open file all bytes after the given number, which it already has.
Transfer = Callable[[RemoteFile, BinaryIO, int], None]


@dataclass(frozen=True)
class DownloadPlan:
    """What a download would do; nothing has been transferred yet.

    Attributes:
        origin: where the files come from, such as ``dataset:MahmoodLab/hest@main``.
        root: the folder that they go to.
        wanted: files to download.
        here: files that are in ``root`` already.
        need: bytes to download.
        free: bytes free on the disk of ``root``.
    """

    origin: str
    root: Path
    wanted: tuple[RemoteFile, ...]
    here: tuple[RemoteFile, ...]
    need: int
    free: int

    def __str__(self) -> str:
        head = (
            f"{self.origin}: {len(self.wanted)} files to download, {human(self.need)}; "
            f"{len(self.here)} already in {self.root}; {human(self.free)} free there"
        )
        return "\n".join([head, *(f"  {human(f.size):>9}  {f.path}" for f in self.wanted)])

    def check_space(self) -> None:
        """Raise FlagError if the files do not fit on the disk."""
        if self.need > self.free:
            raise FlagError(
                f"{self.origin}: {human(self.need)} to download, but only {human(self.free)} "
                f"free in {self.root}",
                remedy="free space, or set the source's `root` to a larger disk",
            )


class Store:
    """A folder of files from one origin; several processes may download into it at once."""

    def __init__(self, root: str | Path, origin: str):
        self.root, self.origin = Path(root), origin
        self.hidden = self.root / ".download"

    def recorded(self, path: str) -> str | None:
        """The sha256 of ``path`` if it was downloaded from this origin, else None.

        Raises:
            FlagError: the file changed since it was downloaded.
        """
        record, file = self._record(path), self.root / path
        if record.get("origin") != self.origin or not file.is_file():
            return None
        if file.stat().st_size != record["bytes"] or digest(file) != record["sha256"]:
            raise FlagError(
                f"{file} changed since it was downloaded from {self.origin}",
                remedy=f"delete {file} and run the same command again",
            )
        return record["sha256"]

    def plan(self, files: Iterable[RemoteFile]) -> DownloadPlan:
        """Which of ``files`` are here, which are to be downloaded, and how many bytes those need."""
        here: list[RemoteFile] = []
        wanted: list[RemoteFile] = []
        for file in files:
            (here if self._has(file) else wanted).append(file)
        need = sum(max(f.size - _size(self._partial(f)), 0) for f in wanted)
        return DownloadPlan(
            self.origin, self.root, tuple(wanted), tuple(here), need, _free(self.root)
        )

    def get(
        self, files: Sequence[RemoteFile], transfer: Transfer, revision: str = "", workers: int = 4
    ) -> list[Path]:
        """Download what is missing of ``files``; returns all paths in the given order.

        Raises:
            FlagError: too little space, a corrupted file, or what ``transfer`` raises.
        """
        plan = self.plan(files)
        log.info("%s", plan)
        plan.check_space()
        with ThreadPoolExecutor(max(1, workers)) as pool:
            jobs = {pool.submit(self._download, f, transfer, revision): f for f in plan.wanted}
            try:
                for done, job in enumerate(as_completed(jobs), 1):
                    job.result()
                    log.info("%d/%d %s", done, len(jobs), jobs[job].path)
            except OSError as error:
                if error.errno not in FULL:
                    raise
                raise FlagError(
                    f"disk full while writing to {self.root}",
                    remedy="free space and run the same command again; it resumes",
                ) from None
            finally:
                pool.shutdown(cancel_futures=True)
        for file in plan.here:
            if not self._record(file.path):
                self._write_record(file, revision)
        return [self.root / f.path for f in files]

    def _download(self, file: RemoteFile, transfer: Transfer, revision: str) -> None:
        from filelock import FileLock

        partial = self._partial(file)
        partial.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{partial}.lock"):
            if self._has(file):  # another process has downloaded it meanwhile
                return
            self._fill(partial, file, transfer)
            if fault := file.fault(partial):
                partial.unlink()
                raise FlagError(
                    f"{file.path} from {self.origin} arrived corrupted: {fault}",
                    remedy="run the same command again; if it returns, look for a proxy that "
                    "changes downloads",
                )
            target = self.root / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(partial, target)
            self._write_record(file, revision)

    def _fill(self, partial: Path, file: RemoteFile, transfer: Transfer) -> None:
        if _size(partial) > file.size:
            partial.unlink()
        with open(partial, "ab") as handle:
            start = _size(partial)
            if start:
                log.info("%s: resumed at %s", file.path, human(start))
            if start < file.size:
                transfer(file, handle, start)
            handle.flush()
            os.fsync(handle.fileno())

    def _has(self, file: RemoteFile) -> bool:
        """Whether ``file`` is here.

        Raises:
            FlagError: another file has its name; it is never overwritten.
        """
        target = self.root / file.path
        if not target.exists():
            return False
        fault = file.fault(target)
        if fault is None:
            return True
        if self._record(file.path).get("sha256") == digest(target):
            return False  # we downloaded it, and its origin has changed it since
        raise FlagError(
            f"{target} is not the file that {self.origin} lists: {fault}",
            remedy=f"move or delete {target} and run the same command again",
        )

    def _partial(self, file: RemoteFile) -> Path:
        # The name contains the digest, so that a file that changed at its origin is not resumed.
        version = (file.sha256 or file.git or str(file.size))[:16]
        return self.hidden / "partial" / f"{file.path}.{version}"

    def _record(self, path: str) -> dict:
        file = self.hidden / "records" / f"{path}.json"
        return read_json(file) if file.exists() else {}

    def _write_record(self, file: RemoteFile, revision: str) -> None:
        facts = {"origin": self.origin, "revision": revision, "path": file.path}
        sha256 = file.sha256 or digest(self.root / file.path)
        record = {**facts, "bytes": file.size, "sha256": sha256}
        write_json(self.hidden / "records" / f"{file.path}.json", record)


def git_digest(path: Path) -> str:
    """The digest under which git stores the content of ``path``."""
    sha = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def human(size: float) -> str:
    """A number of bytes in decimal units, as disks and hubs state it."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _free(root: Path) -> int:
    folder = root.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
