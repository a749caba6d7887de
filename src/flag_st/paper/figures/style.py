"""How figures look, and how they are written: the same bytes for the same numbers."""

import itertools
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from flag_st.core.io import writing

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure, SubFigure
    from seaborn.objects import Nominal, Plot

T = TypeVar("T")
AnyFigure = TypeVar("AnyFigure", bound="Figure | SubFigure")
#: Okabe and Ito's colours, which people with any common colour vision can distinguish.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C8C8C")
#: With eight colours, enough to distinguish 64 methods.
MARKERS = "osD^v<>P"
#: Sequential and diverging colour maps, both even in lightness.
SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"
#: The largest width of a figure in inches: two columns of a paper.
WIDTH = 7.2
PNG_BYTES = 1_500_000
SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": None,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
    "pdf.fonttype": 42,
    "svg.hashsalt": "flag-st",
    "lines.linewidth": 1.2,
}


def use() -> None:
    """Set the style of figures in this process; no display is needed."""
    import matplotlib
    from matplotlib.rcsetup import cycler

    matplotlib.use("Agg")
    matplotlib.rcParams.update({**SETTINGS, "axes.prop_cycle": cycler(color=COLOURS)})


def save(figure: "Figure", numbers: "pandas.DataFrame", output: Mapping[str, str]) -> None:
    """Write the files of ``output``: png and pdf, and csv with the numbers drawn."""
    import matplotlib.pyplot as plt

    with writing(output["csv"]) as temporary:
        numbers.to_csv(temporary, index=False, lineterminator="\n", float_format="%.6g")
    with writing(output["pdf"]) as temporary:
        figure.savefig(temporary, dpi=300, metadata={"CreationDate": None, "Creator": "flag-st"})
    with writing(output["png"]) as temporary:
        for dpi in (220, 160, 120, 90):
            figure.savefig(temporary, dpi=dpi, metadata={"Software": None})
            if temporary.stat().st_size <= PNG_BYTES:
                break
    plt.close(figure)


def message(text: str) -> "Figure":
    """A figure that says why there is nothing to draw."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(WIDTH, 1.0))
    axes.text(0.5, 0.5, text, ha="center", va="center", wrap=True)
    axes.set_axis_off()
    return figure


def stacked(heights: Sequence[float]) -> tuple["Figure", list["SubFigure"]]:
    """A figure of full width, and its parts one below the other, with these heights in inches."""
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(WIDTH, sum(heights)))
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)
    return figure, list(parts[:, 0])


def heading(*lines: str) -> str:
    """The heading of a small panel; long lines are broken."""
    return "\n".join(part for line in lines if line for part in textwrap.wrap(line, 14))


def rows_of(items: Sequence[T], most: int) -> list[list[T]]:
    """``items`` in rows of at most ``most``, as even as possible."""
    rows = max(1, -(-len(items) // most))
    cuts = [len(items) * i // rows for i in range(rows + 1)]
    return [list(items[a:b]) for a, b in itertools.pairwise(cuts)]


def blank(height: float, width: float = WIDTH) -> "Figure":
    """A new figure; sizes are in inches."""
    import matplotlib.pyplot as plt

    return plt.figure(figsize=(width, height))


def draw(plot: "Plot", figure: AnyFigure) -> AnyFigure:
    """Draw a plot of seaborn in the style of this process, and put its legend below the figure."""
    from matplotlib import rcParams
    from seaborn.objects import Plot

    # Plots of seaborn have a theme of their own, which takes no notice of the process.
    plot.theme({key: rcParams[key] for key in Plot.config.theme}).on(figure).plot()
    if figure.legends:
        drawn = figure.legends.pop()  # seaborn puts it beside the figure, where it covers panels
        legend(figure, drawn.legend_handles, [text.get_text() for text in drawn.get_texts()])
    return figure


def legend(figure: "Figure | SubFigure", handles: Sequence[Any], names: Sequence[str]) -> None:
    """Put a legend below the whole figure, in as many columns as fit."""
    if names:
        letters = max(map(len, names)) + 6
        columns = max(1, min(len(names), int(figure.figure.get_figwidth() * 16 / letters)))
        figure.legend(handles, names, loc="outside lower center", ncols=columns)


def colour(index: int) -> str:
    """The colour of the method at place ``index``; colours repeat after the last."""
    return COLOURS[index % len(COLOURS)]


def colours(names: Iterable[str]) -> "Nominal":
    """One colour for each of ``names``, as a scale of seaborn."""
    from seaborn.objects import Nominal

    order = list(names)
    return Nominal([colour(i) for i in range(len(order))], order=order)


def symbols(names: Iterable[str]) -> dict[str, "Nominal"]:
    """The scales ``color`` and ``marker`` that distinguish up to 64 ``names`` of methods."""
    from seaborn.objects import Nominal

    order = list(names)
    markers = [MARKERS[i // len(COLOURS) % len(MARKERS)] for i in range(len(order))]
    return {"color": colours(order), "marker": Nominal(markers, order=order)}
