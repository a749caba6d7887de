"""Spots laid over the tissue of a slide that has none of its own."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.slides.mask import Mask

Layout = Literal["square", "hexagonal"]
LAYOUTS = ("square", "hexagonal")
#: A spot is kept if at least this share of its disc is tissue.
SHARE = 0.5
#: How many places are looked up at a time.
BLOCK = 1 << 16


@dataclass(frozen=True)
class Spots:
    """Spots on tissue, row by row from the top.

    Attributes:
        names: (N,) text, ``r0003c0008`` for row 3 and column 8. A place has the same name whatever
            the tissue around it.
        position: (N, 2) float64, centres (x, y) in µm from the image's top left corner.
        array: (N, 2) int64, row and column. On a hexagonal array neighbours in a row are two columns
            apart, and odd rows have odd columns, as on Visium.
        pitch_um: distance of neighbours in µm.
        spot_um: diameter of a spot in µm.
    """

    names: np.ndarray
    position: np.ndarray
    array: np.ndarray
    pitch_um: float
    spot_um: float

    def __len__(self) -> int:
        return len(self.names)


def grid(mask: Mask, pitch_um: float, spot_um: float, layout: Layout) -> Spots:
    """Lay spots over tissue, from the image's top left corner on.

    Args:
        mask: where tissue is.
        pitch_um: distance of neighbouring spots: 100 for Visium (hexagonal), 200 for legacy Spatial
            Transcriptomics and the edge of a bin for Visium HD (both square).
        spot_um: their diameter.
        layout: ``square``, or ``hexagonal``, whose rows are 0.866 of the pitch apart.

    Raises:
        FlagError: the arguments describe no array, or no spot is on tissue.
    """
    if layout not in LAYOUTS:
        raise FlagError(f"layout is {layout!r}", choices=LAYOUTS)
    for name, value in (("pitch_um", pitch_um), ("spot_um", spot_um)):
        if not 0 < value < np.inf:
            remedy = "give µm, such as a pitch of 100 and spots of 55 for Visium"
            raise FlagError(f"{name} is {value}", remedy=remedy)
    row_um = pitch_um * (np.sqrt(3) / 2 if layout == "hexagonal" else 1)
    column_um = pitch_um / (2 if layout == "hexagonal" else 1)
    height, width = (n * mask.um for n in mask.array.shape)
    # The first spot is half a pitch from both edges.
    rows = np.arange(max(0, int((height - pitch_um / 2) // row_um + 1)))
    columns = np.arange(max(0, int((width - pitch_um / 2) // column_um + 1)))
    kept = [np.zeros((0, 2), np.int64)]
    for some in np.array_split(rows, max(1, len(rows) * len(columns) // BLOCK)):
        array = np.stack(np.meshgrid(some, columns, indexing="ij"), -1).reshape(-1, 2)  # (n, 2)
        if layout == "hexagonal":
            array = array[array.sum(1) % 2 == 0]
        place = pitch_um / 2 + array[:, ::-1] * (column_um, row_um)
        kept.append(array[mask.inside(place, spot_um) >= SHARE])
    array = np.concatenate(kept)
    if not len(array):
        raise FlagError(
            f"no spot of {spot_um:g} µm at a pitch of {pitch_um:g} µm is on tissue, of which there are "
            f"{mask.area_mm2:.3g} mm²",
            remedy="check the pixel size and the mask, or lay spots more closely",
        )
    names = np.array([f"r{row:04d}c{column:04d}" for row, column in array])
    return Spots(
        names, pitch_um / 2 + array[:, ::-1] * (column_um, row_um), array, pitch_um, spot_um
    )
