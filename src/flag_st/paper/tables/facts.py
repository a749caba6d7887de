"""Tables of facts: one row per cohort or method, and each fact beside what the paper printed."""

from collections.abc import Mapping, Sequence
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

from flag_st.paper import reported
from flag_st.paper.experiment import Experiment
from flag_st.paper.tables.sheet import DASH, Block, Cell, Head, Sheet, printed

if TYPE_CHECKING:
    import pandas

#: Name of a fact → its heading, and the digits that are printed after the point.
Facts = Mapping[str, tuple[str, int]]
#: Names of columns that readers know by another.
HEADS = {"label": "method", "row": ""}


def fact_sheet(
    experiment: Experiment,
    rows: "pandas.DataFrame",
    names: Sequence[str],
    facts: Facts,
    printed_numbers: "pandas.DataFrame",
) -> tuple[Sheet, "pandas.DataFrame"]:
    """A sheet with facts in columns, and its numbers; the paper's number stands beside ours.

    Args:
        experiment: what the table is of.
        rows: our facts, with the columns ``names`` and ``facts``, and with ``cohort`` and ``method``
            ("" for any), by which the paper's row is found; with ``row``, also by its printed name.
        names: the columns that say what a row is of.
        facts: the facts to show.
        printed_numbers: one table of ``config/reported.csv``.
    """
    known = set(printed_numbers["metric"])
    records, table = rows.to_dict("records"), rows.copy()

    def paper(row: Mapping[str, Any], fact: str) -> tuple[float, float, str] | None:
        cohort, table = experiment.paper_cohort(row["cohort"]), printed_numbers
        if "row" in row:
            table = table[table["row"] == row["row"]]
        return reported.printed_value(table, cohort, None, row["method"], fact)

    heads = [Head(HEADS.get(name, name), kind="name") for name in names]
    for fact, (label, _) in facts.items():
        heads += [Head(label)] + [Head("paper", kind="paper")] * (fact in known)
    body = []
    for row in records:
        cells = [Cell(str(row[name]), kind="name") for name in names]
        for fact, (_, digits) in facts.items():
            value = row[fact]
            cells.append(Cell(f"{value:,.{digits}f}" if isfinite(value) else DASH))
            if fact in known:
                cells.append(printed(paper(row, fact), digits))
        body.append(cells)
    for fact in facts:
        if fact in known:
            found = [paper(row, fact) for row in records]
            table[f"{fact}_paper"] = [nan if cell is None else cell[0] for cell in found]
    warning = _warning(experiment, rows["cohort"], printed_numbers)
    block = Block("", [], heads, body)
    sheet = Sheet(experiment.name, experiment.title, experiment.caption, [block], warning=warning)
    return sheet, table


def _warning(
    experiment: Experiment, cohorts: Sequence[str], printed_numbers: "pandas.DataFrame"
) -> str:
    """How the cohorts differ from the paper's; "" if they do not."""
    texts = {reported.cohort_difference(c, experiment, printed_numbers) for c in cohorts} - {""}
    return f"Stand-in: {'; '.join(sorted(texts))}" if texts else ""
