"""Gene-gene correlations of a pathway: truth and predictions, genes in one order."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.metrics.policy import centred, pearson
from flag_st.paper.maps import Shown, Tissue
from flag_st.paper.style import DIVERGING

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import SubFigure

#: Fewest genes of a pathway in the panel for a matrix to say anything.
FEWEST = 4


def correlation(values: np.ndarray) -> np.ndarray:
    """(K, K) Pearson correlation of the columns of (N, K) ``values``; 0 for constant ones."""
    z = centred(values).standardised(np.ones(values.shape[1], dtype=bool))  # (N, K)
    matrix = z.T @ z / (len(z) - 1)  # (K, K)
    np.fill_diagonal(matrix, 1.0)
    return matrix


def gene_order(matrix: np.ndarray) -> np.ndarray:
    """Order of the genes by average-linkage clustering of their correlations."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    distance = squareform(np.clip(1 - matrix, 0, 2), checks=False)
    return leaves_list(linkage(distance, "average", optimal_ordering=True))


def present(tissue: Tissue, genes: Sequence[str]) -> list[str]:
    """The genes of the panel whose truth varies on this section."""
    varies = centred(tissue.truth).varies
    known = {gene for gene, ok in zip(tissue.genes, varies, strict=True) if ok}
    return [gene for gene in genes if gene in known]


def pathway_matrices(
    tissue: Tissue, shown: Sequence[Shown], genes: Sequence[str]
) -> tuple[list[str], list[tuple[str, np.ndarray]]]:
    """Genes in the truth's order, and (name, (K, K) matrix) of truth and predictions."""
    columns = [tissue.genes.index(gene) for gene in genes]
    order = gene_order(correlation(tissue.truth[:, columns]))
    columns = [columns[i] for i in order]
    panels = [("truth", tissue.truth), *((f"{s.method}\n{s.kind}", s.values) for s in shown)]
    made = [(name, correlation(values[:, columns])) for name, values in panels]
    return [tissue.genes[i] for i in columns], made


def draw(
    figure: "SubFigure",
    tissue: Tissue,
    shown: Sequence[Shown],
    pathways: Mapping[str, Sequence[str]],
    title: str,
) -> "pandas.DataFrame":
    """A row a pathway; returns pathway, panel, gene pair and correlation of all that is drawn."""
    import pandas as pd

    figure.suptitle(title, fontsize=9, x=0.01, ha="left", weight="bold")
    grid = figure.subplots(len(pathways), 1 + len(shown), squeeze=False)
    parts = []
    for row, (pathway, genes) in zip(grid, pathways.items(), strict=True):
        names = present(tissue, genes)
        label = f"{pathway}\n{len(names)} of {len(genes)} genes"
        if len(names) < FEWEST:
            _nothing(row, f"{label} in the panel: too few")
            continue
        names, made = pathway_matrices(tissue, shown, names)
        upper = np.triu_indices(len(names), 1)
        for axes, (name, matrix) in zip(row, made, strict=True):
            picture = axes.imshow(matrix, cmap=DIVERGING, vmin=-1, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
            if axes in grid[0]:
                axes.set_title(name, fontsize=7)
            if name != "truth":
                gsc = pearson(made[0][1][upper], matrix[upper])
                axes.set_xlabel(f"r = {gsc:.2f}" if np.isfinite(gsc) else "", fontsize=7)
            pairs = {"pathway": pathway, "panel": name.replace("\n", ", ")}
            pairs |= {"gene": np.array(names)[upper[0]], "other": np.array(names)[upper[1]]}
            parts.append(pd.DataFrame({**pairs, "correlation": matrix[upper]}))
        row[0].set_ylabel(label, fontsize=7)
        if len(names) <= 20:
            row[0].set_yticks(range(len(names)), names, fontsize=4)
        figure.colorbar(picture, ax=row.tolist(), shrink=0.7, aspect=12)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"pathway": []})


def _nothing(row, text: str) -> None:
    for axes in row:
        axes.set_axis_off()
    row[0].text(0, 0.5, text, transform=row[0].transAxes, fontsize=7)


def read_pathways(path: str, wanted: Sequence[str] | None = None) -> dict[str, Any]:
    """Pathway → genes, of ``config/pathways.yaml``.

    Raises:
        FlagError: an unknown pathway is wanted.
    """
    import yaml

    from flag_st.errors import FlagError

    with open(path, encoding="utf-8") as file:
        known = {name: entry["genes"] for name, entry in yaml.safe_load(file)["pathways"].items()}
    if unknown := [name for name in wanted or () if name not in known]:
        raise FlagError(f"{path} has no pathway {', '.join(unknown)}", choices=known)
    return {name: known[name] for name in wanted or known}
