"""Hand-made colour and texture features: an encoder without weights.

It is the embedded offline stand-in for a pathology foundation model; it is not UNI and knows
nothing of morphology beyond stain, texture and nuclear density. Good for a first run, for tests and
as a floor that a learned encoder has to beat.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import ClassVar

import numpy as np
from scipy import ndimage
from skimage.color import rgb2hed, rgb2lab

from flag_st.core.code import code_digest
from flag_st.encoders.base import Encoder

#: Haematoxylin thresholds (units of skimage's ``rgb2hed``) from any nucleus to the darkest ones.
NUCLEI = (0.06, 0.10, 0.14)
PERCENTILES = (5, 25, 50, 75, 95)
#: Levels of the Haar pyramid: details of 2 to 32 µm at 1 µm/px.
LEVELS = 5
#: Widths of the blob filter in µm: lymphocyte, tumour nucleus, gland.
BLOBS = (1.5, 3.0, 6.0)
#: Objects below this area in µm² are specks of stain, not nuclei.
SPECK = 8
#: Distance of the eight neighbours of local binary patterns, in pixels.
RADII = (1, 2, 3)


class Texture(Encoder):
    """Stain, colour and texture statistics of each patch by itself.

    Lengths are those of the standard patch, whose pixels are halved to 1 µm. In a patch of twice the field of view
    each stands for twice the length.

    Args:
        block: patches read from disk at once; changes memory and progress steps, not features.
    """

    apart: ClassVar[bool] = True

    def __init__(self, block: int = 64):
        self.block = block

    def open(self, device: str) -> None:
        """Nothing to load; features are made on the CPU."""

    def encode(
        self,
        patches: np.ndarray,
        progress: Callable[..., Iterable] = lambda items, **_: items,
    ) -> np.ndarray:
        """(N, 224, 224, 3) uint8 → (N, D) float32, finite for blank patches too."""
        starts = progress(range(0, len(patches), self.block), desc="texture")
        rows = [describe(p) for i in starts for p in patches[i : i + self.block]]
        return np.asarray(rows, dtype=np.float32)  # (N, D)

    def digest(self) -> str:
        """The features have no weights: this file's code decides them."""
        return code_digest(__name__)


def describe(patch: np.ndarray) -> np.ndarray:
    """All 203 features of one (224, 224, 3) uint8 patch, which is first halved to 1 µm/px.

    Patches are taken one by one, so that no neighbour in a batch can change a bit of the result;
    the planes of one patch also stay in the processor's cache.
    """
    rgb = halve(patch.astype(np.float32) / 255)  # (h, w, 3)
    planes = colour_planes(rgb)  # (11, h, w)
    red, green, blue = planes[:3]
    grey, haematoxylin, eosin = (red + green + blue) / 3, planes[8], planes[9]
    # Green has most contrast between nuclei and stroma; both planes as 0..255 for the patterns.
    contrast = (255 * green).astype(np.uint8)  # (h, w)
    dark = np.minimum(1024 * haematoxylin, 255).astype(np.uint8)  # (h, w)
    parts = [
        moments(planes),
        percentiles(planes[[3, 4, 8, 9]]),
        fractions(planes),
        *(binary_patterns(p, r) for p in (contrast, dark) for r in RADII),
        *(haar_energies(p) for p in (grey, haematoxylin, eosin)),
        *(blobs(haematoxylin, s) for s in BLOBS),
        *(fibres(p, 4.0) for p in (grey, haematoxylin)),
        *(nuclei(haematoxylin, grey, t) for t in NUCLEI),
        density(haematoxylin),
    ]
    return np.concatenate(parts)


def halve(plane: np.ndarray) -> np.ndarray:
    """Average each square of four pixels of (H, W, ...); H and W are even."""
    rows = plane[::2] + plane[1::2]  # (H / 2, W, ...)
    return (rows[:, ::2] + rows[:, 1::2]) / 4  # (H / 2, W / 2, ...)


