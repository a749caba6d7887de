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
    from flag_st import statistics

    spread = sqrt(sum(r["std"] ** 2 for r in (first, second) if isfinite(r["std"])))
    if not abs(first["mean"] - second["mean"]) > spread:
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
