"""Output of Space Ranger as a source: what comes in, and everything that is refused."""

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import own_sections
import pandas as pd
import pytest
import tifffile
from own_sections import Own, assert_same, fetched, her2st_section, visium, write_image, write_run
from PIL import Image
from running import ROOT

from flag_st.commands.check import check_local_slides
from flag_st.core.errors import Faults, FlagError
from flag_st.data.check_cohort import check_cohort
from flag_st.data.prepare import prepare
from flag_st.planning.grid import Plan
from flag_st.slides.suffixes import SUFFIXES
from flag_st.sources.spaceranger import SpaceRanger


def made(tmp_path: Path, own: Own | None = None, style: str = "csv", **params) -> SpaceRanger:
    root = tmp_path / "runs"
    write_run(own or visium(), root / "S1" / "outs", root / "S1.tif", style)
    return SpaceRanger(root=root, **params)


@pytest.mark.parametrize("style", ["list", "csv", "parquet"])
def test_the_positions_of_every_version_are_read(tmp_path, style):
    own = visium()
    assert_same(fetched(made(tmp_path, own, style), tmp_path), own)


@pytest.mark.parametrize("style", ["list", "csv", "parquet"])
def test_positions_are_read_to_their_last_digit(tmp_path, style):
    own = visium()
    own.position = own.position + np.random.default_rng(3).uniform(0, 1, own.position.shape)
    table = fetched(made(tmp_path, own, style), tmp_path)
    wanted = own.position[[own.barcodes.index(b) for b in table.obs_names]]
    assert np.array_equal(table.obsm["spatial"], wanted)


@pytest.mark.parametrize("packed", [True, False])
def test_a_matrix_folder_is_read(tmp_path, packed):
    own = visium()
    source = made(tmp_path, own)
    outs = tmp_path / "runs/S1/outs"
    (outs / "filtered_feature_bc_matrix.h5").unlink()
    own_sections.write_mtx(own, outs / "filtered_feature_bc_matrix", packed)
    assert_same(fetched(source, tmp_path), own)
    names = {p.name for p in source.inputs("S1")}
    end = ".gz" if packed else ""
    assert {f"matrix.mtx{end}", f"features.tsv{end}", "tissue_positions.csv", "S1.tif"} <= names


def test_the_folder_may_hold_the_output_itself_and_names_of_a_data_set(tmp_path):
    """10x Genomics publishes matrices and images whose names begin with that of the data set."""
    own, root = visium(), tmp_path / "runs"
    write_run(own, root / "S1", root / "S1" / "V1_Breast_image.tif")
    (root / "S1/filtered_feature_bc_matrix.h5").rename(
        root / "S1/V1_Breast_filtered_feature_bc_matrix.h5"
    )
    assert_same(fetched(SpaceRanger(root=root), tmp_path), own)


def test_symbols_and_ensembl_ids_are_kept(tmp_path):
    own = visium()
    own.genes = ["Xkr4", "MT-CO1", "xkr4", "ENSG00000000003", "NA", "nan"]
    table = fetched(made(tmp_path, own), tmp_path)
    assert list(table.var_names) == own.genes
    assert list(table.var["gene_ids"]) == own.ids


def test_repeated_symbols_are_treated_as_in_every_cohort(tmp_path):
    own = visium()
    own.genes[1] = own.genes[0]
    files = made(tmp_path, own).fetch("S1", tmp_path / "raw")
    assert "1 genes repeat, such as Gene0" in check_cohort({"S1": files}, {}, {}).messages[0]
    assert check_cohort({"S1": files}, {}, {"unique_genes": False}).messages == []


def test_antibodies_are_left_out_and_told(tmp_path, caplog):
    own = visium()
    own.types = ["Gene Expression"] * 5 + ["Antibody Capture"]
    source = made(tmp_path, own)
    with caplog.at_level(logging.WARNING, "flag_st"):
        table = fetched(source, tmp_path)
    assert list(table.var_names) == own.genes[:5]
    assert "features left out, Antibody Capture: 1" in caplog.text
    assert table.uns["metadata"]["local"]["told"]["features left out, Antibody Capture"] == 1


