"""Charts of scores: methods as bars, metrics against panel size, structure against accuracy."""

from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.paper.columns import ARROWS
from flag_st.paper.experiment import Experiment
from flag_st.paper.figures import style

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


#: Genes per unit of width that an axis names; all others would crowd it.
RATIOS = (1 / 64, 1 / 16, 1 / 4, 1, 4, 16, 64)


def _title(experiment: Experiment, place: int) -> str:
    """Label and direction of the metric in column ``place``, and what it has apart from others."""
    columns, column = experiment.columns, experiment.columns[place]
    label, direction = experiment.labels[column.metric]
    several = sum(other.metric == column.metric for other in columns) > 1
    return label + ARROWS[direction] + f"\n{column.words(columns)}" * several


def names_of(experiment: Experiment) -> dict[str, str]:
    """Method → its label, followed by its name where several methods have the same label."""
    labels = [facts.label for facts in experiment.methods.values()]
    return {
        method: label if labels.count(label) == 1 else f"{label} ({method})"
        for method, label in zip(experiment.methods, labels, strict=True)
    }


def _drawn(numbers: "pandas.DataFrame", experiment: Experiment) -> "pandas.DataFrame":
    """``numbers`` with the names of methods and columns, and the ends of mean ± standard deviation."""
    return numbers.assign(
        name=numbers["method"].map(names_of(experiment)),
        title=[_title(experiment, place) for place in numbers["column"]],
        low=numbers["mean"] - numbers["std"],
        high=numbers["mean"] + numbers["std"],
    )


def bars(numbers: "pandas.DataFrame", experiment: Experiment) -> "Figure":
    """One row of panels per cohort and one panel per column; diamonds are the printed numbers.

    Args:
        numbers: as ``summary.numbers_of`` returns them.
        experiment: whose columns and methods are drawn.
    """
    import seaborn.objects as so

    table = _drawn(numbers, experiment)
    table["panel"] = table["cohort"] + ": " + table["title"]
    names = [name for name in names_of(experiment).values() if name in set(table["name"])]
    plot = (
        so.Plot(table, x="mean", y="name", color="name")
        .facet("panel", wrap=len(experiment.columns))
        .share(x=False)
        .add(so.Bar(alpha=0.85, edgewidth=0, width=0.7), legend=False)
        .add(so.Range(color="black"), xmin="low", xmax="high", legend=False)
        .add(so.Dots(marker="D", color="black", fillcolor="white", pointsize=4, fillalpha=1),
             x="paper", legend=False)
        .scale(y=so.Nominal(order=names), color=style.colours(names))
        .label(x="", y="")
    )  # fmt: skip
    rows = table["cohort"].nunique()
    figure = style.draw(plot, style.blank((0.22 * len(names) + 0.75) * rows + 0.2))
    for axes in figure.axes:
        axes.axvline(0, color="black", lw=0.5)
        axes.tick_params(axis="y", length=0)
    return figure


def against_size(numbers: "pandas.DataFrame", experiment: Experiment) -> "Figure":
    """Metrics over the number of panel genes: one row per cohort, one panel per metric.

    There is one line per method, and dashed lines are the printed numbers.

    Args:
        numbers: as ``summary.numbers_of`` returns them, with the number of genes as ``size``.
        experiment: whose columns and methods are drawn.
    """
    import seaborn.objects as so

    table = _drawn(numbers, experiment)
    table["panel"] = table["cohort"] + ": " + table["title"]
    sizes = so.Continuous(trans="log").tick(at=sorted(table["size"].unique()), minor=0)
    plot = (
        so.Plot(table, x="size", y="mean", color="name")
        .facet("panel", wrap=len(experiment.columns))
        .share(y=False)
        .add(so.Line(marker="o", pointsize=3))
        .add(so.Range(), ymin="low", ymax="high", legend=False)
        .add(so.Line(marker="D", fillcolor="white", pointsize=3, linestyle="--", linewidth=0.8),
             y="paper", legend=False)
        .scale(x=sizes.label(like="{x:g}"), color=style.colours(names_of(experiment).values()))
        .label(x="genes of the panel", y="", color="")
    )  # fmt: skip
    return style.draw(plot, style.blank(1.9 * table["cohort"].nunique() + 0.3))


