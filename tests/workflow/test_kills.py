"""The demo killed a hundred times (half an hour): pytest -m kills tests/workflow

Its short form, on the tiny run, is in test_run.py.
"""

import os
from pathlib import Path

import pytest
from running import ROOT, digests, kill, snakemake

DEMO = ROOT / "config" / "demo.yaml"


@pytest.mark.kills
def test_a_hundred_kills_of_the_demo_change_nothing(tmp_path):
    """FLAG_ST_DEMO may name a folder with a finished demo; else one is made first."""
    undisturbed = Path(os.environ.get("FLAG_ST_DEMO", tmp_path / "undisturbed"))
    if not (undisturbed / "results" / "demo" / "report" / "index.html").exists():
        assert snakemake(undisturbed, "--configfile", str(DEMO)).returncode == 0
    kill(tmp_path / "killed", ["--configfile", str(DEMO)], 100, (2, 22), seed=0)
    done = snakemake(tmp_path / "killed", "--configfile", str(DEMO))
    assert done.returncode == 0, done.stderr[-4000:]
    # A checkout may hold other results beside the demo's.
    demo, after = digests(undisturbed, "results/demo"), digests(tmp_path / "killed", "results/demo")
    assert after == demo
    assert len(after) > 80
