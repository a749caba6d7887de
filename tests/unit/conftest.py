"""A finished run and the model that is exported from it, for tests of whatever comes after a run."""

import pytest
from finished import make_data, make_run

from flag_st.exported.export import export


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of a tiny cohort. Each test module has its own, because some tests spoil files in it."""
    folder = tmp_path_factory.mktemp("finished")
    make_data(folder)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    return make_run(folder, "noisy")


@pytest.fixture(scope="module")
def model(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model.flag"
    export(run, path)
    return path
