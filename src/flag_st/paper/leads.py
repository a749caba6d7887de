"""One method of an experiment against another: this decides verdicts and who is marked best."""

from typing import TYPE_CHECKING

from flag_st.paper.columns import Column
from flag_st.paper.experiment import Experiment
from flag_st.paper.statistics import Paired, by_unit, compare
from flag_st.scoring.slides import REST

if TYPE_CHECKING:
    import pandas


def paired(
    experiment: Experiment,
    scores: "pandas.DataFrame",
    column: Column,
    first: str,
    second: str | float,
    margin: float = 0.0,
    direction: int | None = None,
) -> Paired:
    """One method minus another, or minus a number, on the test patients of one cohort and panel.

    Args:
        scores: rows of one cohort and panel.
        column: which value is compared.
        first, second: the methods.
        margin: what the difference is compared with.
        direction: 1 or -1; by default that of the metric, so that more is always better.
    """
    rows = scores[
        scores["metric"].isin((column.metric, column.metric + REST))
        & (scores["estimator"] == column.estimator)
        & (scores["gene"] == "")
    ]
    cohort = rows["cohort"].iloc[0]
    patients = experiment.patients_of(cohort, sorted(set(rows["slide"]) - {""}))
    names = [name for name in (first, second) if isinstance(name, str)]
    tables = [by_unit(rows, name, patients, column.scope) for name in names]
    if direction is None:
        direction = experiment.labels[column.metric][1] or 1
    other = tables[1] if isinstance(second, str) else second
    random = [experiment.methods[name].random for name in names]
    return compare(tables[0], other, random, direction, margin)
