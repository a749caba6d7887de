"""Digests of code: what makes a job run again, and what does not."""

import shutil

import pytest

from flag_st.core import code


@pytest.fixture(autouse=True)
def fresh():
    """Nothing that another test parsed is known here, and nothing is left to the next one."""
    code.forget()
    yield
    code.forget()


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A copy of the project's code that may be edited; returns its root."""
    for folder in ("src", "scripts"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(code.ROOT / folder, tmp_path / folder, ignore=ignored)
    monkeypatch.setattr(code, "SRC", tmp_path / "src")
    monkeypatch.setattr(code, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{path} has no {old!r}"
    path.write_text(text.replace(old, new), encoding="utf-8")
    code.forget()


def test_behaviour_counts_and_nothing_else(tmp_path):
    script = tmp_path / "s.py"

    def digest(text):
        script.write_text(text)
        code.forget()
        return code.code_digest(script)

    base = digest('"""Doc."""\nfrom flag_st.data.splits import Split\nx = 1\n')
    same = '"""Other words."""\n\n# why\nfrom flag_st.data.splits import Split\nx = 1\n'
    assert digest(same) == base
    typed = "from typing import TYPE_CHECKING\nfrom flag_st.data.splits import Split\nx = 1\n"
    typing = "if TYPE_CHECKING:\n    from flag_st.nets.dit import GeneDiT\n"
    assert digest(typed + typing) == digest(typed)
    assert digest(typed + "if x:\n    from flag_st.nets.dit import GeneDiT\n") != digest(typed)
    assert digest('"""Doc."""\nfrom flag_st.data.splits import Split\nx = 2\n') != base
    assert digest('"""Doc."""\nfrom flag_st.data.panels import hmhvg\nx = 1\n') != base


def test_the_same_from_memory_and_with_a_broken_one(tmp_path, monkeypatch):
    """What is kept between starts of Snakemake saves time and changes nothing."""
    monkeypatch.chdir(tmp_path)
    train = code.ROOT / "scripts" / "train.py"

    def found():
        code.forget()
        return code.code_digest(train, "flag_st.methods.ridge.Ridge")

    fresh = found()
    assert not code.MEMORY.exists()  # Snakemake has no folder here
    code.MEMORY.parent.mkdir()
    assert [found(), found()] == [fresh, fresh]
    assert code.MEMORY.exists()
    code.MEMORY.write_text("{")
    assert found() == fresh


def test_imports_and_plugins_are_followed():
    train = code.ROOT / "scripts" / "train.py"
    ridge = code.code_digest(train, "flag_st.methods.ridge.Ridge")
    assert ridge != code.code_digest(train, "flag_st.methods.flag.Flag")
    assert code.locate("flag_st.nets.dit.GeneDiT") == code.SRC / "flag_st" / "nets" / "dit.py"
    assert code.locate("numpy.linalg") is None


def test_a_user_s_own_plugin_and_what_it_imports_count(tmp_path, monkeypatch):
    (tmp_path / "lab_tools.py").write_text("scale = 2\n")
    (tmp_path / "lab_method.py").write_text("from lab_tools import scale\nclass Mine: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = code.code_digest("lab_method.Mine")
    edit(tmp_path / "lab_tools.py", "2", "3")
    assert code.code_digest("lab_method.Mine") != before


def test_packages_that_are_installed_elsewhere_are_nobody_s_plugins(tmp_path, monkeypatch):
    """As those of a user or of a system, which an environment may borrow."""
    packages = tmp_path / "lib" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "lab_tools.py").write_text("scale = 2\n")
    (tmp_path / "lab_method.py").write_text("from lab_tools import scale\nclass Mine: pass\n")
    monkeypatch.syspath_prepend(packages)
    monkeypatch.syspath_prepend(tmp_path)
    before = code.code_digest("lab_method.Mine")
    edit(packages / "lab_tools.py", "2", "3")
    assert code.code_digest("lab_method.Mine") == before


def test_plumbing_does_not_count_but_its_version_does(tree, monkeypatch):
    train = tree / "scripts" / "train.py"
    before = code.code_digest(train)
    edit(tree / "src/flag_st/core/errors.py", "Remedy: ", "What to do: ")
    assert code.code_digest(train) == before
    monkeypatch.setattr(code, "PLUMBING", code.PLUMBING + 1)
    assert code.code_digest(train) != before
