"""Digests of code by content, for the planner: a job runs again when its behaviour may have changed.

A digest covers a script, the plug-ins that its job uses, and every module of the project that these
import, however deep. It ignores comments, layout, docstrings and imports that only type checkers
see. Plumbing is left out as well: ``flag_st.core`` carries out every job and is not supposed to change
a result, so a corrected message there must not train every model again, and downloads are verified
by checksum. Whoever does change a result there (a random stream, a file format) raises ``PLUMBING``.
"""

import ast
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import NamedTemporaryFile

from flag_st import __version__
from flag_st.core.errors import FlagError

SRC = Path(__file__).parents[2]
#: The checkout; of an installed wheel, the folder of the few files of a checkout that it brings.
ROOT = SRC.parent
IS_CHECKOUT = (ROOT / "workflow" / "Snakefile").is_file()
if not IS_CHECKOUT:
    ROOT = SRC.parents[2] / "share" / "flag-st"
#: The plumbing that digests leave out.
PLUMBING_PLACES = ("core", "transfer/hub.py", "transfer/store.py", "transfer/github.py")
#: Version of these in every digest. Raise it when a change in them alters results.
PLUMBING = 1
#: What earlier starts of Snakemake in this folder parsed: on a cluster, every job starts it twice. The
#: number is the version of the parser below, because another parser must not read these results.
MEMORY = Path(".snakemake") / "flag_st_code_2.json"


def need_checkout(what: str) -> None:
    """Say so if ``what``, a command, cannot do without a checkout.

    Raises:
        FlagError: the package was installed from a wheel.
    """
    if not IS_CHECKOUT:
        raise FlagError(
            f"{what} reads the workflow of flag-st, and the installed package has none",
            remedy=f"clone flag-st {__version__} and give the command there, after `make setup`",
        )


def code_digest(*sources: str | Path) -> str:
    """Digest of scripts or plug-ins together with every project module that they import.

    Args:
        sources: paths of ``.py`` files, or dotted names of modules or of classes in them. A name
            outside ``flag_st`` is looked up in the folders that ``PYTHONPATH`` adds.
    """
    return _digest(PLUMBING, sources)


@cache
def _digest(plumbing: int, sources: tuple[str | Path, ...]) -> str:
    # Cached, because thousands of jobs share a few scripts and entries.
    todo, seen = [locate(s) for s in sources], set()
    while todo:
        path = todo.pop()
        if path is not None and path not in seen and not _is_plumbing(path):
            seen.add(path)
            todo += [locate(name) for name in _parsed(path)[1]]
    _memory().keep()
    digests = sorted(f"{path.name}:{_parsed(path)[0]}" for path in seen)
    return hashlib.sha256("\n".join([f"core {plumbing}", *digests]).encode()).hexdigest()[:12]


def _is_plumbing(path: Path) -> bool:
    return any(path.is_relative_to(SRC / "flag_st" / place) for place in PLUMBING_PLACES)


@cache
def locate(source: str | Path) -> Path | None:
    """The file of a path or a dotted name (of a module, or of something in one), if it is ours."""
    if str(source).endswith(".py"):
        return Path(source)
    parts = str(source).split(".")
    folders = [SRC] if parts[0] == "flag_st" else _own_folders()
    for folder in folders:
        for end in range(len(parts), 0, -1):
            place = folder.joinpath(*parts[:end])
            if place.with_suffix(".py").is_file():
                return place.with_suffix(".py")
            # The top package is left out: nothing in it changes a number.
            if place != SRC / "flag_st" and (place / "__init__.py").is_file():
                return place / "__init__.py"
    return None


@cache
def _own_folders() -> tuple[Path, ...]:
    """Folders on Python's path that hold a user's own plug-ins: neither Python's nor installed.

    Packages may be installed outside this environment, too, as those of a system or of a user.
    """
    installed = {Path(p).resolve() for p in (sys.prefix, sys.base_prefix, sys.exec_prefix)}
    found = [Path(entry).resolve() for entry in sys.path if entry and Path(entry).is_dir()]
    own = [p for p in found if p != SRC and p.name not in ("site-packages", "dist-packages")]
    return tuple(p for p in own if not any(p.is_relative_to(i) for i in installed))


def imports_of(path: Path) -> tuple[str, ...]:
    """Dotted names of everything that a module imports at run time, inside functions too."""
    return _parsed(path)[1]


@cache
def _parsed(path: Path) -> tuple[str, tuple[str, ...]]:
    """(digest of the code without docstrings, dotted names of the modules that it imports)."""
    text = path.read_bytes()
    key = hashlib.sha256(text).hexdigest()
    memory = _memory()
    if key not in memory:
        memory[key] = _parse(text)
    code, names = memory[key]
    return code, tuple(names)


def _parse(text: bytes) -> tuple[str, list[str]]:
    tree = _Behaviour().visit(ast.parse(text))
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), sorted(set(imported(tree)))


def imported(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything that a module imports, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


class _Behaviour(ast.NodeTransformer):
    """Removes from a module what cannot change its results."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_docstring(body[0]):
            body[0].value = ast.Constant("")
        return node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        for_types = ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        return node.orelse if for_types else node


def _is_docstring(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


class _Memory(dict):
    """sha256 of a file → what ``_parse`` found in it; the first ``kept`` entries are on disk."""

    def __init__(self) -> None:
        try:
            super().__init__(json.loads(MEMORY.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            super().__init__()
        self.kept = len(self)

    def keep(self) -> None:
        """Write new entries into Snakemake's folder, if there is one. Several jobs may do so at once."""
        if self.kept == len(self) or not MEMORY.parent.is_dir():
            return
        with suppress(OSError):  # the memory saves time and decides nothing
            with NamedTemporaryFile("w", encoding="utf-8", dir=MEMORY.parent, delete=False) as file:
                json.dump(self, file)
            os.replace(file.name, MEMORY)
        self.kept = len(self)


_memory = cache(_Memory)


def forget() -> None:
    """Drop everything that was parsed or located in this process."""
    for known in (_digest, locate, _own_folders, _parsed, _memory):
        known.cache_clear()
