"""Gene-gene correlations of some genes: truth and predictions, with the genes in one order."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.metrics.policy import centred, pearson
from flag_st.paper.figures.style import DIVERGING, heading
from flag_st.paper.tissue import Shown, Tissue

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import SubFigure

#: With fewer genes of a pathway in the panel, a matrix says nothing.
FEWEST = 4


def correlation(values: np.ndarray) -> np.ndarray:
    """(K, K) Pearson correlation between the columns of (N, K) ``values``; 0 for constant ones."""
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


def most_variable(tissue: Tissue, count: int) -> dict[str, list[str]]:
    """The ``count`` genes of the panel whose truth varies most on this section, under a heading."""
    order = np.argsort(-tissue.truth.var(axis=0), kind="stable")[:count]
    return {f"The {len(order)} most variable genes": [tissue.genes[i] for i in order]}


def pathway_matrices(
    tissue: Tissue, shown: Sequence[Shown], genes: Sequence[str]
) -> tuple[list[str], list[tuple[str, np.ndarray]]]:
    """Genes in the order of the truth's clusters, and (name, (K, K) matrix) of truth and predictions."""
    columns = [tissue.genes.index(gene) for gene in genes]
    order = gene_order(correlation(tissue.truth[:, columns]))
    columns = [columns[i] for i in order]
    panels = [("truth", tissue.truth), *((f"{s.method}\n{s.kind}", s.values) for s in shown)]
    made = [(name, correlation(values[:, columns])) for name, values in panels]
    return [tissue.genes[i] for i in columns], made


def height(
    tissue: Tissue, pathways: Mapping[str, Sequence[str]], panels: int, width: float
) -> float:
    """Inches that ``draw`` needs in a figure ``width`` inches wide."""
    return 0.35 + sum(_heights(tissue, pathways, panels, width))


def _heights(tissue: Tissue, pathways, panels: int, width: float) -> list[float]:
    drawn = [len(present(tissue, genes)) >= FEWEST for genes in pathways.values()]
    return [width / (panels + 0.8) + 0.9 if whole else 0.35 for whole in drawn]


def draw(
    figure: "SubFigure",
    tissue: Tissue,
    shown: Sequence[Shown],
    pathways: Mapping[str, Sequence[str]],
    title: str,
) -> "pandas.DataFrame":
    """Draw one row per pathway; return pathway, panel, gene pair and correlation of all drawn."""
    import pandas as pd

    heights = _heights(tissue, pathways, 1 + len(shown), 7.0)
    parts = figure.subfigures(len(pathways), 1, height_ratios=heights, squeeze=False)[:, 0]
    tables = []
    for part, (pathway, genes) in zip(parts, pathways.items(), strict=True):
        names = present(tissue, genes)
        enough = len(names) >= FEWEST
        text = f"{pathway}: {len(names)} of {len(genes)} genes are in the panel"
        text += "" if enough else ", too few to draw"
        part.suptitle(f"{title}. {text}", fontsize=8, x=0.01, ha="left")
        if enough:
            table = _row(part, *pathway_matrices(tissue, shown, names))
            tables.append(table.assign(pathway=pathway))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({"pathway": []})


def _row(
    figure: "SubFigure", names: list[str], made: list[tuple[str, np.ndarray]]
) -> "pandas.DataFrame":
    """Draw the matrices of one pathway; below each is its agreement with the first, the truth."""
    import pandas as pd
    import seaborn as sns

    axes_row = figure.subplots(1, len(made), squeeze=False)[0]
    upper, tables = np.triu_indices(len(names), 1), []
    for axes, (name, matrix) in zip(axes_row, made, strict=True):
        shown = names if axes is axes_row[0] and len(names) <= 24 else False
        sns.heatmap(matrix, vmin=-1, vmax=1, cmap=DIVERGING, cbar=False, square=True, ax=axes,
                    xticklabels=False, yticklabels=shown, rasterized=True)  # fmt: skip
        axes.tick_params(axis="y", labelsize=4.5, rotation=0)
        axes.set_title(heading(*name.split("\n")), fontsize=7)
        # Predictions whose genes all go together look alike whatever the truth is.
        text = f"mean |r| = {np.abs(matrix[upper]).mean():.2f}"
        if name != "truth":
            r = pearson(made[0][1][upper], matrix[upper])
            text = (f"r = {r:.2f}" if np.isfinite(r) else "r undefined") + "\n" + text
        axes.set_xlabel(text, fontsize=7)
        pairs = {"panel": name.replace("\n", ", "), "gene": np.array(names)[upper[0]]}
        pairs |= {"other": np.array(names)[upper[1]], "correlation": matrix[upper]}
        tables.append(pd.DataFrame(pairs))
    figure.colorbar(axes_row[0].collections[0], ax=axes_row.tolist(), shrink=0.6, aspect=12)
    return pd.concat(tables, ignore_index=True)


def read_pathways(path: str, wanted: Sequence[str] | None = None) -> dict[str, Any]:
    """Pathway → genes, from ``config/pathways.yaml``.

    Raises:
        FlagError: a pathway of ``wanted`` is unknown.
    """
    import yaml

    with open(path, encoding="utf-8") as file:
        known = {name: entry["genes"] for name, entry in yaml.safe_load(file)["pathways"].items()}
    if unknown := [name for name in wanted or () if name not in known]:
        raise FlagError(f"{path} has no pathway {', '.join(unknown)}", choices=known)
    return {name: known[name] for name in wanted or known}
