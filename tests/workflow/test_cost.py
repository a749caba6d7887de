"""The estimate knows the jobs and the resources that Snakemake plans, and nothing else."""

import re
from collections import Counter

import pytest
from running import ROOT, TINY, snakemake

from flag_st import config, cost
from flag_st.rules import read_rules

BLOCK = re.compile(r"^(?:local)?rule (\w+):\n((?: +.*\n)+)", re.M)


def planned(text: str) -> Counter:
    """(rule, threads, gpu, mem_mb, runtime) of every job that a dry run prints."""
    found = Counter()
    for rule, body in BLOCK.findall(text):
        if rule == "all":
            continue
        known = dict(re.findall(r"(gpu|mem_mb|runtime)=(\d+)", body))
        threads = re.search(r"^ +threads: (\d+)$", body, re.M)
        amounts = [int(known[key]) for key in ("gpu", "mem_mb", "runtime")]
        found[rule, int(threads[1]) if threads else 1, *amounts] += 1
    return found


def estimated(overlay) -> Counter:
    loaded, found = config.load({}, [overlay] if overlay else []), Counter()
    for job in cost.list_jobs(loaded):
        amounts = read_rules()[job.rule].amounts
        keys = ("threads", "gpu", "mem_mb", "runtime")
        found[job.rule, *(amounts[key].of(loaded, job.wildcards) for key in keys)] += 1
    return found


@pytest.mark.parametrize(
    "overlay", [None, TINY, ROOT / "config" / "demo.yaml"], ids=["paper", "tiny", "demo"]
)
def test_estimate_is_of_the_planned_jobs(overlay, tmp_path):
    words = ["--configfile", str(overlay)] if overlay else []
    # Enough cores that no job's threads are lowered to them.
    done = snakemake(tmp_path, "-n", "--cores", "64", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert estimated(overlay) == planned(done.stdout + done.stderr)
