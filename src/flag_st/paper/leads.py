"""Whether one method's lead over another is more than chance: this decides who is marked best."""

from collections.abc import Mapping
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any

from flag_st.paper.columns import Column
from flag_st.paper.experiment import Experiment
from flag_st.paper.statistics import bootstrap

if TYPE_CHECKING:
    import pandas


def spread_of(experiment: Experiment, *rows: Mapping[str, Any]) -> float:
    """Spread over seeds of a difference: the square root of the summed variances.

    It is 0 for methods without any randomness, and NaN where a random method was run with only one
    seed, because its spread is then unknown.
    """
    total = 0.0
    for row in rows:
        random = experiment.methods[row["method"]].random
        total += row["std"] ** 2 if random or isfinite(row["std"]) else 0.0
    return sqrt(total)


def leads(
    experiment: Experiment,
    scores: "pandas.DataFrame",
    column: Column,
    first: Mapping[str, Any],
    second: Mapping[str, Any],
) -> bool:
    """Whether the lead of one row of ``summarise`` over another is more than chance.

    The lead must exceed the spread over seeds. For values per slide of at least two patients, the
    95 % interval of the paired difference must also exclude 0. Both rows are of one cohort and panel.
    """
    if not abs(first["mean"] - second["mean"]) > spread_of(experiment, first, second):
        return False
    rows = scores[
        (scores["cohort"] == first["cohort"])
        & (scores["panel"] == first["panel"])
        & (scores["metric"] == column.metric)
        & (scores["estimator"] == column.estimator)
        & scores["method"].isin([first["method"], second["method"]])
        & (scores["slide"] != "")
    ]
    patients = experiment.patients_of(first["cohort"], sorted(set(rows["slide"])))
    if column.scope == "pooled" or len(set(patients.values())) < 2:
        return True
    # Folds of one seed are one run: every slide is tested in one of them.
    rows = rows.drop(columns="split")
    interval = bootstrap(rows, patients, second["method"], resamples=2000)
    return bool(((interval["low"] > 0) | (interval["high"] < 0)).all())
