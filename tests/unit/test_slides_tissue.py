"""Tissue masks and the grids of spots that are laid over them."""

import json
import re
import sys

import numpy as np
import pytest
import slide_pictures as made
from PIL import Image, ImageDraw, ImageFilter
from scipy.spatial import cKDTree
from skimage.measure import find_contours

from flag_st.core.errors import FlagError
from flag_st.slides.given_mask import (
    check_given,
    lazyslide_polygons,
    mask_of,
    polygons_mask,
    read_polygons,
)
from flag_st.slides.grid import grid
from flag_st.slides.image import SlideImage, open_image
from flag_st.slides.mask import Mask, _smear, find_tissue, tissue_mask
from flag_st.slides.openslide_file import scanned_corner

GLASS, EOSIN, NUCLEI = (243, 241, 244), (214, 130, 180), (104, 72, 150)
#: µm per pixel of the pictures below, which are as wide as a section of 6 mm.
UM = 16.0


def scene(*shapes, ground=GLASS, tissue=True) -> np.ndarray:
    """(300, 400, 3) uint8: tissue in the middle, and further ellipses (box, colour) over it."""
    image = Image.new("RGB", (400, 300), ground)
    draw = ImageDraw.Draw(image)
    if tissue:
        draw.ellipse([100, 60, 300, 240], fill=EOSIN)
        draw.ellipse([140, 90, 220, 170], fill=NUCLEI)
    for box, colour in shapes:
        draw.ellipse(box, fill=colour)
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(0.7)))
    grain = np.random.default_rng(1).normal(0, 2, soft.shape)
    return np.clip(soft + grain, 0, 255).astype(np.uint8)


def ellipse(box, shape=(300, 400)) -> np.ndarray:
    image = Image.new("1", shape[::-1])
    ImageDraw.Draw(image).ellipse(box, fill=1)
    return np.asarray(image)


TRUE = ellipse([100, 60, 300, 240])


def agreement(found: np.ndarray, true: np.ndarray) -> float:
    return (found & true).sum() / (found | true).sum()


def test_tissue_is_found(tmp_path):
    assert agreement(find_tissue(scene(), UM, tmp_path), TRUE) > 0.97


@pytest.mark.parametrize(
    "ground", [(255, 255, 255), (236, 224, 238), (226, 209, 228), (238, 238, 226), (205, 205, 205)]
)
def test_on_tinted_glass(tmp_path, ground):
    assert agreement(find_tissue(scene(ground=ground), UM, tmp_path), TRUE) > 0.97


PENS = {
    "blue": (40, 70, 190),
    "royal blue": (60, 60, 200),
    "green": (40, 130, 70),
    "black": (30, 28, 32),
    "red": (215, 30, 45),
}


@pytest.mark.parametrize("pen", PENS)
def test_pen_marks_are_left_out(tmp_path, pen):
    box = [20, 20, 90, 120]
    found = find_tissue(scene((box, PENS[pen])), UM, tmp_path)
    assert not found[ellipse(box)].any()
    assert agreement(found, TRUE) > 0.97
    over = [230, 120, 330, 180]  # across the rim of the tissue
    found = find_tissue(scene((over, PENS[pen])), UM, tmp_path)
    assert not found[ellipse(over)].any()
    assert agreement(found, TRUE & ~ellipse(over)) > 0.9


@pytest.mark.parametrize("dye", [(110, 92, 170), (120, 80, 160), (170, 90, 150), (190, 80, 110)])
def test_dense_nuclei_and_blood_are_no_pen(tmp_path, dye):
    box = [160, 110, 240, 190]
    assert find_tissue(scene((box, dye)), UM, tmp_path)[ellipse(box)].all()


def with_smear(pixels: np.ndarray, box, colour, wash: float = 20.0) -> np.ndarray:
    """A wash of stain with soft borders, which darkens what is there as a thin layer of dye does."""
    layer = Image.new("L", pixels.shape[1::-1])
    ImageDraw.Draw(layer).ellipse(box, fill=255)
    share = np.asarray(layer.filter(ImageFilter.GaussianBlur(wash)))[..., None] / 255
    return np.rint(pixels * (1 + share * (np.array(colour) / GLASS - 1))).clip(0, 255).astype("u1")


