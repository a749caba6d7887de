"""Gene panels: highly expressed and highly variable genes (HMHVG) that all slides share."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from flag_st.core.errors import FlagError

#: Prefixes of genes to drop before ranking, as the FLAG release does. Its bare "MT" also removes
#: MT1X, MTDH and others, so ours is the prefix of mitochondrial genes proper.
MITO_RIBO = ("MT-", "mt-", "RPS", "RPL")


def common_genes(names: Sequence[Sequence[str]]) -> list[str]:
    """The genes that every slide has, sorted so that the order of slides does not matter."""
    return sorted(set(names[0]).intersection(*names[1:]))


def moments(counts: Sequence, columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of raw counts over the spots of all slides.

    Args:
        counts: CSR (N, all genes) per slide.
        columns: per slide, the columns of the common genes.

    Returns:
        Two arrays (G,).
    """
    n, total, square = 0, np.zeros(len(columns[0])), np.zeros(len(columns[0]))
    for matrix, index in zip(counts, columns, strict=True):
        part = matrix[:, index].astype(np.float64)
        n += part.shape[0]
        total += np.asarray(part.sum(0)).ravel()
        square += np.asarray(part.multiply(part).sum(0)).ravel()
    mean = total / n
    return mean, np.sqrt(np.maximum(square / n - mean**2, 0))


def hmhvg(
    genes: Sequence[str], mean: np.ndarray, std: np.ndarray, size: int | None, top: int | None
) -> pd.DataFrame:
    """The ``size`` genes that are first in both top-K lists as K grows (FLAG, §4.1).

    A gene enters the intersection of top-K by mean and top-K by standard deviation at
    K = max(its two ranks). Sorting by that K gives *exactly* ``size`` genes for any size; where two
    genes have the same K, the sum of their ranks and then their names decide. With ``top``, K is
    given, and as many genes are chosen as both lists share (HINGE, §A.2).

    Returns:
        DataFrame gene, mean, std, rank_mean, rank_std, k; best first.

    Raises:
        FlagError: there are fewer than ``size`` or ``top`` genes, or both lists share fewer than two.
    """
    if len(genes) < (wanted := size or top or 0):
        raise FlagError(
            f"the panel wants {wanted} genes, but only {len(genes)} are common to all slides and left "
            "by its filters",
            remedy="lower size or top of the panel, or leave out the slides with the smallest gene sets",
        )
    table = pd.DataFrame({"gene": list(genes), "mean": mean, "std": std})
    for name in ("mean", "std"):
        order = table.sort_values([name, "gene"], ascending=[False, True]).index
        table[f"rank_{name}"] = pd.Series(np.arange(1, len(table) + 1), index=order)
    table["k"] = table[["rank_mean", "rank_std"]].max(axis=1)
    table["ranks"] = table["rank_mean"] + table["rank_std"]
    chosen = table.sort_values(["k", "ranks", "gene"])
    chosen = chosen.head(size) if size else chosen[chosen["k"] <= top]
    if len(chosen) < 2:
        raise FlagError(
            f"the top {top} genes by mean and by deviation share {len(chosen)}",
            remedy="raise top of the panel",
        )
    return chosen.drop(columns="ranks").reset_index(drop=True)


def highly_variable_union(slides: Sequence, top: int) -> set[str]:
    """Union of each slide's ``top`` highly variable genes by scanpy, as the FLAG release takes it."""
    import scanpy as sc

    union: set[str] = set()
    for slide in slides:
        table = slide.copy()
        sc.pp.normalize_total(table)
        sc.pp.log1p(table)
        sc.pp.highly_variable_genes(table, n_top_genes=min(top, table.n_vars))
        union |= set(table.var_names[table.var["highly_variable"]])
    return union


