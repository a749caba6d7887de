"""Plain pictures (PNG, JPEG and the like), which are decoded once."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from flag_st.slides.colour import GRAY, PRINT
from flag_st.slides.reader import Reader, damaged, over_white, part, refused

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "JPEG2000")


class PictureFile(Reader):
    """A picture without levels; it stays in memory. EXIF's orientation is applied.

    Pillow reads 16-bit colour as its high byte, which is also the rule for TIFF.

    Raises:
        FlagError: it cannot be decoded, or it has no colours of light.
    """

    def __init__(self, path: Path):
        self.path, self.downsamples = path, [1.0]
        limit = Image.MAX_IMAGE_PIXELS
        try:
            Image.MAX_IMAGE_PIXELS = None  # slides are large on purpose
            with Image.open(path, formats=FORMATS) as picture:
                self.statements = _statements(picture)
                self.pixels = np.asarray(_rgb(path, ImageOps.exif_transpose(picture)))
        except UnidentifiedImageError as error:
            raise damaged(path, f"no reader knows it: {error}") from None
        except (OSError, SyntaxError, ValueError, MemoryError) as error:
            raise damaged(path, error) from None
        finally:
            Image.MAX_IMAGE_PIXELS = limit
        self.sizes = [(self.pixels.shape[1], self.pixels.shape[0])]

    def region(self, corner: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        return part(self.pixels, corner, size)


def _rgb(path: Path, picture: Image.Image) -> Image.Image:
    """RGB over white, for the modes in which colours of light are stored."""
    if picture.mode == "CMYK":
        raise refused(path, "has colours of print (CMYK)", PRINT)
    if picture.mode not in ("RGB", "RGBA", "P", "PA"):
        raise refused(path, f"has no colour (its mode is {picture.mode})", GRAY)
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture.convert("RGB")
    return over_white(picture.convert("RGBA"))


def _statements(picture: Image.Image) -> dict[str, tuple[float, float]]:
    x, y = picture.info.get("dpi", (0, 0))
    if not (x > 0 and y > 0):
        return {}
    return {"the picture's resolution": (25400 / float(x), 25400 / float(y))}
