"""Slide images that OpenSlide reads: the formats of scanners, and tiled TIFF in 8-bit RGB."""

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from flag_st.slides.reader import KEPT, Reader, damaged, is_level, over_white


class OpenSlideFile(Reader):
    """A slide image read by OpenSlide.

    Raises:
        FlagError: OpenSlide cannot open the file.
    """

    def __init__(self, path: Path):
        import openslide

        self.path = path
        try:
            self.slide = openslide.OpenSlide(path)
        except openslide.OpenSlideError as error:
            raise damaged(path, error) from None
        # OpenSlide keeps 32 MiB, which is less than a row of tiles of a whole slide; the next row of
        # spots would then decode most tiles again.
        self.slide.set_cache(openslide.OpenSlideCache(KEPT))
        full = self.slide.dimensions
        #: Where each level is among those of OpenSlide, which takes any reduced picture for one.
        self.places = [
            i for i, size in enumerate(self.slide.level_dimensions) if is_level(size, full)
        ]
        self.sizes = [self.slide.level_dimensions[i] for i in self.places]
        self.downsamples = [self.slide.level_downsamples[i] for i in self.places]
        self.statements = self._statements()
        self.qupath_origin = scanned_corner(self.slide.properties)

    def _statements(self) -> dict[str, tuple[float, float]]:
        found = [self.slide.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
        x, y = found[0] or found[1], found[1] or found[0]
        return {"openslide.mpp-x and -y": (float(x), float(y))} if x and y else {}

    def region(self, corner: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        import openslide

        try:
            return over_white(self.slide.read_region(corner, self.places[level], size))
        except openslide.OpenSlideError as error:
            raise damaged(self.path, error) from error

    def close(self) -> None:
        self.slide.close()


def scanned_corner(properties: Mapping[str, str]) -> tuple[int, int]:
    """Top left corner of the scanned area, in pixels of level 0."""
    x, y = (int(properties.get(f"openslide.bounds-{axis}", 0)) for axis in "xy")
    return x, y