def against_ratio(numbers: "pandas.DataFrame", experiment: Experiment) -> "Figure":
    """Metrics over genes per unit of the network's width: one row per head, one panel per metric.

    If a narrow head is what makes quality fall as the panel grows, all lines of a row fall together,
    whatever their edges (the colours). If edges are the cause, the lines of one colour fall alone.

    Args:
        numbers: as for ``against_size``.
        experiment: the params of its methods give their head, edges and width.
    """
    import seaborn.objects as so

    heads, edges, widths = (
        numbers["method"].map(lambda method, key=key: experiment.methods[method].params[key])
        for key in ("head", "edges", "width")
    )
    table = _drawn(numbers, experiment).assign(edges=edges, width=widths)
    table["panel"] = "head " + heads + ": " + table["title"]
    table["ratio"] = table["size"] / widths
    table["network"] = "edges " + edges + ", width " + widths.astype(str)
    plot = (
        so.Plot(table, x="ratio", y="mean", color="network", marker="network")
        .facet("panel", wrap=len(experiment.columns))
        .share(y="col")
        .add(so.Line(pointsize=3.5, linewidth=0.9))
        .add(so.Range(linewidth=0.9), ymin="low", ymax="high", legend=False)
        .scale(
            x=so.Continuous(trans="log2").tick(at=RATIOS).label(like="{x:g}"), **_networks(table)
        )
        .label(x="genes / width", y="", color="", marker="")
    )
    figure = style.draw(plot, style.blank(1.9 * heads.nunique() + 0.4))
    for axes in figure.axes:
        axes.axvline(1, color="0.6", lw=0.6, ls=":")
    return figure


def _networks(table: "pandas.DataFrame") -> dict[str, Any]:
    """Scales of ``against_ratio``: the colour of a network says its edges, the marker its width."""
    from seaborn.objects import Nominal

    edges, widths = list(table["edges"].unique()), sorted(table["width"].unique())
    kinds = table[["network", "edges", "width"]].drop_duplicates()
    kinds = kinds.assign(
        edges=kinds["edges"].map(edges.index), width=kinds["width"].map(widths.index)
    )
    kinds = kinds.sort_values(["edges", "width"])
    order = list(kinds["network"])
    return {
        "color": Nominal([style.colour(place) for place in kinds["edges"]], order=order),
        "marker": Nominal([style.MARKERS[place] for place in kinds["width"]], order=order),
    }


#: Value of ``params.over`` → what draws panels of growing size over it.
OVER = {"genes": against_size, "width": against_ratio}