def test_spots_that_are_left_out_are_told(tmp_path):
    own = visium()
    own.matrix_barcodes[0] = "GGGG9999-1"  # nowhere on the array
    own.matrix_barcodes[1] = own.barcodes[0]  # beside the tissue
    table = fetched(made(tmp_path, own), tmp_path)
    assert len(table) == len(own.matrix_barcodes) - 2
    assert table.uns["metadata"]["local"]["told"] == {
        "barcodes of the counts without a position": 1,
        "spots with counts beside the tissue (in_tissue 0)": 1,
        "spots under tissue without counts": 2,
    }


def test_an_image_of_any_format_stays_where_it_is(tmp_path):
    own, root = visium(), tmp_path / "runs"
    source = made(tmp_path, own)
    assert fetched(source, tmp_path).uns["wsi"] == str(root / "S1.tif")
    (root / "S1.tif").unlink()
    write_image(root / "S1.png", own_sections.picture(own), None)
    table = fetched(source, tmp_path)
    assert table.uns["wsi"] == str(root / "S1.png")
    assert_same(table, own)


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".SVS", ".NDPI"])
def test_an_image_of_every_suffix_is_found_beside_the_data(tmp_path, suffix):
    source = made(tmp_path)
    (tmp_path / "runs/S1.tif").rename(tmp_path / f"runs/S1{suffix}")
    assert source.image("S1") == tmp_path / f"runs/S1{suffix}"


def test_patches_lie_around_their_spots(tmp_path):
    """The whole way into the pipeline: every spot is a dark square in the middle of its patch."""
    source = made(tmp_path, own := visium(pixel_um=2.0))
    files = source.fetch("S1", tmp_path / "raw")
    prepare(files, "S1", tmp_path / "spots.h5ad", tmp_path / "patches.h5")
    with h5py.File(tmp_path / "patches.h5") as file:
        images = file["img"][:]
    assert len(images) == len(own.matrix_barcodes)
    middle, corner = images[:, 104:120, 104:120].mean(), images[:, :40, :40].mean()
    assert middle < 140 < 190 < corner


def test_a_path_with_blanks_and_umlauts(tmp_path):
    own, root = visium(), tmp_path / "Präparate 2026"
    write_run(own, root / "Läufe/Schnitt 1/outs", root / "Bilder/Übersicht 1.tif")
    sheet = tmp_path / "slides.tsv"
    sheet.write_text(
        "slide\tpatient\tfolder\timage\nS1\tP7\tLäufe/Schnitt 1\tBilder/Übersicht 1.tif\n"
    )
    source = SpaceRanger(root=root, sheet=sheet)
    assert [(r.id, r.patient) for r in source.slides()] == [("S1", "P7")]
    table = fetched(source, tmp_path)
    assert_same(table, own)
    assert table.uns["metadata"]["patient"] == "P7"


def test_without_a_sheet_the_folder_is_searched(tmp_path):
    source = made(tmp_path)
    (tmp_path / "runs/notes").mkdir()
    assert [row.id for row in source.slides()] == ["S1"]


def test_a_conversion_is_made_once_and_always_the_same(tmp_path):
    source = made(tmp_path)
    first = source.fetch("S1", tmp_path / "raw")
    before = {k: (p.read_bytes(), p.stat().st_mtime_ns) for k, p in first.items().items()}
    source.fetch("S1", tmp_path / "raw")
    assert {k: (p.read_bytes(), p.stat().st_mtime_ns) for k, p in first.items().items()} == before
    again = source.fetch("S1", tmp_path / "other")
    assert again.st.read_bytes() == before["st"][0]
    # A changed table of positions is converted again.
    table = tmp_path / "runs/S1/outs/spatial/tissue_positions.csv"
    frame = pd.read_csv(table)
    frame.loc[frame["array_row"] == 1, "in_tissue"] = 0
    frame.to_csv(table, index=False)
    changed = source.fetch("S1", tmp_path / "raw")
    assert len(anndata.read_h5ad(changed.st)) == 60
    assert changed.st.read_bytes() != before["st"][0]


