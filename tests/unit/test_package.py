"""The distributions: both are built, and the wheel works in an empty environment without a checkout."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from finished import output
from stages import SPLIT

from flag_st import __version__

(TEST,) = SPLIT["test"]
#: What is beside the project's files in a folder where one works.
BESIDE = shutil.ignore_patterns(".*_cache", ".git", ".venv", ".snakemake", "__pycache__", "results")


@pytest.fixture(scope="module")
def distributions(root, tmp_path_factory) -> Path:
    """The source distribution, and the wheel that is built from it."""
    tree, made = tmp_path_factory.mktemp("tree") / "flag-st", tmp_path_factory.mktemp("dist")
    shutil.copytree(root, tree, ignore=BESIDE)
    (tree / "results").mkdir()
    shutil.copy(root / "results" / "README.md", tree / "results")
    # Without isolation nothing is downloaded: setuptools is that of this environment.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(made), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return made


@pytest.fixture(scope="module")
def installed(distributions, tmp_path_factory) -> Path:
    """An environment of the wheel alone; the packages that it depends on are those of this one."""
    place = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(place, symlinks=True)
    (wheel,) = distributions.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(place / "bin" / "python"), "install"]
    words = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check", str(wheel)]
    # Where PYTHONPATH names this checkout, pip would take it for an installation.
    bare = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([*pip, *words], capture_output=True, text=True, env=bare)
    assert done.returncode == 0, done.stderr
    (packages,) = place.glob("lib/python*/site-packages")
    # A line in a .pth file adds a folder without following the .pth files in it, so that no
    # editable installation of the project is found.
    (packages / "dependencies.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    return place


@pytest.fixture
def flag_st(installed, tmp_path):
    """Runs the installed command in an empty folder."""

    def run(*words: str | Path) -> subprocess.CompletedProcess:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        command = [installed / "bin" / "flag-st", *words]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    return run


def test_the_version_is_written_once(root, distributions):
    names = sorted(path.name for path in distributions.iterdir())
    assert names == [f"flag_st-{__version__}-py3-none-any.whl", f"flag_st-{__version__}.tar.gz"]
    assert f"version: {__version__}\n" in (root / "CITATION.cff").read_text(encoding="utf-8")
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]


def test_the_source_distribution_is_a_checkout(root, distributions):
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as file:
        top = f"flag_st-{__version__}/"
        names = {name.removeprefix(top) for name in file.getnames()}
    git = ["git", "-C", str(root), "ls-files"]
    listed = subprocess.run(git, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this folder is no checkout")
    # What serves only whoever works on the repository itself.
    own = (".ci/", ".github/", ".dockerignore", ".gitignore")
    tracked = {name for name in listed.stdout.splitlines() if not name.startswith(own)}
    assert sorted(name for name in tracked - names if (root / name).exists()) == []


def test_the_wheel_has_every_file_of_the_package(root, distributions):
    package = root / "src"
    wanted = {p.relative_to(package).as_posix() for p in package.rglob("flag_st/**/*.*")}
    wanted = {name for name in wanted if "__pycache__" not in name}
    assert {Path(name).suffix for name in wanted} == {".py", ".css", ".jinja", ".js"}
    names = zipfile.ZipFile(next(distributions.glob("*.whl"))).namelist()
    assert wanted <= set(names)


def test_results_of_the_wheel_name_no_commit_of_a_repository_around_it(installed):
    git = ["git", "-C", str(installed.parent), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "-m", "theirs"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    code = "import flag_st.core.provenance as p; print(p.__file__, p.commit())"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    python = [installed / "bin" / "python", "-c", code]
    found = subprocess.run(python, env=environment, cwd="/", capture_output=True, text=True)
    assert found.stdout.startswith(str(installed)), found.stderr
    assert found.stdout.endswith("{'commit': None, 'dirty': None}\n")


def test_the_wheel_finds_the_slide_sheets(root, installed):
    code = (
        "from flag_st.sources.her2st_github import Her2stOpen; from flag_st.sources.hest import Hest;"
        "print(Her2stOpen().sheet, *(row.id for row in Hest('config/cohorts/prad.tsv').slides()))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    python = [installed / "bin" / "python", "-c", code]
    done = subprocess.run(python, env=environment, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sheet, *slides = done.stdout.split()
    assert sheet == str(installed / "share/flag-st/config/cohorts/her2st.tsv")
    lines = (root / "config/cohorts/prad.tsv").read_text(encoding="utf-8").splitlines()
    assert slides == [line.split("\t")[0] for line in lines[1:]]


def test_the_wheel_scores(flag_st, folder, run):
    truth = folder / output("prepare_slide", "spots", slide=TEST)
    prediction = run / f"predictions/{TEST}.h5ad"
    done = flag_st("score", truth, prediction, "--json", "--metrics", "pcc", "crps")
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    assert np.isfinite([scores["pcc"]["point"], scores["crps"]["ensemble"]]).all()


def test_the_wheel_shows_a_model_and_predicts_a_slide(flag_st, folder, model, tmp_path):
    done = flag_st("show", model)
    assert done.returncode == 0, done.stderr
    assert f"flag-st {__version__}" in done.stdout
    assert flag_st("predict", "--help").stdout.startswith("usage: flag-st predict")
    image = folder / f"results/tiny/data/raw/wsis/{TEST}.tif"
    done = flag_st("predict", image, "--model", model, "-o", "out", "--force")
    assert done.returncode == 0, done.stderr
    made = {path.suffix for path in (tmp_path / "out" / TEST).iterdir()}
    assert {".h5ad", ".html", ".geojson"} <= made
    assert (tmp_path / "out" / "explorer.html").is_file()


def test_the_wheel_describes_methods(flag_st):
    done = flag_st("describe", "flag", "--genes", "20", "--features", "16")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["check", "downloads", "plan", "benchmark", "crate"])
def test_commands_that_need_a_checkout_say_so(flag_st, command):
    done = flag_st(command)
    assert done.returncode == 1
    assert f"flag-st {command} reads the workflow of flag-st" in done.stderr
    assert "Remedy: clone flag-st" in done.stderr
