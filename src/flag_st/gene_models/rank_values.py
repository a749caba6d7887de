"""Rank-value encoding: a spot is its genes, ordered by how much they exceed their usual level.

Theodoris et al., Nature 2023: counts are scaled to 10,000 per spot, divided by each gene's non-zero
median over the pre-training corpus, and sorted; the tokens only state the order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flag_st.core.errors import FlagError

TARGET_SUM = 1e4


@dataclass(frozen=True)
class RankValues:
    """The vocabulary, and how a spot becomes a sequence of its tokens.

    Attributes:
        tokens: gene id → token, and ``<pad>``; with ``special`` also ``<cls>`` and ``<eos>``.
        medians: gene id → non-zero median of the corpus.
        length: longest sequence that the model takes, special tokens included.
        special: whether the genes are wrapped in ``<cls>`` … ``<eos>`` (V2) or not (V1).
    """

    tokens: Mapping[str, int]
    medians: Mapping[str, float]
    length: int
    special: bool

    def __post_init__(self) -> None:
        wanted = ["<pad>", "<cls>", "<eos>"] if self.special else ["<pad>"]
        missing = [token for token in wanted if token not in self.tokens]
        if missing:
            raise FlagError(
                f"the token dictionary has no {', '.join(missing)}",
                remedy="use the dictionaries that belong to the model: V1 gc30M, V2 gc104M",
            )

    def token(self, identifier: str) -> int:
        """The token of a gene, or -1 if it has no token or no median."""
        return self.tokens.get(identifier, -1) if self.medians.get(identifier, 0) > 0 else -1

    def encode(self, counts, identifiers: Sequence[str]) -> list[np.ndarray]:
        """Token sequences of all spots.

        Ties are ordered by ascending token, so that neither the column order of a slide nor the
        sorting algorithm changes a sequence (the published code leaves their order open). Columns
        with the same id are summed; columns without a token only count towards the depth.

        Args:
            counts: CSR (N, C) of raw counts; a spot's depth is the sum of its row.
            identifiers: gene ids of the C columns.

        Returns:
            N arrays of int64, each at most ``length`` long.
        """
        from scipy import sparse

        counts = sparse.csr_matrix(counts, dtype=np.float64)
        token = np.array([self.token(name) for name in identifiers], dtype=np.int64)  # (C,)
        here = np.flatnonzero(token >= 0)
        vocabulary, column = np.unique(token[here], return_inverse=True)  # (V,), (C',)
        shape = (len(token), len(vocabulary))
        collect = sparse.csr_matrix((np.ones(len(here)), (here, column)), shape=shape)
        median_of = {t: self.medians[n] for n, t in zip(identifiers, token, strict=True) if t >= 0}
        medians = np.array([median_of[t] for t in vocabulary.tolist()])  # (V,)
        depth = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)  # (N,)
        values = (counts @ collect).tocsr()  # (N, V)
        values.eliminate_zeros()
        values.sort_indices()
        rows = np.repeat(np.arange(len(depth)), np.diff(values.indptr))
        values.data = values.data / depth[rows] * TARGET_SUM / medians[values.indices]
        return [self._sequence(values, i, vocabulary) for i in range(len(depth))]

    def _sequence(self, values, row: int, vocabulary: np.ndarray) -> np.ndarray:
        span = slice(values.indptr[row], values.indptr[row + 1])
        order = np.argsort(-values.data[span], kind="stable")
        room = self.length - 2 if self.special else self.length
        genes = vocabulary[values.indices[span][order]][:room]
        if not self.special:
            return genes
        return np.concatenate([[self.tokens["<cls>"]], genes, [self.tokens["<eos>"]]])
