"""The pixel size of a slide image: every statement is compared, and none is invented."""

import re

import numpy as np
import pytest
import slide_pictures as made
import tifffile
from PIL import Image
from slide_pictures import PICTURE, TILE, tiff

from flag_st.core.errors import FlagError
from flag_st.slides.image import open_image

PLAIN = Image.fromarray(PICTURE)
TAGS, MPP, OME = "TIFF tags XResolution and YResolution", "openslide.mpp-x and -y", "OME"
OME_HALF = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}


def tags(x: float, y: float | None = None, unit: str = "CENTIMETER", **options):
    """A TIFF whose tags state pixels of x by y µm."""
    per_unit = 1e4 if unit == "CENTIMETER" else 25400
    size = (per_unit / x, per_unit / (y or x))
    return tiff(resolution=size, resolutionunit=unit, **options)


def dots(per_inch: int, **options):
    return tiff(resolution=(per_inch, per_inch), resolutionunit="INCH", **options)


def physical(x: float, unit: str, **options):
    facts = {"PhysicalSizeX": x, "PhysicalSizeXUnit": unit}
    facts |= {"PhysicalSizeY": x, "PhysicalSizeYUnit": unit}
    return made.ome(PICTURE, "YXS", facts, photometric="rgb", **options)


#: Case → (suffix, file, pixel_um, further statements, what holds, by whom).
SETTLED = {
    "TIFF in cm, strips": (".tif", tags(0.5), None, {}, 0.5, TAGS),
    "TIFF in cm, tiles": (".tif", tags(0.5, **TILE), None, {}, 0.5, MPP),
    "TIFF in inches": (".tif", tags(0.25, unit="INCH"), None, {}, 0.25, TAGS),
    "OME in µm": (".ome.tif", physical(0.5, "µm"), None, {}, 0.5, OME),
    "OME in nm": (".ome.tif", physical(250, "nm"), None, {}, 0.25, OME),
    "OME in mm": (".ome.tif", physical(0.001, "mm"), None, {}, 1.0, OME),
    "OME without a unit": (
        ".ome.tif",
        made.ome(PICTURE, "YXS", OME_HALF, photometric="rgb"),
        None,
        {},
        0.5,
        OME,
    ),
    "ImageJ": (
        ".tif",
        tiff(resolution=(2, 2), imagej=True, metadata={"unit": "um"}),
        None,
        {},
        0.5,
        TAGS,
    ),
    "png": (".png", made.save(PLAIN, dpi=(25400, 25400)), None, {}, 1.0, "the picture's"),
    "the user alone": (".png", made.save(PLAIN), 0.5, {}, 0.5, "pixel_um"),
    "the array alone": (".png", made.save(PLAIN), None, {"array pitch": 0.5}, 0.5, "array pitch"),
    "sides that the array states": (
        ".png",
        made.save(PLAIN),
        None,
        {"array pitch": (0.5, 0.6)},
        0.55,
        "array pitch",
    ),
    "the user before the file": (".tif", tags(0.5), 0.51, {}, 0.51, "pixel_um"),
    "the file before the array": (".tif", tags(0.5), None, {"array pitch": 0.51}, 0.5, TAGS),
    "72 dots per inch": (".tif", dots(72, **TILE), 0.5, {}, 0.5, "pixel_um"),
    "300 dots per inch": (".jpg", made.save(PLAIN, dpi=(300, 300)), 0.5, {}, 0.5, "pixel_um"),
    "sides within 5 %": (".tif", tags(0.5, 0.52), None, {}, 0.51, TAGS),
    "sides that the user states": (".tif", tags(0.5, 0.6), (0.5, 0.6), {}, 0.55, "pixel_um"),
    "sides as a list": (".tif", tags(0.5, 0.6), [0.5, 0.6], {}, 0.55, "pixel_um"),
}


def opened(tmp_path, suffix, write, pixel_um, stated):
    path = tmp_path / f"slide{suffix}"
    write(path)
    return open_image(path, pixel_um, stated)


