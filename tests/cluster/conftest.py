"""A SLURM of one node for these tests. Nothing is installed: without its programs they are skipped."""

import importlib.util
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue")
START = Path(__file__).with_name("start_slurm.sh")


def missing() -> str:
    """Why no cluster can be started here, "" if one can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "starting SLURM needs root"
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        return 'no executor: pip install -c constraints.txt -e ".[slurm]"'
    return ""


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """Folder of a running one-node cluster with a CPU and a GPU partition."""
    if why := missing():
        pytest.skip(f"no SLURM here ({why})")
    base = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([START, base], capture_output=True, text=True, timeout=120)
    if started.returncode == 2:
        pytest.skip(started.stderr.strip())
    assert started.returncode == 0, started.stderr
    yield base
    for name in ("slurmd", "slurmctld"):
        os.kill(int((base / f"{name}.pid").read_text()), signal.SIGTERM)
    # With a cluster's settings and no controller, every start of Snakemake waits nine seconds for one.
    for name in ("slurm.conf", "gres.conf"):
        Path("/etc/slurm", name).unlink()
