"""What the printed array of spots tells about their positions on the image.

Every spot has a row and a column on the array, and a position in pixels of the image. The straight map
from the one to the other gives the distance of the spots in pixels, and with it the size of a pixel, and
it tells whether x and y are exchanged.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from flag_st.core.errors import FlagError

#: Space Ranger states the diameter of "a theoretical 65 µm spot" for spots 100 µm apart, although a
#: spot is 55 µm wide; the bins of Visium HD are as wide as their distance.
SPOT_PER_PITCH = 0.65
#: By how much the stated diameter may contradict the distance of the spots. Other writers state the
#: true diameter, which is 0.55 or 0.5 of the distance; a reduced image is much farther off.
SPOT_FACTOR = 1.6
#: The largest root mean square distance of the spots from the fitted array, in distances of spots.
LARGEST_RMS = 0.3


@dataclass(frozen=True)
class ArrayFit:
    """The straight map from the array to the image.

    Attributes:
        steps: (2, 2) pixels along x and y, per column of the array and per row.
        pitch_px: pixels between neighbouring spots.
    """

    steps: np.ndarray
    pitch_px: float

    @property
    def transposed(self) -> bool:
        """Whether columns of the array go along y more than along x."""
        return bool(np.abs(self.steps[0, 1]) > np.abs(self.steps[0, 0]))

    @property
    def handedness(self) -> float:
        """1 if the rows go downwards where the columns go to the right, and -1 in a mirror image."""
        return float(np.sign(np.linalg.det(self.steps)))


def fit_array(cells: np.ndarray, position: np.ndarray, where: str) -> ArrayFit:
    """Fit the map from the array to the image by least squares.

    Args:
        cells: (N, 2) row and column of each spot. In a hexagonal array (Visium) every other column of
            a row is empty, so that the sum of both numbers is even for all spots or odd for all.
        position: (N, 2) x and y in pixels.
        where: the file of the positions, for messages.

    Raises:
        FlagError: the spots lie on one line or in one point, or their positions do not follow the array.
    """
    design = np.column_stack([cells[:, 1], cells[:, 0], np.ones(len(cells))])  # (N, 3)
    if np.linalg.matrix_rank(design) < 3:
        raise FlagError(
            f"{where}: {len(cells)} spots in one line of the array, from which no distance can be fitted",
            remedy="use the positions of the whole array, as Space Ranger writes them",
        )
    fitted = np.linalg.lstsq(design, position, rcond=None)[0]  # (3, 2)
    steps = fitted[:2]
    column, row = np.linalg.norm(steps, axis=1)
    hexagonal = len(np.unique(cells.sum(1) % 2)) == 1
    # The rows of a hexagonal array are √3 / 2 of the distance apart, and its columns half of it.
    distances = (2 * column, 2 * row / np.sqrt(3)) if hexagonal else (column, row)
    pitch = float(np.mean(distances))
    rms = float(np.sqrt(np.mean(((design @ fitted - position) ** 2).sum(1))))
    if min(distances) <= 0.5 * max(distances) or rms > LARGEST_RMS * pitch:
        raise FlagError(
            f"{where}: the positions do not follow the array: {distances[0]:.1f} px between the spots along "
            f"the rows, {distances[1]:.1f} px across them, and {rms:.1f} px off the array on average",
            remedy="restore the file; rows, columns and pixels must be of the same section",
        )
    return ArrayFit(steps, pitch)


def check_axes(fit: ArrayFit, where: str, handedness: float = 1.0) -> None:
    """Refuse positions whose x and y are exchanged.

    Exchanging the two turns an upright array on its diagonal, which no rotation of the image does.

    Args:
        fit: of the array to the positions.
        where: the file of the positions, for messages.
        handedness: that of the array on an image that is not mirrored: 1 for Visium, and -1 for
            Visium HD, whose rows are counted from the bottom of the image.
    """
    if fit.transposed and fit.handedness != handedness:
        raise FlagError(
            f"{where}: x and y are exchanged: the columns of the array go down the image, and its rows to "
            "the right",
            remedy="give x (pxl_col_in_fullres) before y (pxl_row_in_fullres); if the image itself was "
            "mirrored and turned by 90°, set mirrored: true in the cohort's params",
        )


def check_scale(
    pitch_px: float, scales: Mapping[str, float], spot_per_pitch: float, where: str
) -> None:
    """Refuse positions in pixels of another image than the stated diameter of a spot.

    Args:
        pitch_px: pixels between neighbouring spots, from the positions.
        scales: Space Ranger's scale factors: ``spot_diameter_fullres``, the diameter of a spot in pixels
            of the full-resolution image, and the pixels of the reduced pictures per pixel of it.
        spot_per_pitch: how the diameter relates to the distance.
        where: the file of the positions, for messages.
    """
    spot_px = scales["spot_diameter_fullres"]
    factor = spot_px / (spot_per_pitch * pitch_px)  # 1 if both are in the same pixels
    if 1 / SPOT_FACTOR <= factor <= SPOT_FACTOR:
        return
    pictures = {
        name: scales.get(f"{name}_scalef", 0.0) for name in ("tissue_hires", "tissue_lowres")
    }
    near = [name for name, scale in pictures.items() if 0.75 < factor * scale < 1.3]
    fault = f"{where}: spots {pitch_px:.1f} px apart cannot be {spot_px:.1f} px wide (spot_diameter_fullres)"
    remedy = "give pixels of the full-resolution image"
    if near:
        fault += f"; the positions are in pixels of {near[0]}_image.png"
        remedy += f": divide the positions by {pictures[near[0]]:g}, which is its scale factor"
    raise FlagError(fault, remedy=remedy)
