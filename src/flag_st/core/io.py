"""Files are written under a temporary name and then renamed; reading checks their contract version."""

import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flag_st.core.errors import FlagError

#: Version of every file format of this project; raised when a reader must not accept older files.
#: 2: models hold the options of their method in groups, and runs hold all settings.
CONTRACT = 2
#: Errors by which a system refuses to write: a full disk or quota, a limit on files, a read-only disk.
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
#: This machine in names of temporary files, and a word that no other container on it has.
HOST = hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
WORD = secrets.token_hex(4)
#: What Snakemake puts into a folder after the job that made it has recorded its digest.
SNAKEMAKE_MARK = ".snakemake_timestamp"
#: Seconds after which a temporary file of another machine, whose processes are not seen here, is left over.
LEFT_OVER = 86400.0


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; it takes the final name only on success.

    Raises:
        FlagError: the folder cannot be written to, or the disk is full; what there was is unchanged.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error
    for left in path.parent.glob(f".{glob.escape(path.stem)}.*.part{glob.escape(path.suffix)}"):
        if _is_left_over(left, path):
            _remove(left)
    # The suffix is kept because several writers choose the format by it. No other process has the
    # name: of two that write one file, neither can rename what the other one has half written.
    temporary = path.with_name(f".{path.stem}.{HOST}-{os.getpid()}-{WORD}.part{path.suffix}")
    former = path.with_name(f".{path.stem}.former{path.suffix}")
    _remove(temporary)
    _remove(former)
    try:
        yield temporary
        if path.is_dir() and not path.is_symlink():
            # A folder cannot be replaced in one step, and one that is half removed looks whole.
            os.replace(path, former)
        os.replace(temporary, path)
        _remove(former)
    except BaseException as error:
        _remove(temporary)
        if reason := _refusal(error):
            raise _unwritable(path, reason) from error
        raise


def _refusal(error: BaseException) -> str:
    """Why the system refused to write, if it did. Some libraries keep no number of it, but its words."""
    if isinstance(error, FlagError):
        return ""
    words = (os.strerror(number) for number in REFUSALS)
    return next((reason for reason in words if reason in str(error)), "")


def _unwritable(path: Path, reason: str) -> FlagError:
    return FlagError(
        f"cannot write {path} ({reason})",
        remedy="free disk space, or name a folder that you may write to, and run the same command again: "
        "what is whole is kept",
    )


def _is_left_over(temporary: Path, path: Path) -> bool:
    """Whether the process that wrote a temporary file of ``path`` has ended without renaming it."""
    token = temporary.name[len(path.stem) + 2 :].partition(".")[0]
    host, _, process = token.rpartition("-")[0].partition("-")
    if host == HOST and process.isdigit():
        return not _is_alive(int(process))
    with suppress(OSError):
        return time.time() - temporary.stat().st_mtime > LEFT_OVER
    return False


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # the signal 0 is not sent: it asks whether there is such a process
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write ``value`` with sorted keys, so that equal values give equal bytes."""
    with writing(path) as temporary:
        text = json.dumps(value, indent=2, sort_keys=True, default=str) + "\n"
        temporary.write_text(text, encoding="utf-8")


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
    inside = (p for p in path.rglob("*") if p.is_file() and p.name != SNAKEMAKE_MARK)
    files = sorted(inside) if path.is_dir() else [path]
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
