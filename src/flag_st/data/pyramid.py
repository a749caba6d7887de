"""Pyramidal TIFF files that OpenSlide reads as slide images."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from PIL import Image

from flag_st.core.io import writing

TILE = 256  # px
#: Beyond so many bytes of pixels a TIFF needs the offsets of BigTIFF.
CLASSIC = 2**32 - 2**25


def write_pyramid(
    path: Path,
    image: Image.Image,
    um_per_px: tuple[float, float],
    *,
    factor: int,
    smallest: int,
    **compression: Any,
) -> None:
    """Write an image in RGB that is in memory; arguments are those of ``write_bands``."""
    levels = {"factor": factor, "smallest": smallest}
    write_bands(path, image.size, [np.asarray(image)], um_per_px, **levels, **compression)


def write_bands(
    path: Path,
    size: tuple[int, int],
    bands: Iterable[np.ndarray],
    um_per_px: tuple[float, float],
    *,
    factor: int,
    smallest: int,
    **compression: Any,
) -> None:
    """Write a tiled TIFF; each level is the box average of the level before.

    One band is in memory at a time. Smaller levels wait in a temporary file beside the TIFF.

    Args:
        path: the file, written whole or not at all.
        size: width and height of level 0.
        bands: level 0 from top to bottom, each (h, width, 3) uint8. All but the last have a multiple of
            ``TILE`` rows.
        um_per_px: µm per pixel of level 0 along x and y.
        factor: how many times wider a level is than the next one; ``TILE`` is a multiple of it.
        smallest: levels are added until neither side is longer than this many pixels.
        compression: arguments of ``tifffile.TiffWriter.write`` that choose the compression.
    """
    import tifffile

    per_cm = 1e4 / np.asarray(um_per_px)  # (2,) pixels per cm of level 0
    level, large = 0, 3 * size[0] * size[1] > CLASSIC
    with (
        writing(path) as temporary,
        tifffile.TiffWriter(temporary, bigtiff=large) as tiff,
        ExitStack() as files,
    ):
        while True:
            last = max(size) <= smallest
            below = None if last else files.enter_context(TemporaryFile(dir=path.parent))
            tiff.write(
                _tiles(bands, below, factor),
                shape=(size[1], size[0], 3),
                dtype=np.uint8,
                photometric="rgb",
                tile=(TILE, TILE),
                subfiletype=int(level > 0),
                resolution=tuple(per_cm / factor**level),
                resolutionunit="CENTIMETER",
                metadata=None,
                software=False,
                **compression,
            )
            if below is None:
                return
            size, level = (-(-size[0] // factor), -(-size[1] // factor)), level + 1
            below.seek(0)
            bands = _bands(below, size[0])


def _bands(file: IO[bytes], width: int) -> Iterator[np.ndarray]:
    """The rows of a level in a file of raw pixels, ``TILE`` at a time."""
    while data := file.read(3 * width * TILE):
        yield np.frombuffer(data, np.uint8).reshape(-1, width, 3)


def _tiles(
    bands: Iterable[np.ndarray], below: IO[bytes] | None, factor: int
) -> Iterator[np.ndarray]:
    """The tiles of a level, row by row; its reduced copy is written to ``below`` meanwhile."""
    for band in bands:
        if below is not None:
            below.write(np.asarray(Image.fromarray(band).reduce(factor)).tobytes())
        for top in range(0, band.shape[0], TILE):
            for left in range(0, band.shape[1], TILE):
                yield _padded(band[top : top + TILE, left : left + TILE])


def _padded(part: np.ndarray) -> np.ndarray:
    """(TILE, TILE, 3): a part of an image, and black beyond it."""
    if part.shape[:2] == (TILE, TILE):
        return np.ascontiguousarray(part)
    tile = np.zeros((TILE, TILE, 3), np.uint8)
    tile[: part.shape[0], : part.shape[1]] = part
    return tile
