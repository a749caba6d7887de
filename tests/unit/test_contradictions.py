"""Files that can be read and contradict each other, as users reported them of such tools: told, never passed over."""

import json
import re
import shutil
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import tifffile

from flag_st.core.errors import FlagError
from flag_st.data.check_slide import check_slide
from flag_st.data.prepare import prepare
from flag_st.data.slide_files import SlideFiles
from flag_st.sources.synthetic import Synthetic

NAME = "P1S1"
#: The columns of Space Ranger's pixels.
PIXELS = ["pxl_col_in_fullres", "pxl_row_in_fullres"]


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """One section of 79 spots on a square picture, with patches that were cut beforehand."""
    root = tmp_path_factory.mktemp("template")
    files = Synthetic(patients=1, sections=1, spots=(10, 10), genes=30).fetch(NAME, root)
    prepare(files, NAME, root / "spots.h5ad", root / "cut.h5")
    (root / "patches").mkdir()
    with h5py.File(root / "cut.h5") as cut, h5py.File(root / f"patches/{NAME}.h5", "w") as new:
        for name in ("img", "coords", "barcode"):
            cut.copy(name, new)
    return root


@pytest.fixture
def root(template, tmp_path) -> Path:
    return shutil.copytree(template, tmp_path / "root")


def files_in(root: Path, *left_out: str) -> SlideFiles:
    """The files of the section, without the kinds ``left_out``."""
    places = {
        "st": root / f"st/{NAME}.h5ad",
        "metadata": root / f"metadata/{NAME}.json",
        "wsi": root / f"wsis/{NAME}.tif",
        "patches": root / f"patches/{NAME}.h5",
        "labels": root / f"labels/{NAME}.tsv",
    }
    return SlideFiles(**{k: p for k, p in places.items() if k not in left_out and p.exists()})


# Ways to spoil a section


def table(change):
    def spoil(root: Path) -> None:
        path = files_in(root).st
        found = anndata.read_h5ad(path)
        change(found)
        found.write_h5ad(path)

    return spoil


def places(change, columns: bool = True):
    """Change the positions; with ``columns=False``, the table has no columns that contradict them."""

    def spoil(found) -> None:
        found.obsm["spatial"] = np.asarray(change(np.array(found.obsm["spatial"], dtype=float)))
        if not columns:
            found.obs = found.obs.drop(columns=PIXELS)

    return table(spoil)


def facts(**values):
    def spoil(root: Path) -> None:
        path = files_in(root).metadata
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return spoil


def both(*spoils):
    def spoil(root: Path) -> None:
        for one in spoils:
            one(root)

    return spoil


