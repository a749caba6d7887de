"""Whether files from outside still hold what they held when a job read them.

Snakemake compares dates: a file that is replaced by an older one goes unnoticed, and one that is only
touched makes everything anew. So what such files hold becomes a parameter of the job that reads them.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flag_st.core.io import digest


def contents(files: Sequence[str], record: str | Path, verify: bool = False) -> list[str]:
    """One text per file, by path, which changes if and only if the file holds something else.

    It is the size and date that the file had when it was first seen, so that nothing is read then. The
    job's record says which digest that was; a file is read when its size or date differ from it.

    Args:
        files: paths; one that does not exist is left out, since Snakemake reports it.
        record: that of the job's last run (``core.provenance.Record``), if there is one.
        verify: whether files are read whose size and date are the same, too.
    """
    files = sorted(file for file in files if Path(file).exists())
    if not files:
        return []
    texts, digests = _recorded(Path(record))
    if len(texts) != len(files) or not digests.keys() >= set(files):
        return [_seen(file) for file in files]
    return [_text(file, texts[k], digests[file], verify) for k, file in enumerate(files)]


def named_files(params: Any) -> list[str]:
    """The files that the params of a plug-in name, at any depth, such as ``weights``.

    Where ``weights`` is a folder, it is the file that ``file`` names in it or, without such a key, all
    files in it.
    """
    return sorted(set(_named(params)))


def _named(params: Any) -> Iterator[str]:
    if isinstance(params, str):
        path = os.path.expanduser(params)
        if os.path.isfile(path):
            yield path
    elif isinstance(params, Mapping):
        folder = os.path.expanduser(str(params.get("weights") or ""))
        if os.path.isdir(folder):
            inside = Path(folder, str(params.get("file") or ""))
            found = [inside] if inside.is_file() else inside.rglob("*")
            yield from (str(path) for path in found if path.is_file())
        for value in params.values():
            yield from _named(value)
    elif isinstance(params, list | tuple):
        for value in params:
            yield from _named(value)


def _text(file: str, known: str, recorded: str, verify: bool) -> str:
    """The known text of a file, or a new one if it holds something else than was recorded."""
    seen = _seen(file)
    if seen == known and not verify:
        return known
    found = digest(file)
    if found == recorded:
        return known
    return seen if seen != known else f"{seen} {found[:12]}"


def _seen(file: str) -> str:
    state = Path(file).stat()
    return f"{state.st_size} {state.st_mtime_ns}"


def _recorded(record: Path) -> tuple[list[str], dict[str, str]]:
    """The texts and the digests of a job's last run; nothing, if it left no record of them."""
    try:
        facts = json.loads(record.read_text(encoding="utf-8"))
        return list(facts["params"]["contents"]), dict(facts["inputs"])
    except (OSError, ValueError, KeyError, TypeError):
        return [], {}
