"""Charts of scores: methods as bars, metrics against panel size, structure against accuracy."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from flag_st.paper.columns import ARROWS
from flag_st.paper.experiment import Experiment
from flag_st.paper.figures import style

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: With eight colours, enough to distinguish 64 methods.
MARKERS = "osD^v<>P"


def _title(experiment: Experiment, place: int) -> str:
    """Label and direction of the metric in column ``place``."""
    label, direction = experiment.labels[experiment.columns[place].metric]
    return label + ARROWS[direction]


def _grid(rows: int, columns: int, height: float, **sharing) -> tuple["Figure", np.ndarray]:
    import matplotlib.pyplot as plt

    size = (style.WIDTH, height)
    return plt.subplots(rows, columns, figsize=size, squeeze=False, **sharing)


def bars(numbers: "pandas.DataFrame", experiment: Experiment) -> "Figure":
    """One row of panels per cohort and one panel per column; diamonds are the printed numbers.

    Args:
        numbers: as ``summary.numbers_of`` returns them.
        experiment: whose columns and methods are drawn.
    """
    cohorts = list(dict.fromkeys(numbers["cohort"]))
    methods = [m for m in experiment.methods if m in set(numbers["method"])]
    height = (0.22 * len(methods) + 0.75) * len(cohorts) + 0.2
    figure, grid = _grid(len(cohorts), len(experiment.columns), height, sharey=True)
    for row, cohort in zip(grid, cohorts, strict=True):
        for place, axes in enumerate(row):
            part = numbers[(numbers["cohort"] == cohort) & (numbers["column"] == place)]
            _bars(axes, part.set_index("method").reindex(methods))
            axes.set_title(_title(experiment, place))
        row[0].set_yticks(range(len(methods)), [experiment.label(m) for m in methods])
        row[0].invert_yaxis()
        row[0].set_ylabel(cohort)
    return figure


def _bars(axes: "Axes", part: "pandas.DataFrame") -> None:
    places = np.arange(len(part))
    colours = [style.colour(i) for i in range(len(part))]
    axes.barh(
        places, part["mean"], xerr=part["std"].fillna(0), color=colours, alpha=0.85, height=0.7
    )
    axes.plot(part["paper"], places, "D", mfc="white", mec="black", ms=4, ls="none")
    axes.axvline(0, color="black", lw=0.5)
    axes.tick_params(axis="y", length=0)


def against_size(numbers: "pandas.DataFrame", experiment: Experiment) -> "Figure":
    """Metrics over the number of panel genes: one row per cohort, one panel per metric.

    There is one line per method, and dashed lines are the printed numbers.

    Args:
        numbers: as ``summary.numbers_of`` returns them, with the number of genes as ``size``.
        experiment: whose columns and methods are drawn.
    """
    cohorts = list(dict.fromkeys(numbers["cohort"]))
    figure, grid = _grid(len(cohorts), len(experiment.columns), 1.9 * len(cohorts) + 0.3)
    for row, cohort in zip(grid, cohorts, strict=True):
        for place, axes in enumerate(row):
            part = numbers[(numbers["cohort"] == cohort) & (numbers["column"] == place)]
            _lines(axes, part, experiment)
            axes.set_title(f"{cohort}: {_title(experiment, place)}")
            axes.set_xlabel("genes of the panel")
    style.legend(figure, grid[0, 0])
    return figure


def _lines(axes: "Axes", part: "pandas.DataFrame", experiment: Experiment) -> None:
    for place, method in enumerate(experiment.methods):
        rows = part[part["method"] == method].sort_values("size")
        if rows.empty:
            continue
        colour, name = style.colour(place), experiment.label(method)
        error = rows["std"].fillna(0)
        axes.errorbar(rows["size"], rows["mean"], error, color=colour, marker="o", ms=3, label=name)
        paper = rows.dropna(subset="paper")
        if len(paper):
            axes.plot(
                paper["size"], paper["paper"], "--D", color=colour, mfc="white", ms=3, lw=0.8,
                label=f"{name}, paper",
            )  # fmt: skip
    axes.set_xscale("log")
    sizes = sorted(part["size"].unique())
    axes.set_xticks(sizes, [f"{s:g}" for s in sizes])
    axes.minorticks_off()


class _Network(NamedTuple):
    """The arguments of a method by which ``against_ratio`` arranges its line."""

    head: str
    edges: str
    width: int


def against_ratio(numbers: "pandas.DataFrame", experiment: Experiment) -> "Figure":
    """Metrics over genes per unit of the network's width: one row per head, one panel per metric.

    If a narrow head is what makes quality fall as the panel grows, all lines of a row fall together,
    whatever their edges (the colours). If edges are the cause, the lines of one colour fall alone.

    Args:
        numbers: as for ``against_size``.
        experiment: the params of its methods give their head, edges and width.
    """
    networks = {
        name: _Network(*(method.params[key] for key in _Network._fields))
        for name, method in experiment.methods.items()
    }
    heads = list(dict.fromkeys(network.head for network in networks.values()))
    height = 1.9 * len(heads) + 0.4
    columns = len(experiment.columns)
    figure, grid = _grid(len(heads), columns, height, sharex=True, sharey="col")
    for row, head in zip(grid, heads, strict=True):
        for place, axes in enumerate(row):
            _ratios(axes, numbers[numbers["column"] == place], networks, head)
            axes.set_title(f"head {head}: {_title(experiment, place)}")
    for axes in grid[-1]:
        axes.set_xlabel("genes / width")
    style.legend(figure, grid[0, 0])
    return figure


def _ratios(
    axes: "Axes", part: "pandas.DataFrame", networks: Mapping[str, _Network], head: str
) -> None:
    edges = list(dict.fromkeys(network.edges for network in networks.values()))
    widths = sorted({network.width for network in networks.values()})
    for method, network in networks.items():
        rows = part[part["method"] == method].sort_values("size")
        if network.head != head or rows.empty:
            continue
        axes.errorbar(
            rows["size"] / network.width, rows["mean"], rows["std"].fillna(0),
            color=style.colour(edges.index(network.edges)),
            marker=MARKERS[widths.index(network.width)], ms=3.5, lw=0.9,
            label=f"edges {network.edges}, width {network.width}",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.axvline(1, color="0.6", lw=0.6, ls=":")


#: Value of ``params.over`` → what draws panels of growing size over it.
OVER = {"genes": against_size, "width": against_ratio}


def structure_against_accuracy(numbers: "pandas.DataFrame", experiment: Experiment) -> "Figure":
    """One row per cohort and one panel per structure metric.

    Arrows lead from the mean of draws to single draws.

    Args:
        numbers: as ``ability.add_ability`` returns them.
        experiment: its columns come in pairs (mean of draws, one draw): first accuracy, then each
            structure metric.
    """
    columns = experiment.columns
    cohorts, structures = list(dict.fromkeys(numbers["cohort"])), range(2, len(columns), 2)
    figure, grid = _grid(len(cohorts), len(structures), 2.9 * len(cohorts) + 0.5)
    for row, cohort in zip(grid, cohorts, strict=True):
        wide = numbers[numbers["cohort"] == cohort].pivot_table(
            index="method", columns="column", values="mean", dropna=False
        )
        for axes, place in zip(row, structures, strict=True):
            metric = columns[place].metric
            _points(axes, wide, place, experiment)
            place_of = (numbers["cohort"] == cohort) & (numbers["column"] == place + 1)
            for end in ("null", "ceiling"):
                _level(axes, end, float(numbers.loc[place_of, end].mean()))
            x_label, y_label = (experiment.labels[m][0] for m in (columns[0].metric, metric))
            axes.set(xlabel=x_label, ylabel=y_label, title=cohort)
    style.legend(figure, grid[0, 0])
    return figure


def _points(axes: "Axes", wide: "pandas.DataFrame", y: int, experiment: Experiment) -> None:
    for place, (method, facts) in enumerate(experiment.methods.items()):
        if method not in wide.index:
            continue
        values = wide.loc[method].reindex([0, 1, y, y + 1]).to_numpy(float)
        mean, draw = values[[0, 2]], values[[1, 3]]
        colour, marker = style.colour(place), _marker(place)
        axes.plot(*draw, marker, color=colour, ls="none", label=facts.label)
        if np.isfinite(values).all() and np.abs(mean - draw).max() > 1e-9:
            axes.plot(*mean, marker, color=colour, mfc="white", ls="none")
            arrow = {"arrowstyle": "->", "color": colour, "lw": 0.8}
            axes.annotate("", draw, mean, arrowprops=arrow)


def _marker(place: int) -> str:
    return MARKERS[place // len(style.COLOURS) % len(MARKERS)]


def _level(axes: "Axes", name: str, level: float) -> None:
    if not np.isfinite(level):
        return
    axes.axhline(level, color="black", lw=0.8, ls=":")
    axes.annotate(
        name, (0.01, level), (0, 2), xycoords=("axes fraction", "data"),
        textcoords="offset points", fontsize=6,
    )  # fmt: skip


def against_time(table: "pandas.DataFrame", label: str, experiment: Experiment) -> "Figure":
    """Quality over the seconds that it takes to predict a slide, one panel per cohort.

    Args:
        table: cohort, method, seconds, mean and std.
        label: of the metric.
        experiment: whose methods are drawn.
    """
    cohorts = list(dict.fromkeys(table["cohort"]))
    figure, grid = _grid(1, len(cohorts), 3.2)
    for axes, cohort in zip(grid[0], cohorts, strict=True):
        part = table[table["cohort"] == cohort]
        for place, (method, facts) in enumerate(experiment.methods.items()):
            rows = part[part["method"] == method]
            axes.errorbar(
                rows["seconds"], rows["mean"], rows["std"].fillna(0), fmt=_marker(place),
                color=style.colour(place), label=facts.label,
            )  # fmt: skip
        axes.set(xscale="log", xlabel="seconds to predict a slide", ylabel=label, title=cohort)
    style.legend(figure, grid[0, 0])
    return figure
