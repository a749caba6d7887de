"""The files of one published gene model, which are found, verified and identified together."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flag_st.core.errors import FlagError
from flag_st.core.io import digest, read_json
from flag_st.transfer.weights import Checkpoint

log = logging.getLogger(__name__)


@dataclass
class Files:
    """Files of a release, by their official names.

    Attributes:
        weights: folder that holds them, or None to fetch them from the hub.
        address: where a person gets them.
        repo, revision: hub repository and commit, or None if the release is on no hub.
        sha256: name → digest that the file must have; of files without one it is logged what it is.
        elsewhere: name → how to get a file that the hub's repository does not have.
        digests: name → digest of each file that was asked for.
    """

    weights: str | Path | None
    address: str
    repo: str | None = None
    revision: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)
    elsewhere: Mapping[str, Callable[[], Path]] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Path:
        """The file ``name`` on this machine, after its digest was checked.

        Raises:
            FlagError: it is not there or not the one that is pinned.
        """
        path = self._locate(name)
        found, pinned = digest(path), self.sha256.get(name)
        if pinned and found != pinned.lower():
            raise FlagError(
                f"{path} has sha256 {found}, expected {pinned.lower()}",
                remedy=f"get {name} again from {self.address}, or correct params.sha256",
            )
        if not pinned:
            log.info("%s has sha256 %s; there is none to compare it with", path, found)
        self.digests[name] = found
        return path

    def digest(self) -> str:
        """One digest of all files that were asked for."""
        return hashlib.sha256(json.dumps(self.digests, sort_keys=True).encode()).hexdigest()

    def _locate(self, name: str) -> Path:
        pin = self.sha256.get(name)
        if name in self.elsewhere:
            given = None if self.weights is None else Path(self.weights).expanduser() / name
            return given if given and given.is_file() else self.elsewhere[name]()
        if self.weights is None and self.repo is not None:
            return Checkpoint(self.repo, name, self.revision or "main", pin).locate()
        if self.weights is None:
            raise FlagError(
                f"{name} is needed and on no hub",
                remedy=f"download it from {self.address} and set params.weights to its folder",
            )
        path = Path(self.weights).expanduser() / name
        if not path.is_file():
            raise FlagError(
                f"{path} does not exist",
                remedy=f"put {name} of {self.address} there, or correct params.weights",
            )
        return path


def read_object(path: Path, address: str) -> dict[str, Any]:
    """The object in a JSON file that belongs to a model.

    Raises:
        FlagError: it is not JSON, or not an object.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise FlagError(
            f"{path} holds a {type(found).__name__} instead of an object",
            remedy=f"get it again from {address}",
        )
    return found


def check_sizes(values: Mapping[str, Any], sizes: Iterable[str], path: Path, address: str) -> None:
    """Raise FlagError unless all ``sizes`` in a model's configuration are whole numbers above 0."""
    for key in sizes:
        if key not in values:
            raise FlagError(f"{path} lacks {key}", remedy=f"get it again from {address}")
        if type(values[key]) is not int or values[key] < 1:
            raise FlagError(
                f"{path}: {key} is {values[key]!r} instead of a whole number above 0",
                remedy=f"get it again from {address}",
            )
