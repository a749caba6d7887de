"""A SpatialData store: its elements, the maps between them, and its image in bands.

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

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.extras import extra
from flag_st.core.io import read_json
from flag_st.data.pyramid import TILE
from flag_st.slides.colour import GRAY, Colour

#: Files that tell that a folder is a group or an array of Zarr, and what it is.
METADATA = ("zarr.json", ".zgroup", ".zattrs", ".zarray")
#: Units of length that OME-NGFF allows, as far as a slide may have them, and other spellings → µm.
UNITS = {
    **dict.fromkeys(("micrometer", "micrometre", "micron", "microns", "um", "µm"), 1.0),
    **dict.fromkeys(("nanometer", "nanometre", "nm"), 1e-3),
    **dict.fromkeys(("millimeter", "millimetre", "mm"), 1e3),
}
#: Names of the channels of a picture in colour; writers that know none number them.
COLOURS = ({"r", "red", "0"}, {"g", "green", "1"}, {"b", "blue", "2"}, {"a", "alpha", "3"})
#: A band of the image takes at most so many bytes.
BAND = 1 << 27
#: Two coordinate systems are one if they place elements alike to this share of a pixel's side.
ALIKE = 1e-6
#: The two sides of a pixel may differ by this share, as those of an image file may.
SQUARE = 0.05


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


def describing_files(folder: Path) -> list[Path]:
    """The metadata below the folder of an element, and its tables in Parquet.

    Whoever writes an element anew writes these anew. The chunks of arrays, of which there may be very
    many, are not looked at.
    """
    found = [path for name in METADATA if (path := folder / name).is_file()]
    if any(path.name == ".zarray" for path in found) or _is_array(folder / "zarr.json"):
        return found
    for path in sorted(folder.iterdir()):
        if path.is_dir() and path.name[0] != ".":
            found += describing_files(path)
        elif path.suffix == ".parquet":
            found.append(path)
    return found


def _is_array(path: Path) -> bool:
    try:
        return path.is_file() and read_json(path).get("node_type") == "array"
    except FlagError:
        return False  # whoever reads the store says that it is damaged


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
        _link(store, Path(place), wanted)
        try:
            made = library.read_zarr(place, selection=tuple(wanted))
        except Exception as error:  # spatialdata raises whatever the damaged part happens to cause
            parts = ", ".join(f"{kind}/{name}" for kind, name in wanted.items())
            raise FlagError(
                f"{store} is damaged or no SpatialData store ({parts}: {error})",
                remedy="write it again with sdata.write; stores of before 2023 must be read by their own "
                "version of spatialdata first",
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
                (place / kind / name).write_text(json.dumps(facts))
    for kind, name in wanted.items():
        (place / kind / name).symlink_to((store / kind / name).resolve())


# Coordinate systems ------------------------------------------------------------------------------


def map_to(element: Any, system: str) -> np.ndarray:
    """(3, 3) map of an element's own x and y to a coordinate system, in homogeneous coordinates.

    Raises:
        FlagError: depth changes the place.
    """
    tools = extra("spatialdata.transformations", "slides")
    deep = "z" in extra("spatialdata.models", "slides").get_axes_names(element)
    axes = ("x", "y", "z") if deep else ("x", "y")
    found = tools.get_transformation(element, to_coordinate_system=system)
    matrix = np.asarray(found.to_affine_matrix(axes, axes), dtype=np.float64)
    if deep and matrix[:2, 2].any():
        raise FlagError(
            f"the transformation to {system} moves points by their depth (z)",
            remedy="give a transformation of x and y",
        )
    return matrix[np.ix_([0, 1, -1], [0, 1, -1])]


def systems_of(element: Any) -> list[str]:
    """The coordinate systems of an element, by name."""
    tools = extra("spatialdata.transformations", "slides")
    return sorted(tools.get_transformation(element, get_all=True))


def choose_system(image: Any, other: Any, given: str | None, where: str) -> str:
    """The coordinate system in which an element and the image lie over each other.

    Args:
        image, other: the two elements.
        given: what the user names.
        where: the two, for messages.

    Raises:
        FlagError: they share none, or not the one that is named, or several that place them
            differently.
    """
    both = [set(systems_of(element)) for element in (image, other)]
    shared = sorted(both[0] & both[1])
    if given is not None and given not in shared:
        raise FlagError(f"{where} are not both in the coordinate system {given}", choices=shared)
    if not shared:
        raise FlagError(
            f"{where} share no coordinate system: the image is in {', '.join(sorted(both[0]))}, and the other "
            f"in {', '.join(sorted(both[1]))}",
            remedy="align them with spatialdata's set_transformation, and write the store again",
        )
    if given is not None or len(shared) == 1:
        return given or shared[0]
    maps = [onto_image(image, other, system) for system in shared]
    if any(np.abs(found - maps[0]).max() > ALIKE * np.abs(maps[0]).max() for found in maps):
        raise FlagError(
            f"{where} lie over each other differently in the coordinate systems {', '.join(shared)}",
            choices=shared,
            remedy="name the right one: system: NAME in the cohort's params",
        )
    return "global" if "global" in shared else shared[0]


def onto_image(image: Any, other: Any, system: str) -> np.ndarray:
    """(3, 3) map of an element's own x and y to pixels of the image."""
    return np.linalg.inv(map_to(image, system)) @ map_to(other, system)


