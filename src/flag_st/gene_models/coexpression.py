"""Genes as vectors of co-expression, learned from the counts of the training slides alone."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.fitted import digest_arrays, require, unfitted
from flag_st.core.io import pack_names, unpack_names
from flag_st.gene_models.base import GeneModel
from flag_st.gene_models.columns import positions


class Coexpression(GeneModel):
    """One vector per gene: its correlations with all genes, compressed by a truncated SVD.

    Counts are scaled to ``scale`` per spot and log1p-transformed. Correlations are pooled within
    slides, so that levels that differ between slides (depth, staining, patient) do not pass for
    co-expression. R (G, P) holds the correlations of the panel with all P informative genes, minus
    their mean over the panel, because what all genes share (mostly depth) distinguishes none. With
    R = U S V', the rows of U S, cut to ``width`` columns and scaled to length one, are the vectors;
    their cosines are those of the best rank-``width`` approximation of R. Where ``width`` exceeds
    the rank of R (below G), the columns beyond it are zero.

    Args:
        width: K, the length of the vectors.
        scale: counts per spot after normalisation.
        min_fraction: a gene is informative if it is detected in this share of the training spots.
            Panel genes are always informative.
    """

    kind: str = "static"
    fits: bool = True

    def __init__(self, width: int = 64, scale: float = 1e4, min_fraction: float = 0.01):
        if width < 1:
            raise FlagError(f"coexpression: width is {width}", remedy="set width to 1 or more")
        self.width, self.scale, self.min_fraction = width, scale, min_fraction
        self.panel: tuple[str, ...] = ()
        self.vectors: np.ndarray | None = None

    def fit(
        self,
        counts: Sequence,
        genes: Sequence[str],
        panel: Sequence[str],
        seed: int,
        ensembl: Sequence[str] | None = None,
    ) -> None:
        """Learn the vectors of ``panel``, which depend on neither seed nor ids.

        Raises:
            FlagError: no training spots, or panel genes that the slides lack.
        """
        columns = positions(genes, panel, "the training slides' counts")
        correlation = correlations(counts, columns, self.scale, self.min_fraction)  # (G, P)
        varies = correlation.any(axis=1)  # (G,)
        correlation = correlation - correlation.mean(axis=0)  # (G, P)
        self.panel, self.vectors = tuple(panel), compress(correlation, self.width)  # (G, K)
        self.vectors[~varies] = 0  # zero minus the mean profile is no co-expression

    def embed(
        self,
        counts,
        genes: Sequence[str],
        ensembl: Sequence[str],
        panel: Sequence[str],
        progress: Callable[..., Iterable] = lambda items, **_: items,
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray | None]]:
        """Yield the (G, K) vectors, the same for every slide; genes that never vary are masked."""
        if self.vectors is None:
            raise unfitted("coexpression")
        rows = positions(self.panel, panel, "the panel that coexpression was fitted on")
        vectors = self.vectors[rows]  # (G, K)
        yield slice(0, 0), vectors, vectors.any(axis=1)

    def digest(self) -> str:
        return digest_arrays(self.arrays())

    def arrays(self) -> dict[str, np.ndarray]:
        if self.vectors is None:
            raise unfitted("coexpression")
        return {"vectors": self.vectors, "panel": pack_names(self.panel)}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        require(arrays, ("vectors", "panel"), "coexpression")
        self.panel, self.vectors = tuple(unpack_names(arrays["panel"])), arrays["vectors"]


def log_normalised(counts, scale: float):
    """CSR of log1p(counts scaled to ``scale`` per spot); spots without counts stay zero."""
    from scipy import sparse

    counts = sparse.csr_matrix(counts, dtype=np.float64)
    depth = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)  # (N,)
    return (sparse.diags(scale / depth) @ counts).tocsr().log1p()  # (N, P)


def correlations(
    counts: Sequence, columns: np.ndarray, scale: float = 1e4, min_fraction: float = 0.0
) -> np.ndarray:
    """Pearson correlation, pooled within slides, of the genes ``columns`` with all genes.

    Args:
        counts: one CSR (N, all genes) of raw counts per slide, all with the same columns.
        min_fraction: other genes detected in a smaller share of the spots are left out.

    Returns:
        (G, P) float64; zero where a gene does not vary.
    """
    spots = sum(c.shape[0] for c in counts)
    if not spots:
        raise FlagError("coexpression: the training slides hold no spots")
    total = counts[0].shape[1]
    cross = np.zeros((len(columns), total))  # (G, P) sums of products about the slide means
    square, detected = np.zeros(total), np.zeros(total)
    for one in counts:
        x = log_normalised(one, scale)  # (N, P)
        of_panel = x[:, columns].toarray()  # (N, G)
        mean = np.asarray(x.mean(axis=0)).ravel()  # (P,)
        cross += (x.T @ of_panel).T - len(of_panel) * np.outer(mean[columns], mean)
        square += np.asarray(x.multiply(x).sum(axis=0)).ravel() - len(of_panel) * mean**2
        detected += np.asarray((x > 0).sum(axis=0)).ravel()
    keep = detected >= max(1, min_fraction * spots)
    keep[columns] = True
    # Rounding leaves about 1e-16 of the sums for a gene that does not vary; that is no variance.
    square[square <= 1e-9 * spots] = np.inf
    return (cross / np.sqrt(np.outer(square[columns], square)))[:, keep]


def compress(matrix: np.ndarray, width: int) -> np.ndarray:
    """Rows of U S of the truncated SVD, scaled to length one; float32 (G, width).

    The dense eigendecomposition of the small (G, G) Gram matrix needs no random start. The sign of
    each component, which the SVD leaves open, makes its largest entry positive.
    """
    values, vectors = np.linalg.eigh(matrix @ matrix.T)  # ascending
    values, vectors = values[::-1][:width], vectors[:, ::-1][:, :width]
    rank = int((values > 1e-10 * max(values[0], 1e-300)).sum())
    scores = vectors[:, :rank] * np.sqrt(values[:rank])  # (G, rank)
    largest = np.abs(scores).argmax(axis=0)
    scores = scores * np.sign(scores[largest, np.arange(rank)])
    norms = np.linalg.norm(scores, axis=1, keepdims=True)
    scores = np.divide(scores, norms, out=np.zeros_like(scores), where=norms > 1e-6)
    out = np.zeros((len(matrix), width), dtype=np.float32)
    out[:, :rank] = scores
    return out
