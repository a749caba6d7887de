"""Methods in rows, metrics in columns, the paper's numbers beside ours: the shape of Table 1."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.paper import reported
from flag_st.paper.leads import leads
from flag_st.paper.sheet import (
    ABSENT,
    DASH,
    Block,
    Cell,
    Head,
    Notes,
    Sheet,
    marks,
    number,
    printed,
)

if TYPE_CHECKING:
    import pandas

#: What a heading says of how a value was made.
ESTIMATORS = {
    "point": "point",
    "mean": "mean of draws",
    "draw": "one draw",
    "ensemble": "all draws",
}
SCOPES = {"slide": "per slide", "pooled": "pooled"}
ARROWS = {1: " ↑", -1: " ↓", 0: ""}
#: Facts of a slide that go into the CSV: how many genes a number rests on.
COUNTS = ("n_genes_used", "n_constant_truth", "n_constant_prediction")
NOT_RUN = "not among the methods of this experiment"
WARNING = "Rows marked stand-in do not have the paper's setting; they are not a reproduction of its numbers"


@dataclass(frozen=True)
class Column:
    """One column of ours.

    Attributes:
        metric: name in the score table.
        estimator: ``point`` (the method's own estimate), ``mean`` (of the draws), ``draw`` (mean
            over single draws) or ``ensemble``.
        scope: ``slide`` (mean over test slides) or ``pooled`` (all test spots at once).
        paper: name in ``config/reported.csv`` of the printed number beside it; "" for none.
        heading: instead of what estimator and scope say.
    """

    metric: str
    estimator: str = "point"
    scope: str = "slide"
    paper: str = ""
    heading: str = ""

    def __post_init__(self) -> None:
        for what, choices in (("estimator", ESTIMATORS), ("scope", SCOPES)):
            if getattr(self, what) not in choices:
                value = getattr(self, what)
                raise FlagError(f"column {self.metric}: {what} {value!r}", choices=choices)


def columns_of(item: Mapping[str, Any]) -> list[Column]:
    """``params.columns`` of an experiment."""
    return [Column(**entry) for entry in item["params"]["columns"]]


def labels_of(item: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Value name → (label, direction) of all metrics of the configuration."""
    found: dict[str, tuple[str, int]] = {}
    for use in item["metrics"].values():
        found |= registry.load(use).columns
    return found


def summarise(scores: "pandas.DataFrame", columns: Sequence[Column]) -> "pandas.DataFrame":
    """Mean over slides, then mean and standard deviation over seeds.

    Returns:
        One row a cohort, split family, panel, method and column: mean, std (NaN for one seed),
        n_seeds, n_slides, n_undefined (slides without a value) and the counts of genes.
    """
    import pandas as pd

    parts = []
    for place, column in enumerate(columns):
        pooled = scores["slide"] == ""
        rows = scores[
            (scores["metric"] == column.metric)
            & (scores["estimator"] == column.estimator)
            & (pooled if column.scope == "pooled" else ~pooled)
        ]
        group = ["cohort", "panel", "method"]
        # Folds of one seed are one run of the experiment: their slides are averaged together.
        seeds = rows.groupby([*group, "seed"], sort=False)["value"].mean().reset_index()
        table = seeds.groupby(group, sort=False)["value"].agg(["mean", "std", "size"])
        table = table.rename(columns={"size": "n_seeds"})
        by = rows.groupby(group, sort=False)
        table["n_slides"] = by["slide"].nunique()
        table["n_undefined"] = by["value"].agg(lambda values: int(values.isna().sum()))
        table.insert(0, "scope", column.scope)
        table.insert(0, "estimator", column.estimator)
        table.insert(0, "metric", column.metric)
        table.insert(0, "column", place)
        parts.append(table.reset_index())
    return pd.concat(parts, ignore_index=True).merge(_counts(scores), how="left")


def _counts(scores: "pandas.DataFrame") -> "pandas.DataFrame":
    """Fewest genes used and most left out on any slide, by cohort, panel and method."""
    rows = scores[scores["slide"] != ""]
    tables = []
    for name in COUNTS:
        values = rows[rows["metric"] == name].groupby(["cohort", "panel", "method"])["value"]
        tables.append((values.min() if name == "n_genes_used" else values.max()).rename(name))
    import pandas as pd

    return pd.concat(tables, axis=1).reset_index()


