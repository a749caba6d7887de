"""Another workflow uses this one as a module, from a clone and with a configuration of its own."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from running import ROOT, TINY

SNAKEFILE = """
configfile: "config.yaml"


module flag_st:
    snakefile:
        "flag-st/workflow/Snakefile"
    config:
        config["expression"]


use rule * from flag_st{renamed}


rule summarise:
    default_target: True
    input:
        rules.{prefix}report.output.page,
    output:
        "summary.txt",
    shell:
        "cp {{input}} {{output}}"
"""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """A workflow with a clone of this one, in its present state, beside its own Snakefile."""
    folder = tmp_path_factory.mktemp("theirs")
    clone = folder / "flag-st"
    command = ["git", "clone", "--quiet", "--no-checkout", str(ROOT), str(clone)]
    if subprocess.run(command, capture_output=True).returncode:
        clone.mkdir()  # the project lies here without its repository
    for name in ("workflow", "config", "envs", "scripts", "src"):
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(ROOT / name, clone / name, ignore=ignored)
    own = "".join(f"  {line}\n" for line in TINY.read_text().splitlines())
    own = own.replace("results: results", "results: results/expression")
    (folder / "config.yaml").write_text(f"expression:\n{own}")
    (folder / ".snakemake").mkdir()  # the digests of the code are kept there for the second plan
    return folder


@pytest.mark.parametrize("prefix", ["", "flag_st_"])
def test_a_module_plans_its_own_configuration(theirs, prefix):
    text = SNAKEFILE.format(prefix=prefix, renamed=f" as {prefix}*" if prefix else "")
    (theirs / "Snakefile").write_text(text)
    command = [sys.executable, "-m", "snakemake", "-n", "--cores", "2", "--quiet", "rules"]
    # The package is the clone's, whatever the path of this process says.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, cwd=theirs, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.M))
    assert jobs["summarise"] == "1"
    assert jobs[f"{prefix}retrieve"] == "3"
    assert jobs[f"{prefix}report"] == "1"
    assert f"{prefix}all" not in jobs
