"""The files of a predicted slide: what other tools read in them is what was predicted."""

import itertools
import json
import math
import re
import uuid
from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
import tifffile
from toy_predicted import NAMES, PIXEL_UM, toy_predicted

from flag_st.data.slide import TRANSFORMS, UNITS
from flag_st.metrics.policy import centred
from flag_st.metrics.ssc import morans_i, neighbour_graph
from flag_st.outputs import geojson, h5ad, ome_tiff, page, table


@pytest.fixture(scope="module")
def made():
    return toy_predicted()


@pytest.mark.parametrize("unit", UNITS)
def test_units_are_named_and_lead_back_to_counts(unit):
    """The sentence itself is evaluated: it must return the counts."""
    assert set(UNITS) == set(TRANSFORMS)
    counts, depth = np.array([[3.0, 0.0, 41.0]]), np.array([[2000.0]])
    value = TRANSFORMS[unit](counts, depth)
    formula, _, what = UNITS[unit][1].partition(" is ")
    back = eval(formula.removeprefix("the "), {"exp": np.exp, "value": value})
    wanted = counts / depth * 1e4 if "10,000" in what else counts
    assert back == pytest.approx(wanted)


def test_h5ad_is_a_prediction_file_with_verdicts(made, tmp_path):
    path = tmp_path / "prediction.h5ad"
    h5ad.write(made, path)
    read = anndata.read_h5ad(path)
    assert np.array_equal(read.X, made.point)
    assert np.array_equal(read.layers["draw_2"], made.prediction.samples[2])
    assert np.array_equal(read.layers["spread"], made.spread)
    assert (read.layers["lower_90"] <= read.X).all()
    assert (read.layers["upper_90"] >= read.X).all()
    assert "for a new patient no more than 60 % are guaranteed" in read.uns["intervals"]
    assert np.array_equal(read.obsm["spatial"], made.slide.position)
    assert read.obsm["spatial_px"] == pytest.approx(made.slide.position / PIXEL_UM)
    assert list(read.var["verdict"].unique()) == ["do not", "at a coarser scale only", "trust"]
    assert (read.layers["neighbourhood_lower_90"] <= read.layers["neighbourhood"]).all()
    assert (read.layers["neighbourhood_upper_90"] >= read.layers["neighbourhood"]).all()
    assert np.array_equal(read.layers["verdict"], made.ranks)
    assert list(read.uns["verdicts"]) == ["do not", "at a coarser scale only", "trust"]
    assert read.uns["certificate"].endswith("validation slides of 2 patients.")
    assert read.uns["unit_name"] == "log1p counts"
    assert read.uns["unit_to_counts"] == "exp(value) - 1 is counts per spot"
    assert read.uns["trust"]["verdict"] == made.trust.verdict
    assert read.uns["origin"]["sha256"] == "0" * 64
    assert set(read.obs) == {
        *(*made.trust.spots, "array_row", "array_col", "genes_trust", "genes_coarser")
    }
    h5ad.write(made, tmp_path / "again.h5ad")
    assert (tmp_path / "again.h5ad").read_bytes() == path.read_bytes()


def test_geojson_is_what_qupath_imports(made, tmp_path):
    """A detection per spot, closed rings around its centre in pixels, numbers as measurements."""
    geojson.write(made, tmp_path / "spots.geojson")
    found = json.loads((tmp_path / "spots.geojson").read_text())
    assert found["type"] == "FeatureCollection"
    assert found["unit"] == "log1p counts"
    assert len(found["features"]) == len(made.slide)
    assert len({f["id"] for f in found["features"]}) == len(made.slide)
    for i, feature in enumerate(found["features"]):
        assert feature["type"] == "Feature"
        assert str(uuid.UUID(feature["id"])) == feature["id"]
        properties = feature["properties"]
        assert properties["objectType"] == "detection"
        assert set(properties["classification"]) == {"name", "color"}
        assert all(0 <= c <= 255 for c in properties["classification"]["color"])
        (ring,) = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        ring = np.array(ring[:-1])
        assert ring.mean(0) == pytest.approx(made.slide.position[i] / PIXEL_UM, abs=0.01)
        radius = np.linalg.norm(ring - ring.mean(0), axis=1) * PIXEL_UM
        assert radius == pytest.approx(np.full(len(ring), 50.0), abs=0.02)
        numbers = properties["measurements"]
        assert all(isinstance(v, float) and math.isfinite(v) for v in numbers.values())
        assert numbers["g1 (log1p counts)"] == pytest.approx(made.point[i, 1], abs=1e-5)
        assert numbers["g1 spread (log1p counts)"] == pytest.approx(made.spread[i, 1], abs=1e-5)
        assert numbers["g1 verdict (0 to 2)"] == made.ranks[i, 1]
        assert numbers["feature distance"] > 0


def test_geojson_begins_where_qupath_does(made, tmp_path):
    """QuPath crops some formats to the scanned area, and counts pixels from its corner."""
    cropped = replace(made, qupath_origin=(300, 50))
    for slide, name in ((made, "whole"), (cropped, "cropped")):
        geojson.write(slide, tmp_path / name)
    rings = [
        np.array(
            json.loads((tmp_path / name).read_text())["features"][5]["geometry"]["coordinates"]
        )
        for name in ("whole", "cropped")
    ]
    assert rings[0] - rings[1] == pytest.approx(
        np.broadcast_to([300, 50], rings[0].shape), abs=0.02
    )