@pytest.mark.parametrize("colour", [(240, 200, 222), (238, 208, 226), (222, 208, 240)])
def test_a_smear_of_stain_beside_the_tissue_is_none(tmp_path, colour):
    box = [260, 140, 390, 290]
    found = find_tissue(with_smear(scene(), box, colour), UM, tmp_path)
    assert found[ellipse(box) & ~ellipse([85, 45, 315, 255])].mean() < 0.02
    assert agreement(found, TRUE) > 0.95


@pytest.mark.parametrize(
    ("density", "deviation", "smear"),
    [(0.03, 0.002, True), (0.03, 0.013, False), (0.08, 0.002, False), (0.0, 0.0, True)],
)
def test_what_is_pale_but_structured_is_no_smear(density, deviation, smear):
    """Loose tissue deviates by 0.013 or more; smooth tissue is darker."""
    noise = np.random.default_rng(0).normal(density, deviation, (40, 60, 1))
    pixels = np.full((40, 120, 3), 240.0)
    pixels[:, 60:] *= 10**-noise
    glass = np.tile(np.arange(120) < 60, (40, 1))
    found = _smear(np.rint(pixels).astype(np.uint8), UM, glass)
    assert found[5:-5, 65:-5].mean() == pytest.approx(float(smear), abs=0.1)
    assert not _smear(pixels.astype(np.uint8), UM, np.zeros_like(glass)).any()


def test_smears_on_real_sections_are_left_out(her2st):
    """Tissue far from every spot that the authors chose was 0.4 to 1 mm² of C3, C4 and C5."""
    import anndata

    for section, known in {"A2": 0.9, "B4": 0.86, "C3": 0.97, "C4": 0.96, "C5": 0.98}.items():
        position = np.asarray(anndata.read_h5ad(her2st / "st" / f"{section}.h5ad").obsm["spatial"])
        with open_image(her2st / "wsis" / f"{section}.tif") as image:
            mask, spots = tissue_mask(image), position * image.pixel_um
        y, x = np.nonzero(mask.array)
        place = (np.column_stack([x, y]) + 0.5) * mask.um
        far = cKDTree(spots).query(place)[0] > 250
        assert far.sum() * mask.um**2 / 1e6 < 0.05
        assert (mask.inside(spots, 100) >= 0.5).mean() > known  # as before smears were left out


def test_specks_go_and_small_holes_are_filled(tmp_path):
    speck, hole, lumen = [30, 30, 35, 35], [250, 150, 255, 155], [120, 170, 170, 210]
    found = find_tissue(scene((speck, EOSIN), (hole, GLASS), (lumen, GLASS)), UM, tmp_path)
    assert not found[ellipse(speck)].any()
    assert found[ellipse(hole)].all()
    assert not found[ellipse([125, 175, 165, 205])].any()


def test_a_slide_of_tissue_alone(tmp_path):
    pixels = scene(([50, 50, 200, 200], NUCLEI), ground=EOSIN)
    assert find_tissue(pixels, UM, tmp_path).all()
    assert find_tissue(scene(ground=EOSIN, tissue=False), UM, tmp_path).all()


@pytest.mark.parametrize("ground", [(255, 255, 255), GLASS, (226, 209, 228), (120, 120, 120)])
def test_a_blank_slide_is_refused(tmp_path, ground):
    with pytest.raises(FlagError, match=r"slide.tif shows no tissue.*Remedy: .*--mask"):
        find_tissue(scene(ground=ground, tissue=False), UM, tmp_path / "slide.tif")


@pytest.mark.parametrize(
    ("ground", "tissue"),
    [
        ((6, 5, 9), (40, 60, 200)),  # nuclei in DAPI
        ((6, 5, 9), (30, 180, 50)),
        (GLASS, (120, 120, 121)),  # H&E in shades of gray
    ],
)
def test_pictures_without_the_colours_of_stained_tissue_are_refused(tmp_path, ground, tissue):
    pixels = scene(([100, 60, 300, 240], tissue), ground=ground, tissue=False)
    with pytest.raises(FlagError, match=r"no tissue.*H&E picture in colour"):
        find_tissue(pixels, UM, tmp_path)


@pytest.mark.parametrize("pen", PENS)
def test_a_blank_slide_with_a_mark_is_refused(tmp_path, pen):
    with pytest.raises(FlagError, match="no tissue"):
        find_tissue(scene(([20, 20, 200, 120], PENS[pen]), tissue=False), UM, tmp_path)


