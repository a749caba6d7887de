"""Where a result comes from: the record beside the log of every job, and ``run.json`` of a run."""

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from flag_st.core.code import IS_CHECKOUT, ROOT
from flag_st.core.io import CONTRACT, digest, write_json

PACKAGES = [
    "torch",
    "torch_geometric",
    "numpy",
    "scipy",
    "scikit-learn",
    "scikit-image",
    "anndata",
    "scanpy",
    "igraph",
    "umap-learn",
    "snakemake",
    "scgpt",
    "cellplm",
    "geneformer",
]


def commit() -> dict[str, Any]:
    """The checked-out commit, and whether the working tree differs from it."""

    def git(*words: str) -> str:
        # Without locks: a job killed while git refreshes its index would leave the checkout locked.
        command = ["git", "--no-optional-locks", "-C", str(ROOT), *words]
        return subprocess.run(
            command, capture_output=True, encoding="utf-8", check=True
        ).stdout.strip()

    if not IS_CHECKOUT:  # any repository around an installed package is somebody else's
        return {"commit": None, "dirty": None}
    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def versions() -> dict[str, str]:
    """Installed versions of the packages that affect numbers."""
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
        inputs: the files that it reads; their digests are taken before it starts.
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
        """Add facts that only the job knows."""
        self.facts |= facts

    def origin(self) -> str:
        """Digest of everything that decides the results: settings, inputs and versions."""
        known = {key: self.facts[key] for key in ("wildcards", "params", "inputs", "versions")}
        return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()

    def write(self, path: str | Path, outputs: Iterable[str] = ()) -> None:
        cuda, seconds = _cuda(), round(time.monotonic() - self.start, 3)
        used = {
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": seconds,
            "peak_memory_mb": peak_memory_mb(),
            "device": f"cuda ({cuda.get_device_name()})" if cuda else "cpu",
            "gpu_memory_mb": cuda.max_memory_allocated() / 2**20 if cuda else None,
        }
        facts = {**self.facts, **used, "outputs": digests(outputs)}
        write_json(path, json.loads(json.dumps(facts, default=str)))


def digests(paths: Iterable[str]) -> dict[str, str]:
    """sha256 of every file or folder that exists."""
    return {path: digest(path) for path in sorted(set(map(str, paths))) if Path(path).exists()}
