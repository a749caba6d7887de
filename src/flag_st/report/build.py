"""Builds the report from files on disk; the finished page needs nothing outside itself."""

import base64
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flag_st.core.errors import FlagError
from flag_st.core.io import read_json, writing
from flag_st.paper import reported
from flag_st.paper.experiment import Experiment
from flag_st.paper.tables.render import STYLE, fragment
from flag_st.scoring.slides import KEYS

if TYPE_CHECKING:
    import jinja2
    import pandas

HERE = Path(__file__).parent
#: Up to this number of runs are listed; all of them are in the runs table of each experiment.
SHOWN_RUNS = 400
#: CSS pixels per inch on paper, so that a figure two columns wide fills the screen of a laptop.
SCREEN_PX = 140
FILES = {"table": ("csv", "tex", "md", "html"), "figure": ("pdf", "png", "csv")}


@dataclass(frozen=True)
class Made:
    """An experiment that was run, and the table of its runs."""

    experiment: Experiment
    runs: "pandas.DataFrame"

    def stand_ins(self, printed: "pandas.DataFrame") -> list[str]:
        """How its runs differ from the paper's setting, each difference once."""
        rows = printed[printed["table"] == self.experiment.reported]
        found = reported.stand_ins(self.runs, self.experiment, rows)
        return list(dict.fromkeys(text for texts in found.values() for text in texts))


@dataclass(frozen=True)
class Item:
    """A table or a figure on the page.

    Attributes:
        name, title, caption: of the experiment.
        kind: ``table`` or ``figure``.
        body: HTML of a table, or the picture of a figure as a data address.
        width: of the picture in CSS pixels; 0 for a table.
        files: ending → path beside the page.
        stand_ins: how the runs differ from the paper's setting.
    """

    name: str
    title: str
    caption: str
    kind: str
    body: str
    width: int
    files: Mapping[str, str]
    stand_ins: Sequence[str]


@dataclass(frozen=True)
class NewSlide:
    """A slide without counts that an exported model has predicted.

    Attributes:
        name: of the slide.
        model: file name of the exported model.
        verdict, reasons: whether the slide is like those of training, and why not.
        page: path of the slide's own page, beside the report.
        maps: the maps of its genes as a data address, and their width in CSS pixels.
    """

    name: str
    model: str
    verdict: str
    reasons: Sequence[str]
    page: str
    maps: tuple[str, int]

    @classmethod
    def of(cls, folder: str | Path, beside: Path) -> "NewSlide":
        """From the folder that ``flag_st.outputs.folder`` has written."""
        place = Path(folder)
        record = read_json(place / "run.json")
        trust, origin = record["trust"], record["origin"]
        return cls(
            origin["name"],
            origin["model"],
            trust["verdict"],
            trust["reasons"],
            _beside(place / "summary.html", beside),
            data_address(place / "maps.png"),
        )


def build(
    made: Mapping[str, Made],
    tables: Mapping[str, str],
    figures: Mapping[str, str],
    printed: "pandas.DataFrame",
    config: Mapping[str, Any],
    out: str | Path,
    explorers: Mapping[str, str] | None = None,
    not_made: Sequence[Experiment] = (),
    new_slides: Sequence[str] = (),
    new_explorer: str = "",
) -> None:
    """Write the page.

    Args:
        made: name → experiment and its runs.
        tables: experiment → its HTML page.
        figures: experiment → its PNG.
        printed: the paper's numbers (``config/reported.csv``).
        config: the resolved configuration, without anything about the machine.
        out: path of the page.
        explorers: experiment → the page on which its slides can be explored.
        not_made: experiments of which nothing can be run here.
        new_slides: folders of slides without counts that were predicted.
        new_explorer: the page on which these can be explored.
    """
    folder = Path(out).parent
    differ = {name: one.stand_ins(printed) for name, one in made.items()}
    items = [
        _item(kind, made[name].experiment, path, folder, differ[name])
        for kind, paths in (("table", tables), ("figure", figures))
        for name, path in paths.items()
    ]
    template = environment().get_template("page.html.jinja")
    text = template.render(
        items=items,
        explorers={name: _beside(path, folder) for name, path in (explorers or {}).items()},
        new_slides=[NewSlide.of(path, folder) for path in new_slides],
        new_explorer=_beside(new_explorer, folder) if new_explorer else "",
        experiments=[_summary(one) for one in made.values()],
        missing=_missing([*(one.experiment for one in made.values()), *not_made]),
        stand_ins=list(dict.fromkeys(text for texts in differ.values() for text in texts)),
        runs=_runs([one.runs for one in made.values()]),
        limit=SHOWN_RUNS,
        config=json.dumps(config, indent=1, default=str, ensure_ascii=False),
        defaults=config["defaults"],
        styles=[STYLE.read_text(encoding="utf-8"), read_asset("page.css")],
        script=read_asset("page.js"),
    )
    with writing(out) as temporary:
        temporary.write_text(text, encoding="utf-8")


