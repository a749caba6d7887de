"""Whether the spread of draws is right: coverage of their intervals, and ranks of the truth."""

from math import isfinite, nan
from typing import TYPE_CHECKING

from flag_st.paper.experiment import Experiment
from flag_st.paper.figures import style

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVELS, BINS = (50, 80, 90), 10
NAMES = [f"coverage_{level}" for level in LEVELS] + [f"pit_{i}" for i in range(1, BINS + 1)]
#: The level of the interval from the lowest to the highest draw depends on the number of draws.
NAMES += ["coverage_range", "coverage_range_nominal"]


def calibration_numbers(scores: "pandas.DataFrame") -> "pandas.DataFrame":
    """Mean coverage and PIT over slides and seeds: cohort, method, metric, value."""
    rows = scores[
        scores["metric"].isin(NAMES) & (scores["estimator"] == "ensemble") & (scores["slide"] != "")
    ]
    table = rows.groupby(["cohort", "method", "metric"], sort=False)["value"].mean()
    return table.reset_index()


def draw(numbers: "pandas.DataFrame", experiment: Experiment) -> "Figure":
    """One row per cohort: coverage against the nominal level, and the histogram of the PIT."""
    import matplotlib.pyplot as plt

    cohorts = list(dict.fromkeys(numbers["cohort"]))
    size = (style.WIDTH, 2.6 * len(cohorts) + 0.4)
    figure, grid = plt.subplots(len(cohorts), 2, figsize=size, squeeze=False)
    for (left, right), cohort in zip(grid, cohorts, strict=True):
        part = numbers[numbers["cohort"] == cohort]
        for place, (method, facts) in enumerate(experiment.methods.items()):
            values = part[part["method"] == method].set_index("metric")["value"]
            _coverage(left, values, style.colour(place), facts.label)
            _ranks(right, values, style.colour(place), facts.label)
        left.plot([40, 100], [40, 100], color="black", lw=0.6, ls=":")
        left.set(xlabel="nominal %", ylabel="covered %", title=f"{cohort}: central intervals")
        right.axhline(1, color="black", lw=0.6, ls=":")
        right.set(xlabel="rank of the truth", ylabel="density", title=f"{cohort}: PIT")
    style.legend(figure, grid[0, 1])
    return figure


def _coverage(axes: "Axes", values: "pandas.Series", colour: str, label: str) -> None:
    known = [(n, values.get(f"coverage_{n}", nan)) for n in LEVELS]
    nominal, found = (values.get(f"coverage_range{end}", nan) for end in ("_nominal", ""))
    known = sorted((n, 100 * v) for n, v in [*known, (100 * nominal, found)] if isfinite(n + v))
    if known:
        axes.plot(*zip(*known, strict=True), "o-", color=colour, label=label, ms=4)


def _ranks(axes: "Axes", values: "pandas.Series", colour: str, label: str) -> None:
    shares = [values.get(f"pit_{i}", nan) for i in range(1, BINS + 1)]
    if all(map(isfinite, shares)):
        edges = [i / BINS for i in range(BINS + 1)]
        axes.stairs([s * BINS for s in shares], edges, color=colour, label=label, lw=1.2)
