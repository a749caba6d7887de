"""Spots that a user wants predicted, from a table or an AnnData file."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.data.lattice import lattice

if TYPE_CHECKING:
    from flag_st.slides.image import SlideImage

#: Pairs of columns of a table that hold positions → whether these are pixels of level 0.
AXES = {("x_um", "y_um"): False, ("x_px", "y_px"): True}
REMEDY = (
    "a table (.csv, .tsv) has a column spot, and x_um and y_um or x_px and y_px; an .h5ad has "
    "obsm['spatial_um'] in µm, or obsm['spatial'] in pixels of the full-resolution image"
)


@dataclass(frozen=True)
class Places:
    """N spots.

    Attributes:
        names: (N,) unique.
        position: (N, 2) x, y: in pixels of level 0 if ``in_pixels``, otherwise in µm.
        array: (N, 2) row and column.
        patient: the donor, if the file names one, else "".
        pixel_um: µm per pixel of level 0 that the file states, or None.
    """

    names: np.ndarray
    position: np.ndarray
    in_pixels: bool
    array: np.ndarray
    patient: str = ""
    pixel_um: float | None = None

    def um(self, image: "SlideImage") -> np.ndarray:
        """(N, 2) positions in µm on ``image``."""
        return self.position * image.pixel_um if self.in_pixels else self.position

    def outside(self, image: "SlideImage") -> int:
        """How many spots lie beyond the picture."""
        ends = np.array(image.size) * image.pixel_um
        position = self.um(image)
        return int(((position < 0) | (position > ends)).any(1).sum())


def read_places(path: str | Path) -> Places:
    """The spots in a file.

    Raises:
        FlagError: it cannot be read, has no positions, or names repeat.
    """
    path = Path(path)
    if not path.is_file():
        raise FlagError(f"{path} does not exist", remedy=REMEDY)
    try:
        found = _h5ad(path) if path.suffix == ".h5ad" else _table(path)
    except (OSError, KeyError, ValueError, UnicodeDecodeError) as error:
        raise FlagError(f"cannot read spots from {path} ({error})", remedy=REMEDY) from None
    if not len(found.names):
        raise FlagError(f"{path} has no spots")
    if not np.isfinite(found.position).all():
        raise FlagError(f"{path} has positions that are no numbers")
    if len(set(found.names)) < len(found.names):
        raise FlagError(f"names of spots repeat in {path}")
    return found


def _h5ad(path: Path) -> Places:
    import anndata

    table = anndata.read_h5ad(path, backed="r")
    try:
        key = next((k for k in ("spatial_um", "spatial") if k in table.obsm), None)
        if key is None:
            raise FlagError(f"{path} has no positions", remedy=REMEDY)
        # In a prediction file of this project, `spatial` is in µm.
        in_pixels = key == "spatial" and "draws" not in table.uns
        position = np.asarray(table.obsm[key], dtype=np.float64)[:, :2]
        array = None
        if {"array_row", "array_col"} <= set(table.obs):
            array = table.obs[["array_row", "array_col"]].to_numpy().astype(int)
        pixel = table.uns.get("pixel_size_um")
        facts = {"patient": str(table.uns.get("patient", "")), "pixel_um": pixel and float(pixel)}
        return _places(table.obs_names, position, in_pixels, array, facts)
    finally:
        table.file.close()


def _table(path: Path) -> Places:
    import pandas as pd

    separator = "\t" if path.suffix == ".tsv" else ","
    # As written: pandas' faster parser is off by the last bit.
    table = pd.read_csv(path, sep=separator, float_precision="round_trip")
    axes = next((axes for axes in AXES if set(axes) <= set(table)), None)
    if axes is None:
        raise FlagError(f"{path} has the columns {', '.join(map(str, table))}", remedy=REMEDY)
    names = table["spot"] if "spot" in table else [f"spot{i}" for i in range(len(table))]
    return _places(names, table[list(axes)].to_numpy(np.float64), AXES[axes], None, {})


def _places(
    names: Any,
    position: np.ndarray,
    in_pixels: bool,
    array: np.ndarray | None,
    facts: dict[str, Any],
) -> Places:
    if array is None:
        array = lattice(position)[:, ::-1]
    return Places(np.array([str(n) for n in names]), position, in_pixels, array, **facts)
