"""A predicted slide as SpatialData: picture, spots and table in one zarr store.

The coordinate system ``global`` is in µm, and ``pixels`` is in pixels of level 0, both from the image's
top left corner.
"""

from pathlib import Path
from typing import Any

import numpy as np

from flag_st.core.extras import extra
from flag_st.core.io import writing
from flag_st.outputs.h5ad import table_of
from flag_st.slides.predicted import Predicted

NAME = "slide.zarr"
PICTURE, SPOTS, TABLE = "picture", "spots", "expression"
#: Levels of the picture besides the first, each half as wide as the one before.
LEVELS = 3


def write(made: Predicted, path: Path) -> None:
    """Write the store.

    Raises:
        FlagError: spatialdata is not installed.
    """
    library = extra("spatialdata", "slides")
    elements = {
        "images": {PICTURE: picture_of(made)},
        "shapes": {SPOTS: circles_of(made)},
        "tables": {TABLE: annotation_of(made)},
    }
    with writing(path) as temporary:
        library.SpatialData(**elements).write(temporary)


def _transforms(made: Predicted, um: tuple[float, float]) -> dict[str, Any]:
    """To both coordinate systems, from units that are ``um`` (x, y) wide."""
    scale = extra("spatialdata.transformations", "slides").Scale
    to_um = np.asarray(um)
    pixels = scale(to_um / made.pixel_um, axes=("x", "y"))
    return {"global": scale(to_um, axes=("x", "y")), "pixels": pixels}


def picture_of(made: Predicted) -> Any:
    """The reduced picture with its pyramid."""
    models = extra("spatialdata.models", "slides")
    height, width = made.picture.shape[:2]
    um = (made.size[0] * made.pixel_um / width, made.size[1] * made.pixel_um / height)
    levels = max(0, min(LEVELS, int(np.log2(min(height, width))) - 6))
    return models.Image2DModel.parse(
        np.moveaxis(made.picture, 2, 0),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        scale_factors=[2] * levels or None,
        transformations=_transforms(made, um),
    )


def circles_of(made: Predicted) -> Any:
    """The spots as circles of their true size."""
    models = extra("spatialdata.models", "slides")
    return models.ShapesModel.parse(
        made.slide.position,
        geometry=0,
        radius=made.spot_um / 2,
        index=list(made.slide.spots),
        transformations=_transforms(made, (1.0, 1.0)),
    )


def annotation_of(made: Predicted) -> Any:
    """The table of ``prediction.h5ad``, joined to the circles by the names of spots."""
    import pandas as pd

    models = extra("spatialdata.models", "slides")
    table = table_of(made)
    table.obs["element"] = pd.Categorical([SPOTS] * len(table))
    table.obs["spot"] = list(made.slide.spots)
    names = {"region": SPOTS, "region_key": "element", "instance_key": "spot"}
    return models.TableModel.parse(table, **names)
