"""A slide image as one thing: its pixel size settled, and read in µm."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from flag_st.slides.files import open_reader
from flag_st.slides.pixel_size import Size, settle
from flag_st.slides.reader import Reader


@dataclass(eq=False)
class Picture:
    """What is known of a slide image.

    Attributes:
        path: its file.
        size: (width, height) of level 0 in pixels.
        pixel_um: µm per pixel of level 0; every statement agrees with it.
        statements: every statement of the pixel size that was found, by where it stands.
    """

    path: Path
    size: tuple[int, int]
    pixel_um: float
    statements: dict[str, float] = field(default_factory=dict)


class SlideImage(Picture):
    """An open slide image whose pixel size is known; a context manager.

    Attributes:
        qupath_origin: where QuPath's coordinates begin, in pixels of level 0 (``Reader``).
        reader: the open file, which reads in pixels.
    """

    def __init__(self, reader: Reader, pixel_um: float, statements: dict[str, float]):
        super().__init__(reader.path, reader.size, pixel_um, statements)
        self.reader, self.qupath_origin = reader, reader.qupath_origin

    def __enter__(self) -> "SlideImage":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.reader.close()

    def read(self, corner: tuple[float, float], side_um: float, pixels: int) -> np.ndarray:
        """A square, as (pixels, pixels, 3) uint8; white outside the picture.

        Args:
            corner: its top left corner (x, y) in µm, which is rounded to a pixel of level 0.
            side_um: its edge in µm.
            pixels: edge of the result.

        Raises:
            FlagError: this part of the file is damaged.
        """
        x, y = (round(float(value) / self.pixel_um) for value in corner)
        return self.reader.square((x, y), side_um / pixels / self.pixel_um, pixels)

    def thumbnail(self, longest: int) -> np.ndarray:
        """The whole picture, (h, w, 3) uint8, with no side longer than ``longest``."""
        return self.reader.thumbnail(longest)


def open_image(
    path: str | Path, pixel_um: Size | None = None, stated: Mapping[str, Size] = {}
) -> SlideImage:
    """Open a slide image of any format and settle its pixel size.

    Args:
        path: svs, ndpi, mrxs, scn, bif, any TIFF or OME-TIFF, png or jpg.
        pixel_um: µm per pixel of level 0 as the user states it. A pair (x, y) admits pixels that are
            not square; their mean then holds.
        stated: what else states it, such as ``{"array pitch": 0.5}``; the same holds for pairs.

    Raises:
        FlagError: the file is no sound picture of H&E; two statements of the pixel size differ by
            more than 5 %; or there is none.
    """
    reader = open_reader(path)
    try:
        return SlideImage(reader, *settle(reader.path, reader.statements, pixel_um, stated))
    except BaseException:
        reader.close()
        raise


def look_at(
    path: str | Path, pixel_um: Size | None = None, stated: Mapping[str, Size] = {}
) -> Picture:
    """What is known of a slide image; arguments and errors are those of ``open_image``."""
    with open_image(path, pixel_um, stated) as image:
        return Picture(image.path, image.size, image.pixel_um, image.statements)
