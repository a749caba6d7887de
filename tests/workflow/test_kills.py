"""Runs that are killed: the tiny one with every `make test`, the demo with `make test-kills`.

They stand apart from the other tests of the tiny run, so that these need not wait for them.
"""

import os
from pathlib import Path

import pytest
from running import ROOT, TINY, digests, kill, snakemake

DEMO = ROOT / "config" / "demo.yaml"
RUNS = "results/tiny/tiny/tiny"


def test_killed_anywhere_and_repeated_the_results_are_the_same(tiny_run, tmp_path):
    """One run through every stage; the next test does so a hundred times."""
    target = f"{RUNS}/flag_fitted/seed0/scores.parquet"
    words = [target, "--configfile", str(TINY)]
    kill(tmp_path, words, 3, (6, 16), seed=4)
    done = snakemake(tmp_path, *words)
    assert done.returncode == 0, done.stderr[-4000:]
    made = digests(tmp_path)
    assert target in made, "\n".join([*made, done.stdout[-3000:], done.stderr[-20000:]])
    assert made.items() <= digests(tiny_run).items()


@pytest.mark.kills
@pytest.mark.timeout(4 * 3600)
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
