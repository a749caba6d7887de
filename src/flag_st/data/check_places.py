"""Whether the positions of a slide's spots agree with what else the files state.

Positions can be numbers within the picture and wrong all the same: x and y exchanged, in pixels of
a reduced picture, or all in one place. Nothing fails then, and every patch shows other tissue than the
spot that it is joined to.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from flag_st.core.errors import Faults
from flag_st.data.check_table import Table
from flag_st.data.lattice import array_pitch
from flag_st.data.spatial import pitch, to_nearest

#: Two statements of the pixel size may differ by this share. The metadata of HEST-1k take it from two
#: spots, and scatter by 3 %.
AGREE = 0.1
#: Fewer spots than this show neither a distance on the array nor whether they belong to the picture.
FEW = 20


@dataclass(frozen=True)
class Pixel:
    """The size of a pixel of level 0.

    Attributes:
        stated: µm by the metadata.
        scale: what the user corrects it by.
    """

    stated: float
    scale: float = 1.0

    @property
    def um(self) -> float:
        return self.stated * self.scale


def check_places(table: Table, facts: dict[str, Any], pixel: Pixel | None, faults: Faults) -> None:
    """Compare positions with the table's own columns, its scale factors, and the metadata.

    Args:
        table: of the spots under tissue, with positions.
        facts: the metadata.
        pixel: the size of a pixel; None if it is not known.
        faults: faults are added to it.
    """
    assert table.position is not None
    position, where = table.position, f"{table.path}: obsm['spatial']"
    distinct = len(np.unique(position, axis=0))
    if distinct < len(position):
        faults.add(
            f"{where} puts {len(position)} spots at {distinct} places",
            remedy="give every spot its own place; a join that found nothing may have been filled with 0",
        )
        return
    _columns(table, where, faults)
    if len(position) < FEW:
        return
    # Spots may be printed with a jitter, so that the nearest other spot is nearer than a step of the array.
    apart = max(pitch(position), array_pitch(position))
    spot = table.scales.get("spot_diameter_fullres")
    if spot is not None and spot > (1 + AGREE) * apart:
        faults.add(
            f"{where}: spots {apart:.1f} px apart cannot be {spot:.1f} px wide (spot_diameter_fullres)"
            + _reduced(table, spot / apart),
            remedy="give pixels of the picture at full resolution (level 0)",
        )
    if pixel is not None:
        _distance(position, apart, facts, pixel, where, faults)


def _columns(table: Table, where: str, faults: Faults) -> None:
    """Compare positions with the columns of Space Ranger's pixels, in whichever order these are named.

    scanpy's reader had the two names exchanged for years, while its ``obsm`` was right, so that an
    exchange alone shows nothing.
    """
    known = told_places(table)
    if known is None or table.position is None:
        return
    apart = max(1.0, 0.25 * pitch(table.position))
    off = [np.abs(table.position - other).max() for other in (known, known[:, ::-1])]
    if min(off) > apart:
        spread = np.ptp(known, axis=0).sum() / max(np.ptp(table.position, axis=0).sum(), 1e-9)
        faults.add(
            f"{where} and the columns pxl_col_in_fullres and pxl_row_in_fullres differ by up to "
            f"{min(off):.0f} px (the columns' places spread {spread:.3g} times as far)"
            + _reduced(table, float(spread)),
            remedy="store the places in pixels of level 0 as obsm['spatial'], or remove the columns if they "
            "are of another picture",
        )


def told_places(table: Table) -> np.ndarray | None:
    """(N, 2) x and y that the columns of Space Ranger's pixels hold; None if they are not there."""
    import pandas as pd

    names = ["pxl_col_in_fullres", "pxl_row_in_fullres"]
    if any(name not in table.obs for name in names):
        return None
    numbers = [pd.to_numeric(table.obs[n].astype(object), errors="coerce") for n in names]
    found = np.stack([column.to_numpy(dtype=float) for column in numbers], axis=1)
    return found if np.isfinite(found).all() else None


def _reduced(table: Table, factor: float) -> str:
    """Of which reduced picture the positions are in pixels, for a message, if a scale factor tells it."""
    pictures = {k.removesuffix("_scalef"): v for k, v in table.scales.items() if "_scalef" in k}
    near = [name for name, scale in pictures.items() if 0.75 < factor * scale < 1.3]
    return f"; they are in pixels of the picture {near[0]}" if near else ""


def _distance(
    position: np.ndarray,
    apart: float,
    facts: dict[str, Any],
    pixel: Pixel,
    where: str,
    faults: Faults,
) -> None:
    """Compare the distance of the spots in µm with the one that the metadata state."""
    numbers = [_size(facts.get(key)) for key in ("inter_spot_dist", "spot_diameter")]
    # Where spots would overlap, the two are swapped, and a pixel size that is computed from the distance
    # is wrong by the same factor unless the user corrects it.
    wanted = {numbers[0], max(numbers)} - {0.0}
    # The dense arrays of legacy ST are a checkerboard, whose distance along the axes is the one that is stated.
    wanted |= {w / np.sqrt(2) for w in wanted}
    if not numbers[0]:
        return
    close = float(np.quantile(to_nearest(position), 0.1))
    # Spots that were thinned out are farther apart on average, but some of them are still neighbours.
    if any(
        apart * um > w * (1 - AGREE) and close * um < w * (1 + AGREE)
        for w in wanted
        for um in (pixel.stated, pixel.um)
    ):
        return
    faults.add(
        f"{where}: the spots lie {apart:.1f} px apart, which is {apart * pixel.um:.4g} µm with pixels of {pixel.um:.4g} µm, "
        f"and the metadata state {numbers[0]:g} µm (inter_spot_dist), for which pixels would have "
        f"{numbers[0] / apart:.4g} µm",
        remedy="correct the positions, if they are of another picture, or else the pixel size or the distance "
        "in the metadata",
    )


def _size(value: Any) -> float:
    """The value if it can be a size in µm, and 0 otherwise."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 < value < np.inf else 0.0
