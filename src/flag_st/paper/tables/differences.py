"""How far methods are from one of them: paired differences with intervals and tests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Any

from flag_st.paper.columns import ARROWS, Column
from flag_st.paper.experiment import Experiment
from flag_st.paper.leads import paired
from flag_st.paper.statistics import ALPHA, holm
from flag_st.paper.tables.sheet import DASH, Block, Cell, Head, Notes, Sheet

if TYPE_CHECKING:
    import pandas

ONE_UNIT = "with one test patient there is neither an interval nor a test"
ONE_SEED = "a random method was run with one seed, so that its spread is unknown"
NO_PATIENT = "patients are unknown, so slides are assumed to be independent"


def differences(experiment: Experiment, scores: "pandas.DataFrame") -> "pandas.DataFrame":
    """Each method minus the reference, for every cohort, panel and column of the experiment.

    Args:
        experiment: ``params.reference`` names the method that the others are compared with.
        scores: as collected.

    Returns:
        Long table: cohort, panel, column (its number), metric, estimator, scope, method, reference,
        difference (mean over patients), low and high (95 %), p (sign-flip test over patients),
        p_smallest (the smallest that so many patients can reach), p_holm (corrected over all methods
        of a cohort and column), n_patients, n_slides. Differences are those of the values themselves,
        so that for an error less is better.
    """
    import pandas as pd

    parts = []
    for (cohort, panel), place in scores.groupby(["cohort", "panel"], sort=False):
        for number, column in enumerate(experiment.columns):
            facts = {"cohort": cohort, "panel": panel, "column": number, "metric": column.metric}
            facts |= {"estimator": column.estimator, "scope": column.scope}
            if len(part := _of_column(experiment, place, column)):
                part.loc[part["n_patients"] < 2, "p"] = float("nan")
                parts.append(part.assign(**facts, p_holm=holm(part["p"])))
    return pd.concat(parts, ignore_index=True)


def _of_column(
    experiment: Experiment, scores: "pandas.DataFrame", column: Column
) -> "pandas.DataFrame":
    """All methods with a value for ``column``; none if the reference lacks it."""
    import pandas as pd

    reference, found = experiment.params["reference"], []
    rows = scores[(scores["metric"] == column.metric) & (scores["estimator"] == column.estimator)]
    slides = rows[rows["slide"] != ""].groupby("method")["slide"].nunique()
    known = set(rows["method"])
    for method in (m for m in experiment.methods if m in known and reference in known - {m}):
        pair = paired(experiment, scores, column, method, reference, direction=1)
        low, high = pair.interval
        facts = {"method": method, "reference": reference, "difference": pair.difference}
        facts |= {"low": low, "high": high, "p": pair.p, "p_smallest": pair.p_smallest}
        found.append({**facts, "n_patients": pair.n, "n_slides": int(slides.get(method, 0))})
    return pd.DataFrame(found)


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
            why = ONE_UNIT if row["n_patients"] < 2 else ONE_SEED
            return [Cell(text, notes=(self.notes.key(why),)), Cell(DASH)]
        better = (row["low"] > 0 if direction >= 0 else row["high"] < 0) and row["p_holm"] <= ALPHA
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
