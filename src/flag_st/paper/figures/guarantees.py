"""What calibrated intervals keep of their promise: the risk of certain spots, and coverage by patient."""

from typing import TYPE_CHECKING

from flag_st.intervals.conformal import LEVELS
from flag_st.metrics.intervals import TENTHS
from flag_st.paper.experiment import Experiment
from flag_st.paper.figures import style
from flag_st.paper.figures.charts import names_of

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RISK, COVERED, GUARANTEED = "relative error", "covered", "guaranteed"
#: Metric → the curve and the place on its axis, in %.
POINTS = {f"risk_{t}": (RISK, 100 * t / TENTHS) for t in range(1, TENTHS)}
POINTS |= {f"calibrated_{level}": (COVERED, float(level)) for level in LEVELS}
POINTS["calibrated_guarantee_90"] = (GUARANTEED, 90.0)


def guarantee_numbers(scores: "pandas.DataFrame", experiment: Experiment) -> "pandas.DataFrame":
    """Mean over the slides of a patient and over seeds: cohort, method, patient, curve, x (%), value.

    The risk is a share, and 1 where all spots are kept; coverage and guarantee are in %.
    """
    rows = scores[
        scores["metric"].isin(POINTS)
        & (scores["estimator"] == "ensemble")
        & (scores["slide"] != "")
    ].dropna(subset="value")
    slides = rows.groupby("cohort")["slide"].unique()
    patients = {
        (cohort, slide): patient
        for cohort, names in slides.items()
        for slide, patient in experiment.patients_of(cohort, names).items()
    }
    keys = zip(rows["cohort"], rows["slide"], strict=True)
    rows = rows.assign(patient=[patients[key] for key in keys])
    groups = rows.groupby(["cohort", "method", "patient", "metric"], sort=False)["value"]
    table = groups.mean().reset_index()
    table["curve"] = [POINTS[name][0] for name in table["metric"]]
    table["x"] = [POINTS[name][1] for name in table["metric"]]
    table.loc[table["curve"] != RISK, "value"] *= 100
    return table.drop(columns="metric")[["cohort", "method", "patient", "curve", "x", "value"]]


def draw(numbers: "pandas.DataFrame", experiment: Experiment) -> "Figure":
    """One row per cohort: risk against the share of spots kept, and coverage against the level."""
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    cohorts, names = list(dict.fromkeys(numbers["cohort"])), names_of(experiment)
    shown = [method for method in names if method in set(numbers["method"])]
    palette = {method: style.colour(list(names).index(method)) for method in shown}
    size = (style.WIDTH, 2.6 * len(cohorts) + 0.4)
    figure, grid = plt.subplots(len(cohorts), 2, figsize=size, squeeze=False)
    for (left, right), cohort in zip(grid, cohorts, strict=True):
        part = numbers[numbers["cohort"] == cohort]
        draw_risk(left, part, palette)
        draw_coverage(right, part, palette)
        left.set_title(f"{cohort}: the most certain spots")
        right.set_title(f"{cohort}: coverage of each patient")
    handles = [Line2D([], [], color=colour) for colour in palette.values()]
    style.legend(figure, handles, [names[method] for method in shown])
    return figure


def draw_risk(axes: "Axes", numbers: "pandas.DataFrame", palette: dict[str, str]) -> None:
    """The mean over patients of the error of the spots that are kept, over that of all."""
    rows = numbers[numbers["curve"] == RISK]
    for method, part in rows.groupby("method", sort=False):
        means = part.groupby("x")["value"].mean()
        means.loc[100.0] = 1.0
        axes.plot(means.index, means, color=palette[method], marker="o", ms=3)
    axes.axhline(1, color="black", lw=0.6, ls=":")
    axes.set(ylim=(0, None), xlabel="spots kept, most certain first, %", ylabel=RISK)


def draw_coverage(axes: "Axes", numbers: "pandas.DataFrame", palette: dict[str, str]) -> None:
    """A dot per patient and a line for their mean, with the level and the guarantee for the mean."""
    rows = numbers[numbers["curve"] == COVERED]
    for place, (method, part) in enumerate(rows.groupby("method", sort=False)):
        beside = 0.6 * (place - (rows["method"].nunique() - 1) / 2)  # so that dots are told apart
        axes.scatter(part["x"] + beside, part["value"], color=palette[method], s=9, alpha=0.5, lw=0)
        means = part.groupby("x")["value"].mean()
        axes.plot(means.index, means, color=palette[method])
    ends = [float(LEVELS[0]), float(LEVELS[-1])]
    axes.plot(ends, ends, color="black", lw=0.6, ls=":")
    lowest = numbers.loc[numbers["curve"] == GUARANTEED, "value"].min()
    if lowest == lowest:
        axes.plot(ends, [end * lowest / 90 for end in ends], color="black", lw=0.6, ls="--")
    axes.set(ylim=(0, 102), xlabel="nominal %", ylabel="covered %")