def applied(matrix: np.ndarray, position: np.ndarray) -> np.ndarray:
    """(N, 2) positions after a map (3, 3)."""
    return position @ matrix[:2, :2].T + matrix[:2, 2]


def scale_of(matrix: np.ndarray, where: str) -> float:
    """How many times longer lengths are after a map (3, 3).

    Raises:
        FlagError: they depend on the direction by more than 5 %.
    """
    long, short = np.linalg.svd(matrix[:2, :2], compute_uv=False)
    if not 0 < short <= long <= short * (1 + SQUARE):
        raise FlagError(
            f"{where}: the transformation stretches one direction by {long:.4g} and the other by {short:.4g}",
            remedy="resample the image to square pixels, or correct the transformation",
        )
    return float(np.sqrt(long * short))


def unit_of(image: Path, system: str) -> float | None:
    """µm per unit of a coordinate system, by the metadata of an image; None if they do not say.

    Args:
        image: the folder of the image in the store.
        system: name of the coordinate system.
    """
    for name in METADATA:
        if not (image / name).is_file():
            continue
        facts = read_json(image / name)
        facts = facts.get("attributes", facts)
        scales = facts.get("ome", facts).get("multiscales") or [{}]
        for known in scales[0].get("coordinateTransformations") or ():
            output = known.get("output", {})
            axes = {axis["name"]: axis.get("unit") for axis in output.get("axes", ())}
            if output.get("name") == system and axes.get("x") in UNITS:
                return UNITS[axes["x"]]
    return None


# The image ---------------------------------------------------------------------------------------


class StoredImage:
    """Level 0 of an image of a store.

    Args:
        element: the image, of one scale or of several.
        path: its folder in the store, for messages.

    Attributes:
        size: width and height in pixels.

    Raises:
        FlagError: it has no colours of light in 8 bits.
    """

    def __init__(self, element: Any, path: Path):
        self.array = extra("spatialdata", "slides").get_pyramid_levels(element, n=0)
        dims, kind = tuple(self.array.dims), self.array.dtype
        if dims != ("c", "y", "x"):
            raise FlagError(f"{path} has the axes {', '.join(dims)}", choices=["c, y, x"])
        channels = [str(name) for name in self.array.coords["c"].values]
        known = zip(channels, COLOURS, strict=False)
        if len(channels) not in (3, 4) or not all(n.lower() in names for n, names in known):
            raise FlagError(
                f"{path} has the channels {', '.join(channels[:6])} and no colour", remedy=GRAY
            )
        if kind != np.uint8:
            remedy = "store the H&E image in 8 bits per channel"
            raise FlagError(f"{path} has samples of type {kind}", remedy=remedy)
        self.colour = Colour(path, alpha="straight" if len(channels) == 4 else "")
        self.size = (self.array.sizes["x"], self.array.sizes["y"])

    def bands(self) -> Iterator[np.ndarray]:
        """The image from top to bottom in bands (h, width, 3) uint8, on white.

        Bands are as high as the chunks of the array, so that few are decoded twice, or lower if they would
        fill the memory. All but the last are a multiple of a tile of a TIFF in height.

        Raises:
            FlagError: a part of it is damaged.
        """
        width, height = self.size
        chunk = max(self.array.chunksizes.get("y", (height,)))
        most = BAND // (width * self.array.sizes["c"])
        rows = max(TILE, min(-(-chunk // TILE), most // TILE) * TILE)
        for top in range(0, height, rows):
            part = self.array.isel(y=slice(top, min(top + rows, height)))
            try:
                values = np.asarray(part.compute(scheduler="synchronous").values)  # (c, h, width)
            except Exception as error:  # zarr raises whatever the damaged chunk happens to cause
                fault = f"{self.colour.path} is damaged at row {top} ({error})"
                raise FlagError(fault, remedy="write the store again") from None
            yield np.ascontiguousarray(self.colour.rgb(np.moveaxis(values, 0, 2)))
