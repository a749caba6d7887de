"""The files of a slide as other people's software reads them: positions to 1 µm, and equal values."""

import json

import numpy as np
import openslide
import pytest
import tifffile
from toy_predicted import PIXEL_UM, toy_predicted

from flag_st.outputs import geojson, ome_tiff


@pytest.fixture(scope="module")
def made():
    return toy_predicted(spots=6400)


@pytest.fixture(scope="module")
def tiff(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("tiff") / "genes.ome.tif"
    ome_tiff.write(made, path)
    return path


def test_geopandas_reads_the_spots(made, tmp_path):
    geopandas = pytest.importorskip("geopandas", reason="it comes with the extra slides")
    geojson.write(made, tmp_path / "spots.geojson")
    read = geopandas.read_file(tmp_path / "spots.geojson")
    assert read.geometry.is_valid.all()
    assert read["name"].tolist() == made.slide.spots.tolist()
    centre = np.column_stack([read.geometry.centroid.x, read.geometry.centroid.y]) * PIXEL_UM
    assert np.abs(centre - made.slide.position).max() < 1.0  # µm
    width = (read.geometry.bounds["maxx"] - read.geometry.bounds["minx"]) * PIXEL_UM
    assert width.to_numpy() == pytest.approx(np.full(len(read), 100.0), abs=0.1)
    found = [json.loads(m) if isinstance(m, str) else m for m in read["measurements"]]
    for gene, column in zip(made.shown, made.columns(), strict=True):
        values = [row[f"{gene} (log1p counts)"] for row in found]
        assert values == pytest.approx(made.point[:, column], abs=1e-5)
    names = [json.loads(c) if isinstance(c, str) else c for c in read["classification"]]
    assert [c["name"] for c in names] == made.trust.spots["verdict"].tolist()


def test_every_spot_is_where_tifffile_finds_it(made, tiff):
    """The middle of the pixels that hold a spot's value is its position, to a pixel of the map."""
    with tifffile.TiffFile(tiff) as file:
        values = file.series[0].levels[0].asarray()  # (C, h, w)
        tags = file.pages[0].tags
        (dots, unit), centimetre = tags["XResolution"].value, tags["ResolutionUnit"].value
        coarse = file.pages[0].pages[0].tags["XResolution"].value
    assert centimetre == 3
    um = 1e4 / (dots / unit)
    assert um == pytest.approx(ome_tiff.maps_of(made)[1] * PIXEL_UM)
    assert coarse[0] / coarse[1] == pytest.approx(dots / unit / 2)
    column = made.columns()[0]
    inside = np.flatnonzero(
        (made.slide.position > made.pitch_um).all(1)
    )  # whose pixels are all there
    for spot in inside[::97]:
        rows, columns = np.nonzero(values[0] == made.point[spot, column])
        middle = (np.array([columns.mean(), rows.mean()]) + 0.5) * um
        assert np.abs(middle - made.slide.position[spot]).max() <= um


def test_openslide_knows_the_size_and_shows_no_floats(made, tiff):
    """As the recipe says: values are kept as numbers, which OpenSlide cannot show."""
    with openslide.OpenSlide(tiff) as slide:
        width = slide.dimensions[0] * float(slide.properties["openslide.mpp-x"])
        assert width == pytest.approx(made.size[0] * PIXEL_UM, rel=0.01)
        with pytest.raises(openslide.OpenSlideError, match="32-bit"):
            slide.read_region((0, 0), 0, (8, 8))
