"""Every fault of the input is found, named and given a remedy; all of a slide at once."""

import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import scipy.sparse
import tifffile
from PIL import Image

from flag_st.core.errors import FlagError
from flag_st.data.check_cohort import check_cohort, cohort_warnings
from flag_st.data.check_panels import check_common_genes
from flag_st.data.check_slide import check_slide
from flag_st.data.prepare import prepare
from flag_st.data.slide_files import SlideFiles
from flag_st.sources.folder import Folder
from flag_st.sources.synthetic import Synthetic

NAME = "P1S1"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """One small slide with slide image and ready-made patches."""
    root = tmp_path_factory.mktemp("template")
    files = Synthetic(patients=1, sections=1, spots=(4, 4), genes=30).fetch(NAME, root)
    prepare(files, NAME, root / "spots.h5ad", root / "cut.h5")
    (root / "patches").mkdir()
    with h5py.File(root / "cut.h5") as cut, h5py.File(root / "patches" / f"{NAME}.h5", "w") as new:
        for name in ("img", "coords", "barcode"):
            cut.copy(name, new)
    return root


@pytest.fixture
def files(template, tmp_path):
    return slide_in(shutil.copytree(template, tmp_path / "root"))


def slide_in(root: Path) -> SlideFiles:
    return SlideFiles(
        st=root / "st" / f"{NAME}.h5ad",
        metadata=root / "metadata" / f"{NAME}.json",
        wsi=root / "wsis" / f"{NAME}.tif",
        patches=root / "patches" / f"{NAME}.h5",
    )


# Ways to spoil a file


def table(change):
    """Spoil the h5ad through AnnData: ``change`` may return a new table."""

    def spoil(path: Path) -> None:
        found = anndata.read_h5ad(path)
        changed(found, change).write_h5ad(path)

    return spoil


def counts(change):
    """Spoil the counts, as a dense array."""

    def spoil(found):
        found.X = changed(found.X.toarray(), change)

    return table(spoil)


def changed(array, change):
    """The array that ``change`` returns, or the given one where it worked in place."""
    result = change(array)
    return array if result is None else result


def put(array, where, value):
    array[where] = value


def positions(change):
    def spoil(found):
        found.obsm["spatial"] = changed(np.array(found.obsm["spatial"]), change)

    return table(spoil)


