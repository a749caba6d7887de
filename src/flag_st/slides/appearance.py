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
    light = (patches.astype(np.float32) + 1) / 256  # (N, h, w, 3)
    density = -np.log10(light)  # (N, h, w, 3)
    stain = density.mean((1, 2)) @ hed_from_rgb  # (N, 3)
    grey = density.mean(3)  # (N, h, w)
    near, far = (_energy(grey, step) for step in (1, 4))  # 2 × (N,)
    with np.errstate(divide="ignore", invalid="ignore"):
        focus = np.where(grey.std((1, 2)) > GLASS, np.log(near / far), np.nan)  # (N,)
    return np.column_stack([stain, np.where(np.isfinite(focus), focus, np.nan)])  # (N, 4)


def _energy(grey: np.ndarray, step: int) -> np.ndarray:
    """(N,) mean square of differences over ``step`` pixels, along rows and columns."""
    down, right = grey[:, step:] - grey[:, :-step], grey[:, :, step:] - grey[:, :, :-step]
    return (down**2).mean((1, 2)) + (right**2).mean((1, 2))


def of_file(images: Any, at_most: int) -> np.ndarray:
    """(n, 4) appearance of up to ``at_most`` evenly spread patches of an HDF5 dataset (N, h, w, 3)."""
    count = len(images)
    rows = np.unique(np.linspace(0, count - 1, min(at_most, count)).round().astype(int))
    return np.concatenate([appearance(images[block]) for block in _blocks(rows)])


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), BLOCK):
        yield rows[start : start + BLOCK]
