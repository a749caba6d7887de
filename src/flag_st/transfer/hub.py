"""Files of a Hugging Face repository, by exact name and at one commit.

The token comes only from the user's login (``hf auth login``) or from ``HF_TOKEN``. It appears in
no message, log, record or result.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from urllib.parse import urlsplit

from flag_st.core.errors import FlagError
from flag_st.core.io import read_json, write_json
from flag_st.transfer.store import DownloadPlan, RemoteFile, Store

LISTED_AT_ONCE = 100  # files per question to the hub


@dataclass(frozen=True)
class Hub:
    """One repository, and the folder that its files are downloaded to.

    Attributes:
        repo: ``owner/name``.
        root: the folder, below which files keep their paths within the repository.
        kind: ``dataset`` or ``model``.
        revision: commit, tag or branch. A tag or branch is resolved once per ``root`` and kept in
            ``.download/revisions.json``, so that all files of a folder are of one commit.
        endpoint: address of the hub, or None for the public one.
        sha256: digests that the user pins, by file name, in addition to those of the hub.
        workers: how many files are transferred at a time.
    """

    repo: str
    root: str | Path
    kind: str = "dataset"
    revision: str = "main"
    endpoint: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)
    workers: int = 4

    @property
    def store(self) -> Store:
        return Store(self.root, f"{self.kind}:{self.repo}@{self.revision}")

    @property
    def page(self) -> str:
        """Web page on which a person reads about the repository and asks for access."""
        folder = "datasets/" if self.kind == "dataset" else ""
        return f"https://huggingface.co/{folder}{self.repo}"

    def plan(self, paths: Sequence[str]) -> DownloadPlan:
        """What a download of ``paths`` would transfer; nothing is transferred.

        Raises:
            FlagError: for the same reasons as ``fetch``.
        """
        return self.store.plan(self._listed(paths, self._commit()))

    def check_access(self) -> None:
        """Ask the hub whether this login may download, since a gated repository lists files to all.

        Raises:
            FlagError: there is no login, it has no access, the repository is unknown, or the hub
                cannot be reached.
        """
        from huggingface_hub import HfApi

        with self._explained("the question for access"):
            HfApi(self.endpoint).auth_check(self.repo, repo_type=self.kind)

    def fetch(self, paths: Sequence[str]) -> list[Path]:
        """Download ``paths``; files that are here already are only verified.

        Raises:
            FlagError: there is no login, it has no access, the repository, revision or file is
                unknown, a file is corrupted, the disk is full, or the hub cannot be reached.
        """
        found = [self.store.recorded(path) for path in paths]
        if all(found):
            self._check_pins(dict(zip(paths, found, strict=True)))
            return [Path(self.root) / path for path in paths]
        commit = self._commit()
        files = self._listed(paths, commit)
        with self._explained("the transfer"):
            return self.store.get(files, self._transfer(commit), commit, self.workers)

    def _commit(self) -> str:
        """The commit of ``revision``; the hub is asked once per ``root``."""
        if re.fullmatch(r"[0-9a-f]{40}", self.revision):
            return self.revision
        from filelock import FileLock
        from huggingface_hub import HfApi

        pins = self.store.hidden / "revisions.json"
        pins.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{pins}.lock"):
            known = read_json(pins) if pins.exists() else {}
            if self.store.origin not in known:
                with self._explained(f"revision {self.revision}"):
                    info = HfApi(self.endpoint).repo_info(
                        self.repo,
                        repo_type=self.kind,
                        revision=self.revision,
                        expand=["sha"],  # type: ignore[arg-type]  # a list, as its docstring says
                    )
                assert info.sha is not None, "it is the one fact that was asked for"
                write_json(pins, known | {self.store.origin: info.sha})
                return info.sha
            return known[self.store.origin]

    def _listed(self, paths: Sequence[str], commit: str) -> list[RemoteFile]:
        """Size and digest of each of ``paths``, as the hub lists them."""
        from huggingface_hub import HfApi, RepoFile

        api = HfApi(self.endpoint)
        found: dict[str, RemoteFile] = {}
        for start in range(0, len(paths), LISTED_AT_ONCE):
            block = list(paths[start : start + LISTED_AT_ONCE])
            with self._explained("the list of files"):
                rows = api.get_paths_info(self.repo, block, repo_type=self.kind, revision=commit)
            found |= {r.path: _remote(r) for r in rows if isinstance(r, RepoFile)}
        for path in paths:
            if path not in found:
                raise FlagError(
                    f"{self.repo} has no file {path} at revision {self.revision}",
                    choices=self._similar(path, commit),
                    remedy=f"check the name at {self.page}",
                )
        self._check_pins({path: f.sha256 for path, f in found.items()})
        # For small files the hub states only a git digest; a pin is the sha256 that it lacks.
        return [
            RemoteFile(f.path, f.size, f.sha256 or self.sha256.get(f.path), f.git)
            for f in (found[path] for path in paths)
        ]

    def _check_pins(self, digests: Mapping[str, str | None]) -> None:
        for path, pinned in self.sha256.items():
            if digests.get(path) not in (None, pinned):
                raise FlagError(
                    f"{self.repo} {path}: sha256 {digests[path]}, but {pinned} is pinned",
                    remedy="set `revision` to the commit that the pin belongs to, or mend the pin",
                )

    def _similar(self, path: str, commit: str) -> list[str]:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import EntryNotFoundError

        folder = str(PurePosixPath(path).parent).removeprefix(".") or None
        with self._explained("the list of files"):
            try:
                tree = HfApi(self.endpoint).list_repo_tree(
                    self.repo, folder, repo_type=self.kind, revision=commit
                )
                return difflib.get_close_matches(path, [entry.path for entry in tree], 8, 0.5)
            except EntryNotFoundError:
                return []

    def _transfer(self, commit: str):
        """The transfer, by ``http_get``: unlike ``hf_hub_download`` it resumes after a cut connection."""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils import build_hf_headers

        def transfer(file: RemoteFile, handle: BinaryIO, start: int) -> None:
            place = {"repo_type": self.kind, "revision": commit, "endpoint": self.endpoint}
            http_get(
                hf_hub_url(self.repo, file.path, **place),
                handle,
                resume_size=start,
                headers=build_hf_headers(),
                expected_size=file.size,
                displayed_filename=file.path,
            )

        return transfer

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn exceptions of the library into FlagErrors; ``what`` names the step for the message."""
        try:
            yield
        except FlagError:
            raise
        except Exception as error:
            explained = explain(self, what, error)
            if explained is None:
                raise
            raise explained from None


