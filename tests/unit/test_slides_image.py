"""Slide images of any format: the right pixels, or the right refusal."""

import gzip
import re
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import openslide
import pytest
import slide_pictures as made
from PIL import Image
from slide_pictures import FIRST, HEIGHT, PICTURE, SMOOTH, STACK, TILE, WIDE, WIDTH, cut, tiff

from flag_st.core.errors import FlagError
from flag_st.slides.files import open_reader
from flag_st.slides.image import open_image
from flag_st.slides.openslide_file import OpenSlideFile
from flag_st.slides.picture_file import PictureFile
from flag_st.slides.tiff_file import TiffFile, _Level

HALF = PICTURE[::2, ::2]
LABEL = np.full((256, 256, 3), (250, 220, 0), np.uint8)
COLOURS = {"Channel": {"Name": ["Red", "Green", "Blue"]}}
DYES = {"Channel": {"Name": ["DAPI", "FITC", "Cy3"]}}

#: Case → (suffix, how the file is made, what it shows, by how much values may differ).
SOUND = {
    "tiles": (".tif", tiff(**TILE), PICTURE, 0),
    "tiles in BigTIFF": (".tif", tiff(**TILE, bigtiff=True), PICTURE, 0),
    "tiles, big-endian": (".tif", tiff(**TILE, byteorder=">"), PICTURE, 0),
    "tiles in JPEG": (".tif", tiff(SMOOTH, **TILE, compression="jpeg"), SMOOTH, 40),
    "strips": (".tif", tiff(rowsperstrip=16), PICTURE, 0),
    "strips in LZW": (".tif", tiff(compression="lzw", predictor=True), PICTURE, 0),
    "strips in JPEG": (".tif", tiff(SMOOTH, compression="jpeg", rowsperstrip=64), SMOOTH, 24),
    "one strip in BigTIFF": (
        ".btf",
        tiff(compression="zlib", rowsperstrip=HEIGHT, bigtiff=True),
        PICTURE,
        0,
    ),
    "strips in Zstandard": (".tiff", tiff(compression="zstd"), PICTURE, 0),
    "tiles in JPEG 2000": (".tif", tiff(compression="jpeg2000", **TILE), PICTURE, 0),
    "tiles in WebP": (".tif", tiff(SMOOTH, compression="webp", **TILE), SMOOTH, 60),
    "separate planes in strips": (".tif", tiff(FIRST, planarconfig="separate"), PICTURE, 0),
    "separate planes in tiles": (".tif", tiff(FIRST, planarconfig="separate", **TILE), PICTURE, 0),
    "16 bits in tiles": (".tif", tiff(WIDE, **TILE), PICTURE, 0),
    "16 bits in strips": (".tif", tiff(WIDE), PICTURE, 0),
    "OME": (".ome.tif", made.ome(PICTURE, "YXS", photometric="rgb", **TILE), PICTURE, 0),
    "OME, channels first, in tiles": (
        ".ome.tif",
        made.ome(FIRST, "CYX", COLOURS, photometric="minisblack", **TILE),
        PICTURE,
        0,
    ),
    "OME, channels first, in strips": (
        ".ome.tif",
        made.ome(FIRST, "CYX", photometric="minisblack"),
        PICTURE,
        0,
    ),
    "OME, separate planes": (".ome.tif", made.ome(FIRST, "CYX", photometric="rgb"), PICTURE, 0),
    "OME, 12 bits": (
        ".ome.tif",
        made.ome(WIDE >> 4, "YXS", {"SignificantBits": 12}, photometric="rgb", **TILE),
        PICTURE,
        0,
    ),
    "OME, focal planes": (".ome.tif", made.ome(STACK, "ZYXS", photometric="rgb"), PICTURE, 0),
    "OME, focal planes of channels": (
        ".ome.tif",
        made.ome(np.moveaxis(STACK, -1, 1), "ZCYX", photometric="minisblack", **TILE),
        PICTURE,
        0,
    ),
    "focal planes": (".tif", tiff(STACK, **TILE), PICTURE, 0),
    "straight alpha": (".tif", tiff(made.STRAIGHT, **TILE), made.ON_WHITE, 1),
    "premultiplied alpha": (
        ".tif",
        tiff(made.PREMULTIPLIED, extrasamples=["assocalpha"]),
        made.ON_WHITE,
        1,
    ),
    "palette": (
        ".tif",
        tiff(np.asarray(made.PALETTED), photometric="palette", colormap=made.COLOURMAP),
        made.OF_PALETTE,
        0,
    ),
    "an absent tile": (".tif", made.with_absent_tile(tiff(**TILE)), made.WITHOUT_TILE, 0),
    "an absent tile of 16 bits": (
        ".tif",
        made.with_absent_tile(tiff(WIDE, **TILE)),
        made.WITHOUT_TILE,
        0,
    ),
    "Aperio": (".svs", made.aperio(), SMOOTH, 40),
    "png": (".png", made.save(Image.fromarray(PICTURE)), PICTURE, 0),
    "png with alpha": (".png", made.save(Image.fromarray(made.STRAIGHT)), made.ON_WHITE, 1),
    "png with palette": (".png", made.save(made.PALETTED), made.OF_PALETTE, 0),
    "jpg": (".jpg", made.save(Image.fromarray(SMOOTH), quality=95), SMOOTH, 12),
    "jpg, turned": (".jpg", made.save(made.TURNED, exif=made.EXIF, quality=95), SMOOTH, 12),
    "bmp": (".bmp", made.save(Image.fromarray(PICTURE)), PICTURE, 0),
}


