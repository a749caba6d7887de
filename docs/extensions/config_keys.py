"""The directive ``config-keys``: a table of the configuration's keys, made from their JSON schema."""

from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from flag_st.planning.config import SCHEMA, schema

HEAD = "| key | values | required | meaning |\n| --- | --- | --- | --- |\n"


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """A part of the schema with the definition that it refers to."""
    name = part.get("$ref", "").removeprefix("#/$defs/")
    return {**schema()["$defs"].get(name, {}), **{k: v for k, v in part.items() if k != "$ref"}}


def values(part: dict[str, Any]) -> str:
    """What a value may be, in words."""
    part = resolved(part)
    for key in ("anyOf", "oneOf"):
        if "type" not in part and key in part:
            return " or ".join(values(choice) for choice in part[key])
    if "enum" in part:
        return ", ".join(f"`{_yaml(choice)}`" for choice in part["enum"])
    if "const" in part:
        return f"`{_yaml(part['const'])}`"
    kinds = part.get("type", "any")
    text = " or ".join([kinds] if isinstance(kinds, str) else kinds)
    if text == "array" and "items" in part:
        text = f"list of {values(part['items'])}"
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most"}
    words |= {"minItems": "items at least", "maxItems": "items at most"}
    limits = [f"{word} {part[key]}" for key, word in words.items() if key in part]
    limits = [] if limits == ["items at least 1"] else limits
    return f"{text} ({', '.join(limits)})" if limits else text


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def keys(part: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any], bool]]:
    """Every key below a part of the schema: its path, its own part, and whether it must be there."""
    part = resolved(part)
    for name, own in part.get("properties", {}).items():
        place = f"{path}.{name}" if path else name
        yield place, own, name in part.get("required", ())
        yield from keys(own, place)
    more = part.get("additionalProperties")
    if isinstance(more, dict) and path:
        yield from keys(more, f"{path}.NAME")


class ConfigKeys(SphinxDirective):
    """All keys of the configuration, one section per top-level key that has keys of its own."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(SCHEMA))
        rows: dict[str, list[str]] = {}
        for place, part, needed in keys(schema()):
            top = place.split(".")[0] if "." in place else ""
            told = resolved(part).get("description", "").replace("|", "\\|")
            cells = [f"`{place}`", values(part), "yes" if needed else "", told]
            rows.setdefault(top, []).append(f"| {' | '.join(cells)} |\n")
        text = "".join(
            f"## {f'`{top}`' if top else 'Top level'}\n\n{HEAD}{''.join(lines)}\n"
            for top, lines in rows.items()
        )
        return self.parse_text_to_nodes(text, allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("config-keys", ConfigKeys)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
