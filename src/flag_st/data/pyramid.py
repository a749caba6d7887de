"""Pyramidal TIFF files that OpenSlide reads as slide images."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flag_st.core.io import writing

TILE = 256  # px


def write_pyramid(
    path: Path,
    image: Image.Image,
    um_per_px: tuple[float, float],
    *,
    factor: int,
    smallest: int,
    **compression: Any,
) -> None:
    """Write a tiled TIFF; each level is the box average of the level before.

    Args:
        path: the file, written whole or not at all.
        image: level 0, in RGB.
        um_per_px: µm per pixel of level 0 along x and y.
        factor: how many times wider a level is than the next one.
        smallest: levels are added until neither side is longer than this many pixels.
        compression: arguments of ``tifffile.TiffWriter.write`` that choose the compression.
    """
    import tifffile

    per_cm = 1e4 / np.asarray(um_per_px)  # (2,) pixels per cm of level 0
    level = 0
    with writing(path) as temporary, tifffile.TiffWriter(temporary) as tiff:
        while True:
            tiff.write(
                np.asarray(image),
                photometric="rgb",
                tile=(TILE, TILE),
                subfiletype=int(level > 0),
                resolution=tuple(per_cm / factor**level),
                resolutionunit="CENTIMETER",
                metadata=None,
                software=False,
                **compression,
            )
            if max(image.size) <= smallest:
                return
            image, level = image.reduce(factor), level + 1
