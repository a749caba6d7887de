"""SpatialData stores as a source: what comes in, how it lies over the image, and what is refused."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import own_sections
import own_stores as stores
import pandas as pd
import pytest
from conftest import ROOT
from own_sections import Own, assert_same, fetched, her2st_section, visium

from flag_st.core.errors import FlagError
from flag_st.slides.files import open_reader
from flag_st.sources.spatialdata_zarr import SpatialDataZarr

INSTALLED = importlib.util.find_spec("spatialdata") is not None
needs_package = pytest.mark.skipif(not INSTALLED, reason=stores.REASON)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def made(tmp_path: Path, own: Own | None = None, params: dict | None = None, **elements):
    """The source of one section ``S1``."""
    stores.visium_store(own or visium(), tmp_path / "stores/S1.zarr", **elements)
    return SpatialDataZarr(root=tmp_path / "stores", **(params or {}))


def bare(tmp_path: Path, **names) -> Path:
    """A folder with the names of elements and nothing in them, for which no package is needed."""
    root = tmp_path / "stores"
    for kind, found in {"images": ("he",), "tables": ("table",), **names}.items():
        for name in found:
            (root / "S1.zarr" / kind / name).mkdir(parents=True)
    (root / "S1.zarr/zarr.json").write_text("{}")
    return root


# What comes in -----------------------------------------------------------------------------------


@needs_package
@pytest.mark.parametrize("levels", [0, 2])
def test_a_section_of_visium_is_read(tmp_path, levels):
    own = visium(pixel_um=2.0)
    picture = own_sections.picture(own)
    options = {"levels": levels, "chunks": (3, 100, 130)}
    source = made(tmp_path, own, images={"he": stores.image_of(picture, **options)})
    assert [row.id for row in source.slides()] == ["S1"]
    table = fetched(source, tmp_path)
    assert_same(table, own)
    assert list(table.var["gene_ids"]) == own.ids
    facts = table.uns["metadata"]
    assert facts["st_technology"] == "Visium"
    assert facts["pixel_size_um_estimated"] == pytest.approx(2.0)
    assert facts["spot_diameter"] == pytest.approx(65.0)
    with open_reader(table.uns["wsi"]) as image:  # without loss, with levels
        assert image.size == own.size
        assert image.downsamples[1] == pytest.approx(2.0, rel=0.01)
        whole = np.asarray(image.region((0, 0), 0, own.size))
    np.testing.assert_array_equal(whole, picture)


@needs_package
def test_stores_of_zarr_2_are_read_and_their_units(tmp_path):
    own = visium(pixel_um=5.0)
    to_um = {"um": stores.scale(5.0)}
    elements = {
        "images": {"he": stores.image_of(own_sections.picture(own), to_um)},
        "shapes": {"spots": stores.spots_of(own, to_um)},
    }
    source = made(tmp_path, own, zarr=2, **elements)
    path = source.root / "S1.zarr/images/he/.zattrs"
    path.write_text(path.read_text().replace('"unit": "unit"', '"unit": "micrometer"'))
    table = fetched(source, tmp_path)
    assert_same(table, own)
    stated = table.uns["metadata"]["local"]["pixel_size_statements"]
    assert stated["the unit of the coordinate system um"] == 5.0


@needs_package
def test_alpha_is_laid_on_glass(tmp_path):
    own = visium()
    pixels = own_sections.picture(own)
    alpha = np.full((*pixels.shape[:2], 1), 255, np.uint8)
    alpha[:50, :50] = 0
    image = stores.image_of(np.concatenate([pixels, alpha], 2), c_coords=["r", "g", "b", "a"])
    table = fetched(made(tmp_path, own, images={"he": image}), tmp_path)
    with open_reader(table.uns["wsi"]) as opened:
        found = np.asarray(opened.region((0, 0), 0, own.size))
    assert (found[:50, :50] == 255).all()
    np.testing.assert_array_equal(found[50:], pixels[50:])


@needs_package
def test_spots_beside_the_tissue_and_rows_without_a_shape_are_told(tmp_path):
    own = visium()
    table = stores.table_of(own)
    table.obs["in_tissue"] = 1
    table.obs.iloc[0, table.obs.columns.get_loc("in_tissue")] = 0
    table.obs.iloc[1, table.obs.columns.get_loc("spot_id")] = 4000
    found = fetched(made(tmp_path, own, tables={"table": table}), tmp_path)
    assert list(found.obs_names) == own.matrix_barcodes[2:]
    assert found.uns["metadata"]["local"]["told"] == {
        "spots beside the tissue (in_tissue 0)": 1,
        "spots of the table without a shape": 1,
    }


@needs_package
@pytest.mark.parametrize("squares", [True, False])
def test_bins_of_visium_hd_are_chosen_by_their_size(tmp_path, squares):
    """Squares and circles of two sizes; rows of Visium HD are counted from the bottom."""
    own = hd_bins()
    step = own.position[1, 0] - own.position[0, 0]
    shape = stores.squares_of(own, step) if squares else stores.spots_of(own)
    elements = {
        "shapes": {"S_square_016um": shape, "S_square_008um": shape},
        "tables": {
            "square_016um": stores.table_of(own, "S_square_016um"),
            "square_008um": stores.table_of(own, "S_square_008um"),
        },
    }
    source = made(tmp_path, own, {"bin_um": 16}, **elements)
    table = fetched(source, tmp_path)
    assert_same(table, own)
    facts = table.uns["metadata"]
    assert (facts["st_technology"], facts["inter_spot_dist"]) == ("Visium HD", 16.0)
    assert facts["spot_diameter"] == pytest.approx(16.0)
    assert facts["pixel_size_um_estimated"] == pytest.approx(0.5)
    with pytest.raises(FlagError, match=r"has 2 tables\. Valid: square_008um, square_016um"):
        SpatialDataZarr(root=source.root).check("S1")
    with pytest.raises(FlagError, match=r"has no bins of 4 µm.*Valid: square_008um, square_016um"):
        SpatialDataZarr(root=source.root, bin_um=4, table="square_016um").check("S1")


def hd_bins() -> Own:
    own = visium(pixel_um=0.5)
    side = 9
    own.cells = np.array([(side - 1 - i, j) for i in range(side) for j in range(side)])[:80]
    step = 16.0 / own.pixel_um
    upward = side - 1 - own.cells[:, 0]
    own.position = 60 + step * np.column_stack([own.cells[:, 1], upward])
    own.size, own.scales = (400, 420), own_sections.scales_of(own, 16.0, 0.2)
    return own


# Where it lies -----------------------------------------------------------------------------------

TURN = np.array([[0.0, -1.3, 700.0], [1.3, 0.0, 90.0], [0, 0, 1]])
MIRROR = np.array([[-0.5, 0.0, 300.0], [0.0, 0.5, 7.0], [0, 0, 1]])


@needs_package
@pytest.mark.parametrize("how", ["scales", "affine", "mirror", "sequence", "moved image"])
def test_transformations_carry_the_spots_onto_the_image(tmp_path, how):
    own = visium(pixel_um=5.0)
    tools, place = stores.library("spatialdata.transformations"), own.position
    on_image: dict = {"aligned": tools.Identity()}
    if how == "scales":  # spots in µm, the image in its pixels, and a system in units of 20 µm
        place, on_image = own.position * 5.0, {"aligned": stores.scale(0.25)}
        on_spots = {"aligned": stores.scale(0.05)}
    elif how in ("affine", "mirror"):
        matrix = TURN if how == "affine" else MIRROR
        back = np.linalg.inv(matrix)
        place = own.position @ back[:2, :2].T + back[:2, 2]
        on_spots = {"aligned": stores.affine(matrix)}
    elif how == "sequence":
        steps = [stores.scale(0.1), tools.Translation([30, -40], axes=("x", "y"))]
        on_spots = {"aligned": tools.Sequence(steps)}
        place = (own.position - [30, -40]) * 10
    else:
        on_image = {"aligned": stores.affine(TURN)}
        on_spots, place = {"aligned": tools.Identity()}, own.position @ TURN[:2, :2].T + TURN[:2, 2]
    elements = {
        "images": {"he": stores.image_of(own_sections.picture(own), on_image)},
        "shapes": {"spots": stores.spots_of(own, on_spots, place)},
    }
    params = {"mirrored": True} if how == "mirror" else {}
    table = fetched(made(tmp_path, own, params, **elements), tmp_path)
    assert_same(table, own, tolerance_um=1e-6)
    assert table.uns["metadata"]["pixel_size_um_estimated"] == pytest.approx(5.0)


@needs_package
def test_of_several_coordinate_systems_the_user_names_one_if_they_differ(tmp_path):
    own = visium()
    tools = stores.library("spatialdata.transformations")
    both = {"global": tools.Identity(), "hires": stores.scale(0.2)}
    picture = own_sections.picture(own)
    alike = {
        "images": {"he": stores.image_of(picture, both)},
        "shapes": {"spots": stores.spots_of(own, both)},
    }
    assert_same(fetched(made(tmp_path / "alike", own, **alike), tmp_path / "alike"), own)
    wrong = stores.spots_of(own, {"global": tools.Identity(), "hires": stores.scale(0.1)})
    source = made(tmp_path, own, **{**alike, "shapes": {"spots": wrong}})
    with pytest.raises(FlagError, match=r"differently in .* global, hires\. Valid: global, hires"):
        source.check("S1")
    named = SpatialDataZarr(root=source.root, system="global")
    assert_same(fetched(named, tmp_path), own)
    with pytest.raises(FlagError, match=r"not both in the coordinate system um\. Valid: global"):
        SpatialDataZarr(root=source.root, system="um").check("S1")


@needs_package
def test_the_pixel_size_is_that_of_the_system_s_unit(tmp_path):
    """By its metadata, by the user, by the pitch; two that differ are refused with both values."""
    own = visium(pixel_um=5.0)
    to_um = {"um": stores.scale(5.0)}
    elements = {
        "images": {"he": stores.image_of(own_sections.picture(own), to_um)},
        "shapes": {"spots": stores.spots_of(own, to_um)},
    }
    source = made(tmp_path, own, **elements)
    key, pitch = "the unit of the coordinate system um", "the spots' distance of 100 µm"
    stated = source.read("S1").picture.statements
    assert stated == {pitch: pytest.approx(5.0)}
    known = SpatialDataZarr(root=source.root, unit_um=1.0).read("S1").picture
    assert known.statements == {key: 5.0, pitch: pytest.approx(5.0)}
    assert known.pixel_um == 5.0
    user = SpatialDataZarr(root=source.root, pixel_um=5.1).read("S1").picture
    assert user.pixel_um == 5.1
    with pytest.raises(FlagError, match=r"more than 5%: 5 µm by the unit.*, 6 µm by the spots'"):
        SpatialDataZarr(root=source.root, unit_um=1.0, pitch_um=120.0).check("S1")
    path = source.root / "S1.zarr/images/he/zarr.json"
    path.write_text(path.read_text().replace('"unit": "unit"', '"unit": "micrometer"'))
    assert source.read("S1").picture.statements == known.statements


@needs_package
def test_a_unit_belongs_to_one_of_several_systems(tmp_path):
    """All place the spots alike, so that any would do; the lengths of their units differ."""
    own = visium(pixel_um=5.0)
    both = {"um": stores.scale(5.0), "global": stores.scale(1.0)}
    elements = {
        "images": {"he": stores.image_of(own_sections.picture(own), both)},
        "shapes": {"spots": stores.spots_of(own, both)},
    }
    source = made(tmp_path, own, {"unit_um": 1.0}, **elements)
    with pytest.raises(FlagError, match=r"unit_um is the unit of one\. Valid: global, um"):
        source.check("S1")
    key = "the unit of the coordinate system um"
    named = SpatialDataZarr(root=source.root, unit_um=1.0, system="um").read("S1").picture
    assert named.statements[key] == 5.0
    # The metadata of the image say which unit has a length.
    path = source.root / "S1.zarr/images/he/zarr.json"
    facts = json.loads(path.read_text())
    for known in facts["attributes"]["ome"]["multiscales"][0]["coordinateTransformations"]:
        if known["output"]["name"] == "um":
            for axis in known["output"]["axes"]:
                axis["unit"] = "micrometer"
    path.write_text(json.dumps(facts))
    assert SpatialDataZarr(root=source.root).read("S1").picture.statements[key] == 5.0


@needs_package
def test_an_image_without_any_statement_of_its_pixel_size_is_refused(tmp_path):
    frame = transcripts(100).drop(columns="qv")
    elements = {"points": {"transcripts": stores.points_of(frame)}, "tables": {}, "shapes": {}}
    source = made(tmp_path, params={"bin_um": 100}, **elements)
    with pytest.raises(FlagError, match="does not say how many µm a pixel is"):
        source.check("S1")


# Transcripts -------------------------------------------------------------------------------------


def transcripts(number: int = 6000, seed: int = 0) -> pd.DataFrame:
    """Transcripts of Xenium over 900 x 700 µm, some of which do not count."""
    random = np.random.default_rng(seed)
    names = ["KRT8", "CD3E", "VIM", "NegControlProbe_00042", "UnassignedCodeword_0498"]
    return pd.DataFrame(
        {
            "x": random.uniform(0, 900, number),
            "y": random.uniform(0, 700, number),
            "z": random.uniform(0, 20, number),
            "feature_name": random.choice(names, number, p=[0.4, 0.3, 0.2, 0.05, 0.05]),
            "qv": random.uniform(5, 40, number).astype(np.float32),
        }
    )


#: µm of the transcripts → pixels of the morphology image, and of the H&E image, which is turned.
MORPHOLOGY = 0.2125
HE = np.array([[0.0, 2.0, 60.0], [-2.0, 0.0, 1840.0], [0, 0, 1]])


def xenium(tmp_path: Path, frame: pd.DataFrame, parts: int = 1, **params) -> SpatialDataZarr:
    """A store as spatialdata-io makes of Xenium's output: H&E beside dyes, cells beside transcripts."""
    own = visium()
    pixels = np.full((1900, 1500, 3), 230, np.uint8)
    pixels[20:-20, 20:-20] = (220, 130, 190)  # a section, since a blank picture is refused
    to_global = np.diag([1 / MORPHOLOGY, 1 / MORPHOLOGY, 1.0])
    dyes = np.zeros((64, 64, 4), np.uint16)
    elements = {
        "images": {
            "he_image": stores.image_of(
                pixels, {"global": stores.affine(to_global @ np.linalg.inv(HE))}
            ),
            "morphology_focus": stores.image_of(dyes, c_coords=["DAPI", "18S", "a", "b"]),
        },
        "points": {
            "transcripts": stores.points_of(frame, {"global": stores.scale(1 / MORPHOLOGY)}, parts)
        },
        "shapes": {"cell_circles": stores.spots_of(own)},
        "tables": {"table": stores.table_of(own, "cell_circles")},
    }
    stores.write_store(tmp_path / "stores/S1.zarr", **elements)
    return SpatialDataZarr(root=tmp_path / "stores", **{"image": "he_image", **params})