def made_file(tmp_path: Path, suffix: str, write) -> Path:
    path = tmp_path / f"slide{suffix}"
    write(path)
    return path


def whole(path: Path) -> np.ndarray:
    with open_reader(path) as image:
        return np.asarray(image.region((0, 0), 0, image.size))


@pytest.mark.parametrize("case", SOUND)
def test_the_right_pixels(tmp_path, case):
    suffix, write, shown, tolerance = SOUND[case]
    path = made_file(tmp_path, suffix, write)
    found = whole(path)
    assert found.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(found.astype(int) - shown).max() <= tolerance
    with open_image(path, pixel_um=0.5) as image:
        assert image.size == (WIDTH, HEIGHT)
        # A square that reaches beyond two edges: what is there is white.
        square = image.read((-10.0, (HEIGHT - 40) * 0.5), 50.0, 100)
        assert square.dtype == np.uint8
        np.testing.assert_array_equal(square[:40, 20:], found[-40:, :80])
        assert (square[40:] == 255).all()
        assert (square[:, :20] == 255).all()
        assert image.thumbnail(70).shape == (54, 70, 3)


def test_a_scanner_s_file_has_its_levels_and_pixel_size(tmp_path):
    with open_image(made_file(tmp_path, ".svs", made.aperio())) as image:
        assert image.reader.sizes == [(WIDTH, HEIGHT), (WIDTH // 2, HEIGHT // 2)]
        assert image.pixel_um == 0.499
        assert image.statements == {"openslide.mpp-x and -y": 0.499}


@pytest.mark.parametrize("nested", [False, True])
def test_label_and_macro_are_no_levels(tmp_path, nested):
    """OpenSlide takes any page that is marked as reduced for a level; a label has other sides."""
    write = made.levels((HALF, 1), (LABEL, 1), (LABEL[:128], 9), nested=nested)
    with open_reader(made_file(tmp_path, ".ome.tif" if nested else ".tif", write)) as image:
        assert image.sizes == [(WIDTH, HEIGHT), (WIDTH // 2, HEIGHT // 2)]
        coarse = image.square((0, 0), 2.0, 256)
        np.testing.assert_array_equal(coarse, HALF[:256, :256])
        small = image.thumbnail(100).astype(int)
    wanted = Image.fromarray(PICTURE).resize((100, small.shape[0]), Image.Resampling.BOX)
    assert np.abs(small - np.asarray(wanted)).mean() < 4


def test_the_largest_picture_is_the_slide(tmp_path):
    def write(path: Path) -> None:
        tiff(LABEL)(path)
        tiff(**TILE, append=True)(path)

    np.testing.assert_array_equal(whole(made_file(tmp_path, ".tif", write)), PICTURE)


@pytest.mark.parametrize(
    ("suffix", "write", "reader"),
    [
        (".tif", tiff(**TILE), OpenSlideFile),
        (".tif", tiff(), TiffFile),
        (".ome.tif", made.ome(FIRST, "CYX", photometric="minisblack", **TILE), TiffFile),
        (".png", made.save(Image.fromarray(PICTURE)), PictureFile),
    ],
)
def test_who_reads_what(tmp_path, suffix, write, reader):
    with open_reader(made_file(tmp_path, suffix, write)) as image:
        assert type(image) is reader


@pytest.mark.parametrize("case", ["tiles", "strips", "OME", "png"])
def test_glass_is_white_wherever_the_picture_is_not(tmp_path, case):
    suffix, write, *_ = SOUND[case]
    with open_image(made_file(tmp_path, suffix, write), 0.5) as image:
        for x in (-500.0, WIDTH * 0.5, WIDTH * 5.0, 10.0):
            for y in (-500.0, HEIGHT * 0.5, HEIGHT * 5.0):
                assert (image.read((x, y), 50.0, 64) == 255).all()
        # A square around the whole picture.
        around = image.read((-50, -50), WIDTH * 0.5 + 100, WIDTH + 200)
        np.testing.assert_array_equal(around[100:-100, 100:-100][:HEIGHT], PICTURE)
        assert (around[:100] == 255).all()
        assert (around[-200:] == 255).all()


# Refusals


def link(path: Path) -> None:
    path.symlink_to(path.with_name("elsewhere.tif"))


def store(path: Path) -> None:
    path.mkdir()
    (path / ".zgroup").write_text("{}")


PLAIN = Image.fromarray(PICTURE)
DARK = (PICTURE.astype(np.uint16) << 4) - 1
BAD = {
    "missing": (".tif", lambda path: None, "does not exist"),
    "empty": (".tif", made.content(b""), "is empty"),
    "broken link": (".tif", link, "is a link to .*elsewhere.tif, which does not exist"),
    "directory": (".tif", Path.mkdir, "is a directory"),
    "zarr": (".zarr", store, "is a Zarr store.*OME-TIFF"),
    "pointer": (
        ".svs",
        made.content(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        "pointer of Git LFS.*git lfs pull",
    ),
    "gz": (".tif.gz", made.content(gzip.compress(b"II*\0")), "compressed by gzip.*gunzip"),
    "zip": (".zip", made.content(b"PK\x03\x04" + bytes(40)), "ZIP archive.*unpack"),
    "web page": (".svs", made.content(b"\n<!DOCTYPE html><html></html>"), "is a web page"),
    "hdf5": (".h5", made.content(b"\x89HDF\r\n\x1a\n" + bytes(40)), "holds arrays"),
    "text": (".tif", made.content(b"no picture"), "damaged or of another format.*vips"),
    "head of a tiff": (".tif", made.content(b"II*\0"), "damaged"),
    "svs that is none": (".svs", made.content(bytes(5000)), "damaged or of another format"),
    "svs, cut": (".svs", cut(made.aperio(), 0.6), "damaged.*copy or download it again"),
    "tiled tiff, cut": (".tif", cut(tiff(**TILE), 0.7), "damaged"),
    "tiff in strips, cut": (".tif", cut(tiff(), 0.7), "damaged.*cut off"),
    "an unknown compression in tiles": (
        ".tif",
        made.with_compression(tiff(**TILE), 52479),
        "damaged.*52479",
    ),
    "an unknown compression in strips": (
        ".tif",
        made.with_compression(tiff(), 52479),
        "damaged.*52479",
    ),
    "levels below, cut": (".tif", cut(made.levels((HALF, 1), nested=True), 0.95), "damaged"),
    "png, cut": (".png", cut(made.save(PLAIN), 0.7), "damaged"),
    "jpg, cut": (".jpg", cut(made.save(PLAIN), 0.7), "damaged"),
    "mrxs without its folder": (
        ".mrxs",
        lambda path: PLAIN.save(path, format="jpeg"),
        "lacks its folder.*copy the folder .*slide beside it",
    ),
    "gray tiff": (".tif", tiff(PICTURE[..., 0], photometric="minisblack"), "1 channel and no"),
    "gray tiff in tiles": (
        ".tif",
        tiff(PICTURE[..., 0], photometric="minisblack", **TILE),
        "1 channel and no colour",
    ),
    "gray png": (".png", made.save(PLAIN.convert("L")), "no colour.*mode is L"),
    "16-bit gray png": (".png", made.save(Image.fromarray(WIDE[..., 0])), "no colour"),
    "fluorescence": (
        ".ome.tif",
        made.ome(FIRST, "CYX", DYES, photometric="minisblack"),
        "dyes .DAPI, FITC, Cy3. and no colour.*fluorescence",
    ),
    "fluorescence by ImageJ": (
        ".tif",
        lambda path: tiff(FIRST, photometric="minisblack", imagej=True, metadata={"axes": "CYX"})(
            path
        ),
        "no colour",
    ),
    "fluorescence by a scanner": (
        ".svs",
        made.aperio(SMOOTH[..., 0], photometric="minisblack"),
        "1 channel and no colour",
    ),
    "three gray pages": (".tif", tiff(FIRST, photometric="minisblack"), "1 channel and no"),
    "five channels": (
        ".tif",
        tiff(np.dstack([PICTURE, HALF.repeat(2, 0).repeat(2, 1)])[..., :5]),
        "5 channels",
    ),
    "a fourth channel of no meaning": (
        ".tif",
        tiff(made.STRAIGHT, extrasamples=["unspecified"]),
        "4 channels.*not say",
    ),
    "cmyk tiff": (".tif", made.save(PLAIN.convert("CMYK")), "colours of print"),
    "cmyk jpg": (".jpg", made.save(PLAIN.convert("CMYK")), "colours of print.*icc_transform"),
    "lab": (".tif", made.save(PLAIN.convert("LAB")), "colours of the kind CIELAB"),
    "float": (".tif", tiff(PICTURE.astype(np.float32)), "samples of type float32"),
    "32 bits": (".tif", tiff(PICTURE.astype(np.uint32)), "samples of type uint32"),
    "12 bits, not stated": (".tif", tiff(DARK, **TILE), "16 bits, none of which is above 6"),
    "turned tiff": (
        ".tif",
        tiff(**TILE, extratags=[(274, "H", 1, 6, True)]),
        "stored turned .its tag Orientation is 6.*autorot",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_refused_by_name_with_the_remedy(tmp_path, case):
    suffix, write, said = BAD[case]
    path = made_file(tmp_path, suffix, write)
    with pytest.raises(FlagError) as error:
        if "cut" in case:  # which may show where the file is read
            whole(path)
        open_reader(path)
    message = str(error.value)
    assert message.startswith(f"slide image file {path} ")
    assert re.search(said, message), message
    assert "Remedy: " in message


def test_a_damaged_tile_is_a_fault_where_it_is_read(tmp_path):
    path = made_file(tmp_path, ".ome.tif", made.with_zeroed_tiles)
    with open_image(path, 0.5) as image:
        np.testing.assert_array_equal(image.read((0, 0), 50.0, 100), PICTURE[:100, :100])
        with pytest.raises(FlagError, match=r"slide.ome.tif is damaged.*Remedy: copy"):
            image.read((WIDTH * 0.5 - 50, HEIGHT * 0.5 - 50), 50.0, 100)


def test_no_file_stays_open_after_a_refusal(tmp_path):
    path = made_file(tmp_path, ".tif", tiff(PICTURE.astype(np.float32)))
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    for _ in range(5):
        with pytest.raises(FlagError):
            open_reader(path)
        with pytest.raises(FlagError):
            open_image(made_file(tmp_path, ".png", made.save(PLAIN)))
    if before:
        assert len(list(Path("/proc/self/fd").iterdir())) <= before + 1


# How they are read


def test_squares_and_thumbnail_are_those_of_openslide(tmp_path):
    """What patches of the pipeline have always been, computed here by OpenSlide alone."""
    path = made_file(tmp_path, ".tif", made.levels((HALF, 1)))
    with openslide.OpenSlide(path) as slide, open_reader(path) as image:
        for corner in [(-30, -20), (100, 90), (WIDTH - 60, HEIGHT - 70)]:
            for step in (0.7, 1.0, 1.9, 2.0, 3.3):
                level = slide.get_best_level_for_downsample(step)
                edge = max(1, round(64 * step / slide.level_downsamples[level]))
                region = slide.read_region(corner, level, (edge, edge))
                white = Image.new("RGBA", region.size, "white")
                wanted = Image.alpha_composite(white, region).convert("RGB").resize((64, 64), 3)
                found = image.square(corner, step, 64)
                np.testing.assert_array_equal(found, np.asarray(wanted))
        for longest in (50, 200, 333, 2000):
            wanted = slide.get_thumbnail((longest, longest)).convert("RGB")
            np.testing.assert_array_equal(image.thumbnail(longest), np.asarray(wanted))


def test_a_picture_in_strips_is_decoded_once(tmp_path, monkeypatch):
    decoded = []
    one = _Level._decoded
    monkeypatch.setattr(_Level, "_decoded", lambda self: decoded.append(1) or one(self))
    path = made_file(tmp_path, ".tif", tiff(compression="lzw"))
    monkeypatch.setattr("flag_st.slides.tiff_file.KEPT", 1000)  # so that it goes to a file
    with open_image(path, 0.5) as image:
        squares = [image.read((x, 100.0), 20.0, 40) for x in range(30)]
        assert isinstance(image.reader.levels[0].whole, np.memmap)
    assert len(decoded) == 1
    np.testing.assert_array_equal(squares[7], PICTURE[200:240, 14:54])


def test_tiles_are_decoded_as_needed_and_kept(tmp_path, monkeypatch):
    read = []
    one = _Level._segment
    monkeypatch.setattr(_Level, "_segment", lambda self, p, i: read.append(i) or one(self, p, i))
    path = made_file(tmp_path, ".ome.tif", made.ome(PICTURE, "YXS", photometric="rgb", **TILE))
    with open_image(path, 0.5) as image:
        for _ in range(9):
            image.read((60.0, 60.0), 10.0, 20)  # across four tiles
        assert sorted(read[1:]) == [0, 1, 6, 7]  # after the one that is tried at first


def test_a_large_level_is_reduced_in_stripes(tmp_path, monkeypatch):
    path = made_file(tmp_path, ".tif", tiff(**TILE))
    with open_reader(path) as image:
        at_once = image.thumbnail(100).astype(int)
        monkeypatch.setattr("flag_st.slides.reader.STRIPE_PX", 40 * WIDTH)
        heights = []
        one = image.region
        image.region = lambda c, lv, size: heights.append(size[1]) or one(c, lv, size)
        striped = image.thumbnail(100)
    assert len(heights) > 10
    assert max(heights) <= 40
    assert np.abs(striped - at_once).max() <= 2


def test_reading_many_squares_does_not_fill_the_memory(tmp_path):
    large = np.tile(PICTURE, (6, 6, 1))
    path = made_file(tmp_path, ".ome.tif", made.ome(large, "YXS", photometric="rgb", **TILE))
    with open_image(path, 0.5) as image:
        image.read((0, 0), 100.0, 200)
        tracemalloc.start()
        for x in range(0, 1800, 100):
            image.read((x, x / 2), 100.0, 200)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < large.nbytes / 2


def test_a_copy_under_another_suffix_is_the_same_slide(tmp_path):
    path = made_file(tmp_path, ".tif", tiff())
    np.testing.assert_array_equal(whole(shutil.copy(path, tmp_path / "slide.svs")), PICTURE)