@pytest.mark.parametrize("case", SETTLED)
def test_settled(tmp_path, case):
    suffix, write, pixel_um, stated, holds, where = SETTLED[case]
    with opened(tmp_path, suffix, write, pixel_um, stated) as image:
        assert image.pixel_um == pytest.approx(holds, rel=1e-4)
        first, *others = image.statements
        assert first.startswith(where)
        assert all(v == pytest.approx(holds, rel=0.05) for v in image.statements.values())
        assert len(others) == (pixel_um is not None and TAGS in image.statements) + (
            where == TAGS and bool(stated)
        )


REFUSED = {
    "nothing": (".png", made.save(PLAIN), None, {}, r"how many µm a pixel is.*--pixel-um"),
    "72 dots per inch": (".tif", dots(72, **TILE), None, {}, "how many µm"),
    "96 dots per inch": (".jpg", made.save(PLAIN, dpi=(96, 96)), None, {}, "how many µm"),
    "300 dots per inch in strips": (".tif", dots(300), None, {}, "how many µm"),
    "a resolution without unit": (
        ".tif",
        tiff(resolution=(20000, 20000), resolutionunit="NONE"),
        None,
        {},
        "how many µm",
    ),
    "OME in pixels": (".ome.tif", physical(0.5, "pixel"), None, {}, "how many µm"),
    "user and file": (
        ".tif",
        tags(0.25),
        0.5,
        {},
        rf"differ by more than 5%: 0.5 µm by pixel_um, 0.25 µm by {TAGS}",
    ),
    "user and scanner's tag": (".tif", tags(0.25, **TILE), 0.27, {}, f"0.25 µm by {MPP}"),
    "file and array": (
        ".tif",
        tags(0.5),
        None,
        {"array pitch": 0.55, "metadata": 0.5},
        "0.5 µm by TIFF.*, 0.55 µm by array pitch, 0.5 µm by metadata",
    ),
    "OME and tags": (
        ".ome.tif",
        physical(0.5, "µm", resolution=(40000, 40000), resolutionunit="CENTIMETER"),
        None,
        {},
        "0.5 µm by OME.*, 0.25 µm by TIFF",
    ),
    "sides": (".tif", tags(0.5, 0.6), None, {}, r"0\.5 by 0\.6 µm, .*not square.*\(0\.5, 0\.6\)"),
    "sides in tiles": (".tif", tags(0.5, 0.6, **TILE), None, {}, "not square"),
    "sides and one number": (".tif", tags(0.5, 0.6), 0.55, {}, "differ by more than 5%"),
    "sides the other way round": (".tif", tags(0.5, 0.6), (0.6, 0.5), {}, "differ by more"),
    "zero": (".png", made.save(PLAIN), 0.0, {}, "pixel size 0.0 that pixel_um states"),
    "negative": (".png", made.save(PLAIN), -0.5, {}, "from 0.05 to 20"),
    "NaN": (".png", made.save(PLAIN), float("nan"), {}, "pixel size nan"),
    "text": (".png", made.save(PLAIN), "0.5", {}, "pixel size '0.5'"),
    "an impossible array": (".png", made.save(PLAIN), 0.5, {"array pitch": 500}, "array pitch"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path, case):
    suffix, write, pixel_um, stated, said = REFUSED[case]
    with pytest.raises(FlagError) as error:
        opened(tmp_path, suffix, write, pixel_um, stated)
    assert re.search(said, str(error.value)), str(error.value)
    assert f"slide{suffix}" in str(error.value)
    assert "Remedy: " in str(error.value)


def test_numbers_of_numpy_are_numbers(tmp_path):
    tifffile.imwrite(tmp_path / "slide.tif", PICTURE, photometric="rgb")
    with open_image(tmp_path / "slide.tif", np.float32(0.5), {"array pitch": np.float64(0.5)}) as i:
        assert i.pixel_um == 0.5
        assert i.statements == {"pixel_um": 0.5, "array pitch": 0.5}


def test_a_square_in_um_follows_the_pixel_size(tmp_path):
    tifffile.imwrite(tmp_path / "slide.tif", PICTURE, photometric="rgb")
    with open_image(tmp_path / "slide.tif", 0.25) as image:
        np.testing.assert_array_equal(image.read((25, 50), 16, 64), PICTURE[200:264, 100:164])
    with open_image(tmp_path / "slide.tif", 2.0) as image:
        np.testing.assert_array_equal(image.read((200, 400), 128, 64), PICTURE[200:264, 100:164])
