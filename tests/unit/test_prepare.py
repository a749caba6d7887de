"""From a folder in HEST-1k layout to spots and patches."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import anndata
import h5py
import numpy as np
import openslide
import pytest
import scipy.sparse
import tifffile
from PIL import Image

from flag_st.core.errors import FlagError
from flag_st.core.io import CONTRACT, digest
from flag_st.data.prepare import prepare
from flag_st.data.slide import read_expression
from flag_st.slides.stream import top_left
from flag_st.slides.suffixes import SUFFIXES
from flag_st.sources.folder import Folder
from flag_st.sources.synthetic import Synthetic

PROJECT = Path(__file__).resolve().parents[2]
HER2ST = Path(os.environ.get("FLAG_ST_HER2ST", PROJECT.parent / "shared/data/her2st"))
needs_data = pytest.mark.skipif(
    not (HER2ST / "st").is_dir(), reason=f"no HER2ST sections at {HER2ST} (FLAG_ST_HER2ST)"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    source = Synthetic(patients=1, sections=1, spots=(5, 6), genes=60)
    return source.fetch("P1S1", tmp_path_factory.mktemp("made"))


@pytest.fixture
def files(made, tmp_path):
    """A copy of one small slide that a test may spoil."""
    root = shutil.copytree(made.st.parents[1], tmp_path / "root")
    return Folder(root).fetch("P1S1", tmp_path)


def run(files, out: Path, **options) -> tuple[anndata.AnnData, dict[str, np.ndarray]]:
    prepare(files, "P1S1", out / "spots.h5ad", out / "patches.h5", **options)
    return anndata.read_h5ad(out / "spots.h5ad"), read_patches(out / "patches.h5")


def read_patches(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        barcode = file["barcode"].asstr()[:]
        return {"img": file["img"][:], "coords": file["coords"][:], "barcode": barcode}


def edit(path: Path, change) -> None:
    table = anndata.read_h5ad(path)
    table = change(table) or table
    table.write_h5ad(path)


def whole(path: Path) -> np.ndarray:
    with openslide.OpenSlide(path) as wsi:
        return np.asarray(wsi.read_region((0, 0), 0, wsi.dimensions).convert("RGB"))


# What is written


def test_a_corrected_pixel_size_widens_positions_and_patches_alike(files, tmp_path):
    plain, before = run(files, tmp_path / "a", patches_from="wsi")
    table, patches = run(files, tmp_path / "b", patches_from="wsi", pixel_scale=1.25)
    assert table.uns["pixel_size_um"] == 1.25 * plain.uns["pixel_size_um"]
    np.testing.assert_allclose(table.obsm["spatial_um"], 1.25 * plain.obsm["spatial_um"])
    np.testing.assert_array_equal(table.obsm["spatial"], plain.obsm["spatial"])
    # 112 µm are fewer pixels of the image, so that the corners move towards the centres.
    edge = [2 * (table.obsm["spatial"] - p["coords"]).mean() for p in (before, patches)]
    assert edge == pytest.approx([112, 112 / 1.25], abs=2)


def test_spots_keep_the_contract(files, tmp_path):
    source = anndata.read_h5ad(files.st)
    table, patches = run(files, tmp_path)
    assert isinstance(table.X, scipy.sparse.csr_matrix)
    assert table.X.dtype == np.float32
    np.testing.assert_array_equal(table.X.toarray(), source.X.toarray())
    assert table.obs_names.tolist() == source.obs_names.tolist() == patches["barcode"].tolist()
    assert table.var["ensembl"].tolist() == source.var["gene_ids"].tolist()
    assert list(table.obs) == ["array_row", "array_col", "domain"]
    assert table.obs["domain"].tolist() == source.obs["domain"].tolist()
    np.testing.assert_array_equal(table.obsm["spatial"], source.obsm["spatial"])
    np.testing.assert_array_equal(table.obsm["spatial_um"], source.obsm["spatial"] * 1.0)
    facts = {k: v for k, v in table.uns.items() if k != "image"}
    scale = 1000 / 1600
    assert facts == {
        "contract": CONTRACT,
        "slide": "P1S1",
        "patient": "P1",
        "pixel_size_um": 1.0,
        "image_scale": scale,
    }
    assert table.uns["image"].shape == (875, 1000, 3)
    assert table.uns["image"].dtype == np.uint8
    assert patches["img"].shape == (table.n_obs, 224, 224, 3)
    assert patches["coords"].dtype == np.int64
    counts = read_expression(
        tmp_path / "spots.h5ad", source.obs_names[[3, 1]], source.var_names[[7, 2, 9]], "counts"
    )
    np.testing.assert_array_equal(counts, source.X.toarray()[[3, 1]][:, [7, 2, 9]])


def test_a_label_file_names_the_domains(files, tmp_path):
    names = anndata.read_h5ad(files.st).obs_names
    path = tmp_path / "root/labels/P1S1.tsv"
    path.parent.mkdir()
    path.write_text(f"barcode\tlabel\n{names[2]}\ttumour\nother\tfat\n")
    labelled = Folder(tmp_path / "root").fetch("P1S1", tmp_path)
    assert labelled.labels == path
    table, _ = run(labelled, tmp_path)
    assert table.obs["domain"].tolist() == ["", "", "tumour"] + [""] * (len(names) - 3)
    path.write_text("barcode\tlabel\nother\tfat\n")
    with pytest.raises(FlagError, match="none of its 1 barcodes"):
        run(labelled, tmp_path)


def test_positions_in_um_use_the_pixel_size(files, tmp_path):
    table, patches = run(files, tmp_path, pixel_scale=0.5)
    np.testing.assert_allclose(table.obsm["spatial_um"], table.obsm["spatial"] * 0.5)
    # 112 µm are now 224 px of level 0: the patch is the picture itself
    picture = whole(files.wsi)
    for (x, y), patch in zip(patches["coords"], patches["img"], strict=True):
        np.testing.assert_array_equal(patch, picture[y : y + 224, x : x + 224])


def test_thumbnail_shows_the_slide_at_its_scale(files, tmp_path):
    table, _ = run(files, tmp_path)
    small = Image.fromarray(whole(files.wsi)).resize((1000, 875), Image.Resampling.BOX)
    difference = np.abs(table.uns["image"].astype(float) - np.asarray(small))
    assert difference.mean() < 5


def test_same_input_same_bytes(files, tmp_path):
    for name in ("one", "two"):
        run(files, tmp_path / name)
    for name in ("spots.h5ad", "patches.h5"):
        assert digest(tmp_path / "one" / name) == digest(tmp_path / "two" / name)


@pytest.mark.parametrize(
    "kind",
    [
        lambda x: x.toarray(),
        lambda x: x.toarray().astype(np.int64),
        lambda x: x.toarray().astype(np.float64),
        scipy.sparse.csc_matrix,
        lambda x: x.astype(np.uint16),
    ],
    ids=["dense", "dense-int64", "dense-float64", "csc", "csr-uint16"],
)
def test_any_numeric_matrix_gives_the_same_file(files, tmp_path, kind):
    run(files, tmp_path / "csr")

    def change(table):
        table.X = kind(table.X)

    edit(files.st, change)
    run(files, tmp_path / "other")
    assert digest(tmp_path / "csr/spots.h5ad") == digest(tmp_path / "other/spots.h5ad")


@pytest.mark.parametrize(("given", "found"), [("", "P1"), ("donor 7", "donor 7")])
def test_sheet_names_the_patient_before_the_metadata(files, tmp_path, given, found):
    assert run(files, tmp_path, patient=given)[0].uns["patient"] == found


def test_unknown_patient_stays_empty(files, tmp_path):
    facts = json.loads(files.metadata.read_text()) | {"patient": None}
    files.metadata.write_text(json.dumps(facts))
    assert run(files, tmp_path)[0].uns["patient"] == ""


def test_ensembl_ids_lose_their_version_and_may_be_absent(files, tmp_path):
    def versions(table):
        table.var["gene_ids"] = ["ENSG00000141736.14", "none", *table.var["gene_ids"][2:]]

    edit(files.st, versions)
    found = run(files, tmp_path / "a")[0].var["ensembl"]
    assert found[:2].tolist() == ["ENSG00000141736", ""]
    edit(files.st, lambda table: table.var.drop(columns="gene_ids", inplace=True))
    assert set(run(files, tmp_path / "b")[0].var["ensembl"]) == {""}


def test_repeated_genes_are_numbered_on_request(files, tmp_path):
    def repeat(table):
        table.var_names = ["TBCE", "TBCE", *table.var_names[2:]]

    edit(files.st, repeat)
    with pytest.raises(FlagError, match="1 genes repeat, such as TBCE"):
        run(files, tmp_path)
    table, _ = run(files, tmp_path, unique_genes=False)
    assert table.var_names[:2].tolist() == ["TBCE", "TBCE-1"]


# Which spots


def test_spots_with_few_counts_are_left_out(files, tmp_path):
    def empty(table):
        table.X = table.X.toarray()
        table.X[2] = 0
        table.X[5] = 0
        table.X[5, 1] = 9

    edit(files.st, empty)
    names = anndata.read_h5ad(files.st).obs_names
    table, patches = run(files, tmp_path)
    assert set(names) - set(table.obs_names) == {names[2]}
    table, patches = run(files, tmp_path, min_counts=10)
    assert set(names) - set(table.obs_names) == {names[2], names[5]}
    assert patches["barcode"].tolist() == table.obs_names.tolist()


def test_no_spot_with_enough_counts_is_a_fault(files, tmp_path):
    with pytest.raises(FlagError, match=r"none of .* spots has 10000000 counts.*lower min_counts"):
        run(files, tmp_path / "out", min_counts=10_000_000)
    assert not (tmp_path / "out").exists()


# Patches from the slide image


@pytest.mark.parametrize(
    ("centre", "pixel", "corner"),
    [
        ([500.0, 300.0], 0.5, [388, 188]),  # 224 px wide: 112 on either side
        ([500.0, 300.0], 1.0, [444, 244]),
        ([500.9, 300.9], 0.5, [388, 188]),  # int() cuts
        ([500.0, 300.0], 0.688, [419, 219]),  # 162.79 // 2 = 81
        ([500.0, 300.0], 3.19, [483, 283]),  # 35.11 // 2 = 17
    ],
)
def test_top_left_corner_is_rounded_as_hest_does(centre, pixel, corner):
    assert top_left(np.array([centre]), 224, 0.5, pixel).tolist() == [corner]


def test_patches_are_centred_on_spots(files, tmp_path):
    table, patches = run(files, tmp_path, size=64, um_per_px=1.0)
    picture = whole(files.wsi)
    for (x, y), patch in zip(table.obsm["spatial"].astype(int), patches["img"], strict=True):
        np.testing.assert_array_equal(patch, picture[y - 32 : y + 32, x - 32 : x + 32])


def test_patches_are_enlarged_bicubically(files, tmp_path):
    _, patches = run(files, tmp_path)
    picture = whole(files.wsi)
    for (x, y), patch in zip(patches["coords"], patches["img"], strict=True):
        crop = Image.fromarray(picture[y : y + 112, x : x + 112])
        np.testing.assert_array_equal(patch, crop.resize((224, 224), Image.Resampling.BICUBIC))


def test_coarse_patches_come_from_a_smaller_level(files, tmp_path):
    """4 µm/px is level 1 itself; it must agree with averages of 4 x 4 pixels of level 0."""
    _, patches = run(files, tmp_path, size=48, um_per_px=4.0)
    picture = Image.fromarray(whole(files.wsi)).reduce(4)
    inside = ((patches["coords"] >= 0) & (patches["coords"] + 192 < [1600, 1400])).all(1)
    assert inside.sum() > 5
    for (x, y), patch in zip(patches["coords"][inside] // 4, patches["img"][inside], strict=True):
        right, moved = (
            np.abs(patch - np.asarray(picture.crop((x + d, y, x + 48 + d, y + 48)), dtype=float))
            for d in (0, 2)
        )
        assert right.mean() < 0.6 * moved.mean()


def test_beyond_the_border_is_white(files, tmp_path):
    def move(table):
        table.obsm["spatial"] = np.array(table.obsm["spatial"])
        table.obsm["spatial"][0] = [3, 5]
        table.obs = table.obs.drop(columns=["pxl_col_in_fullres", "pxl_row_in_fullres"])

    edit(files.st, move)
    _, patches = run(files, tmp_path, size=64, um_per_px=1.0)
    first = patches["img"][0]
    assert patches["coords"][0].tolist() == [-29, -27]
    assert (first[:27] == 255).all()
    assert (first[:, :29] == 255).all()
    np.testing.assert_array_equal(first[27:, 29:], whole(files.wsi)[:37, :35])


def test_an_image_with_channels_first_has_its_colours(files, tmp_path):
    """OpenSlide shows the first channel alone, in shades of gray."""
    _, wanted = run(files, tmp_path / "a")
    channels = np.moveaxis(whole(files.wsi), -1, 0)
    options = {"ome": True, "photometric": "minisblack", "metadata": {"axes": "CYX"}}
    tifffile.imwrite(files.wsi, channels, tile=(256, 256), **options)
    _, found = run(files, tmp_path / "b")
    np.testing.assert_array_equal(found["img"], wanted["img"])


def test_damaged_tile_is_a_fault_and_leaves_nothing(files, tmp_path):
    blank = bytearray(files.wsi.read_bytes())
    with openslide.OpenSlide(files.wsi) as wsi:
        assert wsi.level_count == 2
    blank[2000 : len(blank) // 2] = bytes(len(blank) // 2 - 2000)
    files.wsi.write_bytes(blank)
    with pytest.raises(FlagError, match=r"P1S1.tif is damaged.*Remedy: copy"):
        run(files, tmp_path / "out")
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]


# Ready-made patches


@pytest.fixture
def ready(files, tmp_path):
    """The slide with patches as HEST ships them: other order, other rows, barcodes unpadded."""
    table, patches = run(files, tmp_path / "cut")
    order = np.random.default_rng(0).permutation(len(table))[2:]
    path = files.st.parents[1] / "patches" / "P1S1.h5"
    path.parent.mkdir()
    names = ["x".join(str(int(n)) for n in b.split("x")) for b in patches["barcode"][order]]
    with h5py.File(path, "w") as file:
        file["img"] = np.concatenate([255 - patches["img"][order], patches["img"][:1]])
        file["coords"] = np.concatenate([patches["coords"][order] + 1, [[0, 0]]])
        text = np.array([*names, "90x91"], dtype=object)[:, None]
        file.create_dataset("barcode", data=text, dtype=h5py.string_dtype())
    return replace(files, patches=path), table, patches, np.sort(order)


def test_ready_made_patches_are_joined_by_barcode(ready, tmp_path):
    files, table, patches, kept = ready
    found, joined = run(files, tmp_path)
    assert found.obs_names.tolist() == table.obs_names[kept].tolist()
    assert joined["barcode"].tolist() == found.obs_names.tolist()
    np.testing.assert_array_equal(joined["img"], 255 - patches["img"][kept])
    np.testing.assert_array_equal(joined["coords"], patches["coords"][kept] + 1)
    np.testing.assert_array_equal(found.X.toarray(), table.X[kept].toarray())


def test_slide_image_can_be_preferred(ready, tmp_path):
    files, table, patches, _ = ready
    found, cut = run(files, tmp_path, patches_from="wsi")
    assert len(found) == len(table)
    np.testing.assert_array_equal(cut["img"], patches["img"])


def test_without_slide_the_stored_thumbnail_is_taken(ready, tmp_path):
    files, table, _, _ = ready
    found, _ = run(replace(files, wsi=None), tmp_path)
    stored = anndata.read_h5ad(files.st).uns["spatial"]["ST"]["images"]["downscaled_fullres"]
    np.testing.assert_array_equal(found.uns["image"], stored)
    assert found.uns["image_scale"] == pytest.approx(table.uns["image_scale"])


def test_without_any_picture_the_patches_make_one(ready, tmp_path):
    files, _, patches, kept = ready
    edit(files.st, lambda table: table.uns.clear())
    found, _ = run(replace(files, wsi=None), tmp_path)
    picture, scale = found.uns["image"], found.uns["image_scale"]
    assert max(picture.shape) <= 1001
    for i, (x, y) in zip(kept, found.obsm["spatial"] * scale, strict=True):
        seen = picture[int(y) - 8 : int(y) + 8, int(x) - 8 : int(x) + 8].mean((0, 1))
        part = (255 - patches["img"][i])[96:128, 96:128].mean((0, 1))
        assert np.abs(seen - part).max() < 25


# The folder source


def test_folder_without_sheet_lists_its_slides(made):
    root = made.st.parents[1]
    (row,) = Folder(root).slides()
    assert (row.id, row.patient) == ("P1S1", "P1")
    assert Folder(root).inputs("P1S1") == [made.st, made.metadata, made.wsi]
    assert Folder(root).fetch("P1S1", root) == made


def test_sheet_decides_on_slides(tmp_path):
    sheet = tmp_path / "s.tsv"
    sheet.write_text("\ufeffpatient\tslide\tnote\tfold\nA\ts-1\tx\ttest\n\nB\ts.2\ty\t\n", "utf-8")
    rows = Folder(sheet=sheet).slides()  # needs no data
    assert [(r.id, r.patient, r.section, r.fold) for r in rows] == [
        ("s-1", "A", "", "test"),
        ("s.2", "B", "", ""),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("slide\tpatient\n../x\tA\n", "'../x' cannot be a file name"),
        ("slide\n.hidden\n", "cannot be a file name"),
        ("slide\na..b\n", "cannot be a file name"),
        ("slide\n-rf\n", "cannot be a file name"),
        ("slide\na b\n", "cannot be a file name"),
        ("slide\nok\na b\n-c\n", "slide ids '-c', 'a b' cannot be file names"),
        ("slide,patient\na,b\n", "no column 'slide'; it has: slide,patient"),
        ("slide\na\na\n", "repeats slide a"),
        ("slide\n", "holds no slide"),
        ("", "no column 'slide'"),
    ],
)
def test_bad_sheets_are_refused(tmp_path, text, said):
    (tmp_path / "s.tsv").write_text(text)
    with pytest.raises(FlagError, match=said):
        Folder(tmp_path, tmp_path / "s.tsv").slides()


def test_folder_says_what_is_missing(files, tmp_path):
    root = files.st.parents[1]
    with pytest.raises(FlagError, match=r"no root.*--config root=DIR"):
        Folder().slides()
    with pytest.raises(FlagError, match=r"nowhere is not a directory.*--config root=DIR"):
        Folder(tmp_path / "nowhere").slides()
    with pytest.raises(FlagError, match=r"holds no \.h5ad file"):
        Folder(tmp_path).slides()
    with pytest.raises(FlagError, match=r"no file .*P9S9\.h5ad, .*P9S9\.json, .*P9S9\.tif"):
        Folder(root).fetch("P9S9", tmp_path)
    files.wsi.unlink()
    with pytest.raises(FlagError, match=r"P1S1\.tif \(or .*P1S1\.h5\)"):
        Folder(root).fetch("P1S1", tmp_path)
    with pytest.raises(FlagError, match="cannot be a file name"):
        Folder(root).fetch("../../P1S1", tmp_path)


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".SVS", ".TIF"])
def test_folder_takes_every_suffix_of_an_image_and_no_hidden_files(files, tmp_path, suffix):
    root = files.st.parents[1]
    other = files.wsi.rename(files.wsi.with_suffix(suffix))
    (root / "st" / "._P1S1.h5ad").write_bytes(b"left by a file manager")
    assert [r.id for r in Folder(root).slides()] == ["P1S1"]
    assert Folder(root).fetch("P1S1", tmp_path).wsi == other
    assert other in Folder(root).inputs("P1S1")


# Real sections


@needs_data
def test_real_section(tmp_path):
    source = Folder(HER2ST)
    assert [r.id for r in source.slides()] == ["A1", "A2", "B4", "C2", "C3", "C4", "C5"]
    table, patches = run(source.fetch("B4", tmp_path), tmp_path)
    assert table.shape == (283, 15289)
    assert table.uns["patient"] == "Patient B"
    depth = np.log1p(np.asarray(table.X.sum(1)).ravel())
    light = patches["img"].mean((1, 2, 3))
    # Dense tissue is dark and rich in RNA: a wrong join or swapped axes would lose this.
    assert np.corrcoef(depth, light)[0, 1] < -0.5
