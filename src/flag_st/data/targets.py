"""Target files: the gene-model embeddings of one slide, as ``embed_genes`` writes them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.hdf5 import hdf5_file
from flag_st.core.io import CONTRACT, check_contract, writing


@dataclass(frozen=True)
class Targets:
    """Embeddings of one slide, of which only the spots asked for are read from disk.

    Attributes:
        path: the target file.
        kind: ``static``, ``contextual`` or ``spot``, as ``GeneModel.kind``.
        width: K, the length of an embedding.
        rows: (N,) row of each spot in the file.
        columns: (G,) column of each gene in the file.
    """

    path: Path
    kind: str
    width: int
    rows: np.ndarray
    columns: np.ndarray

    @classmethod
    def open(cls, path: str | Path, spots: Sequence[str], genes: Sequence[str]) -> "Targets":
        """Join a target file to ``spots`` and ``genes`` by name.

        Raises:
            FlagError: the file lacks some of them, or has another contract version.
        """
        import h5py

        with h5py.File(path, "r") as file:
            check_contract(file.attrs.get("contract"), path, "target file")
            kind, width = str(file.attrs["kind"]), int(file["embedding"].shape[-1])
            rows = _positions(file["spots"].asstr()[:], spots, "spots", path)
            columns = _positions(file["genes"].asstr()[:], genes, "genes", path)
        return cls(Path(path), kind, width, rows, columns)

    def subset(self, index: np.ndarray) -> "Targets":
        """The embeddings of the spots ``index`` (integers, in that order)."""
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
    """Rows in any order and with repeats, although HDF5 wants them sorted and unique."""
    unique, inverse = np.unique(rows, return_inverse=True)
    return dataset[unique][inverse]


@contextmanager
def writing_targets(
    path: str | Path, kind: str, spots: Sequence[str], genes: Sequence[str], width: int, **facts
) -> Iterator[Callable]:
    """Yield ``put(rows, embedding, mask)``; the file appears at ``path`` once all is written.

    ``put`` takes what ``GeneModel.embed`` yields. The embedding is stored as float16 in chunks of
    one spot, so that a batch reads its own rows alone. ``facts`` become attributes of the file.
    """
    import h5py

    n, g = len(spots), len(genes)
    shape = {"static": (g, width), "contextual": (n, g, width), "spot": (n, width)}[kind]
    chunks = None if kind == "static" else (1, *shape[1:])
    with writing(path) as temporary, hdf5_file(temporary) as file:
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
            if kind == "static":  # one table serves all spots
                rows = slice(None)
            embedding[rows] = block
            if mask is not None:
                masks[rows] = mask

        yield put
