"""Whether one method's lead over another is more than chance: who is marked best."""

from collections.abc import Mapping, Sequence
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

    from flag_st.paper.comparison import Column


def owners(item: Mapping[str, Any], cohort: str, slides: Sequence[str]) -> dict[str, str]:
    """Slide → patient; a slide whose patient is unknown stands for itself."""
    known = item.get("patients", {}).get(cohort, {})
    return {slide: known.get(slide) or slide for slide in slides}


def spread_of(item: Mapping[str, Any], *rows: Mapping[str, Any]) -> float:
    """Spread over seeds of a difference, the root of the summed variances.

    0 for methods without any randomness; NaN where a method that has some was run with one seed, so
    that nobody knows.
    """
    total = 0.0
    for row in rows:
        traits = item["methods"][row["method"]]
        random = traits.get("stochastic") or traits.get("seeded")
        total += row["std"] ** 2 if random or isfinite(row["std"]) else 0.0
    return sqrt(total)


def leads(
    item: Mapping[str, Any],
    scores: "pandas.DataFrame",
    cohort: str,
    panel: str,
    column: "Column",
    first: Mapping[str, Any],
    second: Mapping[str, Any],
) -> bool:
    """Whether the lead of one row of ``summarise`` over another is more than chance.

    It must exceed the spread over seeds (root of the summed variances) and, for values per slide of
    two patients or more, the 95 % interval of the paired difference must leave out 0.
    """
    from flag_st.paper import statistics

    if not abs(first["mean"] - second["mean"]) > spread_of(item, first, second):
        return False
    rows = scores[
        (scores["cohort"] == cohort)
        & (scores["panel"] == panel)
        & (scores["metric"] == column.metric)
        & (scores["estimator"] == column.estimator)
        & scores["method"].isin([first["method"], second["method"]])
        & (scores["slide"] != "")
    ]
    patients = owners(item, cohort, sorted(set(rows["slide"])))
    if column.scope == "pooled" or len(set(patients.values())) < 2:
        return True
    found = statistics.bootstrap(
        rows.drop(columns="split"), patients, second["method"], resamples=2000
    )
    return bool(((found["low"] > 0) | (found["high"] < 0)).all())
