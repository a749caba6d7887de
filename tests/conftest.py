"""Shared by all tests: no network, one thread a process, and where the real sections are."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
#: Numbers of threads, as they were. Scripts that a test runs in this process set those of their job.
THREADS = {
    name: os.environ.get(name)
    for name in (f"{library}_NUM_THREADS" for library in ("OMP", "OPENBLAS", "MKL", "NUMBA"))
}

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def threads_as_they_were():
    """What a script set in a test or its fixtures does not reach the next test."""
    restore_threads()
    yield
    restore_threads()


def restore_threads() -> None:
    for name, value in THREADS.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def her2st() -> Path:
    """Real HER2ST sections in HEST-1k layout, where a machine has them."""
    return real_sections("her2st", "st/A1.h5ad")


@pytest.fixture(scope="session")
def mob() -> Path:
    """Real sections of the mouse olfactory bulb as their lab left them, where a machine has them."""
    return real_sections("mob", "alignment_table_MOB1.tsv")


def real_sections(name: str, file: str) -> Path:
    """The folder of a real cohort; a test that needs it is skipped where it is not."""
    variable = f"FLAG_ST_{name.upper()}"
    given = Path(os.environ.get(variable, ROOT.parent / "shared" / "data" / name))
    if not (given / file).is_file():
        pytest.skip(f"real sections are not at {given}: set {variable}")
    return given


#: Marker → what its tests do. They are left out unless the marker is asked for.
LONG = {
    "slurm": "starts a SLURM; run by `pytest -m slurm tests/cluster`",
    "kills": "kills the demo a hundred times; run by `pytest -m kills tests/workflow`",
}


def pytest_configure(config):
    for marker, what in LONG.items():
        config.addinivalue_line("markers", f"{marker}: {what}")


def pytest_collection_modifyitems(config, items):
    asked = {marker for marker in LONG if marker in config.option.markexpr}
    out = [i for i in items if any(i.get_closest_marker(m) for m in LONG.keys() - asked)]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in out]
