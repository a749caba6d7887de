"""Where a result comes from: code digests for the planner, and ``run.json`` for people."""

import ast
import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from flag_st.core.io import CONTRACT, digest, write_json

SRC = Path(__file__).parents[2]
ROOT = SRC.parent
#: Modules that tell of results, or refuse to make them, and change none.
SILENT = ("provenance.py", "inputs.py")
PACKAGES = [
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "scikit-image",
    "anndata",
    "scanpy",
    "snakemake",
]


def code_digest(*sources: str | Path) -> str:
    """Digest of scripts or modules with every ``flag_st`` module they import, however deep.

    Blind to comments, layout and docstrings: only a change of behaviour re-runs a stage.

    Args:
        sources: paths of ``.py`` files, or dotted names of modules or their classes.
    """
    todo, seen = [_locate(s) for s in sources], set()
    while todo:
        path = todo.pop()
        if path is not None and path not in seen and path.name not in SILENT:
            seen.add(path)
            todo += [_locate(name) for name in _parsed(path)[1]]
    _memory().keep()
    digests = sorted(f"{p.name}:{_parsed(p)[0]}" for p in seen)
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:12]


@cache
def _locate(source: str | Path) -> Path | None:
    """The file of a path or a dotted name (of a module, or of something in one)."""
    if str(source).endswith(".py"):
        return Path(source)
    parts = str(source).split(".")
    for end in range(len(parts), 0, -1):
        place = SRC.joinpath(*parts[:end])
        if place.with_suffix(".py").exists():
            return place.with_suffix(".py")
        # Not the top package: nothing in it changes a number.
        if end > 1 and (place / "__init__.py").exists():
            return place / "__init__.py"
    return None


@cache
def _parsed(path: Path) -> tuple[str, tuple[str, ...]]:
    """(digest of the code without docstrings, dotted names of what it imports from flag_st)."""
    text = path.read_bytes()
    key = hashlib.sha256(text).hexdigest()
    memory = _memory()
    if key not in memory:
        memory[key] = _parse(text)
    code, names = memory[key]
    return code, tuple(names)


def _parse(text: bytes) -> tuple[str, list[str]]:
    tree = ast.parse(text)
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{a.name}" for a in node.names]
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            body[0].value = ast.Constant("")
    code = hashlib.sha256(ast.dump(tree).encode()).hexdigest()
    return code, [n for n in names if n.startswith("flag_st.")]


#: What earlier starts of Snakemake in this folder parsed: on a cluster every job starts it twice.
MEMORY = Path(".snakemake") / "flag_st_code.json"


class _Memory(dict):
    """sha256 of a file → what ``_parse`` found in it; ``kept`` entries are in the file."""

    def __init__(self) -> None:
        try:
            super().__init__(json.loads(MEMORY.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            super().__init__()
        self.kept = len(self)

    def keep(self) -> None:
        """Write what is new, where Snakemake has its folder. Several jobs may do so at once."""
        if self.kept == len(self) or not MEMORY.parent.is_dir():
            return
        with suppress(OSError):  # it saves time and decides nothing
            with NamedTemporaryFile("w", dir=MEMORY.parent, delete=False) as file:
                json.dump(self, file)
            os.replace(file.name, MEMORY)
        self.kept = len(self)


_memory = cache(_Memory)


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def commit() -> dict[str, Any]:
    """The checked-out commit, and whether the working tree differs from it."""

    def git(*words: str) -> str:
        # Without locks: a job killed while git refreshes its index would leave the checkout locked.
        command = ["git", "--no-optional-locks", "-C", str(ROOT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide numbers."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_memory_mb() -> float:
    """Peak resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _cuda() -> Any:
    """``torch.cuda`` if this process uses it, else None; torch is not imported for it."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None


class Record:
    """Where a job's results come from: written beside its log, and as ``run.json`` of a run.

    Args:
        rule, wildcards, params: the job and all its settings, as Snakemake resolved them.
        inputs: what it reads; their digests are of the moment before it starts.
    """

    def __init__(
        self,
        rule: str,
        wildcards: Mapping[str, str],
        params: Mapping[str, Any],
        inputs: Iterable[str],
    ):
        self.start = time.monotonic()
        self.facts: dict[str, Any] = {
            "contract": CONTRACT,
            "rule": rule,
            "wildcards": dict(wildcards),
            "params": dict(params),
            "inputs": digests(inputs),
            "versions": versions(),
            "machine": {"cpu_count": os.cpu_count(), "system": platform.platform()},
            **commit(),
        }

    def add(self, **facts: Any) -> None:
        """What only the job knows."""
        self.facts |= facts

    def origin(self) -> str:
        """Digest of all that decides the results: settings, inputs and versions."""
        known = {key: self.facts[key] for key in ("wildcards", "params", "inputs", "versions")}
        return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()

    def write(self, path: str | Path, outputs: Iterable[str] = ()) -> None:
        cuda, seconds = _cuda(), round(time.monotonic() - self.start, 3)
        used = {
            "seconds": seconds,
            "peak_memory_mb": peak_memory_mb(),
            "device": f"cuda ({cuda.get_device_name()})" if cuda else "cpu",
            "gpu_memory_mb": cuda.max_memory_allocated() / 2**20 if cuda else None,
        }
        facts = {**self.facts, **used, "outputs": digests(outputs)}
        write_json(path, json.loads(json.dumps(facts, default=str)))


def digests(paths: Iterable[str]) -> dict[str, str]:
    """sha256 of every file or folder that is there."""
    return {path: digest(path) for path in sorted(set(map(str, paths))) if Path(path).exists()}
