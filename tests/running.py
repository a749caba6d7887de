"""How the tests run the workflow: as a user does, in a directory of its own."""

import os
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
        timeout=600,
    )
