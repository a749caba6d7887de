"""Heat maps of the shown genes that lie over the slide: a pyramidal OME-TIFF, one channel per gene."""

import math
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from scipy.spatial import cKDTree

from flag_st.core.io import writing
from flag_st.slides.predicted import Predicted

#: Pixels of the map per distance of two spots, at least.
PER_PITCH = 4
#: A pixel belongs to the nearest spot if that is not farther than this share of the pitch.
REACH = 0.75
TILE = 256


def write(made: Predicted, path: str | Path) -> None:
    """Write float32 maps in the unit of the prediction; where there is no spot, they are NaN.

    The upper left corner of the map is that of the slide, and one of its pixels is a power of two of
    the slide's pixels wide, which the physical sizes of OME and the resolution of TIFF say to viewers.
    """
    maps, step = maps_of(made)
    levels = pyramid(maps)
    names = [f"{gene} ({made.unit})" for gene in made.shown]
    verdict = "; ".join([made.trust.verdict, *made.trust.reasons])
    about: dict[str, Any] = {
        "axes": "CYX",
        "Name": made.slide.id,
        "Description": f"unit: {made.unit} ({made.back}); verdict on the slide: {verdict}",
        "UUID": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, made.slide.id)}",
        "Channel": {"Name": names},
    }
    for axis in "XY":
        about |= {f"PhysicalSize{axis}": made.pixel_um * step, f"PhysicalSize{axis}Unit": "µm"}
    how: dict[str, Any] = {"photometric": "minisblack", "tile": (TILE, TILE), "compression": "zlib"}
    with writing(path) as temporary, tifffile.TiffWriter(temporary, ome=True) as tiff:
        for number, level in enumerate(levels):
            dots = 1e4 / (made.pixel_um * step * 2**number)  # per cm
            more = {"subfiletype": 1} if number else {"subifds": len(levels) - 1, "metadata": about}
            tiff.write(level, resolution=(dots, dots), resolutionunit="CENTIMETER", **more, **how)


def maps_of(made: Predicted) -> tuple[np.ndarray, int]:
    """(C, h, w) float32 maps of the shown genes, and how many pixels of level 0 one pixel is wide."""
    wanted = made.pitch_um / made.pixel_um / PER_PITCH
    step = 2 ** max(0, math.floor(math.log2(max(wanted, 1))))
    width, height = (math.ceil(side / step) for side in made.size)
    um = step * made.pixel_um
    tree, values = cKDTree(made.slide.position), made.point[:, made.columns()]  # (N, C)
    maps = np.full((len(made.shown), height, width), np.nan, dtype=np.float32)
    for top in range(0, height, TILE):  # in stripes, because the places take more than the maps
        y, x = np.mgrid[top : min(top + TILE, height), :width]  # 2 × (t, w)
        centre = (np.stack([x, y], -1) + 0.5) * um  # (t, w, 2)
        distance, nearest = tree.query(centre, distance_upper_bound=REACH * made.pitch_um)
        inside = np.isfinite(distance)  # (t, w)
        maps[:, top : top + TILE][:, inside] = values[nearest[inside]].T
    return maps, step


def pyramid(maps: np.ndarray) -> list[np.ndarray]:
    """The maps and their halves, down to one tile. A pixel is the mean of those that have a value."""
    levels = [maps]
    while max(levels[-1].shape[1:]) > TILE:
        levels.append(np.stack([_halved(one) for one in levels[-1]]))  # one gene at a time
    return levels


def _halved(one: np.ndarray) -> np.ndarray:
    """(h / 2, w / 2) float32 of one map (h, w)."""
    height, width = one.shape
    padded = np.pad(one, ((0, height % 2), (0, width % 2)), constant_values=np.nan)
    squares = padded.reshape(-(-height // 2), 2, -(-width // 2), 2)
    known = np.isfinite(squares)
    count = known.sum((1, 3))  # (h / 2, w / 2)
    total = np.where(known, squares, 0).sum((1, 3))
    return np.where(count, total / np.maximum(count, 1), np.nan).astype(np.float32)
