"""The patches of a slide, cut when they are asked for: a slide's patches need not fit in memory."""

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import h5py
import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.hdf5 import hdf5_file
from flag_st.data.field import SIZE, UM_PER_PX
from flag_st.slides.appearance import COLUMNS, appearance
from flag_st.slides.image import SlideImage
from flag_st.slides.stream import patches


class Patches:
    """(N, 224, 224, 3) uint8, to be read in slices as an HDF5 dataset is.

    Args:
        image: the slide.
        position: (N, 2) centres in µm.
        um_per_px: µm per pixel of a patch.

    Attributes:
        seen: (N, 4) appearance of the patches that were read; NaN before.
    """

    def __init__(self, image: SlideImage, position: np.ndarray, um_per_px: float = UM_PER_PX):
        self.image, self.position, self.um_per_px = image, position, um_per_px
        self.shape = (len(position), SIZE, SIZE, 3)
        self.seen = np.full((len(position), len(COLUMNS)), np.nan)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        wanted = self.position[rows]
        if not len(wanted):
            return np.empty((0, *self.shape[1:]), dtype=np.uint8)
        ((_, block),) = patches(self.image, wanted, len(wanted), self.um_per_px)
        self.seen[rows] = appearance(block)
        return block


@contextmanager
def on_disk(cut: Patches, names: np.ndarray, folder: Path, block: int = 64) -> Iterator[Path]:
    """A file of all patches for methods that read pixels; it is removed at the end.

    Raises:
        FlagError: there is no room for it.
    """
    size, free = math.prod(cut.shape), shutil.disk_usage(folder).free
    if size > free:
        raise FlagError(
            f"the method reads pixels, and {len(cut)} patches take {size / 1e9:.1f} GB; {folder} has "
            f"{free / 1e9:.1f} GB of free space",
            remedy="name a folder on a larger disk, or lay fewer spots with --pitch-um",
        )
    with TemporaryDirectory(dir=folder, prefix=".patches.") as place:
        path = Path(place) / "patches.h5"
        with hdf5_file(path) as file:
            text: Any = np.asarray(names, dtype=object)
            file.create_dataset("barcode", data=text, dtype=h5py.string_dtype())
            images = file.create_dataset("img", cut.shape, np.uint8)
            for start in range(0, len(cut), block):
                rows = slice(start, min(start + block, len(cut)))
                images[rows] = cut[rows]
        yield path