def colour_planes(rgb: np.ndarray) -> np.ndarray:
    """(h, w, 3) in [0, 1] → (11, h, w): R, G, B, saturation, value, L, a, b, H, E, D."""
    red, green, blue = (np.ascontiguousarray(plane) for plane in np.moveaxis(rgb, 2, 0))
    # A reduction over an axis of three would take many times as long.
    high = np.maximum(np.maximum(red, green), blue)
    low = np.minimum(np.minimum(red, green), blue)
    saturation = (high - low) / np.maximum(high, 1e-3)
    planes = [red, green, blue, saturation, high]
    planes += [*np.moveaxis(rgb2lab(rgb) / 100, 2, 0), *np.moveaxis(rgb2hed(rgb), 2, 0)]
    return np.stack(planes).astype(np.float32, copy=False)  # (11, h, w)


def moments(planes: np.ndarray) -> np.ndarray:
    """Mean, standard deviation and skewness of each plane."""
    flat = planes.reshape(len(planes), -1)  # (P, hw)
    mean = flat.mean(1)
    centred = flat - mean[:, None]
    square = centred * centred
    deviation = np.sqrt(square.mean(1))
    skew = (square * centred).mean(1) / np.maximum(deviation, 1e-2) ** 3
    return np.concatenate([mean, deviation, skew])


def percentiles(planes: np.ndarray) -> np.ndarray:
    """Each of ``PERCENTILES`` of all planes (P, h, w), interpolated linearly."""
    ordered = np.sort(planes.reshape(len(planes), -1), axis=1)  # (P, hw)
    place = np.array(PERCENTILES) / 100 * (ordered.shape[1] - 1)  # (Q,)
    below = place.astype(int)
    share, low, high = place - below, ordered[:, below], ordered[:, below + 1]
    # From the nearer of both, as numpy does. Its own function does not sort, which takes longer here.
    step = high - low
    return np.where(share < 0.5, low + step * share, high - step * (1 - share)).T.ravel()  # (Q P,)


def fractions(planes: np.ndarray) -> np.ndarray:
    """Area shares of glass, lumen or fat (white), of stroma (pink) and of both stains together."""
    saturation, value, haematoxylin, eosin = planes[3], planes[4], planes[8], planes[9]
    white = (value > 0.82) & (saturation < 0.12)
    pink = (eosin > 0.02) & (haematoxylin < NUCLEI[0]) & ~white
    both = (eosin > 0.02) & (haematoxylin > NUCLEI[0])
    return np.array([white.mean(), pink.mean(), both.mean()])


def _uniform_bins() -> np.ndarray:
    """(256, 10): 8-bit pattern → its bin; 0..8 ones in one run, or more than one run."""
    bits = (np.arange(256)[:, None] >> np.arange(8)) & 1
    changes = (bits != np.roll(bits, 1, axis=1)).sum(1)
    return np.eye(10)[np.where(changes <= 2, bits.sum(1), 9)]


UNIFORM = _uniform_bins()


def binary_patterns(plane: np.ndarray, radius: int) -> np.ndarray:
    """Histogram of rotation-invariant uniform local binary patterns (Ojala et al. 2002).

    The eight neighbours lie on a square, which needs no interpolation. A neighbour counts as
    brighter from 3 grey levels on, so that JPEG noise in flat areas makes no pattern.
    """
    r, (height, width) = radius, plane.shape
    centre = plane[r : height - r, r : width - r]
    least = np.minimum(centre, 252) + np.uint8(3)  # in 8 bits, which compare fastest
    codes = np.zeros(centre.shape, dtype=np.uint8)
    ring = [(-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1)]
    for bit, (dy, dx) in enumerate(ring):
        y, x = r + dy * r, r + dx * r
        shifted = plane[y : y + centre.shape[0], x : x + centre.shape[1]]
        codes |= (shifted >= least).view(np.uint8) << bit
    codes[centre > 252] = 0  # nothing is brighter by 3
    return np.bincount(codes.ravel(), minlength=256) @ UNIFORM / codes.size  # (10,)


