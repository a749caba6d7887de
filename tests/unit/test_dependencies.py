"""What the repository imports, what pyproject.toml declares and what docs/dependencies.md says agree."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

from flag_st.core.code import imported

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
#: These import what authors published, from a checkout that whoever runs them names.
AUTHORS = ROOT / "tests" / "golden" / "upstream"
#: Where code for users is, and where code for developers is.
SHIPPED, DEVELOPED = ("src", "scripts", "examples"), ("tests", "docs")


def key(name: str) -> str:
    return name.lower().replace("_", "-")


def declared() -> dict[str, set[str]]:
    """Packages by the part of pyproject.toml that declares them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    parts = {"": project["dependencies"], **project["optional-dependencies"]}
    names = {
        part: {key(re.match(r"[A-Za-z0-9_-]+", line)[0]) for line in lines}
        for part, lines in parts.items()
    }
    return {part: found - {"flag-st"} for part, found in names.items()}


def modules(folders: tuple[str, ...]) -> set[str]:
    """Top-level names of everything that Python files and the workflow import, except our own."""
    files = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    texts = [path.read_text() for path in files if path.parent != AUTHORS]
    own = {"flag_st", *(path.stem for path in (ROOT / "tests").glob("*.py"))}
    own |= {path.parent.name for path in (ROOT / "tests").glob("*/__init__.py")}
    found = {name.split(".")[0] for text in texts for name in imported(ast.parse(text))}
    if "src" in folders:  # files of Snakemake are no Python, so that only their lines are read
        workflow = ROOT / "workflow"
        for path in (workflow / "Snakefile", *workflow.rglob("*.smk")):
            found |= set(re.findall(r"^(?:from|import) (\w+)", path.read_text(), re.M))
    return found - own - sys.stdlib_module_names


@cache
def packages_of() -> dict[str, set[str]]:
    """Name in an import → the installed packages that have it."""
    return {name: set(map(key, found)) for name, found in packages_distributions().items()}


def packages(folders: tuple[str, ...]) -> set[str]:
    """The packages that are imported; of several that share a name, the declared ones."""
    known = set().union(*declared().values())
    found = set()
    for name in modules(folders):
        assert name in packages_of(), f"{name} is imported, and no installed package has it"
        owners = packages_of()[name]
        found |= owners & known or owners
    return found


def rows(heading: str = "") -> list[str]:
    """Packages in the first column of the tables of one section of the page, or of the whole page."""
    part = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0] if heading else PAGE
    return [key(name) for name in re.findall(r"^\| `([A-Za-z0-9_-]+)` \|", part, re.M)]


def test_what_is_imported_is_declared():
    parts = declared()
    assert packages(SHIPPED) <= parts[""]
    assert packages(DEVELOPED) <= set().union(*parts.values())


def test_what_is_declared_is_imported_or_the_page_says_why():
    exceptions = rows("Needed, but not imported")
    assert len(exceptions) > 5
    parts = declared()
    # What only tests import is no dependency of users.
    unused = parts.pop("") - packages(SHIPPED)
    unused |= set().union(*parts.values()) - packages(SHIPPED + DEVELOPED)
    assert unused == set(exceptions)


def test_the_page_has_one_row_for_each_declared_package():
    assert sorted(rows()) == sorted(set().union(*declared().values()))


def test_files_that_the_page_names_exist():
    named = re.findall(r"`((?:[a-z_]+/)*[a-z_0-9]+\.py|(?:[a-z_]+/)+)`", PAGE)
    assert len(named) > 30
    places = (ROOT, ROOT / "src/flag_st", ROOT / "tests", ROOT / "src/flag_st/paper/figures")
    missing = [name for name in named if not any((place / name).exists() for place in places)]
    assert not missing
