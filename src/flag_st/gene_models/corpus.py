"""Fitting a gene model to the training slides, and to further sections where it can use them.

Sections differ in the genes that were measured. What a section lacks is unknown, and never zero.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.data.panels import common_genes
from flag_st.data.slide import TRANSFORMS
from flag_st.gene_models.base import GeneModel, ensembl_of


@dataclass(frozen=True)
class Section:
    """Counts of one section of a corpus.

    Attributes:
        counts: CSR (N, C) of raw counts; the columns of unknown genes are empty.
        depth: (N, 1) counts of each spot over all genes that the section has.
        known: (C,) bool, which of the genes it has.
        patient: the donor, "" if unknown.
    """

    counts: Any
    depth: np.ndarray
    known: np.ndarray
    patient: str = ""

    @classmethod
    def whole(cls, counts) -> "Section":
        """A section that has all genes."""
        depth = np.asarray(counts.sum(axis=1), dtype=np.float64).reshape(-1, 1)  # (N, 1)
        return cls(counts, depth, np.ones(counts.shape[1], dtype=bool))

    @classmethod
    def of(cls, table, genes: Sequence[str]) -> "Section":
        """The columns ``genes`` of AnnData as in ``spots.h5ad``, which may lack some of them."""
        from scipy import sparse

        places = table.var_names.get_indexer(list(genes))
        known = places >= 0  # (C,)
        own = sparse.csr_matrix(table.X[:, places[known]])
        parts = own.data, np.flatnonzero(known)[own.indices], own.indptr
        counts = sparse.csr_matrix(parts, shape=(own.shape[0], len(places)))  # (N, C)
        depth = np.asarray(table.X.sum(axis=1), dtype=np.float64).reshape(-1, 1)  # (N, 1)
        return cls(counts, depth, known, str(table.uns.get("patient", "")))

    def expression(self, columns: np.ndarray, unit: str) -> np.ndarray:
        """(N, len(columns)) float32 in ``unit``, a key of ``TRANSFORMS``; 0 where unknown."""
        counts = self.counts[:, columns].toarray().astype(np.float64)
        return TRANSFORMS[unit](counts, self.depth).astype(np.float32)  # (N, V)


class CorpusModel(GeneModel):
    """A gene model that can be fitted to sections that lack some of the genes."""

    fits: bool = True

    @abstractmethod
    def fit_sections(
        self,
        sections: Sequence[Section],
        genes: Sequence[str],
        panel: Sequence[str],
        unit: str,
        seed: int,
    ) -> None:
        """Learn from ``sections``, of whose C genes ``genes`` the panel is a part.

        Args:
            unit: the panel's unit, a key of ``TRANSFORMS``.
        """

    def fit(
        self,
        counts: Sequence,
        genes: Sequence[str],
        panel: Sequence[str],
        seed: int,
        ensembl: Sequence[str] | None = None,
    ) -> None:
        """Learn from slides that have all genes, for a panel in log(1 + count)."""
        self.fit_sections([Section.whole(c) for c in counts], genes, panel, "log1p", seed)


def fit_slides(
    model: GeneModel,
    slides: Sequence,
    panel: Sequence[str],
    seed: int,
    corpus: Sequence = (),
    unit: str = "log1p",
) -> None:
    """Fit ``model`` on the genes that all training slides share.

    Args:
        slides: the training slides, AnnData as in ``spots.h5ad``.
        corpus: further sections, AnnData as in ``counts.h5ad``. They do not decide which genes there
            are: what one of them lacks is unknown there.
        unit: the panel's unit.

    Raises:
        FlagError: the model cannot use further sections, or one of them has no gene of the panel.
    """
    genes = common_genes([list(slide.var_names) for slide in slides])
    if corpus_model(model, bool(corpus)):
        for table in corpus:
            if not table.var_names.isin(list(panel)).any():
                raise FlagError(
                    f"section {table.uns['slide']} of the corpus has none of the {len(panel)} panel genes, "
                    f"such as {panel[0]}",
                    remedy="name its genes by symbols, as the slides do, or take it out of the cohort",
                )
        sections = [Section.of(table, genes) for table in (*slides, *corpus)]
        model.fit_sections(sections, genes, panel, unit, seed)
        return
    known: dict[str, str] = {}
    # Where ids differ for a symbol, that of the first slide is taken.
    for slide in reversed(slides):
        known |= {g: i for g, i in zip(slide.var_names, ensembl_of(slide), strict=True) if i}
    ensembl = [known.get(gene, "") for gene in genes]
    model.fit([slide[:, genes].X for slide in slides], genes, panel, seed, ensembl)


def corpus_model(model: GeneModel, asked: bool) -> TypeGuard[CorpusModel]:
    """Whether ``model`` can be fitted to further sections.

    Args:
        asked: whether it has to.

    Raises:
        FlagError: it has to, and cannot.
    """
    if asked and not isinstance(model, CorpusModel):
        raise FlagError(
            f"{type(model).__name__} learns from training slides alone",
            remedy="write corpus: train in its entry, or take a model that reads further sections, such "
            "as cellfm_mini",
        )
    return isinstance(model, CorpusModel)