def slide(tmp_path, pixels, um: float, name="slide.png") -> SlideImage:
    Image.fromarray(pixels).save(tmp_path / name)
    return open_image(tmp_path / name, um)


@pytest.mark.parametrize("size", [(1, 1), (1, 300)])
def test_too_few_pixels_for_a_mask(tmp_path, size):
    pixels = np.full((*size, 3), EOSIN, np.uint8)
    with (
        slide(tmp_path, pixels, 0.5) as image,
        pytest.raises(FlagError, match="are too few for a mask"),
    ):
        tissue_mask(image)


@pytest.mark.parametrize("um", [0.5, 2.0, 16.0])
def test_the_mask_of_a_slide_is_in_um(tmp_path, um):
    scale = int(UM / um / 2) or 1  # the slide is 6.4 mm wide, or half of it
    pixels = np.asarray(Image.fromarray(scene()).resize((400 * scale, 300 * scale)))
    with slide(tmp_path, pixels, um) as image:
        mask = tissue_mask(image)
    assert mask.um == pytest.approx(16, rel=0.01)
    assert mask.array.dtype == bool
    assert mask.array.shape[1] * mask.um == pytest.approx(400 * scale * um)
    share = TRUE.mean()
    area = 400 * 300 * (scale * um) ** 2 / 1e6
    assert mask.area_mm2 == pytest.approx(share * area, rel=0.05)
    middle, corner = np.array([200, 150]) * scale * um, np.array([5, 5]) * scale * um
    assert mask.inside(np.array([middle, corner])).tolist() == [1, 0]


def test_coarse_pixels_are_kept(tmp_path):
    with slide(tmp_path, scene(), 18.0) as image:
        mask = tissue_mask(image)
    assert mask.array.shape == (300, 400)
    assert mask.um == pytest.approx(18)


def test_the_share_of_a_disc_is_its_area():
    mask = Mask(np.repeat([[True, False]], 100, 0).repeat(50, 1), 10.0)  # tissue left of 500 µm
    centres = np.array(
        [[300, 500], [480, 500], [500, 500], [520, 500], [700, 500], [0, 0], [-9, 0]]
    )
    share = mask.inside(centres, 100)
    # The segment of a circle of radius 50 that begins 20 from its centre has 25.2 % of the area.
    assert share == pytest.approx([1, 0.748, 0.5, 0.252, 0, 0.25, 0.2], abs=0.06)
    assert mask.inside(centres).tolist() == [1, 1, 0, 0, 0, 1, 0]


# Polygons


def traced(mask: Mask, image: SlideImage) -> list[list[np.ndarray]]:
    """The outlines of a mask as rings in pixels of level 0, with the holes of each."""
    padded = np.pad(mask.array, 1)
    rings = [(c[:, ::-1] - 0.5) * mask.um / image.pixel_um for c in find_contours(padded, 0.5)]
    area = [0.5 * np.sum(np.cross(r[:-1], r[1:] - r[:-1])) for r in rings]
    sign = np.sign(max(area, key=abs))
    outer = [r for r, a in zip(rings, area, strict=True) if np.sign(a) == sign]
    holes = [r for r, a in zip(rings, area, strict=True) if np.sign(a) != sign]
    return [[o, *(h for h in holes if within(h, o))] for o in outer]


def within(inner: np.ndarray, outer: np.ndarray) -> bool:
    low, high = outer.min(0), outer.max(0)
    return bool(((inner >= low) & (inner <= high)).all())


def test_polygons_of_our_own_mask_give_the_same_tables(tmp_path):
    pixels = scene(([120, 170, 170, 210], GLASS), ([20, 240, 80, 290], EOSIN))
    large = np.asarray(Image.fromarray(pixels).resize((1600, 1200)))
    with slide(tmp_path, large, 4.0) as image:
        mask = tissue_mask(image)
        polygons = traced(mask, image)
        again = polygons_mask(polygons, image)
    assert len(polygons) == 2
    assert sum(map(len, polygons)) == 3  # one of them has a hole
    np.testing.assert_array_equal(again.array, mask.array)
    assert again.um == mask.um
    one, other = (grid(m, 100, 55, "hexagonal") for m in (mask, again))
    assert one.names.tolist() == other.names.tolist()
    np.testing.assert_array_equal(one.position, other.position)


