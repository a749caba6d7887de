"""Killed at any moment and repeated, a run ends with the bytes of an undisturbed one.

The long form, on the demo (half an hour): pytest -m kills tests/workflow/test_kills.py
"""

import os
import random
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from running import ROOT, TINY, command, digests, snakemake

DEMO = ROOT / "config" / "demo.yaml"


def kill(directory: Path, config: Path, times: int, within: tuple[float, float], seed: int) -> None:
    """Start a run and kill it with all its jobs, again and again; a finished one starts anew."""
    moments = random.Random(seed)
    while times:
        process = subprocess.Popen(
            command(directory, "--configfile", str(config), "--quiet", "all"),
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


def test_killed_anywhere_and_repeated_the_results_are_the_same(tiny_run, tmp_path):
    kill(tmp_path, TINY, 4, (6, 20), seed=4)
    done = snakemake(tmp_path, "--configfile", str(TINY))
    assert done.returncode == 0, done.stderr[-4000:]
    assert digests(tmp_path) == digests(tiny_run)


@pytest.mark.kills
def test_a_hundred_kills_of_the_demo_change_nothing(tmp_path):
    """FLAG_ST_DEMO may name a folder with a finished demo; else one is made first."""
    undisturbed = Path(os.environ.get("FLAG_ST_DEMO", tmp_path / "undisturbed"))
    if not (undisturbed / "results" / "demo" / "report" / "index.html").exists():
        assert snakemake(undisturbed, "--configfile", str(DEMO)).returncode == 0
    kill(tmp_path / "killed", DEMO, 100, (3, 14), seed=0)
    done = snakemake(tmp_path / "killed", "--configfile", str(DEMO))
    assert done.returncode == 0, done.stderr[-4000:]
    # A checkout may hold other results beside the demo's.
    demo, after = digests(undisturbed, "results/demo"), digests(tmp_path / "killed", "results/demo")
    assert after == demo
    assert len(after) > 300
