"""What a gene model is, and the file that its embeddings are kept in."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.fitted import Fitted
from flag_st.core.io import CONTRACT, check_contract, writing
from flag_st.data.panels import common_genes


class GeneModel(Fitted, ABC):
    """Embeds panel genes, once per panel or in the context of each spot.

    Class attributes:
        kind: ``static`` (one vector a gene, (G, K)), ``contextual`` (one a spot and gene,
            (N, G, K)) or ``spot`` (one a spot, (N, K)).
        fits: True if ``fit`` must see training counts, so that embeddings belong to one split;
            ``arrays``, ``restore``, ``save`` and ``load`` are then those of ``Fitted``.
    """

    kind: str

    def open(self, device: str) -> None:
        """Load weights onto ``device``; called once."""

    def fit(
        self,
        counts: Sequence,
        genes: Sequence[str],
        panel: Sequence[str],
        seed: int,
        ensembl: Sequence[str] | None = None,
    ) -> None:
        """Learn from the training slides' raw counts alone (list of CSR (N, all genes)).

        Args:
            genes, panel: as ``embed``.
            ensembl: ids of ``genes`` ("" where unknown); None if none is known.
        """

    @abstractmethod
    def embed(
        self,
        counts,
        genes: Sequence[str],
        ensembl: Sequence[str],
        panel: Sequence[str],
        progress: Callable[..., Iterable] = lambda items, **_: items,
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray | None]]:
        """Yield blocks (rows, embedding, mask) of one slide.

        Args:
            counts: CSR (N, all genes) of raw counts.
            genes: the symbols of the columns; ``ensembl`` their ids ("" where unknown).
            panel: the G symbols wanted, in that order.

        Yields:
            rows of the slide, (n, G, K) or (n, K) or, for ``static``, one (G, K) with rows
            ``slice(0, 0)``; and a mask of the genes embedded, (n, G) or, for ``static``, (G,), or
            None for all. What is masked is no vector to learn from, zero or not.
        """

    def digest(self) -> str:
        """Identifies the weights; stored with the embeddings."""
        return "none"


@dataclass(frozen=True)
class Targets:
    """Embeddings of one slide, read from disk by spot and never whole.

    Attributes:
        kind: as ``GeneModel.kind``.
        width: K.
    """

    path: Path
    kind: str
    width: int
    rows: np.ndarray
    columns: np.ndarray

    @classmethod
    def open(cls, path: str | Path, spots: Sequence[str], genes: Sequence[str]) -> "Targets":
        """Join a target file to ``spots`` and ``genes`` by name."""
        import h5py

        with h5py.File(path, "r") as file:
            check_contract(file.attrs.get("contract"), path, "target file")
            kind, width = str(file.attrs["kind"]), int(file["embedding"].shape[-1])
            rows = _positions(file["spots"].asstr()[:], spots, "spots", path)
            columns = _positions(file["genes"].asstr()[:], genes, "genes", path)
        return cls(Path(path), kind, width, rows, columns)

    def subset(self, index: np.ndarray) -> "Targets":
        return replace(self, rows=self.rows[index])

    def read(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Embedding and mask of the spots ``index``.

        Returns:
            (n, G, K) or (n, K) or, for ``static``, (G, K) float32; and (n, G) bool.
        """
        import h5py

        rows = self.rows[index]
        with h5py.File(self.path, "r") as file:
            mask = _take(file["mask"], rows)[:, self.columns]
            if self.kind == "static":
                return file["embedding"][:][self.columns].astype(np.float32), mask
            embedding = _take(file["embedding"], rows)
        if self.kind == "contextual":
            embedding = embedding[:, self.columns]
        return embedding.astype(np.float32), mask


def _positions(have: Sequence[str], want: Sequence[str], what: str, path) -> np.ndarray:
    where = {name: i for i, name in enumerate(have)}
    missing = [str(n) for n in want if n not in where]
    if missing:
        raise FlagError(
            f"{path} lacks {len(missing)} {what}, such as {', '.join(missing[:3])}",
            remedy="delete the file and run embed_genes again",
        )
    return np.array([where[n] for n in want], dtype=np.int64)


def _take(dataset, rows: np.ndarray) -> np.ndarray:
    """Rows in any order, repeats allowed: HDF5 itself wants them sorted and unique."""
    unique, inverse = np.unique(rows, return_inverse=True)
    return dataset[unique][inverse]


@contextmanager
def writing_targets(
    path: str | Path, kind: str, spots: Sequence[str], genes: Sequence[str], width: int, **facts
) -> Iterator[Callable]:
    """Yield ``put(rows, embedding, mask)``; the file appears under ``path`` when all is written.

    The arguments of ``put`` are what ``GeneModel.embed`` yields.

    The embedding is float16, chunked by spot, so that a batch reads only its own rows.
    """
    import h5py

    n, g = len(spots), len(genes)
    shape = {"static": (g, width), "contextual": (n, g, width), "spot": (n, width)}[kind]
    chunks = None if kind == "static" else (1, *shape[1:])
    with writing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs.update(contract=CONTRACT, kind=kind, **facts)
        file.create_dataset(
            "spots", data=np.asarray(spots, dtype=object), dtype=h5py.string_dtype()
        )
        file.create_dataset(
            "genes", data=np.asarray(genes, dtype=object), dtype=h5py.string_dtype()
        )
        embedding = file.create_dataset("embedding", shape, np.float16, chunks=chunks)
        masks = file.create_dataset("mask", data=np.ones((n, g), dtype=bool))

        def put(rows: slice, block: np.ndarray, mask: np.ndarray | None = None) -> None:
            if kind == "static":  # one table for all spots, whatever ``rows`` says
                rows = slice(None)
            embedding[rows] = block
            if mask is not None:
                masks[rows] = mask

        yield put


def fit_slides(model: GeneModel, slides: Sequence, panel: Sequence[str], seed: int) -> None:
    """Fit ``model`` on the genes that all training slides (AnnData as in ``spots.h5ad``) share."""
    genes = common_genes([list(slide.var_names) for slide in slides])
    known: dict[str, str] = {}
    for slide in reversed(slides):  # where ids differ for a symbol, the first slide's counts
        known |= {g: i for g, i in zip(slide.var_names, _ensembl(slide), strict=True) if i}
    ensembl = [known.get(gene, "") for gene in genes]
    model.fit([slide[:, genes].X for slide in slides], genes, panel, seed, ensembl)


def embed_slide(model: GeneModel, slide, panel: Sequence[str], path: str | Path, progress) -> None:
    """Embed the panel genes of ``slide`` (AnnData as in ``spots.h5ad``) into a target file."""
    blocks = model.embed(slide.X, list(slide.var_names), _ensembl(slide), panel, progress)
    first = next(blocks)
    width, facts = first[1].shape[-1], {"digest": model.digest()}
    with writing_targets(path, model.kind, slide.obs_names, panel, width, **facts) as put:
        put(*first)
        for block in blocks:
            put(*block)


def _ensembl(slide) -> list[str]:
    """The slide's own ids, "" where it has none."""
    return list(slide.var["ensembl"]) if "ensembl" in slide.var else [""] * slide.n_vars
