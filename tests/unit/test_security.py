"""Nothing that reads a file may run what the file says: no such call stands anywhere in the code."""

import ast
import re

import pytest

#: Calls that execute what they read, by their last names; with what makes them safe, if anything.
REFUSED = {
    "pickle.load": None,
    "pickle.loads": None,
    "pickle.Unpickler": None,
    "cPickle.load": None,
    "dill.load": None,
    "cloudpickle.load": None,
    "joblib.load": None,
    "shelve.open": None,
    "marshal.loads": None,
    "pandas.read_pickle": None,
    "pd.read_pickle": None,
    "torch.load": ("weights_only", True),
    "torch.hub.load": None,
    "yaml.load": None,
    "yaml.unsafe_load": None,
    "yaml.full_load": None,
    "os.system": None,
    "os.popen": None,
    "eval": None,
    "exec": None,
    "shutil.unpack_archive": None,
}
#: Arguments that no call may have, and methods that are safe with one argument alone.
ARGUMENTS = {"shell": True, "allow_pickle": True, "trust_remote_code": True}
METHODS = {"extractall": ("filter", "data")}
#: The same in what is no Python: rules.
TEXT = re.compile(
    r"pickle\.loads?\(|torch\.load\(|yaml\.(?:unsafe_|full_)?load\(|shell=True|os\.system\(|"
    r"allow_pickle=True|\beval\(|\bexec\("
)


def findings(source: str) -> list[str]:
    """Lines of Python that call what is refused."""
    tree, found = ast.parse(source), []
    renamed = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    } | {
        alias.asname: alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.asname
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        first, *rest = ast.unparse(node.func).split(".")
        name = ".".join([renamed.get(first, first), *rest])
        given = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
        safe = REFUSED.get(name, METHODS.get(rest[-1] if rest else "", ()))
        wrong = safe is None or (safe and given.get(safe[0]) != safe[1])
        wrong = wrong or any(given.get(key) is value for key, value in ARGUMENTS.items())
        if wrong:
            found.append(f"line {node.lineno}: {ast.unparse(node)[:80]}")
    return found


def test_nothing_in_the_code_runs_what_it_reads(root):
    files = [p for folder in ("src", "scripts", "workflow") for p in (root / folder).rglob("*.py")]
    assert len(files) > 100
    found = {str(p): lines for p in files if (lines := findings(p.read_text(encoding="utf-8")))}
    assert found == {}


def test_nor_do_the_rules(root):
    files = [root / "workflow" / "Snakefile", *(root / "workflow").rglob("*.smk")]
    assert len(files) > 5
    found = {str(p): TEXT.findall(p.read_text(encoding="utf-8")) for p in files}
    assert not any(found.values()), found


@pytest.mark.parametrize(
    "source",
    [
        "import pickle; pickle.load(f)",
        "from pickle import loads; loads(b)",
        "import pickle as p; p.Unpickler(f)",
        "import torch; torch.load(path)",
        "import torch; torch.load(path, weights_only=False)",
        "from torch import load as get; get(path)",
        "import yaml; yaml.load(text, Loader=yaml.Loader)",
        "import subprocess; subprocess.run('ls', shell=True)",
        "import numpy as np; np.load(path, allow_pickle=True)",
        "import os; os.system('ls')",
        "archive.extractall(place)",
        "eval(text)",
    ],
)
def test_the_search_finds(source):
    assert len(findings(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import torch; torch.load(path, weights_only=True, mmap=True)",
        "import yaml; yaml.safe_load(text)",
        "import subprocess; subprocess.run(['ls'])",
        "archive.extractall(place, filter='data')",
        "model.eval()",
    ],
)
def test_the_search_leaves_what_is_safe(source):
    assert findings(source) == []
