"""Charts of scores: methods as bars, metrics against panel size, structure against accuracy."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.paper import style
from flag_st.paper.comparison import ARROWS, Column

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: With eight colours, enough to tell 64 methods apart.
MARKERS = "osD^v<>P"
Labels = Mapping[str, tuple[str, int]]


def bars(
    numbers: "pandas.DataFrame", columns: Sequence[Column], labels: Labels, item: Mapping[str, Any]
) -> "Figure":
    """A row a cohort, a panel a column; a diamond is the number that the paper printed."""
    import matplotlib.pyplot as plt

    cohorts = list(dict.fromkeys(numbers["cohort"]))
    methods = [m for m in item["methods"] if m in set(numbers["method"])]
    size = (style.WIDTH, (0.22 * len(methods) + 0.75) * len(cohorts) + 0.2)
    figure, grid = plt.subplots(
        len(cohorts), len(columns), figsize=size, squeeze=False, sharey=True
    )
    for row, cohort in enumerate(cohorts):
        for place, column in enumerate(columns):
            part = numbers[(numbers["cohort"] == cohort) & (numbers["column"] == place)]
            _bars(grid[row, place], part.set_index("method").reindex(methods))
            label, direction = labels[column.metric]
            grid[row, place].set_title(label + ARROWS[direction])
        grid[row, 0].set_yticks(range(len(methods)), [item["methods"][m]["label"] for m in methods])
        grid[row, 0].invert_yaxis()
        grid[row, 0].set_ylabel(cohort)
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


def against_size(
    numbers: "pandas.DataFrame", columns: Sequence[Column], labels: Labels, item: Mapping[str, Any]
) -> "Figure":
    """A row a cohort, a panel a metric, a line a method over the number of panel genes.

    Args:
        numbers: as ``comparison.compare`` gives them, with ``size``; dashed lines are printed ones.
    """
    import matplotlib.pyplot as plt

    cohorts = list(dict.fromkeys(numbers["cohort"]))
    size = (style.WIDTH, 1.9 * len(cohorts) + 0.3)
    figure, grid = plt.subplots(len(cohorts), len(columns), figsize=size, squeeze=False)
    for row, cohort in enumerate(cohorts):
        for place, column in enumerate(columns):
            part = numbers[(numbers["cohort"] == cohort) & (numbers["column"] == place)]
            _lines(grid[row, place], part, item)
            label, direction = labels[column.metric]
            grid[row, place].set_title(f"{cohort}: {label}{ARROWS[direction]}")
            grid[row, place].set_xlabel("genes of the panel")
    style.legend(figure, grid[0, 0])
    return figure


def _lines(axes: "Axes", part: "pandas.DataFrame", item: Mapping[str, Any]) -> None:
    for place, method in enumerate(item["methods"]):
        rows = part[part["method"] == method].sort_values("size")
        if rows.empty:
            continue
        colour, name = style.colour(place), item["methods"][method]["label"]
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


def against_ratio(
    numbers: "pandas.DataFrame", columns: Sequence[Column], labels: Labels, item: Mapping[str, Any]
) -> "Figure":
    """A row a head, a panel a metric, over the genes per unit of the network's width.

    If a narrow head makes quality fall with the panel, all lines of a row fall together, whatever
    their edges (colours); if edges do, lines of one colour fall alone.

    Args:
        numbers: as for ``against_size``; ``item`` tells head, edges and width of the methods.
    """
    import matplotlib.pyplot as plt

    traits = {name: method["params"] for name, method in item["methods"].items()}
    heads = list(dict.fromkeys(t["head"] for t in traits.values()))
    edges = list(dict.fromkeys(t["edges"] for t in traits.values()))
    widths = sorted({t["width"] for t in traits.values()})
    size = (style.WIDTH, 1.9 * len(heads) + 0.4)
    figure, grid = plt.subplots(
        len(heads), len(columns), figsize=size, squeeze=False, sharex=True, sharey="col"
    )
    for row, head in enumerate(heads):
        for place, column in enumerate(columns):
            axes, (label, direction) = grid[row, place], labels[column.metric]
            for method, trait in traits.items():
                part = numbers[(numbers["column"] == place) & (numbers["method"] == method)]
                if trait["head"] == head and len(part):
                    part = part.sort_values("size")
                    axes.errorbar(
                        part["size"] / trait["width"], part["mean"], part["std"].fillna(0),
                        color=style.colour(edges.index(trait["edges"])),
                        marker=MARKERS[widths.index(trait["width"])], ms=3.5, lw=0.9,
                        label=f"edges {trait['edges']}, width {trait['width']}",
                    )  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter("{x:g}")
            axes.axvline(1, color="0.6", lw=0.6, ls=":")
            axes.set_title(f"head {head}: {label}{ARROWS[direction]}")
        for axes in grid[-1]:
            axes.set_xlabel("genes / width")
    style.legend(figure, grid[0, 0])
    return figure


#: What panels of growing size are drawn over.
OVER = {"genes": against_size, "width": against_ratio}


def structure_against_accuracy(
    numbers: "pandas.DataFrame",
    columns: Sequence[Column],
    labels: Labels,
    item: Mapping[str, Any],
    ceilings: Mapping[tuple[str, str], float],
) -> "Figure":
    """A row a cohort, a panel a structure; arrows lead from the mean of draws to single draws.

    Args:
        columns: in pairs (mean of draws, one draw), accuracy first, then each structure.
        ceilings: (cohort, metric) → what the truth attains against a second look at itself.
    """
    import matplotlib.pyplot as plt

    cohorts, ys = list(dict.fromkeys(numbers["cohort"])), list(range(2, len(columns), 2))
    size = (style.WIDTH, 2.9 * len(cohorts) + 0.5)
    figure, grid = plt.subplots(len(cohorts), len(ys), figsize=size, squeeze=False)
    for row, cohort in enumerate(cohorts):
        wide = numbers[numbers["cohort"] == cohort].pivot_table(
            index="method", columns="column", values="mean", dropna=False
        )
        for place, y in enumerate(ys):
            axes, metric = grid[row, place], columns[y].metric
            _points(axes, wide, y, item)
            if np.isfinite(level := ceilings.get((cohort, metric), np.nan)):
                axes.axhline(level, color="black", lw=0.8, ls=":")
                axes.annotate(
                    "ceiling",
                    (0.01, level),
                    (0, 2),
                    xycoords=("axes fraction", "data"),
                    textcoords="offset points",
                    fontsize=6,
                )
            x_label = labels[columns[0].metric][0]
            axes.set(xlabel=x_label, ylabel=labels[metric][0], title=cohort)
    style.legend(figure, grid[0, 0])
    return figure


def _points(axes: "Axes", wide: "pandas.DataFrame", y: int, item: Mapping[str, Any]) -> None:
    for place, (method, facts) in enumerate(item["methods"].items()):
        if method not in wide.index:
            continue
        values = wide.loc[method].reindex([0, 1, y, y + 1]).to_numpy(float)
        mean, draw = values[[0, 2]], values[[1, 3]]
        colour, marker = style.colour(place), MARKERS[place // len(style.COLOURS) % len(MARKERS)]
        axes.plot(*draw, marker, color=colour, ls="none", label=facts["label"])
        if np.isfinite(values).all() and np.abs(mean - draw).max() > 1e-9:
            axes.plot(*mean, marker, color=colour, mfc="white", ls="none")
            arrow = {"arrowstyle": "->", "color": colour, "lw": 0.8}
            axes.annotate("", draw, mean, arrowprops=arrow)


def against_time(table: "pandas.DataFrame", label: str, item: Mapping[str, Any]) -> "Figure":
    """Quality over the seconds to predict a slide; ``table``: cohort, method, seconds, mean, std."""
    import matplotlib.pyplot as plt

    cohorts = list(dict.fromkeys(table["cohort"]))
    size = (style.WIDTH, 3.2)
    figure, grid = plt.subplots(1, len(cohorts), figsize=size, squeeze=False)
    for axes, cohort in zip(grid[0], cohorts, strict=True):
        part = table[table["cohort"] == cohort]
        for place, (method, facts) in enumerate(item["methods"].items()):
            rows = part[part["method"] == method]
            colour = style.colour(place)
            marker = MARKERS[place // len(style.COLOURS) % len(MARKERS)]
            axes.errorbar(
                rows["seconds"], rows["mean"], rows["std"].fillna(0), fmt=marker, color=colour,
                label=facts["label"],
            )  # fmt: skip
        axes.set(xscale="log", xlabel="seconds to predict a slide", ylabel=label, title=cohort)
    style.legend(figure, grid[0, 0])
    return figure