def test_the_sheet_is_known_without_heavy_imports(tmp_path):
    made(tmp_path)
    (tmp_path / "runs/S1.tif").rename(tmp_path / "S1.tif")
    program = (
        "import sys; from flag_st.sources.spaceranger import SpaceRanger as S\n"
        f"s = S(root={str(tmp_path / 'runs')!r}); s.slides(); s.inputs('S1')\n"
        "print([m for m in ('torch', 'scanpy', 'pandas', 'anndata', 'openslide') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# What is refused ---------------------------------------------------------------------------------


def _hires(own):
    own.position = own.position * own.scales["tissue_hires_scalef"]


def _swapped(own):
    own.position = own.position[:, ::-1]
    own.size = (max(own.size),) * 2


def _swapped_outside(own):
    own.position = own.position[:, ::-1]


def _repeat_barcode(own):
    own.barcodes[3] = own.barcodes[2]


def _repeat_in_matrix(own):
    own.matrix_barcodes[3] = own.matrix_barcodes[2]


def _suffix(own):
    own.matrix_barcodes = [b[:-2] for b in own.matrix_barcodes]


def _other_section(own):
    own.matrix_barcodes = [f"GTGT{b}" for b in own.matrix_barcodes]


def _normalised(own):
    own.counts = np.log1p(own.counts)


def _scaled(own):
    own.counts = own.counts - 3.0


def _silent(own):
    own.counts = np.zeros_like(own.counts)


def _no_gene(own):
    own.types = ["Antibody Capture"] * 6


def _no_tissue(own):
    own.in_tissue = np.zeros_like(own.in_tissue)


def _tissue_2(own):
    own.in_tissue[:4] = 2


def _nan(own):
    own.position[5, 0] = np.nan


def _origin(own):
    own.position = np.zeros_like(own.position)


def _shuffled(own):
    own.position = np.random.default_rng(2).permutation(own.position)


def _no_scales(own):
    own.scales = {"tissue_lowres_scalef": 0.05}


def _image_states(own):
    own.image_um = own.pixel_um * 1.1


WRONG = {
    "hires coordinates": (_hires, {}, "the positions are in pixels of tissue_hires_image.png"),
    "swapped coordinates": (_swapped, {}, "x and y are exchanged"),
    "swapped coordinates, outside": (_swapped_outside, {}, "lie outside the image"),
    "duplicated barcodes": (_repeat_barcode, {}, "names 1 barcodes twice"),
    "duplicated barcodes of counts": (_repeat_in_matrix, {}, "names 1 barcodes twice"),
    "barcode suffixes": (_suffix, {}, "they differ in what follows the sequence"),
    "another section": (_other_section, {}, "shares no barcode with"),
    "normalised counts": (_normalised, {}, "holds fractions, as normalised expression does"),
    "scaled counts": (_scaled, {}, "holds negative values, as scaled expression does"),
    "empty matrix": (_silent, {}, "holds no count above zero"),
    "antibodies alone": (_no_gene, {}, "holds no feature of the type Gene Expression"),
    "no tissue": (_no_tissue, {}, "in_tissue is 0 for every spot that has counts"),
    "strange in_tissue": (_tissue_2, {}, "in_tissue is 2"),
    "NaN position": (_nan, {}, "1 lines hold no numbers"),
    "all at the origin": (_origin, {}, "the positions do not follow the array"),
    "shuffled positions": (_shuffled, {}, "the positions do not follow the array"),
    "missing scale factors": (_no_scales, {}, "has no spot_diameter_fullres, tissue_hires_scalef"),
    "image of another pixel size": (_image_states, {}, "5 µm by the spots' distance of 100 µm"),
    "bins of Visium": (None, {"bin_um": 16}, "has no bin_size_um of 16"),
    "user of another pixel size": (None, {"pixel_um": 4.5}, "4.5 µm by pixel_um, 5 µm by"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_refused(tmp_path, case):
    change, params, message = WRONG[case]
    own = visium()
    if change is not None:
        change(own)
    source = made(tmp_path, own, **params)
    with pytest.raises(FlagError) as check:
        source.check("S1")
    assert message in str(check.value)
    assert "Remedy: " in str(check.value) or "Valid: " in str(check.value)
    with pytest.raises(FlagError):
        source.fetch("S1", tmp_path / "raw")
    assert not list((tmp_path).glob("raw/*/*"))


def _without(name):
    return lambda outs: (outs / name).unlink()


def _drop_column(outs):
    path = outs / "spatial/tissue_positions.csv"
    pd.read_csv(path).drop(columns="in_tissue").to_csv(path, index=False)


def _drop_column_and_header(outs):
    path = outs / "spatial/tissue_positions.csv"
    pd.read_csv(path).drop(columns="in_tissue").to_csv(path, index=False, header=False)


def _truncated(outs):
    path = outs / "filtered_feature_bc_matrix.h5"
    path.write_bytes(path.read_bytes()[:500])


def _image_gone(outs):
    (outs.parents[1] / "S1.tif").unlink()


def _hires_for_image(outs):
    _image_gone(outs)
    shutil.copy(outs / "spatial/tissue_hires_image.png", outs.parents[1] / "S1.png")


def _two_images(outs):
    shutil.copy(outs.parents[1] / "S1.tif", outs.parent / "S1.tif")


def _turned(outs):
    path = outs.parents[1] / "S1.tif"
    pixels = np.asarray(Image.open(path))
    write_image(path, np.rot90(pixels).copy(), None)


def _halved(outs):
    path = outs.parents[1] / "S1.tif"
    write_image(path, np.asarray(Image.open(path))[::2, ::2].copy(), None)


def _no_image(outs):
    (outs.parents[1] / "S1.tif").write_text("not a picture")


def _binned(outs):
    (outs / "binned_outputs/square_008um").mkdir(parents=True)


BROKEN = {
    "no matrix": (_without("filtered_feature_bc_matrix.h5"), "holds 0 matrices"),
    "no positions": (_without("spatial/tissue_positions.csv"), "holds 0 of tissue_positions_list"),
    "no scale factors": (_without("spatial/scalefactors_json.json"), "has no scalefactors_json.json"),
    "no in_tissue": (_drop_column, "has no column in_tissue"),
    "no in_tissue, no header": (_drop_column_and_header, "has 5 columns and no header"),
    "truncated matrix": (_truncated, "is damaged or no matrix of Space Ranger"),
    "no image": (_image_gone, "its pixels are 25.0 µm wide, and patches need 0.5 µm"),
    "the reduced picture for the image": (_hires_for_image, "it is a copy of 0.2 times"),
    "two images": (_two_images, "slide S1 has 2 images"),
    "reduced image": (_halved, "it is a copy of 0.5"),
    "turned image": (_turned, "it is turned by 90°"),
    "no picture": (_no_image, "of a format that is not read here can be converted"),
    "Visium HD without a choice": (_binned, "of Visium HD, whose bins must be chosen. Valid: 8."),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_refused(tmp_path, case):
    source = made(tmp_path)
    BROKEN[case][0](tmp_path / "runs/S1/outs")
    with pytest.raises(FlagError) as error:
        source.check("S1")
    assert BROKEN[case][1] in str(error.value)


def test_all_faults_of_a_section_are_told_at_once(tmp_path):
    own = visium()
    _nan(own)
    source = made(tmp_path, own)
    outs = tmp_path / "runs/S1/outs"
    _truncated(outs)
    (outs.parents[1] / "S1.tif").unlink()
    with pytest.raises(FlagError, match="3 faults") as error:
        source.check("S1")
    for part in ("1 lines hold no numbers", "is damaged", "no image at full resolution"):
        assert part in str(error.value)


def test_a_mirrored_and_turned_image_is_accepted_on_request(tmp_path):
    own = visium()
    _swapped(own)
    assert_same(fetched(made(tmp_path, own, mirrored=True), tmp_path), own)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_section_is_no_fault(tmp_path, turns):
    own = visium()
    for _ in range(turns):
        own.position = np.column_stack([own.size[1] - own.position[:, 1], own.position[:, 0]])
        own.size = own.size[::-1]
    assert_same(fetched(made(tmp_path, own), tmp_path), own)


def test_the_pixel_size_of_the_user_settles_it(tmp_path):
    table = fetched(made(tmp_path, pixel_um=5.1), tmp_path)
    assert table.uns["metadata"]["pixel_size_um_estimated"] == 5.1
    stated = table.uns["metadata"]["local"]["pixel_size_statements"]
    assert stated["the spots' distance of 100 µm"] == pytest.approx(5.0)


def test_flag_st_check_tells_the_faults_of_all_sections_before_anything_runs(tmp_path, capsys):
    root = tmp_path / "runs"
    for name, change in {"S1": _suffix, "S2": _normalised, "S3": None}.items():
        own = visium()
        if change is not None:
            change(own)
        write_run(own, root / name / "outs", root / f"{name}.tif")
    entry = {"use": "flag_st.sources.spaceranger.SpaceRanger", "params": {"root": str(root)}}
    faults = Faults()
    check_local_slides(Plan({"cohorts": {"mine": entry}, "make": []}), "mine", faults)
    assert len(faults.messages) == 2
    assert "they differ in what follows the sequence" in faults.messages[0]
    assert "holds fractions" in faults.messages[1]
    assert "mine: 1 of 3 slides are not here yet" in capsys.readouterr().out


def test_an_image_of_the_sheet_that_is_not_there_is_named(tmp_path):
    made(tmp_path)
    sheet = tmp_path / "slides.tsv"
    sheet.write_text("slide\timage\tpixel_um\nS1\tscans/S1.tif\tfive\n")
    with pytest.raises(FlagError, match="2 faults") as error:
        SpaceRanger(root=tmp_path / "runs", sheet=sheet).check("S1")
    assert f"slide S1: no image {tmp_path}/runs/scans/S1.tif" in str(error.value)
    assert "pixel_um of slide S1 is 'five'" in str(error.value)


# Real files --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def spaceranger() -> Path:
    """Small real outputs of Space Ranger, where a machine has them."""
    given = os.environ.get("FLAG_ST_SPACERANGER", ROOT.parent / "shared" / "data" / "spaceranger")
    if not (Path(given) / "v1_scanpy").is_dir():
        pytest.skip(f"no real outputs of Space Ranger at {given}: set FLAG_ST_SPACERANGER")
    return Path(given)


def blank(path: Path, size: tuple[int, int]) -> None:
    """A white slide of this size, whose tiles all share their bytes' pattern and compress well."""
    tile = np.full((256, 256, 3), 255, np.uint8)
    count = -(-size[0] // 256) * -(-size[1] // 256)
    tifffile.imwrite(
        path,
        (tile for _ in range(count)),
        shape=(size[1], size[0], 3),
        dtype=np.uint8,
        tile=(256, 256),
        photometric="rgb",
        compression="deflate",
    )


@pytest.mark.parametrize(
    ("folder", "size", "params", "spots", "pixel"),
    [
        ("v1_scanpy", (13332, 13332), {}, 100, 0.7247),
        ("v1_seurat", (11620, 11608), {}, 2695, 0.7247),
        ("hd_seurat", (23618, 21945), {"bin_um": 16}, 336, 0.2738),
    ],
)
def test_real_output_is_read(tmp_path, spaceranger, folder, size, params, spots, pixel):
    root = tmp_path / "runs"
    shutil.copytree(spaceranger / folder, root / folder)
    blank(root / f"{folder}.tif", size)
    source = SpaceRanger(root=root, **params)
    assert [row.id for row in source.slides()] == [folder]
    section = source.read(folder)
    assert section.counts.shape == (spots, 100)
    assert section.picture.pixel_um == pytest.approx(pixel, rel=2e-3)
    assert section.genes["gene_ids"].str.startswith("ENS").all()
    assert (section.position >= 0).all()
    assert (section.position < size).all()


def test_real_output_of_a_cropped_picture_is_refused_until_the_picture_is_gone(
    tmp_path, spaceranger
):
    """The authors cropped the reduced picture for their tests, so that it tells another image."""
    shutil.copytree(spaceranger / "v2_sfe", tmp_path / "runs")
    blank(tmp_path / "runs/sample01.tif", (21000, 6000))
    source = SpaceRanger(root=tmp_path / "runs")
    with pytest.raises(FlagError, match="the positions are of an image of 599 x 1025 px"):
        source.check("sample01")
    (tmp_path / "runs/sample01/spatial/tissue_hires_image.png").unlink()
    section = source.read("sample01")
    assert section.counts.shape == (12, 5)
    assert section.counts[0].sum() > 0
    assert section.picture.pixel_um == pytest.approx(0.3436, rel=5e-3)


@pytest.mark.parametrize("name", ["A1", "C4"])
def test_a_real_section_written_as_space_ranger_comes_back(tmp_path, her2st, name):
    own, files = her2st_section(her2st, name)
    write_run(own, tmp_path / f"runs/{name}/outs", None, "list")
    (tmp_path / f"runs/{name}.tif").symlink_to(files.wsi)
    source = SpaceRanger(root=tmp_path / "runs", pitch_um=200.0, pixel_um=own.pixel_um)
    assert_same(fetched(source, tmp_path, name), own)
