"""Sections as stores of spatialdata, written by the package itself; tests that use it need the extra."""

from pathlib import Path

import numpy as np
import own_sections
import pandas as pd
import pytest
from own_sections import Own

from flag_st.core.extras import extra

REASON = "needs the extra slides: pip install -e '.[slides]'"


def library(name: str = "spatialdata"):
    """A module of spatialdata; without the package the test is skipped."""
    pytest.importorskip("spatialdata", reason=REASON)
    return extra(name, "slides")


def scale(x: float, y: float | None = None):
    tools = library("spatialdata.transformations")
    return tools.Scale([x, x if y is None else y], axes=("x", "y"))


def affine(matrix):
    """Of (3, 3) in homogeneous x and y."""
    tools = library("spatialdata.transformations")
    return tools.Affine(np.asarray(matrix, float), ("x", "y"), ("x", "y"))


def image_of(pixels: np.ndarray, transforms: dict | None = None, levels: int = 2, **options):
    """An image element of (H, W, C) pixels, of several scales unless ``levels`` is 0."""
    return library("spatialdata.models").Image2DModel.parse(
        np.moveaxis(pixels, 2, 0),
        dims=("c", "y", "x"),
        scale_factors=[2] * levels or None,
        transformations=transforms,
        **options,
    )


def spots_of(own: Own, transforms: dict | None = None, position: np.ndarray | None = None):
    """The spots as circles that spatialdata-io numbers."""
    models, place = library("spatialdata.models"), own.position if position is None else position
    return models.ShapesModel.parse(
        place,
        geometry=0,
        radius=own.scales["spot_diameter_fullres"] / 2,
        index=np.arange(len(place)),
        transformations=transforms,
    )


def squares_of(own: Own, edge: float, transforms: dict | None = None):
    """The spots as squares of ``edge`` pixels, as spatialdata-io makes the bins of Visium HD."""
    frame = spots_of(own).buffer(edge / 2, cap_style="square")
    geopandas = extra("geopandas", "slides")
    models = library("spatialdata.models")
    return models.ShapesModel.parse(
        geopandas.GeoDataFrame(geometry=frame), transformations=transforms
    )


def table_of(own: Own, shapes: str = "spots"):
    """The table of the spots under tissue, which annotates ``shapes``."""
    table = own_sections.table_of(own)
    del table.uns["spatial"], table.obsm["spatial"]
    table.obs["spot_id"] = [own.barcodes.index(b) for b in table.obs_names]
    table.obs["region"] = pd.Categorical([shapes] * len(table))
    keys = {"region": shapes, "region_key": "region", "instance_key": "spot_id"}
    return library("spatialdata.models").TableModel.parse(table, **keys)


def points_of(frame: pd.DataFrame, transforms: dict | None = None, parts: int = 1, **options):
    """Transcripts with the columns x, y and feature_name, in so many partitions."""
    dask = extra("dask.dataframe", "slides")
    frame = frame.assign(feature_name=frame["feature_name"].astype("category"))
    return library("spatialdata.models").PointsModel.parse(
        dask.from_pandas(frame, npartitions=parts),
        coordinates={axis: axis for axis in ("x", "y", "z") if axis in frame},
        feature_key="feature_name",
        transformations=transforms,
        **options,
    )


def write_store(path: Path, zarr: int = 3, **elements) -> Path:
    """Write a store of ``images``, ``shapes``, ``points`` and ``tables``, each by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    formats = library("spatialdata._io.format")  # there is no other way to write Zarr 2
    older = {"sdata_formats": formats.SpatialDataContainerFormatV01()} if zarr == 2 else {}
    library().SpatialData(**elements).write(path, overwrite=True, **older)
    return path


def visium_store(own: Own, path: Path, **more) -> Path:
    """A section as spatialdata-io's reader of Visium gives it."""
    elements = {
        "images": {"full_image": image_of(own_sections.picture(own))},
        "shapes": {"spots": spots_of(own)},
        "tables": {"table": table_of(own)},
    }
    return write_store(path, **{**elements, **more})
