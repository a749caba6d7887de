"""Training histories: how the losses fall, and where validation was best."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.paper.experiment import Experiment
from flag_st.paper.figures import style
from flag_st.paper.figures.charts import names_of

if TYPE_CHECKING:
    import pandas
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


#: The columns that tell runs of one cohort and method apart.
RUN = ["split", "panel", "seed"]


def draw(table: "pandas.DataFrame", experiment: Experiment) -> "Figure":
    """One panel per cohort and method, one thin line per run, with a dot at its best validation."""
    import seaborn.objects as so

    names = names_of(experiment)
    table = table[table["curve"].isin(LINES)]
    table = table.assign(
        panel=table["method"].map(names) + " · " + table["cohort"],
        curve=table["curve"].map(LINES),
        run=table[RUN].astype(str).agg(" ".join, axis=1),
    )
    plot = (
        so.Plot(table, x="epoch", y="value", color="curve", group="run")
        .facet("panel", wrap=table["method"].nunique())
        .share(x=False, y=False)
        .add(so.Line(alpha=0.75))
        .add(so.Dot(pointsize=4), data=best(table), legend=False)
        .scale(color=style.colours(LINES.values()))
        .label(y="loss", color="")
    )
    width = max(3.6, min(style.WIDTH, 2.6 * table["method"].nunique() + 0.6))
    figure = style.draw(plot, style.blank(2.1 * table["cohort"].nunique() + 0.5, width))
    for axes, (_, part) in zip(figure.axes, table.groupby("panel", sort=False), strict=True):
        if part["value"].min() > 0 and np.log10(part["value"].max() / part["value"].min()) > 1:
            axes.set_yscale("log")
    return figure


def best(table: "pandas.DataFrame") -> "pandas.DataFrame":
    """The row of the best validation loss of every run."""
    valid = table[table["curve"] == LINES["valid_loss"]]
    return valid.loc[valid.groupby(["panel", "run"], sort=False)["value"].idxmin()]


def dynamics(table: "pandas.DataFrame", experiment: Experiment) -> "Figure":
    """One row per cohort and method, one panel per curve of the history, one thin line per run."""
    import seaborn.objects as so

    of = table["method"].map(names_of(experiment)) + "\n" + table["cohort"]
    seeds = [f"seed {seed}" for seed in sorted(table["seed"].unique())]
    table = table.assign(
        of=of, curve=table["curve"].str.replace("_", " "), seed="seed " + table["seed"].astype(str),
        run=table[["split", "panel"]].agg(" ".join, axis=1),
    )  # fmt: skip
    plot = (
        so.Plot(table, x="epoch", y="value", color="seed", group="run")
        .facet(col="curve", row="of")
        .share(x="row", y=False)
        .add(so.Line(alpha=0.8))
        .scale(color=style.colours(seeds))
        .label(y="", color="")
    )
    figure = style.draw(plot, style.blank(1.7 * of.nunique() + 0.4))
    curves = table["curve"].nunique()
    for place, axes in enumerate(figure.axes):
        curve, row = axes.get_title().split(" | ")
        axes.set_title(curve, fontsize=7)
        if place % curves == 0:
            axes.set_ylabel(row)
    return figure