def geojson(path, polygons) -> str:
    rings = [[np.asarray(ring).tolist() for ring in polygon] for polygon in polygons]
    path.write_text(json.dumps({"type": "MultiPolygon", "coordinates": rings}))
    return str(path)


@pytest.fixture
def opened(tmp_path):
    pixels = scene(([120, 170, 170, 210], GLASS), ([20, 240, 80, 290], EOSIN))
    with slide(tmp_path, np.asarray(Image.fromarray(pixels).resize((1600, 1200))), 4.0) as image:
        yield image


def test_the_same_mask_as_a_file_gives_the_same_spots(opened, tmp_path):
    """As polygons, and as pictures of several kinds and sizes."""
    wanted = mask_of(opened)
    given = [geojson(tmp_path / "tissue.geojson", traced(wanted, opened))]
    grey = Image.fromarray(wanted.array.astype(np.uint8) * 200)
    rgba = Image.new("RGBA", grey.size, (0, 0, 0, 0))
    rgba.paste((0, 90, 0, 255), mask=Image.fromarray(wanted.array))
    wide = Image.fromarray(wanted.array.astype(np.uint16) * 900)
    fine = grey.resize((1600, 1200), Image.Resampling.NEAREST)
    for name, picture in {"grey": grey, "rgba": rgba, "wide": wide, "fine": fine}.items():
        picture.save(tmp_path / f"{name}.PNG")
        given.append(str(tmp_path / f"{name}.PNG"))
    spots = grid(wanted, 100, 55, "hexagonal")
    for file in given:
        check_given(file)
        mask = mask_of(opened, file)
        np.testing.assert_array_equal(mask.array, wanted.array, err_msg=file)
        found = grid(mask, 100, 55, "hexagonal")
        assert found.names.tolist() == spots.names.tolist()
        np.testing.assert_array_equal(found.position, spots.position)


def test_lazyslide_s_mask_is_that_of_its_polygons(opened, tmp_path):
    pytest.importorskip("lazyslide", reason="is in the extra `slides`")
    made.levels()(tmp_path / "slide.tif")
    with open_image(tmp_path / "slide.tif", 4.0) as image:
        check_given("lazyslide")
        mask = mask_of(image, "lazyslide")
        file = geojson(tmp_path / "lazy.geojson", lazyslide_polygons(image))
        np.testing.assert_array_equal(mask_of(image, file).array, mask.array)
        assert agreement(mask.array, mask_of(image).array) > 0.8
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".geojson", ".png", ".tif"]


def test_lazyslide_that_is_not_installed_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "lazyslide", None)
    with pytest.raises(FlagError, match=r"lazyslide is needed.*pip install -e '.\[slides\]'"):
        check_given("lazyslide")


def test_lazyslide_s_own_faults_are_told(opened, monkeypatch):
    """Its readers raise whatever theirs raise; a blank slide is a fault of its, too."""
    pytest.importorskip("lazyslide", reason="is in the extra `slides`")
    with pytest.raises(FlagError, match=r"LazySlide finds no tissue on .*slide.png.*Remedy: leave"):
        mask_of(opened, "lazyslide")  # which knows no png without a pyramid


def black(path):
    Image.new("L", (400, 300)).save(path)


MASKS = {
    "gone.geojson": (lambda path: None, "gone.geojson is no readable GeoJSON"),
    "gone.png": (lambda path: None, "the mask .*gone.png cannot be read"),
    "text.png": (made.content(b"no picture"), "cannot be read.*reduced copy"),
    "cut.png": (made.cut(black, 0.6), "cannot be read"),
    "mask.tif": (black, "of no kind that is read here. Valid: lazyslide, a .geojson file"),
    "LazySlide": (lambda path: None, "of no kind"),
    "line.json": (
        made.content(b'{"type": "LineString", "coordinates": [[0, 0], [1, 1]]}'),
        "holds no polygon",
    ),
}
UNFIT = {
    "black.png": (black, "black.png shows no tissue: it is black"),
    "wide.png": (made.save(Image.new("L", (400, 200), 255)), "400 x 200 .*other proportions"),
    "far.geojson": (
        made.content(b'{"type": "Polygon", "coordinates": [[[9000, 9], [9900, 9], [9900, 99]]]}'),
        "enclose nothing on .*slide.png",
    ),
}


