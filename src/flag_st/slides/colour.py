"""From the samples of a TIFF to colours of light, 8 bits each."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flag_st.slides.reader import refused

if TYPE_CHECKING:
    from tifffile import TiffPage

GRAY = (
    "give the H&E picture in colour; a picture with one channel per dye, such as fluorescence, has "
    "none of the colours that the encoders have learned"
)
PRINT = (
    "convert it by its colour profile, which says what the inks look like: "
    "vips icc_transform IN OUT srgb"
)
SCALE = "export it from the scanner's software in 8 bits per channel"
#: TIFF's ExtraSamples → what the fourth sample is.
ALPHA = {1: "premultiplied", 2: "straight"}
#: Compressions whose decoder returns RGB of YCbCr.
JPEG = (6, 7, 33007, 34892)
#: A 16-bit picture of glass and tissue has pixels at least this bright, as a share of the range.
DARK = 0.125


@dataclass(frozen=True)
class Colour:
    """How the samples of a pixel become red, green and blue.

    Attributes:
        path: the file, for messages.
        bits: bits of a sample. Of more than eight, the highest eight are kept.
        alpha: what the fourth sample is: none, ``straight`` or ``premultiplied`` coverage.
        palette: (n, 3) uint8 colour of each value, or None.
    """

    path: Path
    bits: int = 8
    alpha: str = ""
    palette: np.ndarray | None = None

    def rgb(self, samples: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 on white, of samples (h, w, S)."""
        if self.palette is not None:
            return self.palette[samples[..., 0]]
        values = samples if self.bits == 8 else (samples >> (self.bits - 8)).astype(np.uint8)
        if not self.alpha:
            return values
        cover = values[..., 3:].astype(np.float32) / 255
        colour = values[..., :3] * (cover if self.alpha == "straight" else 1)
        return np.clip(np.rint(colour + 255 * (1 - cover)), 0, 255).astype(np.uint8)


def colour_of(path: Path, page: "TiffPage", channels: int, significant: int | None) -> Colour:
    """How to read the colours of a page, or of ``channels`` pages that hold one channel each.

    Args:
        path: the file.
        page: the page, or the first of them.
        channels: number of samples per pixel of all pages together.
        significant: bits that are used of each sample, if the file states them.

    Raises:
        FlagError: these samples are no colours of light, or it is not known which.
    """
    kind = getattr(page.photometric, "name", str(page.photometric))
    if page.dtype is None or page.dtype.kind != "u" or page.dtype.itemsize > 2:
        raise refused(path, f"has samples of type {page.dtype}, not of 8 or 16 bits", SCALE)
    bits = significant or int(page.bitspersample)
    if not 8 <= bits <= 16:
        raise refused(path, f"has samples of {bits} bits", SCALE)
    if kind == "PALETTE" and channels == 1 and page.colormap is not None:
        return Colour(path, palette=(page.colormap.T >> 8).astype(np.uint8))
    if kind == "SEPARATED":
        raise refused(path, "has colours of print (CMYK)", PRINT)
    if channels < 3:
        raise refused(path, f"has {channels} channel{'s' * (channels > 1)} and no colour", GRAY)
    decoded = kind == "YCBCR" and page.compression in JPEG
    if kind not in ("RGB", "MINISBLACK") and not decoded:
        raise refused(path, f"has colours of the kind {kind}", "convert it to RGB")
    alpha = ALPHA.get(int((*page.extrasamples, 0)[0]), "")
    if channels > 4 or (channels == 4 and not alpha):
        fault = f"has {channels} channels, and the file does not say that they are colours"
        raise refused(path, fault, f"keep the three of red, green and blue, or {GRAY}")
    return Colour(path, bits, alpha if channels == 4 else "")
