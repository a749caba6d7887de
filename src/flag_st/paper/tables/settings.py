"""The settings that each method ran with, beside those that the paper lists (Table 5)."""

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from flag_st.paper.experiment import Experiment
from flag_st.paper.tables.sheet import DASH, Block, Cell, Head, Sheet

if TYPE_CHECKING:
    import pandas


def settings_of(runs: "pandas.DataFrame", method: str) -> dict[str, Any]:
    """Every setting that a method ran with; nested ones are named such as ``training.lr``."""
    run = runs[runs["method"] == method].iloc[0]
    return dict(flat(json.loads(run["settings"])))


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name and value of every setting; those of nested groups are named such as ``training.lr``."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def settings_sheet(
    experiment: Experiment, runs: "pandas.DataFrame", printed_numbers: "pandas.DataFrame"
) -> tuple[Sheet, "pandas.DataFrame"]:
    """Settings in rows and methods in columns, with the paper's settings in the last column.

    Args:
        experiment: ``params.rows`` gives our name for each name of the paper that is not the same.
        runs: as ``collect_runs`` writes them.
        printed_numbers: one table of ``config/reported.csv``.
    """
    import pandas as pd

    methods = [m for m in experiment.methods if m in set(runs["method"])]
    ours = {m: settings_of(runs, m) for m in methods}
    paper_name = {own: paper for paper, own in experiment.params.get("rows", {}).items()}
    names = list(dict.fromkeys(name for values in ours.values() for name in values))
    theirs = {r["metric"]: r for r in printed_numbers.to_dict("records")}
    rows, table = [], []
    for name in [*names, *(p for p in theirs if p not in paper_name.values())]:
        paper = theirs.get(paper_name.get(name, name))
        said = "" if paper is None else paper["note"] or f"{paper['value']:g}"
        values = [_text(ours[m].get(name, DASH)) for m in methods]
        rows.append([Cell(name, kind="name"), *map(Cell, values), Cell(said, kind="paper")])
        table.append({"setting": name, **dict(zip(methods, values, strict=True)), "paper": said})
    heads = [Head("setting", kind="name"), *(Head(experiment.label(m)) for m in methods)]
    block = Block("", [], [*heads, Head("paper", kind="paper")], rows)
    sheet = Sheet(experiment.name, experiment.title, experiment.caption, [block])
    return sheet, pd.DataFrame(table)


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return DASH.join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