def environment() -> "jinja2.Environment":
    """The environment that renders the templates of this folder."""
    import jinja2

    # Names and captions come from files that users write, so they must be escaped.
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
    """The text of a style sheet or script of this folder."""
    return (HERE / name).read_text(encoding="utf-8")


def _item(
    kind: str, experiment: Experiment, path: str, folder: Path, stand_ins: Sequence[str]
) -> Item:
    file = Path(path)
    body, width = (fragment(file), 0) if kind == "table" else data_address(file)
    files = {e: _beside(file.with_suffix(f".{e}"), folder) for e in FILES[kind]}
    names = (experiment.name, experiment.title, experiment.caption)
    return Item(*names, kind, body, width, files, stand_ins)


def data_address(path: Path) -> tuple[str, int]:
    """``png_address`` of a file.

    Raises:
        FlagError: the file is no PNG.
    """
    return png_address(path.read_bytes(), path)


def png_address(content: bytes, name: str | Path) -> tuple[str, int]:
    """A PNG as an address that holds the picture itself, and its width in CSS pixels.

    Raises:
        FlagError: ``content`` is no PNG; ``name`` says where it is from.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            inches = image.width / image.info.get("dpi", (96, 96))[0]
    except (OSError, UnidentifiedImageError) as error:
        remedy = f"delete {name} and run the same command again"
        raise FlagError(f"{name} is no PNG file ({error})", remedy=remedy) from None
    text = base64.b64encode(content).decode("ascii")
    return f"data:image/png;base64,{text}", round(inches * SCREEN_PX)


def _missing(experiments: Sequence[Experiment]) -> list[dict[str, str]]:
    """What experiments lack: experiment, cohort, methods ("all" of them) and reason."""
    rows = []
    for experiment in experiments:
        reasons: dict[tuple[str, str], list[str]] = {}
        for absent in experiment.absent:
            reasons.setdefault((absent.cohort, absent.reason), []).append(absent.method)
        for (cohort, reason), methods in reasons.items():
            everyone = len(methods) == len(experiment.methods)
            names = "all" if everyone else ", ".join(map(experiment.label, methods))
            row = {"title": experiment.title, "cohort": cohort, "methods": names, "reason": reason}
            rows.append(row)
    return rows


def _summary(made: Made) -> dict[str, Any]:
    """What an experiment ran, read from its runs and not from the configuration."""
    runs = made.runs
    known = {key: sorted(runs[key].unique().tolist()) for key in KEYS}
    return {
        "name": made.experiment.name,
        "title": made.experiment.title,
        "runs": len(runs),
        "seconds": float(runs["seconds"].sum()),
        **known,
        "encoder": sorted(set(runs["encoder"]) - {""}),
        "gene_model": sorted(set(runs["gene_model"]) - {""}),
    }


def _runs(tables: Sequence["pandas.DataFrame"]) -> list[dict[str, Any]]:
    """Every run once, even if several experiments share it."""
    found: dict[tuple, dict[str, Any]] = {}
    for table in tables:
        for row in table.to_dict("records"):
            row["versions"] = json.loads(row["versions"])
            found.setdefault(tuple(row[key] for key in KEYS), row)
    return list(found.values())


def amount(seconds: float) -> str:
    """Seconds in the unit that people would use: 0.4 s, 12 s, 3 min, 2.5 h."""
    if math.isnan(seconds):
        return "–"
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
