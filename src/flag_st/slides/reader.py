"""What every slide image can do, whatever its format: give squares and a thumbnail."""

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from PIL import Image

from flag_st.core.errors import FlagError

#: A level of more pixels than this is reduced in stripes, so that no thumbnail fills the memory.
STRIPE_PX = 1 << 25
#: Bytes of decoded tiles that are kept, and of a picture in strips that stays in memory. Larger
#: ones are decoded into a temporary file, once.
KEPT = 1 << 28
#: The sides of a level and of level 0 may differ in proportion by so many pixels of the level,
#: because writers round each side by itself.
ROUNDING_PX = 2.0


class Reader(ABC):
    """An open image of several levels, of which level 0 has the full resolution.

    Attributes:
        path: its file.
        sizes: (width, height) of each level in pixels.
        downsamples: pixels of level 0 per pixel of each level, in rising order.
        statements: the pixel sizes that the file states, as µm per pixel of level 0 along x and y,
            by where in the file each stands. Some may not come from a microscope
            (``pixel_size.settle`` sorts them).
        qupath_origin: where QuPath's coordinates begin, in pixels of level 0. It crops slides to the
            scanned area, which does not begin at (0, 0) in mrxs and a few other formats.
    """

    path: Path
    sizes: list[tuple[int, int]]
    downsamples: list[float]
    statements: dict[str, tuple[float, float]]
    qupath_origin: tuple[int, int] = (0, 0)

    @abstractmethod
    def region(self, corner: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        """A part of a level in RGB, in which everything beyond the image is white, like glass.

        Args:
            corner: its top left corner in pixels of level 0, which may lie outside.
            level: the level to read from.
            size: its width and height in pixels of this level.

        Raises:
            FlagError: the part cannot be decoded.
        """

    def close(self) -> None:
        """Free the file."""

    def __enter__(self) -> "Reader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of level 0 in pixels."""
        return self.sizes[0]

    def level(self, step: float) -> int:
        """The smallest level that is not coarser than ``step`` pixels of level 0 per pixel."""
        return max(0, sum(found <= step for found in self.downsamples) - 1)

    def square(self, corner: tuple[int, int], step: float, pixels: int) -> np.ndarray:
        """A square part of the image, resampled bicubically.

        Args:
            corner: its top left corner in pixels of level 0.
            step: pixels of level 0 per pixel of the result.
            pixels: edge of the result.

        Returns:
            (pixels, pixels, 3) uint8.
        """
        level = self.level(step)
        edge = max(1, round(pixels * step / self.downsamples[level]))
        region = self.region(corner, level, (edge, edge))
        return np.asarray(region.resize((pixels, pixels), Image.Resampling.BICUBIC))

    def thumbnail(self, longest: int) -> np.ndarray:
        """The whole image, (h, w, 3) uint8, neither side longer than ``longest`` or than level 0."""
        level = self.level(max(self.size) / longest)
        width, height = self.sizes[level]
        if width * height > STRIPE_PX:
            return self._in_stripes(level, longest)
        picture = self.region((0, 0), level, (width, height))
        picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        return np.asarray(picture)

    def _in_stripes(self, level: int, longest: int) -> np.ndarray:
        width, height = self.sizes[level]
        scale = min(1.0, longest / max(width, height))
        factor = max(1, int(0.5 / scale))  # Pillow averages pixels to twice the wanted size, too
        picture = self._reduced(level, factor)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        box = (0, 0, width / factor, height / factor)
        return np.asarray(picture.resize(size, Image.Resampling.LANCZOS, box=box))

    def _reduced(self, level: int, factor: int) -> Image.Image:
        """A level whose pixels are averaged ``factor`` by ``factor``, read in stripes."""
        width, height = self.sizes[level]
        rows = factor * max(1, STRIPE_PX // (4 * width * factor))
        canvas = Image.new("RGB", (-(-width // factor), -(-height // factor)))
        for top in range(0, height, rows):
            corner = (0, round(top * self.downsamples[level]))
            stripe = self.region(corner, level, (width, min(rows, height - top)))
            canvas.paste(stripe.reduce(factor), (0, top // factor))
        return canvas


def is_level(size: tuple[int, int], full: tuple[int, int]) -> bool:
    """Whether a picture has the proportions of level 0; labels and macro pictures do not."""
    (width, height), (full_width, full_height) = size, full
    scale = max(full_width / width, full_height / height)
    return (
        abs(full_width / scale - width) <= ROUNDING_PX
        and abs(full_height / scale - height) <= ROUNDING_PX
    )


def over_white(picture: Image.Image) -> Image.Image:
    """RGB of an RGBA picture on white, like glass."""
    if picture.getchannel("A").getextrema()[0] == 255:
        return picture.convert("RGB")
    white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, picture).convert("RGB")


def part(pixels: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    """A part of an array (H, W, 3) uint8, white beyond it; corner and size in its pixels."""
    (x, y), (width, height) = corner, size
    left, top = min(max(x, 0), pixels.shape[1]), min(max(y, 0), pixels.shape[0])
    there = pixels[top : max(y + height, top), left : max(x + width, left)]
    if there.shape[:2] == (height, width):
        return Image.fromarray(np.ascontiguousarray(there))
    canvas = np.full((height, width, 3), 255, np.uint8)
    canvas[top - y :, left - x :][: there.shape[0], : there.shape[1]] = there
    return Image.fromarray(canvas)


def damaged(path: Path, error: object) -> FlagError:
    """The error for a file whose content cannot be decoded."""
    fault = f"slide image file {path} is damaged or of another format ({error})"
    return FlagError(fault, remedy=AGAIN)


#: What to do about a file that cannot be read.
AGAIN = (
    "copy or download it again; a sound file of a format that is not read here can be converted: "
    "vips tiffsave IN OUT --tile --pyramid --compression jpeg"
)


def refused(path: Path, fault: str, remedy: str) -> FlagError:
    """The error for a sound file that is no picture of H&E, or not in a form that is read here."""
    return FlagError(f"slide image file {path} {fault}", remedy=remedy)
