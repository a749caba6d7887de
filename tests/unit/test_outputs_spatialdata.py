"""SpatialData: what the package reads in the store, or the command that installs the package."""

import importlib.util

import numpy as np
import pytest
from toy_predicted import NAMES, PIXEL_UM, toy_predicted

from flag_st.core.errors import FlagError
from flag_st.core.extras import extra
from flag_st.outputs import spatialdata_zarr
from flag_st.slides.gene_sets import GeneSets

INSTALLED = importlib.util.find_spec("spatialdata") is not None


@pytest.mark.skipif(INSTALLED, reason="spatialdata is installed: nothing is refused")
def test_without_the_package_the_command_is_named(tmp_path):
    with pytest.raises(FlagError, match=r"pip install -e '\.\[slides\]'"):
        spatialdata_zarr.write(toy_predicted(), tmp_path / "slide.zarr")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not INSTALLED, reason="needs the extra slides: pip install -e '.[slides]'")
def test_picture_spots_and_table_lie_over_each_other(tmp_path):
    spatialdata = extra("spatialdata", "slides")
    get_transformation = extra("spatialdata.transformations", "slides").get_transformation
    made = toy_predicted(
        picture=np.arange(300 * 300 * 3, dtype=np.uint32).reshape(300, 300, 3) % 251
    )
    made = toy_predicted(picture=made.picture.astype(np.uint8))
    spatialdata_zarr.write(made, tmp_path / "slide.zarr")
    store = spatialdata.read_zarr(tmp_path / "slide.zarr")
    assert set(store.coordinate_systems) == {"global", "pixels"}
    circles, table = store["spots"], store["expression"]
    assert circles.index.tolist() == made.slide.spots.tolist()
    assert set(circles["radius"]) == {50.0}
    centre = np.column_stack([circles.geometry.x, circles.geometry.y])
    assert centre == pytest.approx(made.slide.position)
    joined = spatialdata.join_spatialelement_table(
        sdata=store, spatial_element_names="spots", table_name="expression"
    )[1]
    assert np.array_equal(joined.X, made.point)
    assert table.uns["unit_name"] == "log1p counts"
    levels = list(store["picture"])
    assert len(levels) > 1
    assert np.array_equal(
        store["picture"]["scale0"]["image"].values, np.moveaxis(made.picture, 2, 0)
    )
    for system, width in (("global", made.size[0] * PIXEL_UM), ("pixels", made.size[0])):
        matrix = get_transformation(store["picture"], system).to_affine_matrix(
            ("x", "y"), ("x", "y")
        )
        assert matrix @ [300, 300, 1] == pytest.approx([width, width, 1])
        spot = get_transformation(circles, system).to_affine_matrix(("x", "y"), ("x", "y"))
        wanted = made.slide.position[3] / (PIXEL_UM if system == "pixels" else 1)
        assert (spot @ [*centre[3], 1])[:2] == pytest.approx(wanted)


@pytest.mark.skipif(not INSTALLED, reason="needs the extra slides: pip install -e '.[slides]'")
def test_gene_sets_go_with_the_table(tmp_path):
    made = toy_predicted(sets=GeneSets.of({"A": NAMES[:5], "B": NAMES[:1]}, NAMES))
    spatialdata_zarr.write(made, tmp_path / "slide.zarr")
    read = extra("spatialdata", "slides").read_zarr(tmp_path / "slide.zarr")["expression"]
    assert read.obsm["gene_sets"]["A"].to_numpy() == pytest.approx(made.set_point[:, 0])
    assert read.uns["gene_sets"]["genes_found"].to_list() == [5, 1]
