"""Builds the page from what is on disk; it asks for nothing outside itself."""

import base64
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flag_st.core.errors import FlagError
from flag_st.core.io import writing
from flag_st.paper import reported
from flag_st.paper.collect import KEYS
from flag_st.paper.render import STYLE, fragment

if TYPE_CHECKING:
    import jinja2
    import pandas

HERE = Path(__file__).parent
#: Runs listed on the page; all of them are in the runs table beside each experiment.
SHOWN_RUNS = 400
#: Pixels on screen for an inch on paper: a figure two columns wide fills a laptop.
SCREEN_PX = 140
FILES = {"table": ("csv", "tex", "md", "html"), "figure": ("pdf", "png", "csv")}


@dataclass(frozen=True)
class Item:
    """A table (``body`` is HTML) or a figure (``body`` is a data address ``width`` px wide)."""

    name: str
    kind: str
    title: str
    caption: str
    body: str
    width: int
    files: Mapping[str, str]
    stand_ins: Sequence[str]


def build(
    items: Mapping[str, Mapping[str, Any]],
    tables: Mapping[str, str],
    figures: Mapping[str, str],
    runs: Mapping[str, "pandas.DataFrame"],
    printed: "pandas.DataFrame",
    config: Mapping[str, Any],
    out: str | Path,
    explorers: Mapping[str, str] | None = None,
    absent: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the page.

    Args:
        items: experiment → what the workflow says of it.
        tables: experiment → its HTML page; ``figures``: experiment → its PNG.
        runs: experiment → its table of runs.
        printed: the paper's numbers (``config/reported.csv``).
        config: the resolved configuration, without machine facts.
        explorers: experiment → its page to explore slides on.
        absent: what the workflow says of experiments of which nothing can be run here.
    """
    folder = Path(out).parent
    differ = {name: _differences(items[name], runs[name], printed) for name in items}
    shown = [_item("table", n, items[n], p, folder, differ[n]) for n, p in tables.items()]
    shown += [_item("figure", n, items[n], p, folder, differ[n]) for n, p in figures.items()]
    pages = {name: _beside(path, folder) for name, path in (explorers or {}).items()}
    text = (
        environment()
        .get_template("page.html.jinja")
        .render(
            items=shown,
            explorers=pages,
            experiments=[_summary(name, items[name], runs[name]) for name in items],
            missing=_missing([*items.values(), *absent]),
            stand_ins=list(dict.fromkeys(d for texts in differ.values() for d in texts)),
            runs=_runs(runs),
            limit=SHOWN_RUNS,
            config=json.dumps(config, indent=1, default=str, ensure_ascii=False),
            defaults=config["defaults"],
            styles=[STYLE.read_text(encoding="utf-8"), read_asset("page.css")],
            script=read_asset("page.js"),
        )
    )
    with writing(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def environment() -> "jinja2.Environment":
    """Templates of this folder."""
    import jinja2

    # autoescape: names and captions come from files that users write.
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["amount"] = amount
    return made


def _beside(path: str | Path, folder: Path) -> str:
    return os.path.relpath(path, folder).replace(os.sep, "/")


def read_asset(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _differences(item, runs: "pandas.DataFrame", printed: "pandas.DataFrame") -> list[str]:
    rows = printed[printed["table"] == item["reported"]]
    found = reported.stand_ins(runs, item, rows)
    return list(dict.fromkeys(text for texts in found.values() for text in texts))


def _item(kind: str, name: str, item, path: str, folder: Path, stand_ins: Sequence[str]) -> Item:
    file = Path(path)
    body, width = (fragment(file), 0) if kind == "table" else data_address(file)
    files = {e: _beside(file.with_suffix(f".{e}"), folder) for e in FILES[kind]}
    return Item(name, kind, item["title"], item["caption"], body, width, files, stand_ins)


def data_address(path: Path) -> tuple[str, int]:
    """A PNG file as an address that holds the picture itself, and its width in CSS pixels."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=["PNG"]) as image:
            inches = image.width / image.info.get("dpi", (96, 96))[0]
    except (OSError, UnidentifiedImageError) as error:
        remedy = f"delete {path} and run the same command again"
        raise FlagError(f"{path} is no PNG file ({error})", remedy=remedy) from None
    content = base64.b64encode(path.read_bytes()).decode("ascii")
    return f"data:image/png;base64,{content}", round(inches * SCREEN_PX)


def _missing(items: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """What experiments go without: experiment, cohort, methods ("all" of them) and reason."""
    found = []
    for item in items:
        reasons: dict[tuple[str, str], list[str]] = {}
        for pair in item.get("missing", ()):
            reasons.setdefault((pair["cohort"], pair["reason"]), []).append(pair["method"])
        for (cohort, reason), methods in reasons.items():
            everyone = len(methods) == len(item["methods"])
            names = "all" if everyone else ", ".join(item["methods"][m]["label"] for m in methods)
            row = {"title": item["title"], "cohort": cohort, "methods": names, "reason": reason}
            found.append(row)
    return found


def _summary(name: str, item, runs: "pandas.DataFrame") -> dict[str, Any]:
    """What an experiment ran, as it stands in its runs and not in the configuration."""
    known = {key: sorted(runs[key].unique().tolist()) for key in KEYS}
    return {
        "name": name,
        "title": item["title"],
        "runs": len(runs),
        "seconds": float(runs["seconds"].sum()),
        **known,
        "encoder": sorted(set(runs["encoder"]) - {""}),
        "gene_model": sorted(set(runs["gene_model"]) - {""}),
    }


def _runs(runs: Mapping[str, "pandas.DataFrame"]) -> list[dict[str, Any]]:
    """Every run once, whatever experiments share it."""
    found: dict[tuple, dict[str, Any]] = {}
    for table in runs.values():
        for row in table.to_dict("records"):
            row["versions"] = json.loads(row["versions"])
            found.setdefault(tuple(row[key] for key in KEYS), row)
    return list(found.values())


def amount(seconds: float) -> str:
    """Seconds as people read them: 0.4 s, 12 s, 3 min, 2.5 h."""
    if math.isnan(seconds):
        return "–"
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
