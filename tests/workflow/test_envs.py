"""Environments, pins, rules and the table of rules agree."""

import re
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import ROOT, TINY

from flag_st.core import code
from flag_st.planning import config
from flag_st.planning.grid import Plan
from flag_st.planning.rules import RULES

#: conda's name → the name on the Python index.
ALIAS = {
    "pytorch": "torch",
    "pytorch_geometric": "torch_geometric",
    "python-igraph": "igraph",
}
#: What ``flag_st.core`` needs in any job: it checks and writes the files of all of them.
PLUMBING = {"h5py", "pyarrow", "anndata"}
ENVS = sorted((ROOT / "envs").glob("*.yaml"))
#: Those of official packages, which bring versions of their own: entries with `backend: package` name them.
OFFICIAL = {
    entry["env"]
    for entry in config.load()["gene_models"].values()
    if entry.get("params", {}).get("backend") == "package"
}


def key(name: str) -> str:
    return name.lower().replace("_", "-")


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if "==" in line]
    return {key(name): version for name, version in pairs}


@pytest.mark.parametrize("env", sorted(OFFICIAL))
def test_environment_of_an_official_package_pins_everything(env):
    """The package and all that it was compared with, by exact version or commit."""
    spec = yaml.safe_load((ROOT / "envs" / f"{env}.yaml").read_text())
    assert spec["channels"] == ["conda-forge", "nodefaults"]
    *conda, pip = spec["dependencies"]
    assert conda == ["python=3.11", "pip"]
    names = []
    for line in pip["pip"]:
        match = re.fullmatch(
            r"([A-Za-z0-9_-]+)(==[0-9][\w.]*| @ git\+https://\S+@[0-9a-f]{40})", line
        )
        assert match, line
        names.append(key(match[1]))
    assert len(set(names)) == len(names)
    more = (
        ROOT / "envs" / f"{env}.post-deploy.sh"
    )  # run by Snakemake once it has made the environment
    if more.exists():
        names += re.findall(r"pip install --no-deps (\w+)==[0-9][\w.]*\n", more.read_text())
    assert env in names


@pytest.mark.parametrize("env", sorted(OFFICIAL))
def test_an_official_package_runs_in_its_own_environment(env):
    for rule in ("fit_gene_model", "embed_genes"):
        named = {
            name: RULES[rule].environment(config.load(), {"gene_model": name})
            for name in (env, f"{env}_package")
        }
        assert named == {env: "torch", f"{env}_package": env}


@pytest.mark.parametrize(
    "env", [e for e in ENVS if e.stem not in OFFICIAL], ids=lambda path: path.stem
)
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
    for target in ("all", "predict_slides"):  # these ask for files and make none
        assert rules.pop(target).is_run is False
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


#: (environment, package) → why modules that its rules import may name a package that it lacks.
ELSEWHERE = {
    (env, "scanpy"): "highly variable genes are found by select_panel alone"
    for env in ("torch", "predict")
}


def sources() -> Iterator[tuple[str, list[str | Path]]]:
    """Environment, script and plug-in of every job that the shipped configuration can have."""
    found = config.load()
    for name, row in RULES.items():
        scripts = [ROOT / "scripts" / f"{name}.py"]
        if not scripts[0].exists():  # tables and figures have one script per item
            scripts = sorted((ROOT / "scripts" / f"{name}s").glob("*.py"))
        layer = {"retrieve": "cohorts"}.get(name) or (row.entry and row.entry.layer)
        if layer:
            for entry in found[layer].values():
                yield entry.get("env", row.env), [*scripts, *used(entry)]
        elif name.startswith("evaluate"):
            metrics = Plan(found).metrics(downstream=name != "evaluate")
            yield row.env, [*scripts, *(found["metrics"][metric]["use"] for metric in metrics)]
        elif name == "predict_slide":  # whatever method and encoder a model was exported with
            entries = [*found["encoders"].values(), *found["methods"].values()]
            yield row.env, [*scripts, *(use for entry in entries for use in used(entry))]
        else:
            yield row.env, scripts


def used(entry: Any) -> list[str]:
    """The classes that an entry and its params name."""
    if not isinstance(entry, dict):
        return [use for value in entry for use in used(value)] if isinstance(entry, list) else []
    own = [entry["use"]] if isinstance(entry.get("use"), str) else []
    return own + [use for value in entry.values() for use in used(value)]


def imports(sources: list[str | Path]) -> set[str]:
    """Packages that sources and what they import of the project import, apart from the plumbing."""
    todo, seen, found = [code.locate(source) for source in sources], set(), set()
    while todo:
        path = todo.pop()
        if path is None or path in seen or path.is_relative_to(ROOT / "src/flag_st/core"):
            continue
        seen.add(path)
        names = code.imports_of(path)
        todo += [code.locate(name) for name in names]
        found |= {name.split(".")[0] for name in names}
    owners = packages_distributions()
    return {key(owners[name][0]) for name in found if name in owners} - {"flag-st"}


def test_every_environment_has_what_its_jobs_import_and_nothing_else():
    given: dict[str, list[str | Path]] = {}
    for env, found in sources():
        given.setdefault(env, []).extend(found)
    needed = {env: imports(found) for env, found in given.items()}
    page = (ROOT / "docs" / "dependencies.md").read_text()
    runtime = set(re.findall(r"^\| `([a-z-]+)` \|", page.partition("not imported\n")[2], re.M))
    for env in (env for env in ENVS if env.stem not in OFFICIAL):
        lines = yaml.safe_load(env.read_text())["dependencies"]
        have = {key(ALIAS.get(n, n)) for n in (line.partition("=")[0] for line in lines)}
        lacks = needed[env.stem] - have - {p for e, p in ELSEWHERE if e == env.stem}
        assert not lacks, f"{env.name} lacks {', '.join(sorted(lacks))}"
        more = have - needed[env.stem] - runtime - PLUMBING - {"python"}
        assert not more, f"nothing needs {', '.join(sorted(more))} of {env.name}"


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
