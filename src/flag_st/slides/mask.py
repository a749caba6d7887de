"""Where tissue is on a slide, found by its colour."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.slides.image import SlideImage
from flag_st.slides.reader import refused

#: Saturation between glass and tissue is put where Otsu's method puts it, within these bounds: a
#: slide without tissue, or without glass, has two classes as well, and they mean nothing.
SATURATION = (0.05, 0.15)
#: Classes whose mean saturations are closer than this are one and the same.
SEPARATE = 0.06
#: Tissue and holes that are smaller are removed, in µm².
SPECK_UM2 = HOLE_UM2 = 1e4
#: Pen marks that are smaller are none, in µm²; larger ones are widened by so many µm, because
#: their rims are pale.
PEN_UM2, PEN_RIM_UM = 2e4, 48.0
#: Stain that has run out of the tissue is pale and smooth: it has less optical density above glass than
#: SMEAR_PALE, and this deviates within SMEAR_UM by less than SMEAR_SMOOTH. On seven sections of HER2ST,
#: smears deviate by up to 0.005, and spots that the authors chose as tissue by 0.013 or more.
SMEAR_UM, SMEAR_PALE, SMEAR_SMOOTH = 80.0, 0.05, 0.008
#: Points at which the disc of a spot is looked up, across it; 80 in all.
DISC = 10
#: How many points are looked up at a time, so that bins of Visium HD do not fill the memory.
BLOCK = 1 << 16


@dataclass(frozen=True)
class Mask:
    """Where tissue is.

    Attributes:
        array: (h, w) bool, true on tissue; its first pixel begins at the image's top left corner.
        um: edge of its pixels in µm.
    """

    array: np.ndarray
    um: float

    def inside(self, points_um: np.ndarray, diameter_um: float = 0.0) -> np.ndarray:
        """(N,) share of tissue, from 0 to 1, in the disc around each of the points (N, 2) in µm.

        With a diameter of zero, it says whether the point itself is on tissue. There is none
        beyond the image.
        """
        points = np.asarray(points_um, dtype=np.float64).reshape(-1, 1, 2)  # (N, 1, 2)
        if len(points) > BLOCK:
            blocks = np.array_split(points, -(-len(points) // BLOCK))
            return np.concatenate([self.inside(block, diameter_um) for block in blocks])
        cells = np.floor((points + _disc(diameter_um)) / self.um).astype(np.int64)  # (N, P, 2)
        height, width = self.array.shape
        there = ((cells >= 0) & (cells < (width, height))).all(-1)  # (N, P)
        x, y = np.where(there[..., None], cells, 0).transpose(2, 0, 1)  # 2 × (N, P)
        return (self.array[y, x] & there).mean(1)

    @property
    def area_mm2(self) -> float:
        return float(self.array.sum()) * self.um**2 / 1e6


def _disc(diameter: float) -> np.ndarray:
    """(P, 2) points that are spread evenly, and alike on all sides, over a disc around (0, 0)."""
    if diameter <= 0:
        return np.zeros((1, 2))
    side = (np.arange(DISC) + 0.5) / DISC - 0.5
    points = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    return diameter * points[(points**2).sum(1) <= 0.25]


def tissue_mask(image: SlideImage, um: float = 16.0) -> Mask:
    """Find tissue by its colour, as CLAM (Lu et al. 2021) and HEST-1k (Jaume et al. 2024) do.

    On a small copy of the slide, tissue is what is more saturated than glass by Otsu's method. Pen
    marks (blue, green, black, red), smears of stain, specks, and small holes within tissue are left
    out or filled.

    Args:
        image: the slide.
        um: edge of a pixel of the mask in µm; an image with coarser pixels keeps its own.

    Raises:
        FlagError: the image is too small for a mask, or there is no tissue on it.
    """
    small, um = small_copy(image, um)
    return Mask(find_tissue(small, um, image.path), um)


def small_copy(image: SlideImage, um: float) -> tuple[np.ndarray, float]:
    """A copy of the slide with pixels of about ``um``, and their exact edge in µm."""
    if not um > 0:
        raise FlagError(f"a mask cannot have pixels of {um} µm", remedy="give 16, for instance")
    if min(image.size) < 2:
        fault = f"has {image.size[0]} x {image.size[1]} pixels, which are too few for a mask"
        raise refused(image.path, fault, "give the slide image at full resolution")
    longest = max(image.size)
    small = image.thumbnail(max(1, round(longest * image.pixel_um / max(um, image.pixel_um))))
    return small, longest * image.pixel_um / max(small.shape[:2])


def find_tissue(small: np.ndarray, um: float, path: Path) -> np.ndarray:
    """(h, w) bool of a picture (h, w, 3) uint8 with pixels of ``um`` µm; ``path`` is for messages.

    Raises:
        FlagError: there is no tissue on the picture.
    """
    from scipy.ndimage import median_filter
    from skimage.color import rgb2hsv

    # A pixel's noise must not open holes, nor close the gaps between glands.
    smooth = median_filter(small, size=(3, 3, 1))
    hsv = rgb2hsv(smooth)  # (h, w, 3), each from 0 to 1
    pen = _pen(hsv, um)
    saturation = np.where(pen, 0.0, hsv[..., 1])
    tissue = saturation > _threshold(saturation[~pen])
    tissue &= ~_smear(small, um, glass=~tissue & ~pen)
    tissue = _without_small(tissue, SPECK_UM2 / um**2)
    # A hole that a pen made is none to fill.
    tissue = ~_without_small(~tissue, HOLE_UM2 / um**2) & ~pen
    if not tissue.any():
        raise refused(
            path,
            f"shows no tissue: nothing larger than {SPECK_UM2:g} µm² is stained",
            "check that it is an H&E picture in colour and that its pixel size is right, or draw the "
            "tissue and give it with --mask",
        )
    return tissue


def _threshold(saturation: np.ndarray) -> float:
    from skimage.filters import threshold_otsu

    low, high = SATURATION
    if saturation.size == 0 or np.ptp(saturation) == 0:
        return high
    otsu = float(threshold_otsu(saturation))
    above = saturation > otsu
    if saturation[above].mean() - saturation[~above].mean() < SEPARATE:
        return high  # one class: tissue if it is clearly stained, and tinted glass otherwise
    return min(max(otsu, low), high)


def _pen(hsv: np.ndarray, um: float) -> np.ndarray:
    """(h, w) bool: ink of a marker, whose colours haematoxylin and eosin cannot have together.

    Dyes obey Beer and Lambert. Haematoxylin absorbs (0.65, 0.70, 0.29) of red, green and blue
    (Ruifrok and Johnston 2001), so that a blue of saturation s is no brighter than (1 - s)^0.71.
    Eosin leaves blue, and red ink does not.
    """
    from skimage.morphology import dilation, disk

    hue, saturation, value = np.moveaxis(hsv, -1, 0)
    green = (hue > 0.19) & (hue <= 0.5) & (saturation > 0.2)
    beyond = value > (1 - saturation) ** 0.71 + 0.15
    blue = (hue > 0.5) & (hue < 0.69) & (saturation > 0.3) & (beyond | (hue < 0.62))
    red = ((hue < 0.04) | (hue > 0.96)) & (saturation > 0.7)
    # Nothing that transmits light is as dark over 16 µm; this is also the black around a scan.
    black = value < 0.25
    ink = np.zeros(hue.shape, bool)
    for colour in (green, blue, red, black):
        ink |= _without_small(colour, PEN_UM2 / um**2)
    radius = round(PEN_RIM_UM / um)
    return dilation(ink, disk(radius)) if radius and ink.any() else ink


def _smear(small: np.ndarray, um: float, glass: np.ndarray) -> np.ndarray:
    """(h, w) bool: what is hardly darker than the ``glass`` (h, w), and as smooth; nothing without glass."""
    from scipy.ndimage import uniform_filter

    if not glass.any():
        return np.zeros(glass.shape, bool)
    density = -np.log10((small.astype(np.float32) + 1) / 256).mean(2)  # (h, w)
    width = max(3, round(SMEAR_UM / um))
    mean = uniform_filter(density, width)
    variance = uniform_filter(density**2, width) - mean**2
    pale = mean - np.median(density[glass]) < SMEAR_PALE
    return pale & (variance < SMEAR_SMOOTH**2)


def _without_small(mask: np.ndarray, pixels: float) -> np.ndarray:
    """The connected parts of a mask that have at least so many pixels."""
    from skimage.measure import label

    parts = label(mask, connectivity=1)
    keep = np.bincount(parts.ravel()) >= pixels
    keep[0] = False
    return keep[parts]
