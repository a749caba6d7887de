"""Whether the spread of draws is right: coverage of their intervals, and ranks of the truth."""

from typing import TYPE_CHECKING

from flag_st.paper.experiment import Experiment
from flag_st.paper.figures import style
from flag_st.paper.figures.charts import names_of

if TYPE_CHECKING:
    import pandas
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
    import seaborn as sns
    from matplotlib.lines import Line2D

    cohorts, names = list(dict.fromkeys(numbers["cohort"])), names_of(experiment)
    size = (style.WIDTH, 2.6 * len(cohorts) + 0.4)
    figure, grid = plt.subplots(len(cohorts), 2, figsize=size, squeeze=False)
    palette = {name: style.colour(place) for place, name in enumerate(names.values())}
    for (left, right), cohort in zip(grid, cohorts, strict=True):
        part = numbers[numbers["cohort"] == cohort]
        part = part.assign(name=part["method"].map(names))
        same = {"hue": "name", "hue_order": palette, "palette": palette, "legend": False}
        if len(shares := covered(part).dropna()):
            sns.lineplot(shares, x="nominal", y="covered", marker="o", ms=4, mew=0, ax=left,
                         estimator=None, **same)  # fmt: skip
        if len(places := ranks(part).dropna()):
            sns.histplot(places, x="rank", weights="share", bins=BINS, binrange=(0, 1), ax=right,
                         stat="density", common_norm=False, element="step", fill=False, **same)  # fmt: skip
        left.plot([40, 100], [40, 100], color="black", lw=0.6, ls=":")
        left.set(xlabel="nominal %", ylabel="covered %", title=f"{cohort}: central intervals")
        right.axhline(1, color="black", lw=0.6, ls=":")
        right.set(
            ylim=(0, None), xlabel="rank of the truth", ylabel="density", title=f"{cohort}: PIT"
        )
    handles = [Line2D([], [], color=colour) for colour in palette.values()]
    style.legend(figure, handles, list(palette))
    return figure


def covered(numbers: "pandas.DataFrame") -> "pandas.DataFrame":
    """Coverage of each method: name, nominal and covered, in %."""
    import pandas as pd

    wide = numbers.pivot(index="name", columns="metric", values="value").reindex(columns=NAMES)
    levels = [pd.DataFrame({"nominal": n / 100, "covered": wide[f"coverage_{n}"]}) for n in LEVELS]
    extremes = wide[["coverage_range_nominal", "coverage_range"]]
    levels.append(extremes.set_axis(["nominal", "covered"], axis=1))
    return (100 * pd.concat(levels)).dropna().reset_index()


def ranks(numbers: "pandas.DataFrame") -> "pandas.DataFrame":
    """The PIT of each method whose bins are all known: name, the middle of a bin as rank, share."""
    wide = numbers.pivot(index="name", columns="metric", values="value").reindex(columns=NAMES)
    wide = wide[[f"pit_{i}" for i in range(1, BINS + 1)]].dropna()
    middles = [(i + 0.5) / BINS for i in range(BINS)]
    wide = wide.set_axis(middles, axis=1).rename_axis(columns="rank")
    return wide.stack().rename("share").reset_index()