def picture(change):
    def spoil(root: Path) -> None:
        path = files_in(root).wsi
        pixels = change(tifffile.imread(path))
        path.unlink()
        resolution = {"resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(path, pixels, tile=(256, 256), compression="jpeg", **resolution)

    return spoil


def tiles(change):
    """Change the stored tiles: ``change`` gets the open file, its tiles' offsets, and their lengths."""

    def spoil(root: Path) -> None:
        path = files_in(root).wsi
        picture(lambda pixels: pixels)(root)
        with tifffile.TiffFile(path, mode="r+") as tiff:
            change(tiff, list(tiff.pages[0].dataoffsets), list(tiff.pages[0].databytecounts))

    return spoil


def absent(tiff, starts, counts) -> None:
    middle = len(counts) // 2 + 5  # of ten by ten tiles
    starts[middle] = counts[middle] = 0
    tiff.pages[0].tags["TileOffsets"].overwrite(starts)
    tiff.pages[0].tags["TileByteCounts"].overwrite(counts)


def zeros(tiff, starts, counts) -> None:
    middle = len(counts) // 2 + 5  # of ten by ten tiles
    tiff.filehandle.seek(starts[middle])
    tiff.filehandle.write(bytes(counts[middle]))


def corner(pixels: np.ndarray) -> np.ndarray:
    """The picture with glass everywhere but in a corner."""
    glass = np.full_like(pixels, 245)
    glass[:1000, :1000] = pixels[:1000, :1000]
    return glass


def patches(change):
    def spoil(root: Path) -> None:
        with h5py.File(files_in(root).patches, "r+") as file:
            change(file)

    return spoil


def kept(number: int):
    """Keep the patches of the first spots."""

    def change(file) -> None:
        for key in ("img", "coords", "barcode"):
            values, attributes = file[key][:number], dict(file[key].attrs)
            del file[key]
            kind = h5py.string_dtype() if key == "barcode" else None
            file.create_dataset(key, data=values, dtype=kind).attrs.update(attributes)

    return patches(change)


def coarse(file) -> None:
    """Patches of 224 µm, whose corners lie twice as far from the spots, in a file that does not say so."""
    file["coords"][...] -= 56
    for key in ("img", "coords"):
        for name in list(file[key].attrs):
            del file[key].attrs[name]


def labels(text, encoding: str = "utf-8"):
    """A label file, of the lines that ``text`` makes of place and name of each spot."""

    def spoil(root: Path) -> None:
        names = anndata.read_h5ad(files_in(root).st, backed="r").obs_names
        path = root / f"labels/{NAME}.tsv"
        path.parent.mkdir()
        lines = ["barcode\tlabel", *(text(i, name) for i, name in enumerate(names))]
        path.write_text("\n".join(lines), encoding=encoding)

    return spoil


def suffixed(found) -> None:
    found.obs_names = [f"ACGT{i}-1" for i in range(found.n_obs)]


def normalised(found) -> None:
    counts = found.X.toarray()
    found.X = scipy.sparse.csr_matrix(np.round(1e4 * counts / counts.sum(1, keepdims=True)))


def no_matrix(found) -> None:
    found.layers["counts"] = found.X.copy()
    found.X = None


#: Kind of fault → how it comes about, kinds of files that are left out, and what the message says.
FAULTS = {
    "x and y exchanged": (places(lambda p: p[:, ::-1]), ("patches",), "x and y exchanged"),
    "x and y exchanged, and no other column tells": (
        places(lambda p: p[:, ::-1], columns=False),
        ("patches",),
        "x and y exchanged",
    ),
    "y from below": (
        places(lambda p: np.c_[p[:, 0], 2399 - p[:, 1]], columns=False),
        ("patches",),
        "y counted from below",
    ),
    "x from the right": (
        places(lambda p: np.c_[2399 - p[:, 0], p[:, 1]], columns=False),
        ("patches",),
        "x counted from the right",
    ),
    "pixels of a reduced picture": (
        places(lambda p: p / 4),
        ("patches",),
        r"pxl_col_in_fullres and pxl_row_in_fullres differ by up to .*4 times as far",
    ),
    "pixels of a reduced picture, by the distance alone": (
        places(lambda p: p / 4, columns=False),
        ("patches",),
        r"spots lie 50\.0 px apart, which is 50 µm with pixels of 1 µm, and the metadata state 200 µm",
    ),
    "µm in place of pixels": (
        both(places(lambda p: p * 0.4, columns=False), facts(inter_spot_dist="unknown")),
        ("patches",),
        r"spots 80\.0 px apart cannot be .* px wide \(spot_diameter_fullres\)",
    ),
    "all in one place": (places(lambda p: p * 0), ("patches",), "puts 79 spots at 1 places"),
    "some in one place": (
        places(lambda p: np.r_[p[:5] * 0, p[5:]]),
        ("patches",),
        "puts 79 spots at 75 places",
    ),
    "beside the tissue": (
        picture(corner),
        ("patches",),
        r"1\d% of the spots lie on tissue of",
    ),
    "a picture without tissue": (
        picture(lambda p: np.full_like(p, 240)),
        ("patches",),
        "shows no tissue",
    ),
    "a tenth of the pixel size": (
        facts(pixel_size_um_estimated=0.1),
        ("patches",),
        r"spots lie 200\.0 px apart, which is 20 µm with pixels of 0\.1 µm",
    ),
    "a pixel size beside the picture's": (
        facts(pixel_size_um_estimated=0.8, inter_spot_dist=160.0),
        ("patches",),
        r"pixels of 1 µm by openslide\.mpp-x and -y, and of 0\.8 µm by pixel_size_um_estimated",
    ),
    "the size of another picture": (
        facts(fullres_px_width=2000),
        ("patches",),
        "has 2400 x 2400 px, and by the metadata it has 2000 x 2400 px",
    ),
    "a tile that is absent": (
        tiles(absent),
        ("patches",),
        r"does not hold the parts that \d+ of 79",
    ),
    "a tile of zeros": (tiles(zeros), ("patches",), "is damaged .*holds zeros"),
    "patches of another scale": (
        patches(coarse),
        ("wsi",),
        r"patches of 1 µm per pixel, wanted 0\.5 \(by corners 112 px from the spots\)",
    ),
    "patches of other spots": (
        patches(lambda f: f["coords"].write_direct(f["coords"][:][::-1].copy())),
        ("wsi",),
        "the patches do not lie around their spots",
    ),
    "black patches": (
        patches(lambda f: f["img"].write_direct(f["img"][:] * 0)),
        ("wsi",),
        "the patches show nothing",
    ),
    "few patches": (kept(3), ("wsi",), "76 of 79 spots have no patch"),
    "width as text": (
        both(facts(fullres_px_width="600.0", fullres_px_height=600.0)),
        ("wsi",),
        r"\d+ of 79 spots lie outside the image of 600 x 600 px",
    ),
    "width by another name": (
        facts(fullres_px_width=None, fullres_px_height=None, fullres_width=600, fullres_height=600),
        ("wsi",),
        r"\d+ of 79 spots lie outside the image of 600 x 600 px",
    ),
    "labels without suffix": (
        both(table(suffixed), labels(lambda i, n: f"{n[:-2] if i % 2 else n}\ta")),
        ("patches",),
        "39 of 79 barcodes differ from those of the counts in their suffix alone",
    ),
    "labels in another encoding": (
        labels(lambda i, n: f"{n}\tépithélium", "latin-1"),
        ("patches",),
        "is not UTF-8 .*Remedy: save it as text in UTF-8",
    ),
    "normalised and rounded": (table(normalised), ("patches",), "same sum, as normalised"),
    "no X": (table(no_matrix), ("patches",), r"has no matrix X; it has layers\['counts'\]"),
    "in_tissue unknown": (
        table(lambda t: t.obs.__setitem__("in_tissue", [np.nan] + [1.0] * 78)),
        ("patches",),
        "in_tissue of 1 spots is nan",
    ),
}


def test_the_section_is_sound(root):
    for left_out in ((), ("patches",), ("wsi",)):
        found = check_slide(files_in(root, *left_out), NAME)
        assert (found.messages, found.notes) == ([], [])


@pytest.mark.parametrize("case", FAULTS)
def test_contradiction(root, case):
    spoil, left_out, said = FAULTS[case]
    spoil(root)
    messages = check_slide(files_in(root, *left_out), NAME).messages
    assert any(re.search(said, message) for message in messages), messages
    assert all("Remedy: " in message for message in messages)
    with pytest.raises(FlagError, match=r"(?s)1 fault|\d faults"):
        prepare(files_in(root, *left_out), NAME, root / "out.h5ad", root / "out.h5")
    assert not (root / "out.h5ad").exists()


def test_places_need_not_match_the_picture_where_the_user_says_so(root):
    places(lambda p: p[:, ::-1], columns=False)(root)
    files = files_in(root, "patches")
    assert check_slide(files, NAME, check_places=False).messages == []


def test_names_of_pixel_columns_may_be_exchanged(root):
    """As scanpy's reader had them for years, while its positions were right."""
    table(
        lambda t: setattr(
            t, "obs", t.obs.rename(columns=dict(zip(PIXELS, PIXELS[::-1], strict=True)))
        )
    )(root)
    assert check_slide(files_in(root, "patches"), NAME).messages == []


def test_a_thinned_out_section_is_sound(root):
    path = files_in(root).st
    chosen = np.random.default_rng(0).permutation(79)[:40]
    anndata.read_h5ad(path)[np.sort(chosen)].copy().write_h5ad(path)
    assert check_slide(files_in(root, "patches"), NAME).messages == []


def prepared(root: Path, *left_out: str):
    prepare(files_in(root, *left_out), NAME, root / "out.h5ad", root / "out.h5")
    return anndata.read_h5ad(root / "out.h5ad")


def test_spots_beside_the_tissue_are_left_out_and_told(root):
    flags = np.arange(79) % 3 != 0
    table(lambda t: t.obs.__setitem__("in_tissue", flags.astype(int)))(root)
    (note,) = check_slide(files_in(root, "patches"), NAME).notes
    assert "27 of 79 spots lie beside the tissue (in_tissue 0) and are left out" in note
    source = anndata.read_h5ad(files_in(root).st)
    assert prepared(root, "patches").obs_names.tolist() == source.obs_names[flags].tolist()


def test_spots_without_patch_may_lie_outside_the_picture_and_are_told(root):
    kept(77)(root)
    places(lambda p: np.r_[p[:77], [[-139.0, 300.0], [-3.0, 500.0]]])(root)
    table(lambda t: setattr(t, "obs", t.obs.drop(columns=PIXELS)))(root)
    found = check_slide(files_in(root), NAME)
    assert found.messages == []
    assert "2 of 79 spots have no patch and are left out" in found.notes[0]
    assert len(prepared(root)) == 77


def test_labels_that_are_missing_are_no_domain(root):
    words = ["NA", "nan", "", "None", "zone"]
    labels(lambda i, n: f"{n}\t{words[i % 5]}")(root)
    (note,) = check_slide(files_in(root, "patches"), NAME).notes
    assert "64 of 79 spots have no label" in note
    assert prepared(root, "patches").obs["domain"].value_counts().to_dict() == {"": 64, "zone": 15}


def test_a_column_of_domains_has_the_same_gaps(root):
    values = pd.Categorical(["NA", "zone", None] * 26 + ["zone"])
    table(lambda t: t.obs.__setitem__("domain", values))(root)
    assert prepared(root, "patches").obs["domain"].value_counts().to_dict() == {"": 52, "zone": 27}


def test_labels_are_joined_whatever_the_spelling_of_the_array(root):
    short = lambda name: "x".join(str(int(n)) for n in name.split("x"))  # noqa: E731
    labels(lambda i, n: f"{short(n)}\tzone{i % 2}")(root)
    assert prepared(root, "patches").obs["domain"].tolist() == [f"zone{i % 2}" for i in range(79)]


def _set(column, change):
    return lambda t: t.obs.__setitem__(column, change(t.obs[column]))


GRIDS = {
    "text": (_set("array_row", lambda v: v.astype(str)), True),
    "refined text": (_set("array_row", lambda v: [f"{x + 0.02:.2f}" for x in v]), True),
    "refined below": (_set("array_row", lambda v: v - 0.02), True),
    "a gap": (_set("array_col", lambda v: pd.array([None, *v[1:]], dtype="Int64")), False),
    "no numbers": (_set("array_col", lambda v: [f"c{x}" for x in v]), False),
    "one cell for all": (_set("array_col", lambda v: v * 0), False),
}


#: What the note on a grid that cannot be used says of it.
NO_GRID = {
    "a gap": "1 of 79 spots have no number there, such as 000x002",
    "no numbers": "79 of 79 spots have no number there, such as 000x002",
    "one cell for all": "the 79 spots have 10 places when these are rounded to whole numbers",
}


@pytest.mark.parametrize("case", GRIDS)
def test_cells_of_the_array_are_whole_or_left_out(root, case):
    change, known = GRIDS[case]
    sound = anndata.read_h5ad(files_in(root).st).obs
    table(change)(root)
    found = prepared(root, "patches").obs
    notes = check_slide(files_in(root, "patches"), NAME).notes
    if not known:
        (note,) = notes
        assert (
            "array_row and array_col are not used, and neighbours are found by the positions alone"
            in note
        )
        assert note.endswith(NO_GRID[case])
        assert not {"array_row", "array_col"} & set(found)
        return
    assert notes == []
    for column in ("array_row", "array_col"):
        assert found[column].dtype.kind == "i"
        assert found[column].tolist() == sound[column].tolist()


THUMBNAILS = {
    "text": lambda image: "library",
    "a flag": lambda image: {"is_single": True},
    "no images": lambda image: {"library": {"images": {}, "scalefactors": {}}},
    "gray": lambda image: _library(image[..., 0]),
    "gray with a channel": lambda image: _library(image[..., :1]),
    "channels first": lambda image: _library(np.moveaxis(image, -1, 0)),
}


def _library(image):
    scales = {"tissue_downscaled_fullres_scalef": 0.25}
    return {"library": {"images": {"downscaled_fullres": image}, "scalefactors": scales}}


@pytest.mark.parametrize("case", THUMBNAILS)
def test_what_is_no_thumbnail_is_passed_over(root, case):
    image = np.full((600, 600, 3), 180, np.uint8)
    table(lambda t: t.uns.__setitem__("spatial", THUMBNAILS[case](image)))(root)
    found = prepared(root, "wsi").uns["image"]
    assert found.ndim == 3
    assert found.shape[2] == 3
    assert found.std() > 5  # it is made of the patches


def test_tables_of_old_anndata_are_read(root):
    """Before 0.7, tables were compound arrays, and a sparse X was marked h5sparse."""
    path = files_in(root).st
    source = anndata.read_h5ad(path)
    x = scipy.sparse.csr_matrix(source.X)
    with h5py.File(path, "w") as file:
        group = file.create_group("X")
        group.attrs["h5sparse_format"] = b"csr"
        group.attrs["h5sparse_shape"] = np.array(x.shape)
        group["data"], group["indices"], group["indptr"] = x.data, x.indices, x.indptr
        for key, names in (("obs", source.obs_names), ("var", source.var_names)):
            frame = np.zeros(len(names), dtype=[("index", "S24")])
            frame["index"] = np.array(list(names), dtype="S24")
            file[key] = frame
        obsm = np.zeros(len(source), dtype=[("spatial", "<f8", (2,))])
        obsm["spatial"] = source.obsm["spatial"]
        file["obsm"] = obsm
    assert check_slide(files_in(root, "patches"), NAME).messages == []
    table = prepared(root, "patches")
    np.testing.assert_array_equal(table.X.toarray(), source.X.toarray())
    np.testing.assert_array_equal(table.obsm["spatial"], source.obsm["spatial"])
