"""Environments, pins, rules and the table of rules agree."""

import re
from pathlib import Path

import pytest
import yaml
from running import ROOT, TINY

from flag_st.planning import config
from flag_st.planning.rules import RULES

#: conda's name → the name on the Python index.
ALIAS = {
    "pytorch": "torch",
    "pytorch_geometric": "torch_geometric",
    "python-igraph": "igraph",
}
ENVS = sorted((ROOT / "envs").glob("*.yaml"))


def key(name: str) -> str:
    return name.lower().replace("_", "-")


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if "==" in line]
    return {key(name): version for name, version in pairs}


@pytest.mark.parametrize("env", ENVS, ids=lambda p: p.stem)
def test_environment_agrees_with_the_pins(env):
    spec = yaml.safe_load(env.read_text())
    assert spec["channels"] == ["conda-forge", "nodefaults"]
    known = pins()
    for dependency in spec["dependencies"]:
        match = re.fullmatch(r"([a-z0-9_-]+)(?:=([0-9][0-9.]*))?", dependency)
        assert match, dependency
        name, version = key(ALIAS.get(match[1], match[1])), match[2]
        if name == "python":
            assert version == "3.11"
            continue
        assert name in known, f"{dependency} is not pinned in constraints.txt"
        if version:
            assert f"{known[name]}.".startswith(f"{version}."), f"{dependency}: {known[name]}"


@pytest.fixture(scope="module")
def parsed() -> dict:
    """The rules of the workflow as Snakemake understands them, by name; nothing is planned."""
    from snakemake.api import SnakemakeApi
    from snakemake.settings.enums import Quietness
    from snakemake.settings.types import ConfigSettings, OutputSettings, ResourceSettings

    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        given = ConfigSettings(configfiles=[TINY])
        resources = ResourceSettings(cores=1)
        workflow = api.workflow(resources, config_settings=given, snakefile=ROOT / "Snakefile")
        rules = {rule.name: rule for rule in workflow._workflow.rules}
    assert rules.pop("all").is_run is False
    return rules


def plain(pattern: object) -> str:
    """A path of Snakemake without the constraints of its wildcards."""
    return re.sub(r"\{(\w+),[^}]*\}", r"{\1}", str(pattern))


def test_the_table_has_the_rules_of_the_workflow(parsed):
    assert set(parsed) == set(RULES)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_made_of_its_own_row_and_its_own_script(name, parsed):
    rule, row = parsed[name], RULES[name]
    outputs = {key: plain(path) for key, path in rule.output.items()}
    assert outputs == {key: f"results/{path}" for key, path in row.outputs.items()}
    assert [plain(path) for path in rule.log] == [f"results/{row.log}"]
    assert plain(rule.benchmark) == f"results/{row.benchmark}"
    assert set(rule.wildcard_names) == set(row.wildcards)
    assert rule.params
    if "{" not in rule.script:
        assert Path(rule.script).name == f"{name}.py"
        assert (ROOT / "scripts" / f"{name}.py").exists()
    if row.entry is None:
        assert Path(str(rule.conda_env)) == ROOT / "envs" / f"{row.env}.yaml"
        assert rule.resources["_cores"].value == row.threads
        assert rule.resources["gpu"].value == row.gpu
        for key in ("mem_mb", "runtime"):  # each try asks for more
            assert rule.resources[key].evaluate({}, attempt=2).value == 2 * getattr(row, key)
    else:
        assert callable(rule.conda_env)


def test_environments_are_those_that_rules_and_entries_name():
    found = config.load()
    named = {row.env for row in RULES.values()}
    for layer in {row.entry.layer for row in RULES.values() if row.entry}:
        named |= {entry["env"] for entry in found[layer].values() if "env" in entry}
    assert named == {env.stem for env in ENVS}


def test_dependencies_are_pinned_once():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    known = pins()
    for line in project["dependencies"] + extras:
        if line.startswith("flag-st["):
            continue
        assert key(re.match(r"[A-Za-z0-9_-]+", line)[0]) in known, line


def test_scripts_are_thin():
    for script in (ROOT / "scripts").rglob("*.py"):
        lines = script.read_text().splitlines()
        assert len(lines) <= 55, f"{script.name} has {len(lines)} lines"
        assert lines[0].startswith('"""'), script.name
