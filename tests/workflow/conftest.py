"""One finished run of the tiny configuration, shared by the tests of the workflow."""

from pathlib import Path

import pytest
from running import TINY, snakemake


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """Directory of an undisturbed run of everything."""
    directory = tmp_path_factory.mktemp("tiny")
    done = snakemake(directory, "--configfile", str(TINY))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return directory
