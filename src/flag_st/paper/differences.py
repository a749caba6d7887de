"""How far methods are apart: paired differences with intervals and tests over slides and patients."""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

from flag_st.paper.comparison import ARROWS, Column, columns_of, heading, labels_of
from flag_st.paper.leads import owners
from flag_st.paper.sheet import DASH, Block, Cell, Head, Notes, Sheet

if TYPE_CHECKING:
    import pandas

ONE_UNIT = "one test slide: neither interval nor test"
NO_PATIENT = "patients unknown: slides are taken for independent"


def differences(item: Mapping[str, Any], scores: "pandas.DataFrame") -> "pandas.DataFrame":
    """Method less reference, by cohort, panel and column of the experiment.

    Args:
        item: ``params.reference`` names the method that others are compared with.
        scores: as collected.

    Returns:
        Long table: cohort, panel, column (its number), metric, estimator, method, difference
        (mean over slides of seed averages), low and high (95 %, patients and slides resampled; NaN
        for one slide), p (Wilcoxon signed-rank over slides), p_smallest (what so many slides can
        reach), p_holm (over all methods of a cohort and column), n_slides, n_patients.
    """
    import pandas as pd

    from flag_st.paper import statistics

    reference, parts = item["params"]["reference"], []
    for (cohort, _), place in scores.groupby(["cohort", "panel"], sort=False):
        patients = owners(item, cohort, sorted(set(place["slide"]) - {""}))
        for number, column in enumerate(columns_of(item)):
            rows = place[
                (place["metric"] == column.metric) & (place["estimator"] == column.estimator)
            ]
            if reference not in set(rows["method"]):
                continue
            # Folds of one seed are one run: a slide is tested in one of them.
            rows = rows.drop(columns="split")
            found = statistics.bootstrap(rows, patients, reference).rename(
                columns={"estimate": "difference"}
            )
            tests = statistics.wilcoxon(rows, reference)
            keys = ["cohort", "panel", "metric", "estimator", "method"]
            found = found.merge(tests[[*keys, "p", "p_smallest", "p_holm"]], on=keys)
            alone = found["n_slides"] < 2
            found.loc[alone, ["low", "high", "p", "p_holm"]] = float("nan")
            parts.append(found.assign(column=number))
    return pd.concat(parts, ignore_index=True)


def difference_sheet(
    item: Mapping[str, Any], scores: "pandas.DataFrame"
) -> tuple[Sheet, "pandas.DataFrame"]:
    """Rows are methods; of each column the difference, its interval and Holm's p."""
    table, columns, labels = differences(item, scores), columns_of(item), labels_of(item)
    notes, blocks = Notes(), []
    for (cohort, panel), part in table.groupby(["cohort", "panel"], sort=False):
        title = f"{cohort}, {panel}" if table["panel"].nunique() > 1 else cohort
        blocks.append(_block(title, cohort, part, item, columns, labels, notes))
    sheet = Sheet(item["name"], item["title"], item["caption"], blocks, notes)
    return sheet, table.drop(columns="column")


def _block(title, cohort, part, item, columns: Sequence[Column], labels, notes: Notes) -> Block:
    known = item.get("patients", {}).get(cohort, {})
    unknown = () if known and all(known.values()) else (notes.key(NO_PATIENT),)
    found = {(r["column"], r["method"]): r for r in part.to_dict("records")}
    rows = []
    for method in (m for m in item["methods"] if m in set(part["method"])):
        cells = [Cell(item["methods"][method]["label"], kind="name", notes=unknown)]
        for number, column in enumerate(columns):
            cells += _cells(found.get((number, method)), labels[column.metric][1], notes)
        rows.append(cells)
    slides, people = int(part["n_slides"].max()), int(part["n_patients"].max())
    smallest = part["p_smallest"].min()
    groups, heads = [Head("")], [Head("method", kind="name")]
    for column in columns:
        label, direction = labels[column.metric]
        words = heading(column, [c for c in columns if c.metric == column.metric])
        groups.append(Head(f"{label}{ARROWS[direction]} {words}".strip(), 2))
        heads += [Head("difference"), Head("p (Holm)")]
    told = f"{title}: {_many(slides, 'slide')} of {_many(people, 'patient')}"
    told += f", smallest possible p {smallest:.2g}" if slides > 1 else ""
    return Block(told, groups, heads, rows)


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _cells(row: Mapping[str, Any] | None, direction: int, notes: Notes) -> list[Cell]:
    if row is None or not isfinite(row["difference"]):
        return [Cell(DASH), Cell(DASH)]
    text = f"{row['difference']:+.3f}"
    if not isfinite(row["low"]):
        return [Cell(text, notes=(notes.key(ONE_UNIT),)), Cell(DASH)]
    better = row["low"] > 0 if direction >= 0 else row["high"] < 0
    detail = f"[{row['low']:+.3f}, {row['high']:+.3f}]"
    return [
        Cell(text, detail, mark="best" if better and direction else ""),
        Cell(f"{row['p_holm']:.2g}" if isfinite(row["p_holm"]) else DASH),
    ]
