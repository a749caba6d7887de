"""Docstrings are plain text with a few marks: what else reStructuredText reads in it is escaped."""

import re
from typing import Any

from sphinx.application import Sphinx

#: A bar outside of code, which would begin a substitution: docstrings write absolute values with it.
BAR = re.compile(r"(``.*?``)|\|")


def escape(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = [BAR.sub(lambda found: found[1] or r"\|", line) for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", escape)
    return {"parallel_read_safe": True}