@pytest.mark.parametrize("case", MASKS)
def test_masks_that_are_none_are_refused_before_anything_is_made(tmp_path, case):
    write, said = MASKS[case]
    write(tmp_path / case)
    with pytest.raises(FlagError) as error:
        check_given(str(tmp_path / case))
    assert re.search(said, str(error.value)), error.value
    assert case in str(error.value)


@pytest.mark.parametrize("case", UNFIT)
def test_masks_of_another_slide_are_refused(opened, tmp_path, case):
    write, said = UNFIT[case]
    write(tmp_path / case)
    check_given(str(tmp_path / case))
    with pytest.raises(FlagError, match=said):
        mask_of(opened, str(tmp_path / case))


def test_polygons_of_a_cropped_slide_are_moved(tmp_path):
    ring = np.array([[400, 240], [1200, 240], [1200, 960], [400, 960]])
    with slide(tmp_path, np.full((1200, 1600, 3), 255, np.uint8), 4.0) as image:
        assert image.qupath_origin == (0, 0)
        there = polygons_mask([[ring]], image)
        moved = polygons_mask([[ring - (80, 120)]], image, origin=(80, 120))
    np.testing.assert_array_equal(moved.array, there.array)
    bounds = {"openslide.bounds-x": "80", "openslide.bounds-y": "120"}
    assert scanned_corner(bounds) == (80, 120)
    assert scanned_corner({}) == (0, 0)


def test_geojson_of_other_tools(tmp_path):
    outer = [[400, 240], [1200, 240], [1200, 960], [400, 960], [400, 240]]
    hole = [[600, 400], [800, 400], [800, 600], [600, 600], [600, 400]]
    far = [[0, 0], [160, 0], [160, 160], [0, 160], [0, 0]]
    line = {"type": "LineString", "coordinates": [[0, 0], [9, 9]]}
    shapes = [
        {"type": "Polygon", "coordinates": [outer, hole]},
        {"type": "MultiPolygon", "coordinates": [[far]]},
        line,
    ]
    features = [{"type": "Feature", "properties": {}, "geometry": s} for s in shapes]
    with slide(tmp_path, np.full((1200, 1600, 3), 255, np.uint8), 4.0) as image:
        for content in ({"type": "FeatureCollection", "features": features}, features):
            path = tmp_path / "tissue.geojson"
            path.write_text(json.dumps(content))
            mask = polygons_mask(read_polygons(path), image)
            # 16 µm are four pixels, and the rings lie between pixels of the mask.
            assert mask.array.sum() == 200 * 180 - 50 * 50 + 40 * 40
            assert mask.inside(np.array([[700, 500], [500, 500]]) * 4.0).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "no readable GeoJSON.*QuPath"),
        ('{"type": "FeatureCollection", "features": []}', "holds no polygon"),
        ('{"type": "LineString", "coordinates": [[0, 0], [1, 1]]}', "holds no polygon"),
        ("3", "no readable GeoJSON"),
    ],
)
def test_other_files_are_no_polygons(tmp_path, text, said):
    (tmp_path / "tissue.geojson").write_text(text)
    with pytest.raises(FlagError, match=f"tissue.geojson.*{said}"):
        read_polygons(tmp_path / "tissue.geojson")


@pytest.mark.parametrize(
    ("polygons", "said"),
    [
        ([], "0 polygons enclose nothing"),
        ([[[[5000, 5000], [6000, 5000], [6000, 6000]]]], "enclose nothing on .*1600 x 1200"),
        ([[[[0, 0], [9, 9]]]], "polygon 1 has a ring of shape"),
        ([[0, 0], [9, 9]], "polygon 1 has a ring of shape"),
    ],
)
def test_polygons_that_are_none(tmp_path, polygons, said):
    with (
        slide(tmp_path, np.full((1200, 1600, 3), 255, np.uint8), 4.0) as image,
        pytest.raises(FlagError, match=said),
    ):
        polygons_mask(polygons, image)


# Grids

EVERYWHERE = Mask(np.ones((250, 250), bool), 16.0)  # 4 mm


