"""A table of a SpatialData store that annotates spots or bins, joined to them and proved."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flag_st.core.errors import Faults, FlagError
from flag_st.data.spatial import pitch
from flag_st.sources.h5ad_files import (
    array_of,
    check_spots,
    choose_counts,
    gene_names,
    under_tissue,
)
from flag_st.sources.printed_array import check_axes, fit_array
from flag_st.sources.section import Section, check_place
from flag_st.sources.spaceranger_files import BINS
from flag_st.sources.spatialdata_image import Asked, StoredImage, applied

#: Distance of the spots of a hexagonal array, which is Visium's, in µm.
PITCH_UM = 100.0


def read_table(
    asked: Asked,
    made: Any,
    name: str,
    shapes: str,
    counts_in: str | None,
    pitch_um: float | None,
    mirrored: bool,
) -> Section:
    """A section whose spots are the shapes that a table annotates.

    Args:
        asked: the image.
        made: the store with the image, the table and the shapes.
        name, shapes: names of the table and of the shapes.
        counts_in, pitch_um, mirrored: as for ``SpatialDataZarr``.

    Raises:
        FlagError: it has faults; all that could be looked for are named.
    """
    where, faults = asked.store / "tables" / name, Faults()
    table, told = under_tissue(check_spots(made.tables[name], where), where)
    table, spots = annotated(table, made.shapes[shapes], shapes, where, told)
    counts = faults.attempt(choose_counts, table, counts_in, where)
    image = faults.attempt(StoredImage, made.images[asked.image], asked.path)
    over = faults.attempt(asked.over, made, spots, f"shapes {shapes}")
    if over is not None:
        onto, pixels, stated = over
        centre, width = centres(spots)
        position = applied(onto, centre)
        array = faults.attempt(lattice, table, position, pitch_um, mirrored, where)
        if array is not None and image is not None:
            pitch_px, um, technology = array
            stated |= {f"the spots' distance of {um:g} µm": um / pitch_px}
            picture = faults.attempt(asked.picture, image, stated)
            if picture is not None:
                faults.attempt(check_place, picture, None, 0.0, position, str(where))
    faults.raise_if_any(str(asked.store))
    return Section(
        counts=counts[0],
        spots=table.obs[[c for c in ("array_row", "array_col") if c in table.obs]],
        genes=gene_names(counts[1]),
        position=position,
        picture=picture,
        technology=technology,
        pitch_um=um,
        spot_um=min(width * pixels * picture.pixel_um, um),
        told=told,
        paint=lambda path: asked.write(path, picture.pixel_um),
    )


def annotated(
    table: Any, shapes: Any, name: str, where: Path, told: dict[str, Any]
) -> tuple[Any, Any]:
    """The rows of a table that annotate shapes, and these shapes in the order of the rows.

    Args:
        table: with ``uns['spatialdata_attrs']``.
        shapes, name: the shapes and their name.
        where: the table, for messages.
        told: receives the number of rows without a shape.

    Raises:
        FlagError: no row has a shape, or one shape has two rows, or two shapes have one name.
    """
    keys = table.uns["spatialdata_attrs"]
    own = table[(table.obs[keys["region_key"]].astype(str) == name).to_numpy()]
    names = own.obs[keys["instance_key"]].to_numpy()
    if shapes.index.has_duplicates or pd.Index(names).has_duplicates:
        fault = f"{where} and shapes {name}: some spot is there twice"
        raise FlagError(fault, remedy="give each spot one row and one shape")
    found = np.isin(names, shapes.index.to_numpy())
    if not found.any():
        some = f"{names[0] if len(names) else 'nothing'} there, {shapes.index[0]} here"
        raise FlagError(
            f"{where} shares no spot with shapes {name} ({some})",
            remedy=f"the column {keys['instance_key']} of obs must hold the names of the shapes, as numbers or "
            "as text like them",
        )
    if missing := int((~found).sum()):
        told["spots of the table without a shape"] = missing
    if others := len(table) - len(own):
        told["spots of other shapes"] = others
    return own[found].copy(), shapes.loc[names[found]]


def centres(shapes: Any) -> tuple[np.ndarray, float]:
    """(N, 2) centres of circles or polygons in their own units, and their median width.

    The width of a polygon is that of the square of its area, as bins of Visium HD are squares.
    """
    middle = shapes.geometry.centroid
    width = 2 * shapes["radius"] if "radius" in shapes else np.sqrt(shapes.geometry.area)
    position = np.column_stack([middle.x, middle.y]).astype(np.float64)  # (N, 2)
    return position, float(np.median(width))


def lattice(
    table: Any, position: np.ndarray, pitch_um: float | None, mirrored: bool, where: Path
) -> tuple[float, float, str]:
    """Distance of the spots in pixels and in µm, and the technology.

    Args:
        table: of N spots.
        position: (N, 2) pixels.
        pitch_um: what the user states, or None.
        mirrored: whether the image was mirrored before Space Ranger saw it.
        where: the table, whose name may tell the size of bins.

    Raises:
        FlagError: the positions do not follow the array, or the distance is not known.
    """
    bins, cells, pitch_px = BINS.fullmatch(where.name), array_of(table), pitch(position)
    hexagonal = cells is not None and len(np.unique(cells.sum(1) % 2)) == 1
    if cells is not None:
        fit = fit_array(cells, position, str(where))
        pitch_px = fit.pitch_px
        if hexagonal or bins:
            # The rows of Visium HD are counted from the bottom of the image.
            check_axes(fit, str(where), -1.0 if bool(bins) != mirrored else 1.0)
    known = float(bins[1]) if bins else PITCH_UM if hexagonal else None
    um = known if pitch_um is None else pitch_um
    if um is None or not pitch_px > 0:
        raise FlagError(
            f"{where}: the distance of its spots in µm is not known, since they are on no array of Visium",
            remedy="state it in the cohort's params, such as pitch_um: 200; transcripts of Xenium can be "
            "counted in bins instead: points: transcripts, bin_um: 100",
        )
    return pitch_px, um, "Visium HD" if bins else "Visium" if hexagonal else "array of spots"
