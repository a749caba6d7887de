"""The image of a SpatialData store, and how other elements lie over it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.extras import extra
from flag_st.core.io import read_json
from flag_st.data.pyramid import TILE, write_bands
from flag_st.slides.colour import GRAY, Colour
from flag_st.slides.image import Picture
from flag_st.slides.pixel_size import TOLERANCE, settle
from flag_st.sources.spatialdata_files import METADATA, opened

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
#: The remedy for a transformation that cannot be used.
SET = "give a map of x and y, such as Scale or Affine, by spatialdata's set_transformation"
#: Two coordinate systems are one if they place elements alike to this share of a pixel's side.
ALIKE = 1e-6
#: Lossless levels of the TIFF, each half as wide as the one before.
PYRAMID: dict[str, Any] = dict(factor=2, smallest=256, compression="lzw", predictor=True)


def map_to(element: Any, system: str) -> np.ndarray:
    """(3, 3) map of an element's own x and y to a coordinate system, in homogeneous coordinates.

    Raises:
        FlagError: it is no such map, cannot be inverted, or depth changes the place.
    """
    tools = extra("spatialdata.transformations", "slides")
    deep = "z" in extra("spatialdata.models", "slides").get_axes_names(element)
    axes = ("x", "y", "z") if deep else ("x", "y")
    found = tools.get_transformation(element, to_coordinate_system=system)
    try:
        matrix = np.asarray(found.to_affine_matrix(axes, axes), dtype=np.float64)
    except ValueError as error:  # it maps other axes
        raise FlagError(
            f"the transformation to {system} is no map of x and y ({error})", remedy=SET
        ) from None
    if not np.isfinite(matrix).all() or np.linalg.det(matrix) == 0:
        raise FlagError(f"the transformation to {system} cannot be inverted", remedy=SET)
    if deep and matrix[:2, 2].any():
        raise FlagError(
            f"the transformation to {system} moves points by their depth (z)", remedy=SET
        )
    return matrix[np.ix_([0, 1, -1], [0, 1, -1])]


def systems_of(element: Any) -> list[str]:
    """The coordinate systems of an element, by name."""
    tools = extra("spatialdata.transformations", "slides")
    return sorted(tools.get_transformation(element, get_all=True))


def shared_systems(image: Any, other: Any, given: str | None, where: str) -> list[str]:
    """The coordinate systems in which an element and the image lie over each other, alike in all.

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
        return [given or shared[0]]
    maps = [onto_image(image, other, system) for system in shared]
    if any(np.abs(found - maps[0]).max() > ALIKE * np.abs(maps[0]).max() for found in maps):
        raise FlagError(
            f"{where} lie over each other differently in the coordinate systems {', '.join(shared)}",
            choices=shared,
            remedy="name the right one: system: NAME in the cohort's params",
        )
    return sorted(shared, key=lambda name: name != "global")


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
    if not 0 < short <= long <= short * (1 + TOLERANCE):
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
        several = isinstance(element, extra("xarray", "slides").DataTree)
        self.array = next(iter(element["scale0"].values())) if several else element
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


@dataclass(frozen=True)
class Asked:
    """Which image a section is read with, and what the user says of it.

    Attributes:
        store: the folder of the store.
        image: name of the image.
        system: the coordinate system, or None.
        unit_um: µm per unit of the system, or None.
        pixel_um: µm per pixel of the image, or None.
    """

    store: Path
    image: str
    system: str | None
    unit_um: float | None
    pixel_um: float | None

    @property
    def path(self) -> Path:
        """The folder of the image."""
        return self.store / "images" / self.image

    def over(self, made: Any, other: Any, name: str) -> tuple[np.ndarray, float, dict[str, float]]:
        """How an element lies over the image.

        Args:
            made: the store with the image.
            other, name: the element and its name.

        Returns:
            The map (3, 3) of its own x and y to pixels; how many pixels a unit is long; and the size of a
            pixel in µm as the coordinate system states it, by where it stands.

        Raises:
            FlagError: they share no coordinate system, or one of the maps distorts.
        """
        picture = made.images[self.image]
        where = f"{self.store}: image {self.image} and {name}"
        systems = shared_systems(picture, other, self.system, where)
        if self.unit_um is not None and len(systems) > 1:
            raise FlagError(
                f"{where} share several coordinate systems, and unit_um is the unit of one",
                choices=systems,
                remedy="name it: system: NAME in the cohort's params",
            )
        units = {system: self.unit_um or unit_of(self.path, system) for system in systems}
        system = next((name for name, unit in units.items() if unit is not None), systems[0])
        onto, stated = onto_image(picture, other, system), {}
        if (unit := units[system]) is not None:
            length = scale_of(map_to(picture, system), f"{self.path} in {system}")
            stated[f"the unit of the coordinate system {system}"] = length * unit
        return onto, scale_of(onto, where), stated

    def picture(self, image: StoredImage, stated: Mapping[str, float]) -> Picture:
        """The image with its pixel size.

        Raises:
            FlagError: two statements differ by more than 5 %, or there is none.
        """
        return Picture(self.path, image.size, *settle(self.path, {}, self.pixel_um, stated))

    def write(self, path: Path, pixel_um: float) -> None:
        """Copy the image into a pyramidal TIFF; equal images give equal bytes."""
        with opened(self.store, {"images": self.image}) as made:
            image = StoredImage(made.images[self.image], self.path)
            write_bands(path, image.size, image.bands(), (pixel_um, pixel_um), **PYRAMID)
