"""Weights of published models: where a file is, whether it is the right one, how it is read.

Nothing in a file is ever executed: only tensors are read, from safetensors or through torch's
restricted unpickler.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.core.io import digest

if TYPE_CHECKING:
    import torch

    from flag_st.transfer.hub import Hub
    from flag_st.transfer.store import DownloadPlan

#: Variable that names the folder of downloaded weights, which has one folder per repository.
FOLDER_VARIABLE = "FLAG_ST_MODELS"
DEFAULT_FOLDER = "~/.cache/flag-st/models"


@dataclass(frozen=True)
class Checkpoint:
    """One file of a published model.

    Attributes:
        repo: repository on the hub, such as ``MahmoodLab/UNI``.
        file: its name within the repository.
        revision: commit of the repository; a branch works too, but its files can change.
        sha256: the digest that the file must have, or None to accept any.
        local: the file on this machine, or the folder that holds it; None looks further.
    """

    repo: str
    file: str
    revision: str = "main"
    sha256: str | None = None
    local: str | Path | None = None

    def locate(self) -> Path:
        """The file on this machine, downloaded if necessary; its digest is not checked yet.

        It is looked for in ``local``; in the models folder, where a person may have put it; in the
        cache of the hub's client, where other programs may have; and at last on the hub.

        Raises:
            FlagError: it cannot be had; the message says where to ask for it and which key to set.
        """
        return self.here() or self._downloaded()

    def here(self) -> Path | None:
        """The file if it is on this machine, else None; the hub is not asked.

        Raises:
            FlagError: ``local`` is set, and the file is not there.
        """
        return self._given() or self._placed() or self._cached()

    def plan(self) -> "DownloadPlan | None":
        """What a download would transfer, or None if the file is on this machine."""
        return None if self.here() else self.hub.plan([self.file])

    def check_access(self) -> None:
        """Raise FlagError, with a remedy, if the hub would refuse the download."""
        self.hub.check_access()

    @property
    def hub(self) -> "Hub":
        """The repository, and the folder that the file is downloaded to."""
        from flag_st.transfer.hub import Hub

        pins = {self.file: self.sha256.lower()} if self.sha256 else {}
        place = self.folder / self.revision
        return Hub(self.repo, place, kind="model", revision=self.revision, sha256=pins)

    @property
    def folder(self) -> Path:
        return Path(os.environ.get(FOLDER_VARIABLE, DEFAULT_FOLDER)).expanduser() / self.repo

    def _placed(self) -> Path | None:
        places = self.folder / self.file, self.folder / self.revision / self.file
        return next((p for p in places if p.is_file()), None)

    def _given(self) -> Path | None:
        if self.local is None:
            return None
        path = Path(self.local).expanduser()
        path = path / self.file if path.is_dir() else path
        if not path.is_file():
            raise FlagError(
                f"{path} does not exist (params.weights of the entry that uses {self.repo})",
                remedy=f"set params.weights to {self.file} of {self.page}, or to null to download it",
            )
        return path

    def _cached(self) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repo, self.file, revision=self.revision)
        return Path(found) if isinstance(found, str) else None

    def _downloaded(self) -> Path:
        try:
            return self.hub.fetch([self.file])[0]
        except FlagError as error:
            raise FlagError(
                str(error),
                remedy=f"without a download: put {self.file} into {self.folder}, or name a copy "
                "in params.weights",
            ) from None

    @property
    def page(self) -> str:
        return f"https://huggingface.co/{self.repo}"

    def verify(self, path: Path) -> str:
        """The sha256 of ``path``.

        Raises:
            FlagError: it is not the one stated.
        """
        found = digest(path)
        if self.sha256 and found != self.sha256.lower():
            raise FlagError(
                f"{path} has sha256 {found}, expected {self.sha256.lower()}",
                remedy=f"get {self.file} of {self.repo} at revision {self.revision} again, or set "
                "params.sha256 to the file you mean (null accepts any)",
            )
        return found


def checkpoints(params: Any) -> Iterator[Checkpoint]:
    """Files of published models that the plug-ins within ``params`` name, at any depth.

    Args:
        params: an entry of the configuration, or a list or mapping that holds entries.
    """
    values = params if isinstance(params, list) else []
    if isinstance(params, dict):
        values = list(params.values())
        if isinstance(params.get("use"), str):
            yield from _published(params["use"], params.get("params") or {})
    for value in values:
        yield from checkpoints(value)


def _published(use: str, params: dict[str, Any]) -> Iterator[Checkpoint]:
    try:
        known = {**registry.defaults(use), **params}
    except (FlagError, ImportError):
        known = params  # the class cannot be imported, so only the entry itself can tell
    if not known.get("repo"):
        return
    pins = known.get("sha256")
    for file, pin in (pins if isinstance(pins, dict) else {known.get("file"): pins}).items():
        if file is not None:
            revision = str(known.get("revision", "main"))
            yield Checkpoint(known["repo"], file, revision, pin, known.get("weights"))


def read_state(path: Path) -> dict[str, "torch.Tensor"]:
    """The named tensors of a safetensors or torch file, memory-mapped if the format allows it.

    Raises:
        FlagError: the file is damaged, or holds anything but named tensors.
    """
    import torch

    read = _read_safetensors if path.suffix == ".safetensors" else _read_torch
    state = read(path)
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise FlagError(
            f"{path} holds more than named tensors",
            remedy="give the plain state dict that the model's authors publish",
        )
    return state


def _read_safetensors(path: Path):
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def _read_torch(path: Path):
    import pickle
    import zipfile

    import torch

    try:
        # Before 2020 torch wrote no zip archives, and those files cannot be memory-mapped.
        return torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> FlagError:
    reason = (
        str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
    )
    return FlagError(
        f"{path} is not a readable weight file ({reason})",
        remedy="delete it and get it again; only safetensors and plain torch state dicts are read",
    )


def fill(
    module: "torch.nn.Module",
    state: dict[str, "torch.Tensor"],
    path: Path,
    expected: str,
    ignore: Iterable[str] = (),
) -> None:
    """Give the tensors of ``state`` to ``module`` without copying them.

    Args:
        module: the model, best built on the meta device.
        state: named tensors, as ``read_state`` returns them.
        path: their file, for messages.
        expected: what the file should be, for messages.
        ignore: prefixes of keys that ``module`` does not use and the file may have.

    Raises:
        FlagError: a key is missing, unknown, of another shape or kind of number, or holds a number
            that is not finite; the first is named.
    """
    wanted = module.state_dict()
    for key, tensor in wanted.items():
        if key not in state:
            raise _misfit(path, f"lacks {key}", expected)
        if fault := _unlike(state[key], tensor):
            raise _misfit(path, f"has {key} {fault}", expected)
    unknown = [k for k in state if k not in wanted and not k.startswith(tuple(ignore))]
    if unknown:
        raise _misfit(path, f"has an unknown key {unknown[0]}", expected)
    module.load_state_dict({k: state[k] for k in wanted}, strict=True, assign=True)


def _unlike(found: "torch.Tensor", wanted: "torch.Tensor") -> str | None:
    """What keeps ``found`` from taking the place of ``wanted``, or None."""
    import torch

    if found.shape != wanted.shape:
        return f"of shape {tuple(found.shape)}, not {tuple(wanted.shape)}"
    if found.is_floating_point() != wanted.is_floating_point():
        return f"of {found.dtype}, not {wanted.dtype}"
    # The extremes of a tensor are not finite if any number is not, and no copy of it is made to know them.
    if found.numel() and not all(torch.isfinite(extreme) for extreme in torch.aminmax(found)):
        return "with numbers that are not finite"
    return None


def _misfit(path: Path, fault: str, expected: str) -> FlagError:
    return FlagError(f"{path} {fault}", remedy=f"the file should be {expected}; set params.weights")
