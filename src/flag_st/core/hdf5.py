"""HDF5 files on a disk that may be full."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flag_st.core.io import writing

if TYPE_CHECKING:
    import h5py


class _Sink(io.FileIO):
    """A file whose first fault of writing is kept for later; what follows goes to memory.

    HDF5 cannot close a file that it could not write whole: it prints a traceback for every object, and
    Python crashes when it ends.

    Attributes:
        fault: why the system refused to write, or None.
        rest: what was not written: the places in the file, and the bytes.
    """

    def __init__(self, path: Path):
        super().__init__(str(path), "w+")
        self.fault: OSError | None = None
        self.rest: list[tuple[int, bytes]] = []

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while self.fault is None and done < len(view):
            try:
                done += super().write(view[done:])
            except OSError as error:
                self.fault = error
        if self.fault is not None:
            self.rest.append((self.tell(), bytes(view[done:])))
            self.seek(len(view) - done, io.SEEK_CUR)
        return len(view)

    def readinto(self, buffer: Any) -> int:
        view, start = memoryview(buffer).cast("B"), self.tell()
        count = super().readinto(view) or 0
        view[count:] = bytes(len(view) - count)
        for place, data in self.rest:
            first, last = max(place, start), min(place + len(data), start + len(view))
            if first < last:
                view[first - start : last - start] = data[first - place : last - place]
        self.seek(start + len(view))
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        if self.fault is None:
            try:
                return super().truncate(size)
            except OSError as error:
                self.fault = error
        return size or 0


@contextmanager
def hdf5_file(path: Path) -> Iterator["h5py.File"]:
    """A new HDF5 file.

    Raises:
        OSError: after it was closed, if the system refused to write to it. It is then of no use.
    """
    import h5py

    with _Sink(path) as sink:
        with h5py.File(sink, "w") as file:
            yield file
        if sink.fault is not None:
            raise sink.fault


def write_table(path: str | Path, table: Any, compression: str | None = None) -> None:
    """Write AnnData as its own ``write_h5ad`` does, under a temporary name until it is whole.

    Raises:
        FlagError: the folder cannot be written to, or the disk is full; what there was is unchanged.
    """
    from anndata.io import write_elem

    table.strings_to_categoricals()
    with writing(path) as temporary, hdf5_file(temporary) as file:
        write_elem(file, "/", table, dataset_kwargs={"compression": compression})
        if table.raw is None:
            file.pop("raw", None)  # an empty one, which anndata cannot read step by step
