"""Patches around spots, a few at a time, so that memory does not grow with the slide."""

from collections.abc import Iterator

import numpy as np

from flag_st.data.field import SIZE, UM_PER_PX
from flag_st.slides.image import SlideImage


def patches(
    image: SlideImage, position: np.ndarray, batch: int = 64, um_per_px: float = UM_PER_PX
) -> Iterator[tuple[slice, np.ndarray]]:
    """The patches that ``flag_st.data.patch_file`` would cut at these positions, byte for byte.

    Args:
        image: the slide.
        position: (N, 2) centres (x, y) in µm.
        batch: how many patches are held at a time.
        um_per_px: µm per pixel of a patch.

    Yields:
        The rows of ``position``, and their patches (n, 224, 224, 3) uint8.

    Raises:
        FlagError: a part of the file is damaged.
    """
    position = np.asarray(position, dtype=np.float64).reshape(-1, 2)
    corner = top_left(position / image.pixel_um, SIZE, um_per_px, image.pixel_um)  # (N, 2)
    for start in range(0, len(position), batch):
        rows = slice(start, min(start + batch, len(position)))
        cut = np.empty((rows.stop - start, SIZE, SIZE, 3), np.uint8)
        for i in along_tiles(corner[rows]):
            x, y = corner[start + i].tolist()
            cut[i] = image.reader.square((x, y), um_per_px / image.pixel_um, SIZE)
        yield rows, cut


def top_left(centre: np.ndarray, size: int, um_per_px: float, pixel: float) -> np.ndarray:
    """(N, 2) int64 top-left corner of the patch around each centre, rounded as HEST does.

    Centres are in pixels of level 0. Those that have been in µm come back a little beside their
    pixel, which must not move the corner to the pixel before.
    """
    centre = np.round(centre, 6)
    return (centre - (size * um_per_px / pixel) // 2).astype(np.int64)


def along_tiles(corner: np.ndarray) -> np.ndarray:
    """(N,) order in which to cut: in rows of tiles, because readers keep the tiles read last."""
    return np.lexsort((corner[:, 0], corner[:, 1] // 256))
