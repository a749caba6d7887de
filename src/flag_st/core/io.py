"""Files are written under a temporary name and then renamed; reading checks their contract version."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flag_st.core.errors import FlagError

#: Version of every file format of this project; raised when a reader must not accept older files.
#: 2: models hold the options of their method in groups, and runs hold all settings.
CONTRACT = 2


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it takes the final name only on success."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix is kept because several writers choose the format by it. The name depends on the
    # target alone, so that the job that repeats a killed one removes what that one left.
    temporary = path.with_name(f".{path.stem}.part{path.suffix}")
    _remove(temporary)
    try:
        yield temporary
        _replace(temporary, path)
    except BaseException:
        _remove(temporary)
        raise


def _replace(temporary: Path, path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    os.replace(temporary, path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` with sorted keys, so that equal values give equal bytes."""
    with writing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")


def read_json(path: str | Path) -> Any:
    try:
        # utf-8-sig, since editors put a byte-order mark before the first character.
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise FlagError(
            f"{path} does not exist", remedy="run the same command again, or restore the file"
        ) from None
    except OSError as error:
        raise FlagError(
            f"cannot read {path} ({error.strerror})", remedy="put a readable file there"
        ) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FlagError(
            f"{path} is not valid JSON ({error})",
            remedy="restore the file; one that a run made can be deleted and is made again",
        ) from None


def digest(path: str | Path) -> str:
    """sha256 of a file's bytes, or of all files of a folder with their names."""
    path, sha = Path(path), hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            sha.update(str(file.relative_to(path)).encode())
        with open(file, "rb") as handle:
            while block := handle.read(1 << 20):
                sha.update(block)
    return sha.hexdigest()


def check_contract(found: Any, path: str | Path, kind: str, remedy: str | None = None) -> None:
    """Refuse a file of another contract version; ``remedy`` says what to do if no run makes it again.

    Raises:
        FlagError: naming the file, both versions and the remedy.
    """
    if found is None or int(found) != CONTRACT:
        raise FlagError(
            f"{path}: {kind} of contract version {found}, this release reads version {CONTRACT}",
            remedy=remedy or f"delete {path} and run the same command again",
        )


def save_arrays(path: str | Path, arrays: dict, facts: dict[str, Any]) -> None:
    """Write named arrays as a self-describing safetensors file: ``facts`` go into its header."""
    import numpy as np
    from safetensors.numpy import save_file

    arrays = {k: np.asarray(v, order="C") for k, v in sorted(arrays.items())}
    # One key, because the header keeps no order among several and equal models must give equal bytes.
    meta = {"flag_st": json.dumps({"contract": CONTRACT, **facts}, sort_keys=True)}
    with writing(path) as temporary:
        save_file(arrays, temporary, metadata=meta)


def load_arrays(path: str | Path, remedy: str | None = None) -> tuple[dict, dict[str, Any]]:
    """The inverse of ``save_arrays``: arrays and facts.

    ``remedy`` says what to do about a bad file if no run makes it again.

    Raises:
        FlagError: the file is damaged, foreign, or of another contract version.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as handle:
            facts = json.loads((handle.metadata() or {}).get("flag_st", "{}"))
            arrays = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise FlagError(
            f"{path} is not a readable model file ({error})",
            remedy=remedy or "delete it and run the same command again: it is made anew",
        ) from None
    check_contract(facts.get("contract"), path, "model", remedy)
    return arrays, facts


def read_facts(path: str | Path) -> dict[str, Any]:
    """The facts of a file of ``save_arrays``, without reading its arrays or checking its version.

    Raises:
        FlagError: there is no such file, or it is no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as handle:
            return json.loads((handle.metadata() or {}).get("flag_st", "{}"))
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise FlagError(f"{path} is not a readable model file ({error})") from None


def pack_names(names: Iterable[str]):
    """Names as an array of bytes, since a safetensors file holds numbers only."""
    import numpy as np

    return np.frombuffer(json.dumps(list(names)).encode(), dtype=np.uint8)


def unpack_names(packed) -> list[str]:
    return json.loads(packed.tobytes())
