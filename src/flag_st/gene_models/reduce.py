"""Embeddings of another gene model, reduced to few dimensions.

It is a PCA without centring, because alignment compares directions by cosine, which it keeps best.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.core.fitted import digest_arrays, inside, nested, require, unfitted
from flag_st.core.io import pack_names
from flag_st.gene_models.base import GeneModel

log = logging.getLogger(__name__)


class Reduced(GeneModel):
    """Embeddings of another gene model times a (K, width) basis fitted on the training slides.

    The embeddings of the training slides become unit vectors; the basis spans the leading
    eigenvectors of their second moment. ``error`` states what that costs: the mean of 1 - cos²
    between an embedding and its projection, over the same embeddings; it is logged and saved.

    Args:
        model: ``use`` and ``params`` of the model to reduce.
        width: K after the reduction.
        spots: how many training spots per slide the basis is fitted on, evenly spaced.
    """

    fits: bool = True

    def __init__(self, model: Mapping[str, Any], width: int = 64, spots: int = 256):
        self.model = registry.build(model["use"], model.get("params"))
        self.kind = self.model.kind
        self.width, self.spots = width, spots
        self.basis: np.ndarray | None = None
        self.error = float("nan")

    def open(self, device: str) -> None:
        self.model.open(device)

    def fit(
        self,
        counts: Sequence,
        genes: Sequence[str],
        panel: Sequence[str],
        seed: int,
        ensembl: Sequence[str] | None = None,
    ) -> None:
        """Fit the basis on the training slides, and before it the model if that is fitted itself.

        Raises:
            FlagError: ``width`` exceeds that of the model, or no training spot has an embedding.
        """
        if self.model.fits:
            self.model.fit(counts, genes, panel, seed, ensembl)
        blocks = self._training_embeddings(counts, genes, ensembl or [""] * len(genes), panel)
        moment = sum(unit.T @ unit for unit in blocks)
        if not np.any(moment):
            raise FlagError("reduce: no training spot has an embedding to fit on")
        if self.width > len(moment):
            raise FlagError(f"reduce: width {self.width} exceeds the model's {len(moment)}")
        values, vectors = np.linalg.eigh(moment)  # ascending
        basis = vectors[:, ::-1][:, : self.width]
        signs = np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(self.width)])
        self.basis = np.ascontiguousarray(basis * signs, dtype=np.float32)  # (K, width)
        self.error = float(max(0, 1 - values[::-1][: self.width].sum() / values.sum()))
        log.info("reduce: %d of %d dimensions, 1 - cos² %.4f", *self.basis.T.shape, self.error)

    def embed(
        self,
        counts,
        genes: Sequence[str],
        ensembl: Sequence[str],
        panel: Sequence[str],
        progress: Callable[..., Iterable] = lambda items, **_: items,
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray | None]]:
        """The blocks of the model, with ``width`` instead of K numbers per vector."""
        if self.basis is None:
            raise unfitted("reduce")
        for rows, block, mask in self.model.embed(counts, genes, ensembl, panel, progress):
            yield rows, block @ self.basis, mask

    def digest(self) -> str:
        return digest_arrays(self.arrays() | {"model": pack_names([self.model.digest()])})

    def arrays(self) -> dict[str, np.ndarray]:
        if self.basis is None:
            raise unfitted("reduce")
        inner = nested("model", self.model.arrays())
        return inner | {"basis": self.basis, "error": np.array(self.error)}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        require(arrays, ("basis", "error"), "reduce")
        self.basis, self.error = arrays["basis"], float(arrays["error"])
        if self.model.fits:
            self.model.restore(inside("model", arrays))

    def _training_embeddings(self, counts, genes, ensembl, panel) -> Iterator[np.ndarray]:
        """(M, K) float64 unit vectors, block by block; vectors of zeros are left out."""
        for one in counts:
            keep = np.unique(np.linspace(0, one.shape[0] - 1, self.spots).round().astype(int))
            for _, block, mask in self.model.embed(one[keep], genes, ensembl, panel):
                vectors = block.reshape(-1, block.shape[-1]) if mask is None else block[mask]
                norms = np.linalg.norm(vectors, axis=1, keepdims=True)
                yield (vectors[norms[:, 0] > 0] / norms[norms[:, 0] > 0]).astype(np.float64)
