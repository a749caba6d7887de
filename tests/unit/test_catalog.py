"""What the Snakemake workflow catalog asks of a repository with standardized usage."""

import re

import yaml


def test_the_workflow_is_where_the_catalog_looks(root):
    assert (root / "workflow" / "Snakefile").is_file()
    assert (root / "config" / "README.md").is_file()
    rules = list((root / "workflow" / "rules").iterdir())
    assert rules
    assert {path.suffix for path in rules} == {".smk"}


def test_the_readme_is_found(root):
    """The catalog's search wants both words."""
    text = (root / "README.md").read_text(encoding="utf-8").lower()
    assert re.search(r"\bsnakemake\b", text)
    assert re.search(r"\bworkflow\b", text)


def test_the_settings_are_those_that_the_catalog_reads(root):
    text = (root / ".snakemake-workflow-catalog.yml").read_text(encoding="utf-8")
    (usage,) = yaml.safe_load(text).values()
    assert set(usage) == {"mandatory-flags", "software-stack-deployment"}
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    deployment = usage["software-stack-deployment"]
    assert set(deployment) == {"conda", "apptainer", "apptainer+conda", "report"}
    workflow = "".join(path.read_text() for path in (root / "workflow").rglob("*.smk"))
    main = (root / "workflow" / "Snakefile").read_text()
    # Every rule names an environment (tests/workflow/test_envs.py), none a container.
    assert deployment["conda"] == ("conda:" in workflow)
    assert deployment["apptainer"] == bool(re.search(r"^ *container:", workflow + main, re.M))
    assert deployment["report"] == bool(re.search(r"^report:", main, re.M))
