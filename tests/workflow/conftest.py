"""One finished run of the tiny configuration, shared by the tests of the workflow."""

import os
from pathlib import Path

import pytest
from filelock import FileLock
from running import TINY, snakemake


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """Directory of an undisturbed run of everything, made once for all workers of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # the workers' folders lie side by side there
    directory, failure = base / "tiny", base / "tiny.failed"
    with FileLock(base / "tiny.lock"):
        if failure.exists():
            pytest.fail(failure.read_text(), pytrace=False)
        if not directory.exists():
            directory.mkdir()
            done = snakemake(directory, "--configfile", str(TINY))
            if done.returncode:
                failure.write_text(done.stdout[-3000:] + done.stderr[-6000:])
                pytest.fail(failure.read_text(), pytrace=False)
    return directory
