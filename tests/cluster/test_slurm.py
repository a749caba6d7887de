"""The shipped profile on a real SLURM: a whole run, its faults, and the same tables as a local run.

Not part of `make test` (marker `slurm`): pytest -m slurm tests/cluster
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from running import ROOT, TINY

pytestmark = pytest.mark.slurm

SMALL = ROOT / "tests" / "cluster" / "tiny_gpu.yaml"
MODEL = "results/tiny/tiny/tiny/ridge/seed0/model.safetensors"
#: The profile as shipped, but for its patience and the size of the node.
QUICK = [
    "--cores",
    str(os.cpu_count()),
    "--slurm-init-seconds-before-status-checks",
    "1",
    "--seconds-between-status-checks",
    "1",
    "--latency-wait",
    "10",
]


def command(directory: Path, *words: str, profile: str = "slurm") -> list[str]:
    more = QUICK if profile == "slurm" else ["--cores", "2"]
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")),
        *("--workflow-profile", str(ROOT / "profiles" / profile), "--directory", str(directory)),
        *("--configfile", str(TINY), str(SMALL), *more, *words),
    ]


def snakemake(directory: Path, *words: str, profile: str = "slurm"):
    return subprocess.run(
        command(directory, *words, profile=profile), capture_output=True, text=True, timeout=1800
    )


def ours(*words: str) -> list[str]:
    """Lines of squeue about jobs that wait or run; asked again where the controller is busy."""
    for _ in range(10):
        asked = subprocess.run(["squeue", "-h", *words], capture_output=True, text=True)
        if asked.returncode == 0:
            return asked.stdout.splitlines()
        time.sleep(1)
    raise AssertionError(f"squeue: {asked.stderr}")


@contextmanager
def running(directory: Path, *words: str) -> Iterator[subprocess.Popen]:
    """A run that has a job on the node; it does not outlive the test."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command(directory, MODEL, *words), **quiet)
    try:
        wait_for(lambda: ours("-t", "R"))
        yield process
    finally:
        process.kill()
        process.wait()
        subprocess.run(["scancel", "--me"], check=False)


def wait_for(condition, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.5)


@pytest.fixture(scope="module")
def done(slurm, tmp_path_factory) -> Path:
    """A finished run through the cluster."""
    directory = tmp_path_factory.mktemp("cluster")
    ran = snakemake(directory)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-6000:]
    (directory / "log").write_text(ran.stderr)
    return directory


def test_tables_are_those_of_a_local_run(done, tmp_path):
    local = snakemake(tmp_path, profile="default")
    assert local.returncode == 0, local.stderr[-4000:]
    for name in ("paper/tables/table_1.csv", "experiments/table_1/scores.parquet"):
        here, there = (d / "results" / name for d in (tmp_path, done))
        assert here.read_bytes() == there.read_bytes(), name


def test_gpu_jobs_went_to_the_gpu_partition_and_groups_were_made(done):
    log = (done / "log").read_text()
    assert "Auto-selected partition 'gpu' for job train" in log
    assert "Auto-selected partition 'cpu' for job train" in log
    assert "group job" in log


def test_a_job_killed_for_memory_is_tried_again_and_then_given_up(slurm, tmp_path):
    ran = snakemake(tmp_path, MODEL, "--set-resources", "train:mem_mb=40", "--retries", "1")
    assert ran.returncode == 1
    assert ran.stderr.count("Trying to restart") >= 1
    assert not (tmp_path / MODEL).exists()
    assert snakemake(tmp_path, MODEL).returncode == 0


def test_a_cancelled_job_is_an_error_and_the_next_run_completes(slurm, tmp_path):
    with running(tmp_path, "--retries", "0") as process:
        subprocess.run(["scancel", "--me"], check=True)
        assert process.wait(timeout=300) == 1
    assert snakemake(tmp_path, MODEL).returncode == 0


def test_interrupted_the_jobs_are_cancelled_and_the_lock_is_gone(slurm, tmp_path):
    with running(tmp_path) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=300) != 0
        wait_for(lambda: not ours())
    assert snakemake(tmp_path, MODEL).returncode == 0


def test_killed_it_says_locked_and_completes_after_unlocking(slurm, tmp_path):
    with running(tmp_path) as process:
        process.kill()
    wait_for(lambda: not ours())
    locked = snakemake(tmp_path, MODEL)
    assert locked.returncode == 1
    assert "--unlock" in locked.stdout + locked.stderr
    assert snakemake(tmp_path, "--unlock").returncode == 0
    assert snakemake(tmp_path, MODEL).returncode == 0


def test_the_controller_may_die_and_come_back(slurm, tmp_path):
    with running(tmp_path) as process:
        os.kill(int((slurm / "slurmctld.pid").read_text()), signal.SIGKILL)
        time.sleep(5)
        subprocess.run(["slurmctld"], check=True)
        assert process.wait(timeout=600) == 0


def test_a_drained_node_delays_and_loses_nothing(slurm, tmp_path):
    node = subprocess.check_output(["sinfo", "-h", "-o", "%N", "-p", "cpu"], text=True).strip()
    update = ["scontrol", "update", f"NodeName={node}"]
    with running(tmp_path) as process:
        subprocess.run([*update, "State=DRAIN", "Reason=test"], check=True)
        try:
            wait_for(lambda: ours("-t", "PD"))
        finally:
            subprocess.run([*update, "State=RESUME"], check=True)
        assert process.wait(timeout=600) == 0
    assert (tmp_path / MODEL).exists()