def select_panel(
    fit: Sequence,
    names: Sequence[Sequence[str]],
    size: int | None = None,
    drop_prefixes: Sequence[str] = (),
    hvg: int | None = None,
    genes: Sequence[str] | None = None,
    top: int | None = None,
    vocabulary: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Choose the panel.

    Args:
        fit: AnnData of the slides whose counts may decide: the training slides, unless the entry
            says ``fit_on: all``.
        names: gene names of every slide of the cohort.
        size: G, the number of genes; or ``top``, the length of the two lists whose common genes are
            chosen.
        drop_prefixes: genes with these prefixes are left out before ranking.
        hvg: rank only the union of this many highly variable genes per slide (release: 4096).
        genes: rank only these genes.
        vocabulary: rank only genes that are among these, such as those that a gene model knows.

    Returns:
        DataFrame as ``hmhvg`` returns it.

    Raises:
        FlagError: too few genes are common to all slides, or one of ``genes`` is not.
    """
    shared = rankable(names, size, drop_prefixes, genes, vocabulary)
    if hvg:
        allowed = highly_variable_union(fit, hvg)
        shared = [g for g in shared if g in allowed]
    columns = [table.var_names.get_indexer(shared) for table in fit]
    mean, std = moments([table.X for table in fit], columns)
    return hmhvg(shared, mean, std, size, top)


def rankable(
    names: Sequence[Sequence[str]],
    size: int | None = None,
    drop_prefixes: Sequence[str] = (),
    genes: Sequence[str] | None = None,
    vocabulary: Sequence[str] | None = None,
) -> list[str]:
    """The genes that a panel may choose from by their names alone; arguments as for ``select_panel``.

    Raises:
        FlagError: one of ``genes`` is not common to all slides, or the arguments contradict each other.
    """
    shared = common_genes(names)
    if drop_prefixes:
        _named_by_symbols(shared)
    if genes:
        if missing := sorted(set(genes) - set(shared)):
            raise FlagError(f"panel genes missing from some slide: {', '.join(missing[:10])}")
        check_list(genes, size, drop_prefixes)
        shared = list(genes)
    known = None if vocabulary is None else set(vocabulary)
    return [
        g
        for g in shared
        if not g.startswith(tuple(drop_prefixes)) and (known is None or g in known)
    ]


def check_list(genes: Sequence[str], size: int | None, drop_prefixes: Sequence[str]) -> None:
    """Refuse a panel that would leave out genes that it lists.

    Raises:
        FlagError: more genes are listed than ``size``, or one is listed twice or has a dropped prefix.
    """
    dropped = [g for g in genes if g.startswith(tuple(drop_prefixes))]
    twice = sorted({g for g in genes if list(genes).count(g) > 1})
    if dropped or twice:
        fault = f"drops {dropped[0]} by its prefix" if dropped else f"lists {twice[0]} twice"
        raise FlagError(f"the panel {fault}", remedy="correct genes or drop_prefixes of the panel")
    if size and len(genes) > size:
        raise FlagError(
            f"the panel lists {len(genes)} genes and has size {size}, so that some would be left out",
            remedy="set size to the number of listed genes, or list those alone that you want",
        )


def _named_by_symbols(genes: Sequence[str]) -> None:
    """Refuse Ensembl ids, which have none of the prefixes that are to be dropped."""
    ids = sum(gene.startswith("ENS") and gene[-1].isdigit() for gene in genes)
    if ids * 2 > len(genes):
        raise FlagError(
            f"{ids} of {len(genes)} genes are named by Ensembl ids, such as {genes[0]}, and drop_prefixes drops "
            "none of them",
            remedy="name the genes by symbols in all slides (var_names), or set drop_prefixes: []",
        )


def read_vocabulary(path: str | Path) -> list[str]:
    """The gene symbols of a text file, one a line; lines that start with ``#`` are comments.

    Raises:
        FlagError: it cannot be read, holds no gene, or a line holds more than a symbol.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FlagError(f"cannot read the vocabulary {path} ({error})") from None
    symbols = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    wrong = [symbol for symbol in symbols if not symbol.isprintable() or set(symbol) & set(" ,;")]
    if wrong or not symbols:
        fault = f"holds {wrong[0]!r}, which is no gene symbol" if wrong else "holds no gene"
        raise FlagError(f"{path} {fault}", remedy="write one gene symbol a line and nothing else")
    return symbols
