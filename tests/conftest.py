"""Shared by all tests: no network, one thread a process, and where the real sections are."""

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def her2st() -> Path:
    """Real HER2ST sections in HEST-1k layout, where a machine has them."""
    given = os.environ.get("FLAG_ST_HER2ST", ROOT.parent / "shared" / "data" / "her2st")
    if not (Path(given) / "st").is_dir():
        pytest.skip(f"real sections are not at {given}: set FLAG_ST_HER2ST")
    return Path(given)


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