@needs_package
def test_transcripts_are_counted_in_bins_of_the_image(tmp_path):
    frame = transcripts()
    source = xenium(tmp_path, frame, parts=3, bin_um=100)
    table = fetched(source, tmp_path)
    facts = table.uns["metadata"]
    assert facts["pixel_size_um_estimated"] == pytest.approx(0.5)
    assert (facts["st_technology"], facts["inter_spot_dist"]) == ("Xenium", 100.0)
    gene = frame["feature_name"].isin(["KRT8", "CD3E", "VIM"])
    good = frame[gene & (frame["qv"] >= 20)]
    place = good[["x", "y"]].to_numpy() @ HE[:2, :2].T + HE[:2, 2]
    cell = (place // 200).astype(int)  # (n, 2) column and row of bins of 200 px
    inside = ((cell >= 0) & (cell < [7, 9])).all(1)
    wanted = good[inside].groupby([cell[inside, 1], cell[inside, 0], "feature_name"]).size()
    assert table.X.sum() == inside.sum()
    for (row, column, name), number in wanted.items():
        assert table[f"{row}x{column}", name].X.toarray() == number
    where = table.obs[["array_col", "array_row"]].to_numpy()
    np.testing.assert_allclose(table.obsm["spatial"], (where + 0.5) * 200)
    assert facts["local"]["told"] == {
        "control transcripts": int((~gene).sum()),
        "transcripts of a quality below Q20": int((frame["qv"][gene] < 20).sum()),
        "transcripts beside the image, or in bins that its edge cuts": int((~inside).sum()),
    }
    assert sum(facts["local"]["told"].values()) + table.X.sum() == len(frame)


@needs_package
def test_the_partitions_do_not_change_the_counts_and_are_read_one_by_one(tmp_path, monkeypatch):
    from flag_st.sources import spatialdata_points

    frame, read = transcripts(), []
    add = spatialdata_points.Bins.add
    monkeypatch.setattr(
        spatialdata_points.Bins, "add", lambda *a: (read.append(len(a[1])), add(*a))[1]
    )
    found = {
        parts: fetched(
            xenium(tmp_path / str(parts), frame, parts, bin_um=55), tmp_path / str(parts)
        )
        for parts in (1, 7)
    }
    assert len(read) == 8
    assert max(read[1:]) < len(frame) / 5
    assert (found[1].X != found[7].X).nnz == 0
    assert list(found[1].obs_names) == list(found[7].obs_names)
    assert list(found[1].var_names) == ["CD3E", "KRT8", "VIM"]


@needs_package
def test_a_gene_whose_transcripts_are_all_poor_has_no_counts_and_others_no_name_or_place(tmp_path):
    frame = transcripts()
    frame.loc[frame["feature_name"] == "VIM", "qv"] = 12.0
    frame.loc[:9, "feature_name"] = None
    frame.loc[10:19, "x"] = np.nan
    frame.loc[:19, "qv"] = 40.0
    table = fetched(xenium(tmp_path, frame, parts=2, bin_um=100), tmp_path)
    assert list(table.var_names) == ["CD3E", "KRT8", "VIM"]
    assert table[:, "VIM"].X.sum() == 0
    good = frame[20:].query("feature_name in ['CD3E', 'KRT8'] and qv >= 20")
    place = good[["x", "y"]].to_numpy() @ HE[:2, :2].T + HE[:2, 2]
    assert table.X.sum() == ((place >= 0) & (place < [1400, 1800])).all(1).sum()
    assert sum(table.uns["metadata"]["local"]["told"].values()) + table.X.sum() == len(frame)


@needs_package
def test_newer_columns_say_what_is_a_gene(tmp_path):
    frame = transcripts()
    frame["codeword_category"] = np.where(
        frame["feature_name"] == "VIM", "genomic_control_probe", "predesigned_gene"
    )
    frame["is_gene"] = frame["feature_name"] != "CD3E"
    table = fetched(xenium(tmp_path, frame, bin_um=100, min_qv=None), tmp_path)
    assert list(table.var_names) == ["KRT8"]
    assert "transcripts of a quality below Q20" not in table.uns["metadata"]["local"]["told"]


@needs_package
def test_cells_are_no_array_and_transcripts_want_bins(tmp_path):
    frame = transcripts(200)
    with pytest.raises(
        FlagError, match=r"transcripts of .* are to be counted in bins.*bin_um: 100"
    ):
        xenium(tmp_path, frame, points="transcripts").check("S1")
    source = SpatialDataZarr(root=tmp_path / "stores", bin_um=100)
    with pytest.raises(FlagError, match=r"has 2 images\. Valid: he_image, morphology_focus"):
        source.check("S1")
    dyes = SpatialDataZarr(root=tmp_path / "stores", bin_um=100, image="morphology_focus")
    with pytest.raises(FlagError, match="has the channels DAPI, 18S, a, b and no colour"):
        dyes.check("S1")


# Conversions -------------------------------------------------------------------------------------


@needs_package
def test_a_conversion_is_made_once_and_always_the_same(tmp_path):
    own = visium()
    source = made(tmp_path, own)
    first = source.fetch("S1", tmp_path / "raw")
    before = {k: (p.read_bytes(), p.stat().st_mtime_ns) for k, p in first.items().items()}
    source.fetch("S1", tmp_path / "raw")
    assert {k: (p.read_bytes(), p.stat().st_mtime_ns) for k, p in first.items().items()} == before
    again = source.fetch("S1", tmp_path / "other")
    assert again.st.read_bytes() == before["st"][0]
    assert again.wsi.read_bytes() == before["wsi"][0]


@needs_package
def test_other_counts_of_the_same_shape_are_converted_again(tmp_path):
    """The metadata of both are equal; only a chunk tells, and Snakemake looks at what inputs hold."""
    own = visium()
    source = made(tmp_path, own)
    first = source.fetch("S1", tmp_path / "raw").st.read_bytes()
    before = {path: path.read_bytes() for path in source.inputs("S1")}
    own.counts = own.counts[::-1]
    store = stores.library().read_zarr(source.root / "S1.zarr")
    store["table"] = stores.table_of(own)
    store.delete_element_from_disk("table")
    store.write_element("table")
    changed = [p for p in source.inputs("S1") if p.read_bytes() != before.get(p)]
    assert changed
    assert not any(path.name == "zarr.json" for path in changed)
    table = fetched(source, tmp_path)
    assert_same(table, own)
    assert (tmp_path / "raw/st/S1.h5ad").read_bytes() != first


@needs_package
def test_a_damaged_chunk_of_the_image_leaves_nothing(tmp_path):
    source = made(tmp_path)
    chunk = max((source.root / "S1.zarr/images").rglob("c/*/*/*"), key=lambda p: p.stat().st_size)
    chunk.write_bytes(chunk.read_bytes()[:-9])
    with pytest.raises(FlagError, match="full_image is damaged at row 0"):
        source.fetch("S1", tmp_path / "raw")
    assert [p for p in (tmp_path / "raw").rglob("*") if p.is_file() and p.suffix != ".h5ad"] == []


def test_the_sheet_is_known_without_heavy_imports(tmp_path):
    root = bare(tmp_path, shapes=("spots",))
    program = (
        "import sys; from flag_st.sources.spatialdata_zarr import SpatialDataZarr as S\n"
        f"s = S(root={str(root)!r}); s.slides(); s.inputs('S1')\n"
        "heavy = ('torch', 'scanpy', 'pandas', 'anndata', 'openslide', 'spatialdata', 'zarr', 'dask')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# What is refused ---------------------------------------------------------------------------------


def test_without_the_package_the_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    source = SpatialDataZarr(root=bare(tmp_path))
    with pytest.raises(FlagError, match=r"pip install -e '\.\[slides\]'"):
        source.check("S1")


#: Elements of a bare store, parameters, and the fault.
NAMES = {
    "two images": ({"images": ("a", "b")}, {}, r"has 2 images\. Valid: a, b\. .*image: NAME"),
    "no image": ({"images": ()}, {}, "has no image.*add the H&E image"),
    "reduced copies": (
        {"images": ("x_hires_image", "x_lowres_image")},
        {},
        "has no image at full resolution; x_hires_image, x_lowres_image are reduced copies",
    ),
    "another image": ({}, {"image": "HE"}, r"has no image HE\. Valid: he"),
    "two tables": ({"tables": ("a", "b")}, {}, r"has 2 tables\. Valid: a, b\. .*table: NAME"),
    "two points": (
        {"tables": (), "points": ("a", "b")},
        {"bin_um": 100},
        r"has 2 points\. Valid: a, b\. .*points: NAME",
    ),
    "bins without an extent": (
        {"tables": (), "points": ("transcripts",)},
        {"bin_um": 0},
        "are to be counted in bins",
    ),
    "another table": ({}, {"table": "counts"}, r"has no table counts\. Valid: table"),
    "nothing measured": ({"tables": ()}, {}, "has no points.*add the transcripts"),
    "bins of another store": ({}, {"bin_um": 16}, "table table of .* has no bins of 16 µm"),
}


@pytest.mark.parametrize("case", NAMES)
def test_elements_are_chosen_by_name(tmp_path, case):
    names, params, fault = NAMES[case]
    source = SpatialDataZarr(root=bare(tmp_path, **names), **params)
    assert source.inputs("S1") == []
    with pytest.raises(FlagError, match=fault):
        source.check("S1")


def test_a_store_without_shapes_can_be_planned(tmp_path):
    root = bare(tmp_path)
    (root / "S1.zarr/tables/table/zarr.json").write_text("{}")
    inputs = SpatialDataZarr(root=root).inputs("S1")
    assert [path.name for path in inputs] == ["zarr.json"]


def test_a_reduced_copy_is_no_choice_beside_the_image(tmp_path):
    source = SpatialDataZarr(root=bare(tmp_path, images=("x_full_image", "x_hires_image")))
    assert source.chosen("S1") == {"image": "x_full_image", "table": "table"}


def test_all_names_that_are_missing_are_told_at_once(tmp_path):
    source = SpatialDataZarr(root=bare(tmp_path, images=("a", "b"), tables=("c", "d")))
    with pytest.raises(FlagError, match="slide S1: 2 faults") as error:
        source.check("S1")
    assert len(str(error.value).splitlines()) == 3


def test_the_sheet_names_stores_and_elements(tmp_path):
    root = bare(tmp_path, images=("a", "b"))
    (root / "S1.zarr").rename(root / "Lauf 7.zarr")
    sheet = tmp_path / "slides.tsv"
    sheet.write_text("slide\tpatient\tfile\timage\nS1\tP7\tLauf 7.zarr\tb\nS2\tP8\tnone.zarr\t\n")
    source = SpatialDataZarr(root=root, sheet=sheet)
    assert [(r.id, r.patient) for r in source.slides()] == [("S1", "P7"), ("S2", "P8")]
    assert source.chosen("S1")["image"] == "b"
    with pytest.raises(FlagError, match=r"none\.zarr is no SpatialData store"):
        source.check("S2")


def test_a_folder_without_stores_is_refused(tmp_path):
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(FlagError, match="holds none of SpatialData stores"):
        SpatialDataZarr(root=tmp_path).slides()


def _row(key: str, value):
    def change(own, elements):
        elements["tables"]["table"].obs[key] = value

    return change


def _normalised(own, elements):
    elements["tables"]["table"].X = np.log1p(own.counts)


def _no_link(own, elements):
    del elements["tables"]["table"].uns["spatialdata_attrs"]


def _other_shapes(own, elements):
    elements["shapes"] = {"cells": elements["shapes"]["spots"]}


def _swapped(own, elements):
    elements["shapes"]["spots"] = stores.spots_of(own, position=own.position[:, ::-1])


def _outside(own, elements):
    elements["shapes"]["spots"] = stores.spots_of(own, position=own.position + 900)


def _elsewhere(own, elements):
    to = {"cells": stores.scale(1.0)}
    elements["shapes"]["spots"] = stores.spots_of(own, to)


def _stretched(own, elements):
    to = {"global": stores.scale(1.0, 1.2)}
    elements["shapes"]["spots"] = stores.spots_of(own, to)


def _flat(own, elements):
    to = {"global": stores.scale(0.0)}
    elements["images"] = {"he": stores.image_of(own_sections.picture(own), to)}


def _wide(own, elements):
    pixels = own_sections.picture(own).astype(np.uint16)
    elements["images"] = {"he": stores.image_of(pixels)}


def _no_array(own, elements):
    table = elements["tables"]["table"]
    table.obs = table.obs.drop(columns=["array_row", "array_col"])


REFUSED = {
    "normalised counts": (_normalised, "holds fractions, as normalised expression does"),
    "a table of its own": (_no_link, "annotates nothing, which are no shapes.*TableModel.parse"),
    "shapes of another name": (_other_shapes, "annotates spots, which are no shapes of the store"),
    "spots that no shape has": (_row("spot_id", range(1000, 1070)), "shares no spot with shapes"),
    "one spot twice": (_row("spot_id", 1), "some spot is there twice"),
    "x and y exchanged": (_swapped, "x and y are exchanged"),
    "beside the image": (_outside, "70 of 70 spots under tissue lie outside the image"),
    "another system": (_elsewhere, "share no coordinate system: the image is in global, .* cells"),
    "stretched": (_stretched, "stretches one direction by 1.2 and the other by 1"),
    "no extent": (_flat, "the transformation to global cannot be inverted"),
    "16 bits": (_wide, "has samples of type uint16"),
    "no array": (_no_array, "the distance of its spots in µm is not known.*points: transcripts"),
    "nothing under tissue": (_row("in_tissue", 0), "in_tissue is 0 for every spot"),
}


@needs_package
@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused(tmp_path, case):
    change, fault = REFUSED[case]
    own = visium()
    elements = {
        "images": {"he": stores.image_of(own_sections.picture(own))},
        "shapes": {"spots": stores.spots_of(own)},
        "tables": {"table": stores.table_of(own)},
    }
    change(own, elements)
    source = made(tmp_path, own, **elements)
    with pytest.raises(FlagError, match=fault):
        source.check("S1")
    assert not (tmp_path / "raw").exists()


@needs_package
@pytest.mark.parametrize(
    "file", ["zarr.json", "images/full_image/zarr.json", "shapes/spots/shapes.parquet"]
)
def test_a_damaged_store_is_refused(tmp_path, file):
    source = made(tmp_path)
    path = source.root / "S1.zarr" / file
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(FlagError, match="is damaged or no SpatialData store"):
        source.check("S1")


@needs_package
def test_all_faults_of_a_store_are_told_at_once(tmp_path):
    own = visium()
    elements = {"tables": {"table": stores.table_of(own)}}
    _normalised(own, elements)
    elements["shapes"] = {"spots": stores.spots_of(own, position=own.position[:, ::-1])}
    with pytest.raises(FlagError, match="2 faults") as error:
        made(tmp_path, own, **elements).check("S1")
    assert "holds fractions" in str(error.value)
    assert "x and y are exchanged" in str(error.value)


# Real sections -----------------------------------------------------------------------------------


@needs_package
def test_a_real_section_written_as_spatialdata_comes_back(tmp_path, her2st):
    own, files = her2st_section(her2st, "C4")
    with open_reader(files.wsi) as image:
        pixels = np.asarray(image.region((0, 0), 0, own.size))
    elements = {"images": {"he": stores.image_of(pixels, chunks=(3, 1024, 1024))}}
    params = {"pitch_um": 200.0, "pixel_um": own.pixel_um}
    table = fetched(made(tmp_path, own, params, **elements), tmp_path)
    assert_same(table, own)
    with open_reader(table.uns["wsi"]) as image:
        assert image.size == own.size
        corner = (own.size[0] // 2, own.size[1] // 2)
        found = np.asarray(image.region(corner, 0, (500, 500)))
    x, y = corner
    np.testing.assert_array_equal(found, pixels[y : y + 500, x : x + 500])
    assert isinstance(table, anndata.AnnData)
    assert json.dumps(table.uns["metadata"]["local"])