def structure_against_accuracy(numbers: "pandas.DataFrame", experiment: Experiment) -> "Figure":
    """One row per cohort and one panel per structure metric.

    Lines lead from the mean of draws (open symbols) to single draws.

    Args:
        numbers: as ``ability.add_ability`` returns them.
        experiment: its columns come in pairs (mean of draws, one draw): first accuracy, then each
            structure metric.
    """
    import seaborn.objects as so

    table = structure_pairs(numbers, experiment)
    accuracy = experiment.labels[experiment.columns[0].metric][0]
    panels = table[["cohort", "metric", "panel"]].drop_duplicates()
    plot = (
        so.Plot(table, x="x", y="y", color="name", marker="name")
        .facet("panel", wrap=len(experiment.columns) // 2 - 1)
        .share(x=False, y=False)
        .add(so.Line(linewidth=0.8, marker=""), legend=False)
        .add(so.Dot(), data=table[table["kind"] == "draw"])
        .add(so.Dot(fill=False), data=table[table["kind"] == "mean"], legend=False)
        .scale(**style.symbols(names_of(experiment).values()))
        .label(x=accuracy, y="", color="", marker="")
    )
    figure = style.draw(plot, style.blank(2.9 * table["cohort"].nunique() + 0.5))
    for axes, panel in zip(figure.axes, panels.itertuples(), strict=True):
        rows = numbers[(numbers["cohort"] == panel.cohort) & (numbers["metric"] == panel.metric)]
        of_draws = rows[rows["column"] == rows["column"].max()]
        for end in ("null", "ceiling"):
            _level(axes, end, float(of_draws[end].mean()))
    return figure


def structure_pairs(numbers: "pandas.DataFrame", experiment: Experiment) -> "pandas.DataFrame":
    """The points of ``structure_against_accuracy``.

    Returns:
        cohort, metric, panel, method, name, kind (``mean`` or ``draw``), x and y, NaN where undefined.
        Where draws equal their mean, there is no ``mean``.
    """
    import pandas as pd

    columns, labels, names = experiment.columns, experiment.labels, names_of(experiment)
    parts = []
    for cohort, of in numbers.groupby("cohort", sort=False):
        wide = of.pivot_table(index="method", columns="column", values="mean", dropna=False)
        wide = wide.reindex([method for method in names if method in wide.index])
        for y in range(2, len(columns), 2):
            metric = columns[y].metric
            mean, draw = (wide[[k, y + k]].set_axis(["x", "y"], axis=1) for k in (0, 1))
            differ = (mean - draw).abs().max(axis=1) > 1e-9
            panel = f"{cohort}: {labels[metric][0]}"
            facts = {"cohort": cohort, "metric": metric, "panel": panel}
            for kind, points in (("mean", mean[differ]), ("draw", draw)):
                parts.append(points.reset_index().assign(kind=kind, **facts))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(name=table["method"].map(names))


def _level(axes: "Axes", name: str, level: float) -> None:
    if not np.isfinite(level):
        return
    axes.axhline(level, color="black", lw=0.8, ls=":")
    axes.annotate(
        name, (0.01, level), (0, 2), xycoords=("axes fraction", "data"),
        textcoords="offset points", fontsize=6,
    )  # fmt: skip


def against_settings(numbers: "pandas.DataFrame", experiment: Experiment) -> "Figure":
    """Metrics over the settings of ``params.settings``: one row per cohort and setting.

    Args:
        numbers: as ``summary.numbers_of`` returns them, once for each setting, with its name for
            readers as ``setting`` and its number as ``value``.
        experiment: whose columns are drawn.
    """
    import seaborn.objects as so

    table = _drawn(numbers, experiment).sort_values(["cohort", "setting", "column", "value"])
    table["panel"] = table["cohort"] + ", " + table["setting"] + ":\n" + table["title"]
    ticks = so.Continuous(trans="log").tick(at=sorted(table["value"].unique()), minor=0)
    plot = (
        so.Plot(table, x="value", y="mean")
        .facet("panel", wrap=len(experiment.columns))
        .share(x=False, y=False)
        .add(so.Line(marker="o", pointsize=3))
        .add(so.Range(), ymin="low", ymax="high")
        .scale(x=ticks.label(like="{x:g}"))
        .label(x="", y="")
    )
    return style.draw(plot, style.blank(1.9 * table.groupby(["cohort", "setting"]).ngroups + 0.3))


def per_slide(table: "pandas.DataFrame", experiment: Experiment) -> "Figure":
    """Methods as boxes with a dot for every test slide: one row per cohort, one panel per column.

    Args:
        table: as ``paper.by_slide.by_slide`` returns it.
        experiment: whose columns and methods are drawn.
    """
    import matplotlib.pyplot as plt
    import seaborn as sns

    names, cohorts = names_of(experiment), list(table["cohort"].unique())
    shown = [name for method, name in names.items() if method in set(table["method"])]
    size = style.WIDTH, (0.24 * len(shown) + 0.8) * len(cohorts)
    figure, grid = plt.subplots(
        len(cohorts), len(experiment.columns), figsize=size, squeeze=False, sharey=True
    )
    for row, cohort in zip(grid, cohorts, strict=True):
        for place, axes in enumerate(row):
            part = table[(table["cohort"] == cohort) & (table["column"] == place)]
            part = part.assign(name=part["method"].map(names))
            how = {"data": part.dropna(subset="value"), "x": "value", "y": "name"}
            how |= {"order": shown, "ax": axes}
            if len(how["data"]):  # seaborn cannot draw boxes of nothing
                sns.boxplot(**how, color="0.9", fliersize=0, linewidth=0.6, width=0.7)
                sns.stripplot(**how, color=style.COLOURS[0], size=2.5, jitter=False)
            else:
                axes.text(0.5, 0.5, "undefined", transform=axes.transAxes, ha="center")
            axes.set(title=f"{cohort}: {_title(experiment, place)}", xlabel="", ylabel="")
            _tests(axes, part.drop_duplicates("name").set_index("name"), shown)
    return figure


def _tests(axes: "Axes", rows: "pandas.DataFrame", names: list[str]) -> None:
    """Write the two p values of each method behind its row."""
    known = [name for name in names if name in rows.index and rows.loc[name, "p_slides"] <= 1]
    how: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "fontsize": 5, "va": "center"}
    for name in known:
        words = f"{rows.loc[name, 'p_slides']:.2g} | {rows.loc[name, 'p_patients']:.2g}"
        axes.text(1.01, names.index(name), words, **how)
    if known:
        axes.text(1.01, -0.75, "p slides | patients", **how)


def against_time(table: "pandas.DataFrame", label: str, experiment: Experiment) -> "Figure":
    """Quality over the seconds that it takes to predict a slide, one panel per cohort.

    Args:
        table: cohort, method, column, seconds, mean and std.
        label: of the metric.
        experiment: whose methods are drawn.
    """
    import seaborn.objects as so

    plot = (
        so.Plot(_drawn(table, experiment), x="seconds", y="mean", color="name", marker="name")
        .facet("cohort")
        .share(x=False, y=False)
        .add(so.Dot(pointsize=5))
        .add(so.Range(), ymin="low", ymax="high", legend=False)
        .scale(x="log", **style.symbols(names_of(experiment).values()))
        .label(x="seconds to predict a slide", y=label, color="", marker="")
    )
    return style.draw(plot, style.blank(3.2))