def _remote(row) -> RemoteFile:
    if row.lfs is not None:
        return RemoteFile(row.path, row.lfs.size, sha256=row.lfs.sha256)
    return RemoteFile(row.path, row.size, git=row.blob_id)


def explain(hub: Hub, what: str, error: Exception) -> FlagError | None:
    """What ``error`` means to a user, or None if neither network nor hub caused it."""
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return FlagError(
            f"{hub.repo}: {what} is needed, but HF_HUB_OFFLINE forbids any connection to the hub",
            remedy="unset HF_HUB_OFFLINE for this step, or copy the files from another machine "
            f"to {hub.root} with its .download folder",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return FlagError(
            f"{hub.repo} has no revision {hub.revision}",
            remedy=f"set `revision` to one listed at {hub.page}/commits, and delete "
            f"{hub.store.hidden / 'revisions.json'}",
        )
    if isinstance(error, errors.HfHubHTTPError):
        return _refused(hub, what, error)
    if isinstance(error, (errors.HTTPError, ConnectionError, TimeoutError)) or (
        isinstance(error, OSError) and "Consistency check failed" in str(error)
    ):
        # An endpoint may hold a password before its host name.
        where = urlsplit(hub.endpoint).netloc.rpartition("@")[2] if hub.endpoint else "the hub"
        return FlagError(
            f"{hub.repo}: the connection to {where} failed during {what} ({type(error).__name__})",
            remedy="check the network (and HF_ENDPOINT, proxies) and run the same command again; "
            "it resumes",
        )
    return None


def _refused(hub: Hub, what: str, error) -> FlagError:
    """What it means that the hub refused a request."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    status = error.response.status_code
    if status in (401, 403) or isinstance(error, GatedRepoError):
        if get_token() is None:
            return FlagError(
                f"{hub.repo} needs a login, and none is set",
                remedy=f"accept its conditions at {hub.page}, then run `hf auth login` "
                "(or set HF_TOKEN in the environment, never in a file of the project)",
            )
        if status == 401 and not isinstance(error, GatedRepoError):
            return FlagError(
                f"{hub.repo}: the hub does not accept your login (expired or revoked)",
                remedy="run `hf auth login` with a valid token",
            )
        return FlagError(
            f"{hub.repo}: your login has no access; the repository is gated",
            remedy=f"accept its conditions at {hub.page} with the account of your token; a "
            "fine-grained token also needs read access to gated repositories",
        )
    if isinstance(error, RepositoryNotFoundError):
        return FlagError(
            f"there is no {hub.kind} {hub.repo}, or it is private", remedy=f"check {hub.page}"
        )
    return FlagError(
        f"{hub.repo}: the hub answered {status} during {what}",
        remedy="wait a moment and run the same command again; it resumes",
    )
