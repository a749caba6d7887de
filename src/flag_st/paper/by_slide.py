"""The value of every test slide, and how each method differs from one of them over the slides."""

from math import nan
from typing import TYPE_CHECKING

from flag_st.paper.columns import Column
from flag_st.paper.experiment import Experiment
from flag_st.paper.leads import paired

if TYPE_CHECKING:
    import pandas

KEYS = ["cohort", "panel", "method", "slide"]


def by_slide(experiment: Experiment, scores: "pandas.DataFrame") -> "pandas.DataFrame":
    """One row per cohort, panel, column, method and test slide.

    Args:
        experiment: ``params.reference`` names the method that the others are compared with.
        scores: as collected.

    Returns:
        cohort, panel, method, slide, column (its number), metric, estimator, value (mean over seeds),
        and of the method against the reference ``p_slides`` (Wilcoxon's signed-rank test over slides,
        as in HINGE's Figure 2) and ``p_patients`` (exact sign-flip test over patients). NaN where
        there is nothing to test.
    """
    import pandas as pd

    parts = []
    for place, column in enumerate(experiment.columns):
        rows = scores[
            (scores["metric"] == column.metric)
            & (scores["estimator"] == column.estimator)
            & (scores["slide"] != "")
        ]
        values = rows.groupby(KEYS, sort=False)["value"].mean().reset_index()
        facts = {"column": place, "metric": column.metric, "estimator": column.estimator}
        parts.append(_tested(experiment, scores, column, values.assign(**facts)))
    return pd.concat(parts, ignore_index=True)


def _tested(
    experiment: Experiment,
    scores: "pandas.DataFrame",
    column: Column,
    values: "pandas.DataFrame",
) -> "pandas.DataFrame":
    """``values`` with the p values of each method against the reference."""
    reference, found = experiment.params["reference"], {}
    for (cohort, panel), place in values.groupby(["cohort", "panel"], sort=False):
        wide = place.pivot_table(index="slide", columns="method", values="value")
        rows = scores[(scores["cohort"] == cohort) & (scores["panel"] == panel)]
        for method in set(wide.columns) - {reference}:
            tests = nan, nan
            if reference in wide and len(wide) > 1:
                over_patients = paired(experiment, rows, column, method, reference)
                tests = signed_rank(wide[method] - wide[reference]), over_patients.p
            found[cohort, panel, method] = tests
    keys = zip(values["cohort"], values["panel"], values["method"], strict=True)
    p = [found.get(key, (nan, nan)) for key in keys]
    return values.assign(p_slides=[pair[0] for pair in p], p_patients=[pair[1] for pair in p])


def signed_rank(differences: "pandas.Series") -> float:
    """Two-sided p of Wilcoxon's signed-rank test; NaN if no difference is left to rank."""
    from scipy.stats import wilcoxon

    known = differences.dropna()
    return float(wilcoxon(known).pvalue) if (known != 0).any() else nan
