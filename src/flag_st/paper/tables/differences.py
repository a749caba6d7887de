"""How far methods are from one of them: paired differences with intervals and tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

from flag_st.paper.columns import ARROWS
from flag_st.paper.experiment import Experiment
from flag_st.paper.statistics import bootstrap, wilcoxon
from flag_st.paper.tables.sheet import DASH, Block, Cell, Head, Notes, Sheet

if TYPE_CHECKING:
    import pandas

ONE_SLIDE = "with one test slide there is neither an interval nor a test"
NO_PATIENT = "patients are unknown, so slides are assumed to be independent"


def differences(experiment: Experiment, scores: "pandas.DataFrame") -> "pandas.DataFrame":
    """Each method minus the reference, for every cohort, panel and column of the experiment.

    Args:
        experiment: ``params.reference`` names the method that the others are compared with.
        scores: as collected.

    Returns:
        Long table: cohort, panel, column (its number), metric, estimator, method, difference
        (mean over slides of averages over seeds), low and high (95 %, patients and slides
        resampled; NaN for one slide), p (Wilcoxon signed-rank over slides), p_smallest (the smallest
        that so many slides can reach), p_holm (corrected over all methods of a cohort and column),
        n_slides, n_patients.
    """
    import pandas as pd

    reference, parts = experiment.params["reference"], []
    for (cohort, _), place in scores.groupby(["cohort", "panel"], sort=False):
        patients = experiment.patients_of(cohort, sorted(set(place["slide"]) - {""}))
        for number, column in enumerate(experiment.columns):
            rows = place[
                (place["metric"] == column.metric) & (place["estimator"] == column.estimator)
            ]
            if reference in set(rows["method"]):
                parts.append(_compared(rows, patients, reference).assign(column=number))
    return pd.concat(parts, ignore_index=True)


def _compared(
    rows: "pandas.DataFrame", patients: Mapping[str, str], reference: str
) -> "pandas.DataFrame":
    # Folds of one seed are one run: every slide is tested in one of them.
    rows = rows.drop(columns="split")
    table = bootstrap(rows, patients, reference).rename(columns={"estimate": "difference"})
    tests = wilcoxon(rows, reference)
    keys = ["cohort", "panel", "metric", "estimator", "method"]
    table = table.merge(tests[[*keys, "p", "p_smallest", "p_holm"]], on=keys)
    table.loc[table["n_slides"] < 2, ["low", "high", "p", "p_holm"]] = float("nan")
    return table


def difference_sheet(
    experiment: Experiment, scores: "pandas.DataFrame"
) -> tuple[Sheet, "pandas.DataFrame"]:
    """Methods in rows; for each column the difference, its interval and the corrected p value."""
    table, blocks = differences(experiment, scores), []
    shared = _Differences(experiment)
    for (cohort, panel), part in table.groupby(["cohort", "panel"], sort=False):
        title = f"{cohort}, {panel}" if table["panel"].nunique() > 1 else cohort
        blocks.append(shared.block(title, cohort, part))
    sheet = Sheet(experiment.name, experiment.title, experiment.caption, blocks, shared.notes)
    return sheet, table.drop(columns="column")


@dataclass
class _Differences:
    """What the blocks of one table share; ``notes`` are filled while blocks are made."""

    experiment: Experiment
    notes: Notes = field(default_factory=Notes)

    def block(self, title: str, cohort: str, part: "pandas.DataFrame") -> Block:
        patients = self.experiment.cohorts[cohort].patients
        known = bool(patients) and all(patients.values())
        unknown = () if known else (self.notes.key(NO_PATIENT),)
        values = {(row["column"], row["method"]): row for row in part.to_dict("records")}
        rows = []
        for method in (m for m in self.experiment.methods if m in set(part["method"])):
            cells = [Cell(self.experiment.label(method), kind="name", notes=unknown)]
            for place, column in enumerate(self.experiment.columns):
                direction = self.experiment.labels[column.metric][1]
                cells += self._cells(values.get((place, method)), direction)
            rows.append(cells)
        return Block(_sizes(title, part), *self._headings(), rows)

    def _headings(self) -> tuple[list[Head], list[Head]]:
        groups, heads = [Head("")], [Head("method", kind="name")]
        for column in self.experiment.columns:
            label, direction = self.experiment.labels[column.metric]
            words = column.words(self.experiment.columns)
            groups.append(Head(f"{label}{ARROWS[direction]} {words}".strip(), 2))
            heads += [Head("difference"), Head("p (Holm)")]
        return groups, heads

    def _cells(self, row: Mapping[str, Any] | None, direction: int) -> Sequence[Cell]:
        if row is None or not isfinite(row["difference"]):
            return [Cell(DASH), Cell(DASH)]
        text = f"{row['difference']:+.3f}"
        if not isfinite(row["low"]):
            return [Cell(text, notes=(self.notes.key(ONE_SLIDE),)), Cell(DASH)]
        better = row["low"] > 0 if direction >= 0 else row["high"] < 0
        detail = f"[{row['low']:+.3f}, {row['high']:+.3f}]"
        return [
            Cell(text, detail, mark="best" if better and direction else ""),
            Cell(f"{row['p_holm']:.2g}" if isfinite(row["p_holm"]) else DASH),
        ]


def _sizes(title: str, part: "pandas.DataFrame") -> str:
    """The heading of a block, with the number of slides and patients that it rests on."""
    slides, patients = int(part["n_slides"].max()), int(part["n_patients"].max())
    text = f"{title}: {_many(slides, 'slide')} of {_many(patients, 'patient')}"
    smallest = f", smallest possible p {part['p_smallest'].min():.2g}"
    return text + smallest if slides > 1 else text


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"
