"""Training histories: how the losses fall, and where validation was best."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.paper.experiment import Experiment
from flag_st.paper.figures import style

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Columns of the history → how the figure calls them; ``loss`` is the training loss.
LINES = {"loss": "training", "valid_loss": "validation"}


def read_histories(
    runs: Sequence[Mapping[str, Any]], paths: Sequence[str]
) -> tuple["pandas.DataFrame", list[str]]:
    """Long table of all runs that were trained in epochs, and the methods that were not.

    Returns:
        cohort, split, panel, method, seed, epoch, curve and value; and the names of methods.
    """
    import pandas as pd

    parts, without = [], []
    for run, path in zip(runs, paths, strict=True):
        table = pd.read_csv(path)
        if len(table) == 0 or not {"epoch", "loss"} <= set(table.columns):
            without.append(run["method"])
            continue
        long = table.melt("epoch", var_name="curve", value_name="value").dropna()
        parts.append(long.assign(**run))
    names = [*(runs[0] if runs else {}), "epoch", "curve", "value"]
    table = pd.concat(parts, ignore_index=True)[names] if parts else pd.DataFrame(columns=names)
    return table, sorted(set(without) - set(table["method"]))


def draw(table: "pandas.DataFrame", experiment: Experiment) -> "Figure":
    """One panel per cohort and method, one thin line per run, with a dot at its best validation."""
    import matplotlib.pyplot as plt

    cohorts, methods = list(table["cohort"].unique()), list(table["method"].unique())
    size = (max(3.6, min(style.WIDTH, 2.6 * len(methods) + 0.6)), 2.1 * len(cohorts) + 0.3)
    figure, grid = plt.subplots(len(cohorts), len(methods), figsize=size, squeeze=False)
    for axes, (cohort, method) in zip(grid.flat, product(cohorts, methods), strict=True):
        part = table[(table["cohort"] == cohort) & (table["method"] == method)]
        for place, (name, label) in enumerate(LINES.items()):
            _lines(axes, part[part["curve"] == name], style.colour(place), label)
        if len(part) and part["value"].min() > 0 and _wide(part):
            axes.set_yscale("log")
        axes.set_title(f"{experiment.label(method)} · {cohort}")
        axes.set_xlabel("epoch")
    grid[0, 0].legend(loc="best")
    for axes in grid[:, 0]:
        axes.set_ylabel("loss")
    return figure


def dynamics(table: "pandas.DataFrame", experiment: Experiment) -> "Figure":
    """One row per cohort and method, one panel per curve of the history, one thin line per run."""
    import matplotlib.pyplot as plt

    groups = list(table.groupby(["cohort", "method"], sort=False))
    names = list(dict.fromkeys(table["curve"]))
    size = (style.WIDTH, 1.7 * len(groups) + 0.2)
    figure, grid = plt.subplots(len(groups), len(names), figsize=size, squeeze=False, sharex="row")
    for row, ((cohort, method), part) in zip(grid, groups, strict=True):
        for axes, name in zip(row, names, strict=True):
            for place, (_, run) in enumerate(part.groupby(["split", "panel", "seed"], sort=False)):
                line = run[run["curve"] == name]
                label = f"seed {run['seed'].iloc[0]}"
                axes.plot(
                    line["epoch"], line["value"], color=style.colour(place), alpha=0.8, label=label
                )
            axes.set_title(name.replace("_", " "), fontsize=7)
            axes.set_xlabel("epoch")
        row[0].set_ylabel(f"{experiment.label(method)}\n{cohort}")
    style.legend(figure, grid[0, 0])
    return figure


def _lines(axes: "Axes", part: "pandas.DataFrame", colour: str, label: str) -> None:
    for i, (_, run) in enumerate(part.groupby(["split", "panel", "seed"], sort=False)):
        axes.plot(
            run["epoch"], run["value"], color=colour, alpha=0.75, label=label if i == 0 else None
        )
        if label == LINES["valid_loss"]:
            best = run.loc[run["value"].idxmin()]
            axes.plot(best["epoch"], best["value"], "o", color=colour, markersize=4)


def _wide(part: "pandas.DataFrame") -> bool:
    """Whether the curves span more than a factor of ten."""
    values = part.loc[part["curve"].isin(LINES), "value"]
    return len(values) > 0 and bool(np.log10(values.max() / values.min()) > 1)
