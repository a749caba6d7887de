"""Where tissue is on a slide, as the user says: drawn, painted, or found by LazySlide."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flag_st.core.errors import FlagError
from flag_st.core.extras import extra
from flag_st.slides.image import SlideImage
from flag_st.slides.mask import Mask, small_copy, tissue_mask
from flag_st.slides.reader import is_level

#: A ring is (K, 2) pixels of level 0; a polygon is its outer ring, and then the rings of its holes.
Ring = np.ndarray | Sequence[Sequence[float]]
Polygon = Sequence[Ring]
#: What stands for LazySlide's own search instead of a file.
LAZYSLIDE = "lazyslide"
POLYGONS, PICTURES = (".geojson", ".json"), (".png",)


def mask_of(image: SlideImage, given: str = "") -> Mask:
    """The mask that the user asks for.

    Args:
        image: the slide.
        given: nothing for ``tissue_mask``, ``lazyslide``, or a file: polygons in GeoJSON, or a picture
            in png that is black where there is no tissue.

    Raises:
        FlagError: there is no tissue, or the mask cannot be read, or does not fit the slide.
    """
    if not given:
        return tissue_mask(image)
    if given == LAZYSLIDE:
        return polygons_mask(lazyslide_polygons(image), image)
    path = Path(given)
    if path.suffix.lower() in PICTURES:
        return picture_mask(read_picture(path), image, path)
    return polygons_mask(read_polygons(path), image, origin=image.qupath_origin)


def check_given(given: str) -> None:
    """Refuse a mask that cannot be read, before anything is predicted.

    Raises:
        FlagError: there is no such file, it is no mask, or LazySlide is not installed.
    """
    path = Path(given)
    if not given:
        return
    if given == LAZYSLIDE:
        extra("lazyslide", "slides")
        extra("wsidata", "slides")
        return
    readers: dict[str, Callable[[Path], Any]] = dict.fromkeys(POLYGONS, read_polygons)
    readers |= dict.fromkeys(PICTURES, read_picture)
    if path.suffix.lower() not in readers:
        kinds = [LAZYSLIDE, *(f"a {suffix} file" for suffix in readers)]
        raise FlagError(f"the mask {given} is of no kind that is read here", choices=kinds)
    readers[path.suffix.lower()](path)


def lazyslide_polygons(image: SlideImage) -> list[Polygon]:
    """The tissue that LazySlide finds with its defaults.

    Raises:
        FlagError: LazySlide is not installed, or cannot read the slide.
    """
    search = extra("lazyslide", "slides").pp.find_tissues
    open_wsi = extra("wsidata", "slides").open_wsi
    try:
        slide = open_wsi(str(image.path), store=None)
        search(slide, key_added="tissue")
        shapes = [part for shape in slide.shapes["tissue"].geometry for part in _parts(shape)]
    except Exception as error:  # of any of the readers that it has
        raise FlagError(
            f"LazySlide finds no tissue on {image.path} ({error!r})",
            remedy="leave --mask out, or draw the tissue and give it as --mask FILE.geojson",
        ) from error
    return [[np.asarray(r.coords) for r in (s.exterior, *s.interiors)] for s in shapes]


def _parts(shape: Any) -> Sequence[Any]:
    """The polygons of a shape of shapely."""
    return getattr(shape, "geoms", [shape])


def picture_mask(picture: np.ndarray, image: SlideImage, path: Path, um: float = 16.0) -> Mask:
    """The mask that a picture (h, w) bool of the whole slide shows, in the size of ``tissue_mask``.

    Raises:
        FlagError: the picture has not the proportions of the slide, or shows no tissue; ``path`` is for
            the message.
    """
    height, width = picture.shape
    if not is_level((width, height), image.size):
        raise FlagError(
            f"the mask {path} has {width} x {height} pixels, and the slide {image.path} has "
            f"{image.size[0]} x {image.size[1]}, which are other proportions",
            remedy="paint the mask on a reduced copy of the whole slide",
        )
    small, um = small_copy(image, um)
    rows, columns = (
        ((np.arange(n) + 0.5) / n * side).astype(int)
        for n, side in zip(small.shape[:2], picture.shape, strict=True)
    )
    tissue = picture[np.ix_(rows, columns)]
    if not tissue.any():
        raise FlagError(
            f"the mask {path} shows no tissue: it is black",
            remedy="paint the tissue white",
        )
    return Mask(tissue, um)


def read_picture(path: Path) -> np.ndarray:
    """(h, w) bool: where a png is not black.

    Raises:
        FlagError: it cannot be decoded.
    """
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if picture.mode.startswith("I"):  # 16 bits
                return np.asarray(picture) > 0
            grey, cover = picture.convert("LA").split()
            return (np.asarray(grey) > 0) & (np.asarray(cover) > 0)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        remedy = (
            "paint it on a reduced copy of the slide, of some thousand pixels, and save it as png"
        )
        raise FlagError(f"the mask {path} cannot be read ({error})", remedy=remedy) from None


def polygons_mask(
    polygons: Sequence[Polygon],
    image: SlideImage,
    um: float = 16.0,
    origin: tuple[float, float] = (0.0, 0.0),
) -> Mask:
    """The mask that polygons of another tool (LazySlide, QuPath) enclose.

    Args:
        polygons: each is its outer ring and then the rings of its holes, (K, 2) in pixels of level 0.
        image: the slide that they were drawn on.
        um: as for ``tissue_mask``.
        origin: where the polygons' coordinates begin, in pixels of level 0: ``image.qupath_origin`` for
            those that QuPath exports, unless it opened the slide with ``--no-crop``.

    Returns:
        A mask of the size that ``tissue_mask`` makes; a pixel is tissue if its centre is enclosed.

    Raises:
        FlagError: a ring is no polygon, or nothing on the image is enclosed.
    """
    from skimage.draw import polygon as enclosed

    small, um = small_copy(image, um)
    tissue = np.zeros(small.shape[:2], bool)
    for number, rings in enumerate(polygons, 1):
        inside = np.zeros(tissue.shape, bool)
        for place, ring in enumerate(rings):
            corners = np.asarray(ring, dtype=np.float64)
            if corners.ndim != 2 or len(corners) < 3 or corners.shape[1] != 2:
                fault = f"polygon {number} has a ring of shape {corners.shape}"
                raise FlagError(fault, remedy="give rings (K, 2) of at least three corners")
            x, y = (
                corners + origin
            ).T * image.pixel_um / um - 0.5  # whole numbers are centres of pixels
            inside[enclosed(y, x, tissue.shape)] = place == 0
        tissue |= inside
    if not tissue.any():
        raise FlagError(
            f"{len(polygons)} polygons enclose nothing on {image.path}, which is "
            f"{image.size[0]} x {image.size[1]} pixels",
            remedy="give polygons around tissue in pixels of level 0, x first",
        )
    return Mask(tissue, um)


def read_polygons(path: str | Path) -> list[Polygon]:
    """The polygons of a GeoJSON file, such as QuPath and LazySlide export, in pixels of level 0.

    Lines and points are passed over.

    Raises:
        FlagError: the file is no GeoJSON, or holds no polygon.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        found = list(_geometries(content))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "export the annotations again, in QuPath by File > Export objects as GeoJSON"
        raise FlagError(f"{path} is no readable GeoJSON ({error!r})", remedy=remedy) from None
    if not found:
        remedy = "export closed annotations of tissue; lines and points enclose nothing"
        raise FlagError(f"{path} holds no polygon", remedy=remedy)
    return found


def _geometries(content: Any) -> Iterator[Polygon]:
    if isinstance(content, list):
        for item in content:
            yield from _geometries(item)
    elif content["type"] in ("FeatureCollection", "GeometryCollection"):
        yield from _geometries(content.get("features") or content.get("geometries") or [])
    elif content["type"] == "Feature":
        yield from _geometries(content["geometry"] or [])
    elif content["type"] == "Polygon":
        yield content["coordinates"]
    elif content["type"] == "MultiPolygon":
        yield from content["coordinates"]
