"""Profiles and container recipes: what they name exists, and they tell one story."""

import re
import tomllib

import pytest
import yaml

from flag_st.planning.rules import RULES

PROFILES = ("default", "slurm", "conda")


@pytest.fixture
def profile(root):
    def read(name):
        return yaml.safe_load((root / "profiles" / name / "profile.yaml").read_text())

    return read


@pytest.mark.parametrize("name", PROFILES)
def test_every_key_is_an_option(profile, name):
    from snakemake.cli import get_argument_parser

    known = {option.lstrip("-") for option in get_argument_parser()._option_string_actions}
    own = {key for key in profile(name) if not key.startswith("slurm-")}
    assert own <= known


def test_every_slurm_key_is_a_setting_of_the_pinned_plugin(profile, root):
    from importlib.metadata import version

    import snakemake_executor_plugin_slurm as plugin

    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    for pin in project["optional-dependencies"]["slurm"]:
        name, pinned = pin.split("==")
        assert version(name) == pinned
    known = plugin.ExecutorSettings.__dataclass_fields__
    for key in profile("slurm"):
        if key.startswith("slurm-"):
            assert key.removeprefix("slurm-").replace("-", "_") in known


def test_slurm_keeps_what_the_default_says(profile):
    """Given by name, a workflow profile replaces the default one; but a cluster has its own GPUs."""
    default, slurm = profile("default"), profile("slurm")
    own = {"resources", "nolock", "preemptible-rules", "preemptible-retries", "default-resources"}
    for key in set(default) - own:
        assert slurm[key] == default[key], key
    assert "resources" not in slurm
    assert slurm["retries"] >= 1
    grown = {k: f"{v} * attempt" if v else 0 for k, v in default["default-resources"].items()}
    assert slurm["default-resources"] == grown


def test_groups_are_of_cpu_rules_that_exist(profile):
    slurm = profile("slurm")
    assert set(slurm["groups"]) <= set(RULES)
    assert set(slurm["groups"].values()) == set(slurm["group-components"])
    for name in slurm["groups"]:  # GPUs of a group would add up
        assert RULES[name].gpu == 0
        assert RULES[name].entry is None


def test_retries_are_of_the_profile_and_never_of_a_rule(root):
    for file in (root / "workflow" / "rules").glob("*.smk"):
        assert not re.search(r"^ +retries:", file.read_text(), re.M), file.name


def test_partitions_have_one_for_gpus(root):
    found = yaml.safe_load((root / "profiles/slurm/partitions.yaml").read_text())["partitions"]
    assert sum(limits.get("max_gpu", 0) > 0 for limits in found.values()) == 1


def test_three_lines_are_marked_for_the_user(root):
    folder = root / "profiles" / "slurm"
    text = (folder / "profile.yaml").read_text() + (folder / "partitions.yaml").read_text()
    for number in "123":
        assert re.search(rf"^ +.*# {number}\. ", text, re.M), number


def test_container_recipes_are_one(root):
    docker, apptainer = ((root / n).read_text() for n in ("Dockerfile", "apptainer.def"))
    image = re.search(r"^FROM (\S+)$", docker, re.M)[1]
    assert re.search(rf"^From: {re.escape(image)}$", apptainer, re.M)
    project = (root / "pyproject.toml").read_text()
    low, high = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', project).groups()
    assert int(low) <= int(re.search(r"python:3\.(\d+)", image)[1]) < int(high)
    for text in (docker, apptainer):
        assert "-c /opt/flag-st/constraints.txt -e /opt/flag-st" in text
        assert "snakemake" in text
        assert "/opt/flag-st/Snakefile" in text
