"""Whether the parts of a slide image that spots lie on are in the file and can be decoded."""

from pathlib import Path

import numpy as np

from flag_st.slides.reader import Reader, damaged, refused
from flag_st.slides.tiff_file import UNDECODABLE, largest, open_tiff

#: How many places are decoded; of all others only the first bytes are looked at.
DECODED = 32
#: First bytes of a tile that are looked at. No compression begins with so many zeros.
HEAD = 16


def check_tiles(image: Reader, places: np.ndarray) -> None:
    """Decode some of the places, and look at the tiles of all of them.

    A tile that the file does not hold is read as white, like glass, and one that was overwritten with
    zeros is noticed only when it is decoded.

    Args:
        image: the open slide image.
        places: (N, 2) x and y of spots in pixels of level 0, all of them on the image.

    Raises:
        FlagError: a part of the file is absent or damaged.
    """
    whole = np.floor(places).astype(int)
    with open(image.path, "rb") as file:
        if file.read(2) in (b"II", b"MM"):
            _check_stored(image.path, whole)
    some = np.unique(np.linspace(0, len(whole) - 1, min(DECODED, len(whole))).astype(int))
    for x, y in whole[some].tolist():
        image.region((x, y), 0, (1, 1))


def _check_stored(path: Path, places: np.ndarray) -> None:
    with open_tiff(path) as tiff:
        try:
            page = largest(tiff).levels[0].keyframe
            if not page.is_tiled or not page.tilewidth or not page.tilelength:
                return
            across = -(-page.imagewidth // page.tilewidth)
            tile = places[:, 1] // page.tilelength * across + places[:, 0] // page.tilewidth  # (N,)
            counts, starts = page.databytecounts, page.dataoffsets
            absent = np.array([i >= len(counts) or not counts[i] for i in tile])
            if absent.any():
                raise refused(
                    path,
                    f"does not hold the parts that {absent.sum()} of {len(tile)} spots lie on",
                    "export the whole picture, not only the scanned or selected region",
                )
            if page.compression == 1:
                return
            for i in np.unique(tile).tolist():
                page.parent.filehandle.seek(starts[i])
                if not any(page.parent.filehandle.read(min(HEAD, counts[i]))):
                    raise damaged(path, f"tile {i} holds zeros")
        except UNDECODABLE as error:
            raise damaged(path, error) from error
