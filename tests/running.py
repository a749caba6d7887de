"""How the tests run the workflow: as a user does, in a directory of its own."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "workflow" / "tiny.yaml"


def command(directory: Path, *words: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(ROOT / "Snakefile"),
        "--workflow-profile",
        str(ROOT / "profiles" / "default"),
        "--directory",
        str(directory),
        "--cores",
        "2",
        *words,
    ]


def snakemake(directory: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    """Run the workflow in ``directory``; output is captured."""
    return subprocess.run(
        command(directory, *words),
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=1800,
    )


def digests(directory: Path, below: str = "results") -> dict[str, str]:
    """sha256 of every result that must not differ between runs."""
    kept = (".h5ad", ".safetensors", ".parquet", ".h5", ".csv", ".tex", ".md", ".png", ".json")
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((directory / below).rglob("*"))
        if path.suffix in kept
        # Times and memory belong to the run, and so does what is collected from them.
        and not path.name.endswith(("run.json", "runs.parquet"))
        and not {"logs", "benchmarks"} & set(path.parts)
    }


def kill(
    directory: Path, words: list[str], times: int, within: tuple[float, float], seed: int
) -> None:
    """Start a run and kill it with all its jobs, again and again; a finished one starts anew."""
    moments = random.Random(seed)
    while times:
        process = subprocess.Popen(
            command(directory, *words, "--quiet", "all"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.wait(moments.uniform(*within))
            assert process.returncode == 0
            shutil.rmtree(directory / "results")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            times -= 1
        left = list((directory / "results").rglob("*.part.*"))
        assert all(path.name.startswith(".") for path in left)  # never under a final name
