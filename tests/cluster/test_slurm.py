"""The shipped profile on a real SLURM: a whole run, its faults, and the same bytes as a local run.

Not part of `make test` (marker `slurm`): pytest -m slurm tests/cluster
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from running import ROOT, TINY

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(3600)]

SMALL = ROOT / "tests" / "cluster" / "tiny_gpu.yaml"
#: What a GPU job makes; faults hit the job that makes it anew.
MODEL = "results/tiny/tiny/tiny/flag/seed0/model.safetensors"
TABLES = ("paper/tables/table_1.csv", "experiments/table_1/scores.parquet")
#: Snakemake as it is, but for its patience: between two looks at the queue the executor waits longer and
#: longer, as is right for jobs of hours. A job takes some twelve seconds here.
IMPATIENT = """
import sys
from snakemake.cli import main
from snakemake_executor_plugin_slurm import Executor
Executor.next_seconds_between_status_checks = property(lambda self: 1, lambda self, value: None)
sys.exit(main())
"""
#: The profile as shipped, but for the size of the node and of its file system.
SMALL_NODE = ["--cores", str(os.cpu_count()), "--latency-wait", "10"]
CANCEL = ["scancel", "--me", "--partition", "gpu"]


def command(directory: Path, *words: str, profile: str = "slurm", overlay: Path | None = None):
    start = ["-c", IMPATIENT] if profile == "slurm" else ["-m", "snakemake"]
    more = SMALL_NODE if profile == "slurm" else ["--cores", "2"]
    return [
        *(sys.executable, *start, "--snakefile", str(ROOT / "Snakefile")),
        *("--workflow-profile", str(ROOT / "profiles" / profile), "--directory", str(directory)),
        *("--configfile", str(TINY), str(SMALL), *([str(overlay)] if overlay else [])),
        *(*more, *words),
    ]


def snakemake(directory: Path, *words: str, **options) -> subprocess.CompletedProcess:
    words = command(directory, *words, **options)
    return subprocess.run(words, capture_output=True, text=True, timeout=900)


def on_gpu(*words: str) -> list[str]:
    """Lines of squeue about GPU jobs that wait or run; asked again where the controller is busy."""
    for _ in range(10):
        asked = subprocess.run(
            ["squeue", "-h", "-p", "gpu", *words], capture_output=True, text=True
        )
        if asked.returncode == 0:
            return asked.stdout.splitlines()
        time.sleep(1)
    raise AssertionError(f"squeue: {asked.stderr}")


def wait_for(condition, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.5)


def training(directory: Path) -> bool:
    """Whether a job of the cluster is inside the training loop."""
    return (directory / Path(MODEL).parent / "checkpoint" / "checkpoint.pt").exists()


@contextmanager
def disturbed(directory: Path, *words: str) -> Iterator[subprocess.Popen]:
    """A run whose job trains on the node; it does not outlive the test."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command(directory, MODEL, *words), **quiet)
    try:
        wait_for(lambda: training(directory))
        yield process
    finally:
        process.kill()
        process.wait()
        subprocess.run(CANCEL, check=False)
        wait_for(lambda: not on_gpu())


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Iterator[tuple[Path, subprocess.Popen]]:
    """A run without the cluster, in what the cluster's run leaves of the processor."""
    directory = tmp_path_factory.mktemp("local")
    words = ["nice", "-n", "19", *command(directory, profile="default")]
    with open(directory / "log", "w") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log)
        yield directory, process
        process.kill()


@pytest.fixture(scope="module")
def done(slurm, local, tmp_path_factory) -> Path:
    """A finished run through the cluster, from the raw slides to the report."""
    directory = tmp_path_factory.mktemp("cluster")
    ran = snakemake(directory)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-6000:]
    (directory / "log").write_text(ran.stderr)
    return directory


def untrained(done: Path, directory: Path) -> Path:
    """A copy of the finished run in which one model is still to be trained."""
    shutil.copytree(done, directory)
    (directory / MODEL).unlink()
    return directory


@pytest.fixture
def again(done, tmp_path) -> Path:
    return untrained(done, tmp_path / "run")


def completes(directory: Path, done: Path, profile: str = "default") -> None:
    """Ends a test: another run completes, to the bytes of the undisturbed one."""
    ran = snakemake(directory, MODEL, profile=profile)
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert (directory / MODEL).read_bytes() == (done / MODEL).read_bytes()
    assert not training(directory)


