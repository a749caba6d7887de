"""Files of a public GitHub repository at one commit, without a login and without git."""

import http.client
import json
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from flag_st.core.errors import FlagError
from flag_st.core.io import read_json, write_json
from flag_st.transfer.store import RemoteFile, Store

TIMEOUT = 60  # seconds without any data


@dataclass(frozen=True)
class GitHub:
    """One repository, and the folder that its files are downloaded to.

    Attributes:
        repo: ``owner/name``.
        commit: 40 hexadecimal digits.
        root: the folder, below which files keep their paths within the repository.
        api, raw: addresses of the list of files and of the files.
    """

    repo: str
    commit: str
    root: str | Path
    api: str = "https://api.github.com"
    raw: str = "https://raw.githubusercontent.com"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{40}", self.commit):
            raise FlagError(f"commit {self.commit!r} of {self.repo} is not 40 hexadecimal digits")
        for address in (self.api, self.raw):
            if not address.startswith(("https://", "http://")):
                raise FlagError(f"{address!r} is no web address")

    @property
    def store(self) -> Store:
        return Store(self.root, f"github:{self.repo}@{self.commit}")

    def tree(self) -> dict[str, RemoteFile]:
        """All files of the commit by path; GitHub is asked once per ``root``.

        Raises:
            FlagError: there is no such repository or commit, or GitHub cannot be reached.
        """
        cache = self.store.hidden / f"{self.repo.replace('/', '--')}-{self.commit}.json"
        if not cache.exists():
            address = f"{self.api}/repos/{self.repo}/git/trees/{self.commit}?recursive=1"
            try:
                with self._open(address) as answer:
                    listing = json.load(answer)
            except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
                raise self._explain(error, "the list of files") from None
            if listing.get("truncated"):
                raise FlagError(
                    f"GitHub lists only a part of {self.repo}",
                    remedy=f"clone https://github.com/{self.repo} and set `checkout`",
                )
            rows = [r for r in listing["tree"] if r["type"] == "blob"]
            write_json(cache, {r["path"]: {"size": r["size"], "git": r["sha"]} for r in rows})
        return {path: RemoteFile(path, **facts) for path, facts in read_json(cache).items()}

    def fetch(self, paths: Sequence[str]) -> list[Path]:
        """Download ``paths`` and verify each against its git digest.

        Raises:
            FlagError: a file is unknown or corrupted, the disk is full, or GitHub cannot be reached.
        """
        tree = self.tree()
        if unknown := [p for p in paths if p not in tree]:
            raise FlagError(f"{self.repo} has no file {', '.join(unknown)} at {self.commit}")
        return self.store.get([tree[p] for p in paths], self._transfer, self.commit)

    def _transfer(self, file: RemoteFile, handle: BinaryIO, start: int) -> None:
        address = f"{self.raw}/{self.repo}/{self.commit}/{quote(file.path)}"
        try:
            with self._open(address, {"Range": f"bytes={start}-"} if start else {}) as answer:
                if (
                    start and answer.status != 206
                ):  # the server does not resume and sends the whole file
                    handle.truncate(0)
                shutil.copyfileobj(answer, handle, 1 << 20)
                handle.flush()
        except (
            urllib.error.URLError,
            http.client.HTTPException,
            ConnectionError,
            TimeoutError,
        ) as e:
            raise self._explain(e, file.path) from None
        if os.fstat(handle.fileno()).st_size < file.size:
            raise self._explain(ConnectionError("cut"), file.path)

    def _open(self, address: str, headers: dict[str, str] | None = None):
        request = urllib.request.Request(
            address, headers={"User-Agent": "flag-st", **(headers or {})}
        )
        return urllib.request.urlopen(request, timeout=TIMEOUT)

    def _explain(self, error: Exception, what: str) -> FlagError:
        code = getattr(error, "code", None)
        if code == 404:
            return FlagError(f"GitHub has no {self.repo} at {self.commit} ({what})")
        if code in (403, 429):
            return FlagError(
                f"GitHub refuses further anonymous requests for now (answer {code})",
                remedy=f"wait an hour, or clone https://github.com/{self.repo} and set `checkout`",
            )
        how = f"answered {code}" if code else f"cannot be reached ({type(error).__name__})"
        return FlagError(
            f"{self.repo}: GitHub {how} during the transfer of {what}",
            remedy="check the network and run the same command again; it resumes",
        )