def test_a_hexagonal_grid_is_visium_s():
    spots = grid(EVERYWHERE, 100, 55, "hexagonal")
    rows, columns = spots.array.T
    assert ((rows + columns) % 2 == 0).all()
    distance = np.linalg.norm(spots.position[:, None] - spots.position, axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert distance.min(1) == pytest.approx(100)
    inner = ((spots.position > 200) & (spots.position < 3800)).all(1)
    assert ((distance < 100.1).sum(1)[inner] == 6).all()
    assert np.unique(spots.position[:, 1])[1] - 50 == pytest.approx(86.6, abs=0.01)
    # One spot for each 8660 µm² of tissue.
    assert len(spots) == pytest.approx(16e6 / 8660, rel=0.05)


@pytest.mark.parametrize(("pitch", "spot"), [(200, 100), (16, 16), (8, 8)])
def test_a_square_grid(pitch, spot):
    mask = Mask(EVERYWHERE.array[:50, :40], 16.0)
    spots = grid(mask, pitch, spot, "square")
    assert len(spots) == (800 // pitch) * (640 // pitch)
    np.testing.assert_array_equal(spots.position, pitch / 2 + spots.array[:, ::-1] * pitch)
    assert spots.position.dtype == np.float64
    assert (spots.position < (640, 800)).all()
    assert (spots.pitch_um, spots.spot_um) == (pitch, spot)


def test_names_are_unique_and_those_of_places():
    mask = Mask(np.pad(np.ones((60, 90), bool), 50), 16.0)
    part = Mask(mask.array & (np.arange(190) < 100), 16.0)
    for layout in ("square", "hexagonal"):
        spots, fewer = grid(mask, 100, 55, layout), grid(part, 100, 55, layout)
        assert len(set(spots.names)) == len(spots)
        place = dict(zip(spots.names, map(tuple, spots.position), strict=True))
        assert 0 < len(fewer) < len(spots)
        for name, position in zip(fewer.names, fewer.position, strict=True):
            assert place[name] == tuple(position)
        again = grid(mask, 100, 55, layout)
        assert again.names.tolist() == spots.names.tolist()
        np.testing.assert_array_equal(again.array, spots.array)


def test_half_of_a_disc_must_be_tissue():
    for edge in range(20, 30):
        mask = Mask(np.repeat([np.arange(60) < edge], 60, 0), 10.0)
        spots = grid(mask, 100, 60, "square")
        right = spots.position[:, 0].max()
        assert right == (150 if edge <= 24 else 250), edge


def test_blocks_change_nothing(monkeypatch):
    mask = Mask(ellipse([20, 20, 230, 200], (250, 250)), 16.0)
    whole = grid(mask, 100, 55, "hexagonal")
    for module in ("grid", "mask"):
        monkeypatch.setattr(f"flag_st.slides.{module}.BLOCK", 100)
    np.testing.assert_array_equal(grid(mask, 100, 55, "hexagonal").array, whole.array)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((100, 55, "hex"), "layout is 'hex'. Valid: square, hexagonal"),
        ((0, 55, "square"), "pitch_um is 0"),
        ((100, -1, "square"), "spot_um is -1"),
        ((float("nan"), 55, "square"), "pitch_um is nan"),
        ((9000, 55, "square"), r"no spot of 55 µm at a pitch of 9000 µm is on tissue.*16 mm²"),
    ],
)
def test_grids_that_are_none(arguments, said):
    with pytest.raises(FlagError, match=said):
        grid(EVERYWHERE, *arguments)


def test_real_sections(her2st):
    """What the authors selected by eye is tissue by colour, and glass is not."""
    import anndata

    for section in ("A1", "C2"):
        path = her2st / "wsis" / f"{section}.tif"
        position = np.asarray(anndata.read_h5ad(her2st / "st" / f"{section}.h5ad").obsm["spatial"])
        with open_image(path) as image:
            mask = tissue_mask(image)
            at = mask.inside(position * image.pixel_um, 100)
            assert (at >= 0.5).mean() > 0.95
            spots = grid(mask, 200, 100, "square")
            assert len(spots) == pytest.approx(len(position), rel=0.1)


def test_the_picture_of_the_reader_tests_has_tissue(tmp_path):
    with slide(tmp_path, made.PICTURE, 4.0) as image:
        assert tissue_mask(image).array.mean() == pytest.approx(0.32, abs=0.06)
