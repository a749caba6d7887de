"""Which jobs run again after a change of the code: exactly those whose results it may change."""

import re
import shutil
import subprocess

import pytest
from running import ROOT, TINY, command

#: What follows from new features of the test and training slides.
AFTER_FEATURES = {
    "train",
    "calibrate",
    "predict",
    "evaluate",
    "collect_scores",
    "collect_runs",
    "table",
}
AFTER_FEATURES |= {"figure", "explorer", "report"}
NEW_MESSAGE = ("src/flag_st/core/errors.py", '"Remedy: "', '"What to do: "')
NEW_DOCSTRING = ("src/flag_st/data/slide.py", '"""Join the files of one slide', '"""Read one slide')
NEW_DOWNLOADS = ("src/flag_st/transfer/hub.py", "LISTED_AT_ONCE = 100", "LISTED_AT_ONCE = 50")
NEW_FIGURE = ("scripts/figures/gene_maps.py", "style.use()", "style.use()\n    parts = []")
NEW_ENCODER = ("src/flag_st/encoders/texture.py", "value > 0.82", "value > 0.80")


@pytest.fixture
def tree(tmp_path):
    """A copy of everything that the workflow consists of."""
    for name in ("Snakefile", "workflow", "config", "envs", "profiles", "scripts", "src"):
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("edits", "rules"),
    [
        ([NEW_MESSAGE, NEW_DOCSTRING, NEW_DOWNLOADS], {}),
        ([NEW_FIGURE], {"figure": 1, "report": 1}),
        ([NEW_ENCODER], {"encode_patches": 3, **dict.fromkeys(AFTER_FEATURES, None)}),
    ],
    ids=["message, docstring and downloads", "figure", "encoder"],
)
def test_only_what_a_change_may_alter_runs_again(tiny_run, tree, edits, rules):
    """The finished run is planned again by an edited copy of the workflow.

    Args:
        rules: the rules that have to run again, and how often (None for any number).
    """
    for file, old, new in edits:
        text = (tree / file).read_text(encoding="utf-8")
        assert old in text, f"{file} has no {old}"
        (tree / file).write_text(text.replace(old, new), encoding="utf-8")
    words = command(tiny_run, "--configfile", str(TINY), "--rerun-triggers", "params", "-n")
    words = [word.replace(f"{ROOT}/Snakefile", f"{tree}/Snakefile") for word in words]
    done = subprocess.run([*words, "--quiet", "rules"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    table = re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.M)
    found = {name: int(count) for name, count in table if name not in ("all", "total")}
    assert set(found) == set(rules)
    assert {name: found[name] for name, count in rules.items() if count} == {
        name: count for name, count in rules.items() if count
    }
