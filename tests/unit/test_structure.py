"""The shape of the code: rooms, arrows between modules, and the length of functions."""

import ast
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from flag_st.core.code import ROOT, imported, locate

PACKAGE = ROOT / "src" / "flag_st"
MODULES = sorted(PACKAGE.rglob("*.py"))
#: Lines of the longest function, of the longest constructor, and of nine functions in ten.
LONGEST, CONSTRUCTOR, NINE_IN_TEN = 60, 40, 25


def test_the_package_s_root_holds_the_entry_module_alone():
    """Every other module lies in a room that says what it is for."""
    assert {p.name for p in PACKAGE.glob("*.py")} <= {"__init__.py", "__main__.py"}


def test_every_room_says_what_it_is_for():
    for room in {path.parent for path in MODULES}:
        text = (room / "__init__.py").read_text(encoding="utf-8")
        assert ast.get_docstring(ast.parse(text)), f"{room} has no docstring in __init__.py"


def arrows() -> dict[Path, set[Path]]:
    """Module → the modules of the project that it imports, inside functions and for types too."""
    found = {}
    for path in MODULES:
        names = imported(ast.parse(path.read_text(encoding="utf-8")))
        places = {locate(name) for name in names if name.startswith("flag_st.")}
        found[path] = {place for place in places if place is not None and place != path}
    return found


def circle(graph: dict[Path, set[Path]]) -> list[str]:
    """Some circle of arrows, as names of modules; empty if there is none."""
    done: set[Path] = set()

    def walk(path: Path, way: list[Path]) -> list[Path]:
        if path in way:
            return way[way.index(path) :]
        if path in done:
            return []
        for other in sorted(graph.get(path, ())):
            if found := walk(other, [*way, path]):
                return found
        done.add(path)
        return []

    for path in graph:
        if found := walk(path, []):
            return [str(p.relative_to(PACKAGE)) for p in found]
    return []


def test_a_circle_is_found():
    a, b, c = (PACKAGE / name for name in "abc")
    assert circle({a: {b}, b: {c}, c: {b}}) == ["b", "c"]
    assert circle({a: {b, c}, b: {c}, c: set()}) == []


def test_no_module_imports_itself_on_a_detour():
    assert circle(arrows()) == []


def functions() -> Iterator[tuple[str, int]]:
    """Name and length in lines of every function, with its signature and docstring."""
    for path in [*MODULES, *sorted((ROOT / "scripts").rglob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                yield f"{path.relative_to(ROOT)}: {node.name}", lines


def test_functions_are_short():
    found = list(functions())
    assert [name for name, lines in found if lines > LONGEST] == []
    starts = [(name, lines) for name, lines in found if name.endswith(": __init__")]
    assert [name for name, lines in starts if lines > CONSTRUCTOR] == []
    assert np.percentile([lines for _, lines in found], 90) <= NINE_IN_TEN