def test_geojson_leaves_out_what_is_undefined(tmp_path):
    made = toy_predicted(draws=1)
    made.trust.spots.loc[0, "focus"] = np.nan
    geojson.write(made, tmp_path / "spots.geojson")
    text = (tmp_path / "spots.geojson").read_text()
    assert "NaN" not in text
    first, second = (f["properties"]["measurements"] for f in json.loads(text)["features"][:2])
    assert "focus" not in first
    assert "focus" in second
    assert not any("spread" in name for name in first)


@pytest.fixture(scope="module")
def tiff(made, tmp_path_factory):
    path = tmp_path_factory.mktemp("tiff") / "genes.ome.tif"
    ome_tiff.write(made, path)
    return path


def test_maps_lie_over_the_slide(made, tiff):
    """At the place of a spot, the map has its value; far from all spots, it has none."""
    maps, step = ome_tiff.maps_of(made)
    with tifffile.TiffFile(tiff) as file:
        assert file.is_ome
        assert np.array_equal(file.asarray(), maps, equal_nan=True)
        xml = file.ome_metadata
    size = float(re.search(r'PhysicalSizeX="([\d.]+)"', xml)[1])
    assert size == pytest.approx(step * PIXEL_UM)
    assert 'PhysicalSizeXUnit="µm"' in xml
    assert re.findall(r'<Channel [^>]*Name="([^"]+)"', xml) == [
        "g0 (log1p counts)",
        "g1 (log1p counts)",
    ]
    assert "exp(value) - 1" in xml
    place = (made.slide.position / size).astype(int)  # (N, 2)
    for channel in range(2):
        assert np.array_equal(maps[channel, place[:, 1], place[:, 0]], made.point[:, channel])
    width = maps.shape[2]
    assert abs(width * size - made.size[0] * PIXEL_UM) < size
    assert np.isnan(maps[:, -1, -1]).all()
    assert np.log2(step) % 1 == 0


def test_maps_have_a_pyramid_of_means(tmp_path):
    made = toy_predicted(spots=6400)
    ome_tiff.write(made, tmp_path / "genes.ome.tif")
    with tifffile.TiffFile(tmp_path / "genes.ome.tif") as file:
        levels = [level.asarray() for level in file.series[0].levels]
    assert len(levels) >= 2
    assert max(levels[-1].shape) <= 256
    for fine, coarse in itertools.pairwise(levels):
        assert coarse.shape[1:] == tuple(-(-n // 2) for n in fine.shape[1:])
        square = fine[:, 20:22, 30:32]
        assert coarse[:, 10, 15] == pytest.approx(np.nanmean(square, axis=(1, 2)), rel=1e-5)


def test_tiffs_are_equal_in_every_byte(made, tiff, tmp_path):
    ome_tiff.write(made, tmp_path / "again.ome.tif")
    assert (tmp_path / "again.ome.tif").read_bytes() == tiff.read_bytes()


def test_summary_table_can_be_joined(made, tmp_path):
    table.write(made, tmp_path / "summary.tsv")
    read = pd.read_csv(tmp_path / "summary.tsv", sep="\t").set_index("name")
    assert list(read.index) == NAMES
    assert set(read["slide"]) == {"New"}
    assert read["predicted_mean"].to_numpy() == pytest.approx(made.point.mean(0), rel=1e-4)
    graph = neighbour_graph(made.slide.position)
    wanted = morans_i(centred(made.point.astype(np.float64)), graph)
    assert read["morans_i"].to_numpy() == pytest.approx(wanted, rel=1e-3)
    assert read["spread"].to_numpy() == pytest.approx(made.spread.mean(0), rel=1e-4)
    assert read.loc["g0", "verdict"] == "do not"
    assert read["spots_trust"].to_numpy() == pytest.approx((made.ranks == 2).mean(0), rel=1e-4)
    few = table.table_of(toy_predicted(spots=5, draws=1))
    assert few["morans_i"].isna().all()
    assert few["spread"].isna().all()


def test_page_shows_verdicts_units_and_marked_genes(made, tmp_path):
    page.write(made, tmp_path / "summary.html", {"prediction.h5ad": "everything"})
    text = (tmp_path / "summary.html").read_text()
    assert "This slide is like the training slides" in text
    assert "log1p counts: exp(value) - 1 is counts per spot" in text
    assert text.count("data:image/png;base64,") == 2
    assert "prediction.h5ad" in text
    assert "for a new patient no more than 60 % are guaranteed" in text
    assert page.gene_maps(made).axes[0].get_title() == "g0: do not"
    for verdict, count in (("do not", 1), ("at a coarser scale only", 4), ("trust", 7)):
        assert text.count(f"<td>{verdict}</td>") == count
        assert f"“{verdict}” for {count}" in text
    assert not re.search(r'(src|href)="(?!data:|#)', text)  # nothing outside the page


def test_page_warns_of_an_unlike_slide_and_escapes_names(tmp_path):
    made = toy_predicted()
    trust = replace(made.trust, verdict="unlike training", reasons=["40% <b>blurred</b>"])
    page.write(replace(made, trust=trust), tmp_path / "summary.html", {})
    text = (tmp_path / "summary.html").read_text()
    assert 'role="alert"' in text
    assert "unlike the training slides</h2>" in text
    assert "<b>blurred" not in text


@pytest.mark.parametrize(("draws", "panels"), [(1, 3), (3, 6)])
def test_every_shown_gene_is_drawn_with_its_spread(draws, panels):
    figure = page.gene_maps(toy_predicted(draws=draws, shown=NAMES[:3]))
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles[-panels // 3 :][0] == "g2: at a coarser scale only"
    assert [title.split(":")[0] for title in titles] == [
        name for name in NAMES[:3] for _ in range(panels // 3)
    ]