def hdf5(change):
    def spoil(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return spoil


def replaced(key, value):
    def change(file):
        old = file[key][:]
        del file[key]
        file[key] = value(old)

    return hdf5(change)


def facts(**values):
    def spoil(path: Path) -> None:
        found = json.loads(path.read_text()) | values
        path.write_text(json.dumps({k: v for k, v in found.items() if v != "drop"}))

    return spoil


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def gray_tiff(path: Path) -> None:
    """A sound picture that cannot be H&E, in tiles, which OpenSlide shows in shades of gray."""
    tifffile.imwrite(path, np.full((1200, 1200), 200, np.uint8), tile=(256, 256))


def renamed(kind, names):
    def spoil(found):
        index = getattr(found, kind).to_list()
        setattr(found, kind, [*names(index), *index[len(names(index)) :]])

    return table(spoil)


PIXEL = "pixel_size_um_estimated"
#: file, what is done to it, what is said of it.
FAULTS = {
    "st missing": ("st", Path.unlink, "counts file .* does not exist"),
    "st directory": ("st", directory, "counts file .* is a directory"),
    "st empty file": ("st", lambda p: p.write_bytes(b""), "counts file .* is empty"),
    "st cut off": ("st", cut_off, "counts file .* damaged or of another format .*truncated"),
    "st text": ("st", lambda p: p.write_text("a,b\n1,2\n"), "counts file .* damaged"),
    "st without X": ("st", hdf5(lambda f: f.pop("X")), "has no matrix X"),
    "st without obs": ("st", hdf5(lambda f: f.pop("obs")), "counts file .* damaged .*obs"),
    "X of another shape": (
        "st",
        hdf5(lambda f: f["X"].attrs.modify("shape", np.array([3, 30]))),
        r"X has shape \(3, 30\) for",
    ),
    "no positions": ("st", table(lambda t: t.obsm.clear()), r"no obsm\['spatial'\]"),
    "positions in 3-D": (
        "st",
        positions(lambda p: np.column_stack([p, p[:, 0]])),
        r"obsm\['spatial'\] has shape \(\d+, 3\)",
    ),
    "NaN position": (
        "st",
        positions(lambda p: put(p, (1, 0), np.nan)),
        r"NaN or infinite position of 1 spots, such as \d+x\d+",
    ),
    "infinite position": (
        "st",
        positions(lambda p: put(p, (slice(2), 1), np.inf)),
        "NaN or infinite position of 2 spots",
    ),
    "spots outside": (
        "st",
        positions(lambda p: put(p, 0, [5000, -3])),
        r"1 of \d+ spots lie outside the image of 1200 x 1200 px; x is 300 to 5000, y -3 to 900",
    ),
    "NaN counts": ("st", counts(lambda x: put(x, (0, 0), np.nan)), "1 NaN or infinite values"),
    "infinite counts": ("st", counts(lambda x: put(x, (0, 0), np.inf)), "1 NaN or infinite values"),
    "negative counts": ("st", counts(lambda x: put(x, (0, [1, 2]), -1)), "2 negative values in X"),
    "normalised counts": ("st", counts(np.log1p), r"\d+ non-integer values in X.*raw counts"),
    "sparse non-integer": (
        "st",
        table(lambda t: setattr(t, "X", scipy.sparse.csr_matrix(t.X.toarray() * 0.5 + 0.25))),
        "non-integer values in X",
    ),
    "no counts": ("st", counts(lambda x: 0 * x), "all counts are 0"),
    "no spots": ("st", table(lambda t: t[:0].copy()), "is empty: 0 spots, 30 genes"),
    "no genes": ("st", table(lambda t: t[:, :0].copy()), "is empty: .* spots, 0 genes"),
    "duplicate barcodes": (
        "st",
        renamed("obs_names", lambda n: [n[0], n[0]]),
        r"1 barcodes repeat, such as 0x0\.",
    ),
    "one spot spelt twice": (
        "st",
        renamed("obs_names", lambda n: ["020x021", "20x21"]),
        "1 barcodes repeat, such as 20x21",
    ),
    "duplicate genes": (
        "st",
        renamed("var_names", lambda n: ["KRT8", "KRT8", "FN1", "FN1"]),
        r"2 genes repeat, such as FN1, KRT8.*unique_genes: false",
    ),
    "wsi missing": ("wsi", Path.unlink, "slide image file .* does not exist"),
    "wsi directory": ("wsi", directory, "slide image file .* is a directory"),
    "wsi cut off": ("wsi", cut_off, "slide image file .* damaged"),
    "wsi text": ("wsi", lambda p: p.write_text("no picture"), "slide image file .* damaged"),
    "wsi without colour": ("wsi", gray_tiff, "slide image file .* 1 channel and no colour"),
    "metadata missing": ("metadata", Path.unlink, "metadata file .* does not exist"),
    "metadata no JSON": ("metadata", lambda p: p.write_text("{"), "is not valid JSON"),
    "metadata list": ("metadata", lambda p: p.write_text("[1]"), "metadata file .*not a JSON obj"),
    "no pixel size": ("metadata", facts(**{PIXEL: "drop"}), f"has no {PIXEL}"),
    "pixel size null": ("metadata", facts(**{PIXEL: None}), f"has no {PIXEL}"),
    "pixel size text": ("metadata", facts(**{PIXEL: "0.5 um"}), "is '0.5 um', not a number"),
    "pixel size true": ("metadata", facts(**{PIXEL: True}), "is True, not a number"),
    "pixel size zero": ("metadata", facts(**{PIXEL: 0}), "is 0, outside 0.05 to 20"),
    "pixel size negative": ("metadata", facts(**{PIXEL: -0.5}), "is -0.5, outside"),
    "pixel size NaN": ("metadata", facts(**{PIXEL: float("nan")}), "is nan, outside"),
    "pixel size in nm": ("metadata", facts(**{PIXEL: 500}), "is 500, outside 0.05 to 20.0 µm"),
    "patches missing": ("patches", Path.unlink, "patch file .* does not exist"),
    "patches cut off": ("patches", cut_off, "patch file .* damaged .*patches_from: wsi"),
    "patches without img": ("patches", hdf5(lambda f: f.pop("img")), "no dataset img"),
    "patches without two": (
        "patches",
        hdf5(lambda f: (f.pop("coords"), f.pop("barcode"))),
        "no dataset coords, barcode",
    ),
    "patches of 256": (
        "patches",
        replaced("img", lambda i: np.zeros((len(i), 256, 256, 3), np.uint8)),
        r"img has shape \(\d+, 256, 256, 3\), wanted \(\d+, 224, 224, 3\)",
    ),
    "patches too few": (
        "patches",
        replaced("img", lambda i: i[1:]),
        r"img has shape \(\d+, 224, 224, 3\), wanted",
    ),
    "patches of floats": (
        "patches",
        replaced("img", lambda i: i.astype(np.float32)),
        "img is float32, coords int64; wanted uint8 and integers",
    ),
    "coords in 3-D": (
        "patches",
        replaced("coords", lambda c: c[:, [0, 1, 1]]),
        r"coords has shape \(\d+, 3\)",
    ),
    "patches repeat": (
        "patches",
        hdf5(lambda f: put(f["barcode"], 0, f["barcode"][1])),
        "1 barcodes repeat",
    ),
    "patches of another slide": (
        "patches",
        hdf5(lambda f: put(f["barcode"], slice(None), [f"AC{i}-1" for i in range(len(f["img"]))])),
        r"no barcode in common with the counts \(AC0-1, AC1-1 here, 000x",
    ),
    "patches of another scale": (
        "patches",
        hdf5(lambda f: f["img"].attrs.modify("patch_size_src", 224)),
        "patches of 1 µm per pixel, wanted 0.5",
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_fault(files, tmp_path, case):
    kind, spoil, said = FAULTS[case]
    path = files.items()[kind]
    spoil(path)
    (message,) = check_slide(files, NAME).messages
    assert re.search(said, message), message
    assert str(path) in message
    assert "Remedy: " in message
    with pytest.raises(FlagError, match="slide P1S1: 1 fault") as error:
        prepare(files, NAME, tmp_path / "out/spots.h5ad", tmp_path / "out/patches.h5")
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_corrected_pixel_size_refuses_patches_that_were_cut_by_the_wrong_one(files):
    (message,) = check_slide(files, NAME, pixel_scale=1.3636).messages
    assert "patches of 0.682 µm per pixel, wanted 0.5" in message
    assert "Remedy: set patches_from: wsi" in message
    assert check_slide(files, NAME, pixel_scale=1.3636, patches_from="wsi").messages == []
    (message, *_) = check_slide(files, NAME, pixel_scale=100, patches_from="wsi").messages
    assert "is 1.0 times 100, outside" in message


def test_spots_wider_than_their_distance_are_warned_of(files):
    assert cohort_warnings({NAME: files}, {}) == []
    facts(spot_diameter=150, inter_spot_dist=110)(files.metadata)
    (warning,) = cohort_warnings({NAME: files}, {})
    assert str(files.metadata) in warning
    assert "spots of 150 µm at a distance of 110 µm would overlap" in warning
    assert "pixel_scale: 1.3636" in warning
    assert cohort_warnings({NAME: files}, {"pixel_scale": 1.3636}) == []
    assert check_cohort({NAME: files}, {}, {}).messages == []  # nothing is stopped
    facts(spot_diameter=None)(files.metadata)
    assert cohort_warnings({NAME: files}, {}) == []


def test_sound_slide_has_no_fault(files):
    assert check_slide(files, NAME).messages == []


def test_an_image_in_strips_is_sound(files):
    Image.new("RGB", (1200, 1200), (200, 150, 200)).save(files.wsi, compression="tiff_lzw")
    assert check_slide(files, NAME).messages == []


def test_all_faults_come_at_once(files, tmp_path):
    positions(lambda p: put(p, (1, 0), np.nan))(files.st)
    counts(lambda x: put(x, (0, 0), -1.5))(files.st)
    facts(**{PIXEL: -1})(files.metadata)
    cut_off(files.wsi)
    hdf5(lambda f: f.pop("coords"))(files.patches)
    with pytest.raises(FlagError) as error:
        prepare(files, NAME, tmp_path / "out/spots.h5ad", tmp_path / "out/patches.h5")
    text = str(error.value)
    assert "slide P1S1: 6 faults" in text
    for said in ("NaN or inf", "negative", "non-integer", "is -1", "slide image", "dataset coords"):
        assert said in text
    assert not (tmp_path / "out").exists()


def test_swapped_axes_are_recognised(template, tmp_path):
    files = Synthetic(1, 1, spots=(2, 6), genes=10).fetch(NAME, tmp_path)
    positions(lambda p: p[:, ::-1])(files.st)
    (message,) = check_slide(files, NAME).messages
    assert "swap the columns, x comes first" in message


def test_slide_cut_off_behind_its_directories_is_noticed(files):
    """tifffile puts the last tiles at the end: the directories are whole, some tiles are not."""
    whole = files.wsi.read_bytes()
    files.wsi.write_bytes(whole[:-100])
    (message,) = check_slide(files, NAME).messages
    assert f"{len(whole) - 100} of {len(whole)} bytes" in message


def test_bounds_come_from_metadata_without_slide(files):
    positions(lambda p: put(p, 0, [5000, 0]))(files.st)
    alone = SlideFiles(files.st, files.metadata, patches=files.patches)
    (message,) = check_slide(alone, NAME).messages
    assert "1 of" in message
    assert "1200 x 1200" in message


@pytest.mark.parametrize(
    ("given", "patches_from"), [("patches", "wsi"), ("wsi", "hest"), (None, "auto")]
)
def test_wanted_images_must_be_there(files, given, patches_from):
    kept = {k: v for k, v in files.items().items() if k in ("st", "metadata", given)}
    (message,) = check_slide(SlideFiles(**kept), NAME, patches_from=patches_from).messages
    assert f"slide P1S1 has no image for patches_from: {patches_from}" in message


def test_unknown_choice_lists_the_choices(files):
    (message,) = check_slide(files, NAME, patches_from="wis").messages
    assert "'wis'. Valid: auto, wsi, hest." in message


def test_unused_patches_are_not_checked(files):
    cut_off(files.patches)
    assert check_slide(files, NAME, patches_from="wsi").messages == []


def test_repeated_genes_may_be_allowed(files):
    renamed("var_names", lambda n: ["KRT8", "KRT8"])(files.st)
    assert check_slide(files, NAME, unique_genes=False).messages == []


def test_unreadable_files_are_named(template):
    """Without permission; the super-user, whom nothing stops, steps down for a moment."""
    root = Path(tempfile.mkdtemp())
    try:
        os.chmod(root, 0o755)
        files = slide_in(shutil.copytree(template, root / "slide"))
        os.chmod(root / "slide", 0o755)
        for path in files.items().values():
            os.chmod(path.parent, 0o755)
        assert check_slide(files, NAME).messages == []
        os.chmod(files.st, 0)
        os.chmod(files.wsi, 0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            messages = check_slide(files, NAME).messages
        finally:
            os.seteuid(user)
        assert [m.partition(" ")[0] for m in messages] == ["counts", "slide"]
        assert all("may not be read" in m for m in messages)
    finally:
        shutil.rmtree(root)


def test_counts_are_read_in_blocks(files, monkeypatch):
    counts(lambda x: put(x, (-1, -1), -3))(files.st)
    monkeypatch.setattr("flag_st.data.check_table.BLOCK", 7)
    assert "1 negative" in check_slide(files, NAME).messages[0]
    table(lambda t: setattr(t, "X", scipy.sparse.csc_matrix(t.X)))(files.st)
    assert "1 negative" in check_slide(files, NAME).messages[0]


# Genes of a cohort


def test_enough_common_genes():
    names = {"a": list("vwxyz"), "b": list("wxyz"), "c": list("zyxw")}
    assert check_common_genes(names, 4, "hmhvg").messages == []


def test_too_few_common_genes_name_the_culprit():
    names = {"a": list("vwxyz"), "b": ["ENSG1", "z"], "c": list("uwxyz")}
    (message,) = check_common_genes(names, 4, "hmhvg").messages
    assert "panel hmhvg wants 4 genes, 3 slides share 1" in message
    assert "without b (2 genes) they share 4" in message
    assert "to 1 or fewer" in message
    (message,) = check_common_genes({"a": ["ENSG1"], "b": ["z"]}, 4, "hmhvg").messages
    assert "0 or fewer" not in message
    assert "in the same way (symbols, not ids)" in message


def test_one_slide_and_none():
    assert "1 slides share 2" in check_common_genes({"a": "xy"}, 3, "p").messages[0]
    assert "0 slides share 0" in check_common_genes({}, 3, "p").messages[0]


def test_metadata_that_cannot_be_read_hides_no_other_fault(tmp_path):
    """The patient is then unknown while planning, and the check of the slide reports the file."""
    for name, text in {"a": "{", "b": '{"patient": "p"}'}.items():
        for folder, file, content in (
            ("st", f"{name}.h5ad", ""),
            ("metadata", f"{name}.json", text),
        ):
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / file).write_text(content)
    assert [(row.id, row.patient) for row in Folder(tmp_path).slides()] == [("a", ""), ("b", "p")]