def haar_energies(plane: np.ndarray) -> np.ndarray:
    """Log energies of edges and corners at each scale, and how much one direction prevails."""
    out = []
    for _ in range(LEVELS):
        height, width = (n // 2 * 2 for n in plane.shape)
        a, b = plane[0:height:2, 0:width:2], plane[0:height:2, 1:width:2]
        c, d = plane[1:height:2, 0:width:2], plane[1:height:2, 1:width:2]
        across, along = ((a + c - b - d) ** 2).mean(), ((a + b - c - d) ** 2).mean()
        corner = ((a - b - c + d) ** 2).mean()
        out += [across + along, corner, abs(across - along) / (across + along + 1e-5)]
        plane = (a + b + c + d) / 4
    energies = np.array(out).reshape(LEVELS, 3)
    energies[:, :2] = np.log(energies[:, :2] + 1e-6)
    return energies.ravel()


@cache
def kernel(sigma: float, order: int) -> np.ndarray:
    """Weights of scipy's Gaussian filter or of its derivative, up to three widths from the middle."""
    reach = int(3 * sigma + 0.5)
    impulse = np.zeros(2 * reach + 1)
    impulse[reach] = 1
    return ndimage.gaussian_filter1d(impulse, sigma, order=order, truncate=3, mode="constant")


def gauss(plane: np.ndarray, sigma: float, orders: tuple[int, int] = (0, 0)) -> np.ndarray:
    """``ndimage.gaussian_filter`` with ``truncate=3``, whose kernels are made only once."""
    for axis, order in enumerate(orders):
        plane = ndimage.correlate1d(plane, kernel(sigma, order), axis)
    return plane


def laplace_of_gauss(plane: np.ndarray, sigma: float) -> np.ndarray:
    """``ndimage.gaussian_laplace`` with ``truncate=3``."""
    return gauss(plane, sigma, (2, 0)) + gauss(plane, sigma, (0, 2))


def blobs(haematoxylin: np.ndarray, width: float) -> np.ndarray:
    """Strength and number of dark blobs of one size (Laplacian of Gaussian)."""
    step = 2 if width > 4 else 1  # large blobs survive halving, at a quarter of the cost
    plane, sigma = (halve(haematoxylin) if step == 2 else haematoxylin), width / step
    response = -(sigma**2) * laplace_of_gauss(plane, sigma)
    highest = ndimage.maximum_filter(response, int(2 * sigma) | 1)
    peaks = (response == highest) & (response > 0.02)
    strength = response[peaks].mean() if peaks.any() else 0.0
    return np.array([response.std(), np.abs(response).mean(), peaks.sum() / 100, strength])


def fibres(plane: np.ndarray, width: float) -> np.ndarray:
    """Gradient strength and coherence of its direction (structure tensor)."""
    dy, dx = np.gradient(plane)
    xx, yy, xy = (halve(halve(p)) for p in (dx * dx, dy * dy, dx * dy))
    xx, yy, xy = (gauss(p, width / 4) for p in (xx, yy, xy))
    trace = xx + yy
    coherence = np.sqrt((xx - yy) ** 2 + 4 * xy * xy)
    whole = np.hypot(xx.mean() - yy.mean(), 2 * xy.mean())
    total = trace.mean() + 1e-5
    return np.array(
        [np.sqrt(trace).mean(), np.sqrt(trace).std(), coherence.mean() / total, whole / total]
    )


def nuclei(haematoxylin: np.ndarray, grey: np.ndarray, threshold: float) -> np.ndarray:
    """Area share, number, size and darkness of the objects above a haematoxylin threshold."""
    mask = haematoxylin > threshold
    labels, _ = ndimage.label(mask)
    areas = np.bincount(labels.ravel())[1:]
    areas = areas[areas >= SPECK]
    if not len(areas):
        return np.zeros(6)
    size = np.log(areas)
    stain = haematoxylin[mask].mean(), grey[mask].std()
    return np.array([mask.mean(), len(areas) / 100, size.mean(), size.std(), *stain])


def density(haematoxylin: np.ndarray, cells: int = 4) -> np.ndarray:
    """How unevenly haematoxylin is spread over a grid of cells."""
    h, w = (n // cells for n in haematoxylin.shape)
    grid = haematoxylin[: h * cells, : w * cells].reshape(cells, h, cells, w).mean((1, 3))
    return np.array([grid.std(), grid.min(), grid.max(), grid[1:3, 1:3].mean()])
