"""The directive ``plugins LAYER``: the classes that the shipped entries of a layer use, with their arguments."""

from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from flag_st.planning.config import PLUGINS, shipped


def uses(part: Any) -> Iterator[str]:
    """The classes that a part of the configuration names, including those of nested plug-ins."""
    if isinstance(part, dict):
        if isinstance(part.get("use"), str):
            yield part["use"]
        part = list(part.values())
    if isinstance(part, list):
        for one in part:
            yield from uses(one)


class Plugins(SphinxDirective):
    """One description per class, and the names of the entries that use it directly."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        layer = self.arguments[0]
        assert layer in PLUGINS, f"{layer} is no layer of plug-ins: {', '.join(PLUGINS)}"
        entries, text = shipped()[layer], ""
        for use in sorted(set(uses(entries))):
            names = [f"`{name}`" for name, entry in entries.items() if entry.get("use") == use]
            text += f"## `{use.rpartition('.')[2]}`\n\n"
            text += f"Entries: {', '.join(names)}\n\n" if names else ""
            text += f"```{{eval-rst}}\n.. autoclass:: {use}\n```\n\n"
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("plugins", Plugins)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
