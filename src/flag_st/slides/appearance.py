"""What a patch looks like before any encoder sees it: how strongly it is stained, and how sharp it is."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from skimage.color import hed_from_rgb

#: Columns of ``appearance``.
COLUMNS = ("haematoxylin", "eosin", "residual", "focus")
STAIN, FOCUS = slice(0, 3), 3
#: Patches read at a time.
BLOCK = 64
#: Optical density of each of the 256 brightnesses.
DENSITY = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)
#: A patch whose optical density has a smaller deviation is glass, on which focus says nothing.
GLASS = 0.01


def appearance(patches: np.ndarray) -> np.ndarray:
    """(N, 4): mean density of haematoxylin, eosin and the residual stain, and the focus.

    Densities are those of colour deconvolution (Ruifrok and Johnston 2001). The focus is the logarithm
    of the energy of differences between neighbouring pixels over that between pixels four apart: blur
    takes from the first and leaves the second. It is NaN for a patch of glass.

    Args:
        patches: (N, h, w, 3) uint8.
    """
    return np.array([_of_one(patch) for patch in patches]).reshape(-1, len(COLUMNS))  # (N, 4)


def _of_one(patch: np.ndarray) -> list[float]:
    """The columns of one patch (h, w, 3), which stays in the processor's cache meanwhile."""
    red, green, blue = (DENSITY.take(patch[..., colour]) for colour in range(3))  # 3 × (h, w)
    stain = np.array([red.mean(), green.mean(), blue.mean()]) @ hed_from_rgb  # (3,)
    grey = (red + green + blue) / 3  # (h, w)
    near, far = _energy(grey, 1), _energy(grey, 4)
    sharp = grey.std() > GLASS and near > 0 and far > 0
    return [*stain, np.log(near / far) if sharp else np.nan]


def _energy(grey: np.ndarray, step: int) -> float:
    """Mean square of differences over ``step`` pixels, along rows and columns."""
    down, right = grey[step:] - grey[:-step], grey[:, step:] - grey[:, :-step]
    return float(np.square(down).mean() + np.square(right).mean())


def of_file(images: Any, at_most: int) -> np.ndarray:
    """(n, 4) appearance of up to ``at_most`` evenly spread patches of an HDF5 dataset (N, h, w, 3)."""
    count = len(images)
    rows = np.unique(np.linspace(0, count - 1, min(at_most, count)).round().astype(int))
    return np.concatenate([appearance(images[block]) for block in _blocks(rows)])


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), BLOCK):
        yield rows[start : start + BLOCK]
