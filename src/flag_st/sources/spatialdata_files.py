"""A SpatialData store: which elements it has, and those that are wanted.

The store is read by the package spatialdata, because transformations and versions of the format are its
own. It reads all elements of a kind, so that it is shown a folder of links to those that are wanted: the
bins of Visium HD at 2 µm alone would fill the memory.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flag_st.core.errors import FlagError
from flag_st.core.extras import extra

#: Files that tell that a folder is a group of Zarr, and what it is; the first is that of Zarr 3.
METADATA = ("zarr.json", ".zgroup", ".zattrs")


def is_store(path: Path) -> bool:
    """Whether a folder is a Zarr store with elements of SpatialData."""
    return any((path / name).is_file() for name in METADATA) and any(
        (path / kind).is_dir() for kind in ("images", "points", "tables")
    )


def elements(store: Path, kind: str) -> list[str]:
    """The names of the elements of a kind: ``images``, ``points``, ``shapes`` or ``tables``."""
    folder = store / kind
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")


@contextmanager
def opened(store: Path, wanted: Mapping[str, str]) -> Iterator[Any]:
    """The ``SpatialData`` of some elements of a store; arrays are read when they are computed.

    Args:
        store: its folder.
        wanted: kind → name of the element.

    Raises:
        FlagError: spatialdata is not installed, or it cannot read the store.
    """
    import warnings

    library = extra("spatialdata", "slides")
    with TemporaryDirectory(prefix="flag_st.") as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _link(store, Path(place), wanted)
            made = library.read_zarr(place, selection=tuple(wanted))
        except Exception as error:  # spatialdata raises whatever the damaged part happens to cause
            parts = ", ".join(f"{kind}/{name}" for kind, name in wanted.items())
            raise FlagError(
                f"{store} is damaged or no SpatialData store ({parts}: {error})",
                remedy="write it again with sdata.write of the installed version of spatialdata",
            ) from None
        yield made


def _link(store: Path, place: Path, wanted: Mapping[str, str]) -> None:
    """Make ``place`` a store of the wanted elements alone, which are links."""
    for kind in ("", *wanted):
        (place / kind).mkdir(exist_ok=True)
        for name in METADATA:
            if (path := store / kind / name).is_file():
                facts = json.loads(path.read_text(encoding="utf-8"))
                facts.pop("consolidated_metadata", None)  # it lists all elements
                (place / kind / name).write_text(json.dumps(facts), encoding="utf-8")
    for kind, name in wanted.items():
        (place / kind / name).symlink_to((store / kind / name).resolve())