def compare(
    item: Mapping[str, Any],
    scores: "pandas.DataFrame",
    runs: "pandas.DataFrame",
    printed_numbers: "pandas.DataFrame",
    labels: Mapping[str, tuple[str, int]] | None = None,
) -> tuple[Sheet, "pandas.DataFrame"]:
    """The sheet, and all of its numbers in long form.

    Args:
        item: what the workflow says of the experiment.
        scores, runs: as collected.
        printed_numbers: one table of ``config/reported.csv``.
        labels: value name → (label, direction), if not those of the metrics.
    """
    columns, labels = columns_of(item), labels or labels_of(item)
    numbers = numbers_of(item, scores, runs, printed_numbers, labels)
    notes, blocks = Notes(), []
    for cohort in item["cohorts"]:
        absent = {r["method"]: r["reason"] for r in item["missing"] if r["cohort"] == cohort}
        # A cohort of which nothing was run stands there, too.
        panels = runs.loc[runs["cohort"] == cohort, "panel"].unique()
        for panel in panels if len(panels) else runs["panel"].unique():
            part = numbers[(numbers["cohort"] == cohort) & (numbers["panel"] == panel)]
            title = f"{cohort}, {panel}" if runs["panel"].nunique() > 1 else cohort
            ahead = partial(leads, item, scores, cohort, panel)
            block = _block(title, part, item, columns, labels, notes, ahead)
            block.rows.extend(
                _absent_row(m, reason, cohort, panel, item, columns, printed_numbers, notes)
                for m, reason in absent.items()
            )
            block.rows.extend(_printed_rows(cohort, panel, item, columns, printed_numbers, notes))
            blocks.append(block)
    misleading = (numbers["differs"] != "").any() and numbers["paper"].notna().any()
    warning = WARNING if misleading else ""
    sheet = Sheet(item["name"], item["title"], item["caption"], blocks, notes, warning)
    return sheet, numbers.drop(columns="column")


def numbers_of(
    item: Mapping[str, Any],
    scores: "pandas.DataFrame",
    runs: "pandas.DataFrame",
    printed_numbers: "pandas.DataFrame",
    labels: Mapping[str, tuple[str, int]] | None = None,
) -> "pandas.DataFrame":
    """``summarise`` with the paper's number of each row, and in what its setting differs.

    Raises:
        FlagError: a column wants a value that no metric returns.
    """
    import pandas as pd

    columns, labels = columns_of(item), labels or labels_of(item)
    if unknown := sorted({c.metric for c in columns} - set(labels)):
        raise FlagError(
            f"experiment {item['name']}: no metric returns {', '.join(unknown)}",
            choices=sorted(labels),
        )
    # Every run has its row, also where a metric was not computed or is not defined.
    made = runs[["cohort", "panel", "method"]].drop_duplicates()
    asked = [
        {"column": i, "metric": c.metric, "estimator": c.estimator, "scope": c.scope}
        for i, c in enumerate(columns)
    ]
    numbers = made.merge(pd.DataFrame(asked), how="cross")
    numbers = numbers.merge(summarise(scores, columns), how="left")
    counts = ["n_seeds", "n_slides", "n_undefined"]
    numbers[counts] = numbers[counts].fillna(0).astype(int)
    differ = reported.stand_ins(runs, item, printed_numbers)
    cells = [
        reported.printed_value(
            printed_numbers,
            reported.cohort_in_paper(row["cohort"], item),
            row["panel"],
            row["method"],
            columns[row["column"]].paper,
        )
        if columns[row["column"]].paper
        else None
        for row in numbers.to_dict("records")
    ]
    known = set(printed_numbers["method"])
    for place, name in enumerate(("paper", "paper_std", "paper_note")):
        numbers[name] = [None if cell is None else cell[place] for cell in cells]
    for name in ("paper", "paper_std"):
        numbers[name] = numbers[name].astype(float)
    keys = zip(numbers["cohort"], numbers["panel"], numbers["method"], strict=True)
    numbers["differs"] = ["; ".join(differ.get(key, [])) for key in keys]
    numbers["setting"] = [
        "stand-in" if d else "as in the paper" if m in known else "not in the paper"
        for d, m in zip(numbers["differs"], numbers["method"], strict=True)
    ]
    return numbers