@pytest.fixture(scope="module")
def limited(done, tmp_path_factory) -> Iterator[tuple[Path, subprocess.Popen]]:
    """A run without end on a CPU core, under a limit of one minute: the others go on beside it."""
    base = tmp_path_factory.mktemp("limited")
    endless = {"params": {"training": {"epochs": 10**6, "validate_every": 10**6}}}
    long = overlay(base / "long.yaml", methods={"flag": {"gpu": 0, **endless}})
    directory = untrained(done, base / "run")
    limit = ["--set-resources", "train:runtime=1", "--retries", "0"]
    with open(base / "log", "w") as log:
        process = subprocess.Popen(command(directory, MODEL, *limit, overlay=long), stderr=log)
        yield directory, process
        process.kill()


def overlay(path: Path, **entries) -> Path:
    path.write_text(yaml.safe_dump(entries))
    return path


def test_tables_are_those_of_a_local_run(done, local):
    directory, process = local
    assert process.wait(timeout=600) == 0, (directory / "log").read_text()[-4000:]
    for name in TABLES:
        here, there = (d / "results" / name for d in (directory, done))
        assert here.read_bytes() == there.read_bytes(), name


def test_gpu_jobs_went_to_the_gpu_partition_and_groups_were_made(done):
    log = (done / "log").read_text()
    assert "Auto-selected partition 'gpu' for job train" in log
    assert "Auto-selected partition 'cpu' for job train" in log
    assert "Group job" in log


def test_a_failing_job_stops_no_other_and_one_killed_for_memory_succeeds_with_more(
    limited, done, again, tmp_path
):
    """A method that cannot be built fails; the model beside it is trained all the same."""
    broken = {"base": "ridge_plus_gene_noise", "params": {"covariance": "none"}}
    mixed = {"flag": {"mem_mb": 450}, "broken": broken}
    path = overlay(tmp_path / "mixed.yaml", methods=mixed, defaults={"methods": [*mixed]})
    ran = snakemake(again, MODEL.replace("flag", "broken"), MODEL, "--retries", "1", overlay=path)
    assert ran.returncode == 1
    assert "Error in rule train" in ran.stderr
    assert "diagonal, genes, not 'none'" in ran.stderr  # the log of the job is shown
    assert "mem_mb=450," in ran.stderr
    assert "mem_mb=900," in ran.stderr
    assert (again / MODEL).exists()
    completes(again, done)


def test_a_cancelled_job_is_an_error_and_the_next_run_completes(done, again):
    with disturbed(again, "--retries", "0") as process:
        subprocess.run(CANCEL, check=True)
        assert process.wait(timeout=300) == 1
    completes(again, done)


@pytest.mark.parametrize("word", ["SIGINT", "SIGTERM"])
def test_interrupted_nothing_is_left_and_the_lock_is_gone(done, again, word):
    """INT cancels the jobs; TERM waits for those that run."""
    with disturbed(again) as process:
        process.send_signal(getattr(signal, word))
        process.wait(timeout=300)
        wait_for(lambda: not on_gpu())
    assert not list(again.glob(".snakemake/locks/*"))
    completes(again, done)


def test_killed_it_says_locked_and_completes_after_unlocking(done, again):
    with disturbed(again) as process:
        process.kill()
    locked = snakemake(again, MODEL)
    assert locked.returncode == 1
    assert "--unlock" in locked.stdout + locked.stderr
    assert snakemake(again, "--unlock").returncode == 0
    completes(again, done, profile="slurm")


def test_at_its_time_limit_a_job_ends_and_its_checkpoint_is_not_another_job_s(limited, done):
    directory, process = limited
    assert process.wait(timeout=300) == 1
    assert training(directory)
    assert not (directory / MODEL).exists()
    completes(directory, done)


def test_a_drained_node_and_a_killed_controller_delay_and_lose_nothing(slurm, done, again):
    node = subprocess.check_output(["sinfo", "-h", "-o", "%N", "-p", "cpu"], text=True).strip()
    update = ["scontrol", "update", f"NodeName={node}"]
    subprocess.run([*update, "State=DRAIN", "Reason=test"], check=True)
    process = subprocess.Popen(command(again, MODEL), stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: on_gpu("-t", "PD"))
    finally:
        subprocess.run([*update, "State=RESUME"], check=True)
    wait_for(lambda: training(again))
    os.kill(int((slurm / "slurmctld.pid").read_text()), signal.SIGKILL)
    time.sleep(5)
    subprocess.run(["slurmctld"], check=True)
    assert process.wait(timeout=300) == 0
    completes(again, done)
