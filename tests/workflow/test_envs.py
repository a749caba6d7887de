"""Environments, pins and rules tell one story."""

import re

import pytest
import yaml
from running import ROOT

#: conda's name → the name on the Python index.
ALIAS = {"pytorch": "torch", "python-igraph": "igraph"}
ENVS = sorted((ROOT / "envs").glob("*.yaml"))
RULES = sorted((ROOT / "workflow" / "rules").glob("*.smk"))


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


def test_every_rule_has_environment_log_benchmark_and_its_script():
    for file in RULES:
        for name, body in re.findall(
            r"^rule (\w+):\n(.*?)(?=^rule |\Z)", file.read_text(), re.M | re.S
        ):
            for part in ("conda:", "log:", "benchmark:", "script:", "params:"):
                assert part in body, f"{name} lacks {part}"
            script = re.search(r'"\.\./\.\./(scripts/[^"]+)"', body)[1]
            if "{" not in script:
                assert script == f"scripts/{name}.py"
                assert (ROOT / script).exists()


def test_no_environment_is_an_orphan():
    text = "\n".join(p.read_text() for p in [*RULES, *(ROOT / "config").glob("*.yaml")])
    for env in ENVS:
        used = rf'envs/{env.stem}\.yaml|env: {env.stem}\b|, "{env.stem}"\)'
        assert re.search(used, text), env.stem


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
