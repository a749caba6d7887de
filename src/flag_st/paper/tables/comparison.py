"""Methods in rows and metrics in columns, with the paper's numbers beside ours, as in Table 1."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

from flag_st.paper import reported
from flag_st.paper.ability import Scale, add_ability
from flag_st.paper.columns import ARROWS, Column
from flag_st.paper.experiment import Experiment, Labels
from flag_st.paper.leads import paired
from flag_st.paper.statistics import fewest
from flag_st.paper.summary import numbers_of
from flag_st.paper.tables.sheet import (
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

NOT_RUN = "this experiment does not include the method"
WARNING = (
    "Rows marked stand-in differ from the paper's setting and are not a reproduction of its numbers"
)


def compare(
    experiment: Experiment,
    scores: "pandas.DataFrame",
    runs: "pandas.DataFrame",
    printed_numbers: "pandas.DataFrame",
    labels: Labels | None = None,
) -> tuple[Sheet, "pandas.DataFrame"]:
    """The sheet, and all of its numbers in long form.

    Args:
        experiment: its ``params.columns`` are shown, and ``params.not_run`` may say why a row of the
            paper has no counterpart of ours.
        scores, runs: as collected.
        printed_numbers: one table of ``config/reported.csv``.
        labels: value name → (label, direction), if not those of the metrics.
    """
    numbers = numbers_of(experiment, scores, runs, printed_numbers, labels)
    numbers = add_ability(numbers, experiment)
    table = _Comparison(experiment, scores, numbers, printed_numbers, labels or experiment.labels)
    blocks = []
    for cohort in experiment.cohorts:
        # A cohort on which nothing was run is shown as well.
        panels = runs.loc[runs["cohort"] == cohort, "panel"].unique()
        for panel in panels if len(panels) else runs["panel"].unique():
            title = f"{cohort}, {panel}" if runs["panel"].nunique() > 1 else cohort
            blocks.append(table.block(title, cohort, panel))
    misleading = (numbers["differs"] != "").any() and numbers["paper"].notna().any()
    warning = WARNING if misleading else ""
    caption = " ".join([experiment.caption, *_explained(experiment, scores)])
    sheet = Sheet(experiment.name, experiment.title, caption, blocks, table.notes, warning)
    return sheet, numbers.drop(columns="column")


def _explained(experiment: Experiment, scores: "pandas.DataFrame") -> Iterator[str]:
    """What the caption says of percentages, and of cohorts on which nobody can be the best."""
    if scale := Scale.of(experiment):
        null, ceiling = experiment.label(scale.zero), experiment.label(scale.one)
        yield f"Percentages place a value between {null} (0 %) and {ceiling} (100 %)."
    few = []
    for cohort, part in scores[scores["slide"] != ""].groupby("cohort", sort=False):
        patients = experiment.patients_of(str(cohort), sorted(set(part["slide"])))
        if (n := len(set(patients.values()))) < fewest():
            few.append(f"{cohort} ({n} {'patient' if n == 1 else 'patients'})")
    if few:
        yield (
            f"Nobody is marked best on {', '.join(few)}: with fewer than {fewest()} test patients, no "
            "lead can be told from chance."
        )


@dataclass
class _Comparison:
    """What all blocks of one table share.

    Attributes:
        experiment, scores, printed_numbers, labels: as given to ``compare``.
        numbers: as ``numbers_of`` returns them.
        notes: the footnotes, filled while blocks are made.
    """

    experiment: Experiment
    scores: "pandas.DataFrame"
    numbers: "pandas.DataFrame"
    printed_numbers: "pandas.DataFrame"
    labels: Labels
    notes: Notes = field(default_factory=Notes)

    def block(self, title: str, cohort: str, panel: str) -> Block:
        """Our methods, then those that cannot be run here, then rows that only the paper has."""
        part = self.numbers[(self.numbers["cohort"] == cohort) & (self.numbers["panel"] == panel)]
        rows = self._run_rows(part)
        rows += self._absent_rows(cohort, panel)
        rows += self._printed_rows(cohort, panel)
        return Block(title, *self._headings(), rows)

    def _run_rows(self, part: "pandas.DataFrame") -> list[list[Cell]]:
        methods = [m for m in self.experiment.methods if m in set(part["method"])]
        values = {(row["column"], row["method"]): row for row in part.to_dict("records")}
        rows = {
            m: [Cell(self.experiment.label(m), kind="name"), self._setting(values[0, m])]
            for m in methods
        }
        for place, column in enumerate(self.experiment.columns):
            of_methods = [values[place, m] for m in methods]
            for row, mark in zip(of_methods, self._marks(column, of_methods), strict=True):
                rows[row["method"]] += self._cells(column, row, mark)
        return list(rows.values())

    def _marks(self, column: Column, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Who is best and second best; methods that see the truth do not compete."""
        competing = [
            nan if self.experiment.methods[row["method"]].needs_truth else row["mean"]
            for row in rows
        ]
        rivals = dict(zip(competing, rows, strict=True))
        direction = self.labels[column.metric][1]

        def ahead(first: float, second: float) -> bool:
            one, other = rivals[first], rivals[second]
            part = self.scores[
                (self.scores["cohort"] == one["cohort"]) & (self.scores["panel"] == one["panel"])
            ]
            names = one["method"], other["method"]
            found = paired(self.experiment, part, column, *names, direction=direction)
            return found.sign > 0

        return marks(competing, direction, ahead)

    def _cells(self, column: Column, row: Mapping[str, Any], mark: str) -> list[Cell]:
        """Our number and, if the column has one, the paper's."""
        if row["n_seeds"]:
            cells = [number(row["mean"], row["std"], self.notes, mark)]
            if isfinite(row["ability"]) and self.labels[column.metric][1]:
                detail = f"{cells[0].detail} ({round(row['ability'], 2) + 0.0:.0%})".strip()
                cells = [replace(cells[0], detail=detail)]
        else:
            cells = [Cell(DASH, notes=(self.notes.key(ABSENT),))]
        if column.paper:
            value = (row["paper"], row["paper_std"], row["paper_note"])
            cells.append(printed(None if row["paper_note"] is None else value))
        return cells

    def _setting(self, row: Mapping[str, Any]) -> Cell:
        keys = [self.notes.key(text) for text in row["differs"].split("; ") if text]
        in_order = tuple(sorted(keys, key=lambda key: (len(key), key)))
        return Cell(row["setting"], notes=in_order, kind="name")

    def _absent_rows(self, cohort: str, panel: str) -> list[list[Cell]]:
        """Methods of this experiment that cannot be run here, with the reason."""
        paper_cohort = self.experiment.paper_cohort(cohort)
        return [
            self._not_run(
                self.experiment.label(absent.method),
                absent.reason,
                self._printed_cells(self.printed_numbers, paper_cohort, panel, absent.method),
            )
            for absent in self.experiment.absent
            if absent.cohort == cohort
        ]

    def _printed_rows(self, cohort: str, panel: str) -> list[list[Cell]]:
        """Rows that the paper has and this experiment does not, with the reason."""
        paper_cohort = self.experiment.paper_cohort(cohort)
        table = self.printed_numbers[
            (self.printed_numbers["cohort"] == paper_cohort)
            & self.printed_numbers["panel"].isin((panel, ""))
        ]
        reasons, rows = self.experiment.params.get("not_run", {}), []
        for (label, method), _ in table.groupby(["row", "method"], sort=False):
            if method and method in self.experiment.methods:
                continue
            part = table[table["row"] == label]
            cells = self._printed_cells(part, paper_cohort, panel, method)
            rows.append(self._not_run(label, reasons.get(label, NOT_RUN), cells))
        return rows

    def _printed_cells(
        self, table: "pandas.DataFrame", cohort: str, panel: str, method: str
    ) -> list[Cell]:
        """A dash in place of each of our numbers, with the printed number beside it."""
        cells = []
        for column in self.experiment.columns:
            cells.append(Cell(DASH))
            if column.paper:
                value = reported.printed_value(table, cohort, panel, method, column.paper)
                cells.append(printed(value))
        return cells

    def _not_run(self, label: str, reason: str, cells: list[Cell]) -> list[Cell]:
        said = Cell("not run", kind="name", notes=(self.notes.key(reason),))
        return [Cell(label, kind="name"), said, *cells]

    def _headings(self) -> tuple[list[Head], list[Head]]:
        """Groups and columns; adjacent columns of one metric share the heading of a group."""
        columns = self.experiment.columns
        groups, heads = [Head("", 2)], [Head("method", kind="name"), Head("setting", kind="name")]
        for column in columns:
            label, direction = self.labels[column.metric]
            width = 1 + bool(column.paper)
            text = label + ARROWS[direction]
            if groups[-1].text == text:
                groups[-1] = Head(text, groups[-1].span + width)
            else:
                groups.append(Head(text, width))
            heads.append(Head(column.heading or column.words(columns)))
            heads += [Head("paper", kind="paper")] * bool(column.paper)
        return groups, heads
