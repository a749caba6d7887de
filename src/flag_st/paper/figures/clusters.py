"""Spatial domains: Leiden clusters of the truth and of predictions, in matching colours."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flag_st.metrics.domains import leiden_domains
from flag_st.paper.figures import style
from flag_st.paper.figures.maps import draw_image, draw_spots, scale_bar
from flag_st.paper.tissue import Shown, Tissue

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import SubFigure


def matched(labels: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """``labels`` renumbered to overlap as much as possible with ``reference``.

    A cluster without a partner gets a number that no partner has.
    """
    from scipy.optimize import linear_sum_assignment

    many = max(labels.max(), reference.max()) + 1
    overlap = np.zeros((many, many), dtype=np.int64)
    np.add.at(overlap, (labels, reference), 1)
    rows, columns = linear_sum_assignment(-overlap)
    partner = np.empty(many, dtype=np.int64)
    partner[rows] = columns
    return partner[labels]


def domain_table(tissue: Tissue, shown: Sequence[Shown], **settings) -> "pandas.DataFrame":
    """One row per spot and prediction.

    Args:
        tissue: the section.
        shown: its predictions.
        settings: of ``leiden_domains``.

    Returns:
        slide, method, kind, spot, x_um, y_um, domain and ari, the agreement with the truth's domains.
    """
    import pandas as pd
    from sklearn.metrics import adjusted_rand_score

    truth = leiden_domains(tissue.truth, **settings)
    parts = []
    for method, kind, values in [
        ("truth", "", None),
        *((s.method, s.kind, s.values) for s in shown),
    ]:
        found = truth if values is None else matched(leiden_domains(values, **settings), truth)
        facts = {"slide": tissue.slide, "method": method, "kind": kind, "spot": tissue.spots}
        facts |= {"x_um": tissue.position[:, 0], "y_um": tissue.position[:, 1], "domain": found}
        parts.append(pd.DataFrame({**facts, "ari": adjusted_rand_score(truth, found)}))
    return pd.concat(parts, ignore_index=True)


def rows_of(table: "pandas.DataFrame", most: int) -> list["pandas.DataFrame"]:
    """The table in parts of at most ``most`` predictions, each part with the truth."""
    import pandas as pd

    parts = [part for _, part in table.groupby(["method", "kind"], sort=False)]
    truth, *others = parts
    return [pd.concat([truth, *row]) for row in style.rows_of(others, most)]


def draw(figure: "SubFigure", tissue: Tissue, table: "pandas.DataFrame", title: str) -> None:
    """Draw the picture, the domains of the truth and those of every prediction."""
    from matplotlib.colors import ListedColormap

    figure.suptitle(title, fontsize=9, x=0.01, ha="left", weight="bold")
    groups = list(table.groupby(["method", "kind"], sort=False))
    axes_row = figure.subplots(1, 1 + len(groups), squeeze=False)[0]
    draw_image(axes_row[0], tissue)
    axes_row[0].set_title("H&E")
    scale_bar(axes_row[0], tissue)
    many = int(table["domain"].max()) + 1
    colours = ListedColormap([style.colour(i) for i in range(many)])
    for axes, ((method, kind), part) in zip(axes_row[1:], groups, strict=True):
        draw_spots(axes, tissue, part["domain"].to_numpy(float), (-0.5, many - 0.5), colours)
        axes.set_title(style.heading(method, kind), fontsize=7)
        count = part["domain"].nunique()
        ari = "" if method == "truth" else f"\nARI {part['ari'].iloc[0]:.2f}"
        axes.set_xlabel(f"{count} domains{ari}", fontsize=7)