def _block(title, part, item, columns, labels, notes: Notes, ahead: Callable) -> Block:
    methods = [m for m in item["methods"] if m in set(part["method"])]
    settings = {row["method"]: row for row in part.to_dict("records")}
    rows: dict[str, list[Cell]] = {
        m: [Cell(item["methods"][m]["label"], kind="name"), _setting(settings[m], notes)]
        for m in methods
    }
    known = {(r["column"], r["method"]): r for r in part.to_dict("records")}
    for place, column in enumerate(columns):
        found = [known[place, m] for m in methods]
        # What sees the truth bounds a column and does not compete in it.
        competing = [
            float("nan") if item["methods"][m].get("needs_truth") else r["mean"]
            for m, r in zip(methods, found, strict=True)
        ]
        rivals = dict(zip(competing, found, strict=True))

        def clear(a: float, b: float, column: Column = column, rivals: dict = rivals) -> bool:
            return ahead(column, rivals[a], rivals[b])

        shown = marks(competing, labels[column.metric][1], clear)
        for method, row, mark in zip(methods, found, shown, strict=True):
            made = number(row["mean"], row["std"], notes, mark) if row["n_seeds"] else None
            rows[method].append(made or Cell(DASH, notes=(notes.key(ABSENT),)))
            if column.paper:
                value = (row["paper"], row["paper_std"], row["paper_note"])
                rows[method].append(printed(None if row["paper_note"] is None else value))
    return Block(title, *_headings(columns, labels), list(rows.values()))


def _printed_rows(cohort, panel, item, columns, printed_numbers, notes: Notes) -> list[list[Cell]]:
    """Rows that the paper has and this run has not, with the reason."""
    rows = printed_numbers[
        (printed_numbers["cohort"] == reported.cohort_in_paper(cohort, item))
        & printed_numbers["panel"].isin((panel, ""))
    ]
    reasons, found = item["params"].get("not_run", {}), []
    for (label, method), _ in rows.groupby(["row", "method"], sort=False):
        if method and method in item["methods"]:
            continue
        part = rows[rows["row"] == label]
        place = part["cohort"].iloc[0], panel, method
        reason = reasons.get(label, NOT_RUN)
        found.append(_not_run(label, reason, place, columns, part, notes))
    return found


def _absent_row(
    method, reason, cohort, panel, item, columns, printed_numbers, notes: Notes
) -> list[Cell]:
    """A method of this experiment that could not be run here."""
    place = reported.cohort_in_paper(cohort, item), panel, method
    label = item["methods"][method]["label"]
    return _not_run(label, reason, place, columns, printed_numbers, notes)


def _not_run(
    label, reason, place: tuple[str, str, str], columns, printed_numbers, notes: Notes
) -> list[Cell]:
    cells = [
        Cell(label, kind="name"),
        Cell("not run", kind="name", notes=(notes.key(reason),)),
    ]
    for column in columns:
        cells.append(Cell(DASH))
        if column.paper:
            cells.append(printed(reported.printed_value(printed_numbers, *place, column.paper)))
    return cells


def _setting(row, notes: Notes) -> Cell:
    keys = [notes.key(text) for text in row["differs"].split("; ") if text]
    return Cell(row["setting"], notes=tuple(sorted(keys, key=lambda k: (len(k), k))), kind="name")


def _headings(columns: Sequence[Column], labels) -> tuple[list[Head], list[Head]]:
    """Adjacent columns of one metric share a heading."""
    groups, heads = [Head("", 2)], [Head("method", kind="name"), Head("setting", kind="name")]
    for column in columns:
        label, direction = labels[column.metric]
        width = 1 + bool(column.paper)
        text = label + ARROWS[direction]
        if groups[-1].text == text:
            groups[-1] = Head(text, groups[-1].span + width)
        else:
            groups.append(Head(text, width))
        same = [c for c in columns if c.metric == column.metric]
        heads.append(Head(column.heading or heading(column, same)))
        heads += [Head("paper", kind="paper")] * bool(column.paper)
    return groups, heads


def heading(column: Column, same: Sequence[Column]) -> str:
    """Estimator and scope, as far as they tell the columns of one metric apart."""
    words = []
    if len({c.scope for c in same}) > 1 or len(same) == 1:
        words.append(SCOPES[column.scope])
    if len({c.estimator for c in same}) > 1:
        words.append(ESTIMATORS[column.estimator])
    return ", ".join(words)
