"""TIFF files that OpenSlide does not read, or not right: in strips, OME, of 16 bits, with alpha."""

import struct
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from flag_st.slides.colour import DARK, GRAY, JPEG, SCALE, Colour, colour_of
from flag_st.slides.ome import Ome, read_ome
from flag_st.slides.reader import KEPT, Reader, damaged, is_level, part, refused

if TYPE_CHECKING:
    from tifffile import TiffFile as Container
    from tifffile import TiffPage, TiffPageSeries

#: TIFF's ResolutionUnit → µm, and ImageJ's names of units.
RESOLUTION_UM = {2: 25400.0, 3: 1e4}
IMAGEJ_UM = {"micron": 1.0, "microns": 1.0, "um": 1.0, "µm": 1.0, "\\u00b5m": 1.0, "mm": 1e3}


class TiffFile(Reader):
    """The largest picture of a TIFF, with its own reduced levels.

    Of a stack of focal planes or times, the first is read. Tiles that are absent are white. Samples
    of more than eight bits are cut to their highest eight.

    Raises:
        FlagError: the picture is no H&E in colours of light, or it is damaged.
    """

    def __init__(self, path: Path):
        self.path, self.tiff = path, open_tiff(path)
        try:
            series, ome = largest(self.tiff), read_ome(path, self.tiff.ome_metadata)
            full = (series.sizes["width"], series.sizes["height"])
            self.levels: list[_Level] = []
            for level in series.levels:
                size = (level.sizes["width"], level.sizes["height"])
                if is_level(size, full) and (not self.levels or size < self.levels[-1].size):
                    self.levels.append(_Level(path, _pages(path, level, ome), ome))
            self.sizes = [level.size for level in self.levels]
            self.downsamples = [
                (full[0] / width + full[1] / height) / 2 for width, height in self.sizes
            ]
            self.statements = self._statements(ome)
            self._upright()
            self.levels[0].try_one()
            self._bright()
        except BaseException:
            self.close()
            raise

    def _upright(self) -> None:
        tag = self.levels[0].pages[0].tags.get("Orientation")
        if tag is not None and tag.value != 1:
            turned = f"is stored turned (its tag Orientation is {int(tag.value)})"
            fault = (
                f"{turned}, and programs differ on whether positions refer to the turned picture"
            )
            raise refused(self.path, fault, "store it upright: vips autorot IN OUT")

    def _bright(self) -> None:
        """Refuse a 16-bit picture whose values use a part of the range that is not stated."""
        if self.levels[0].colour.bits <= 8:
            return
        brightest = max(int(tile.max()) for tile in self.levels[-1].some_tiles())
        if brightest < DARK * 256:
            share = f"{(brightest + 1) / 256:.1%}"
            fault = (
                f"has samples of {self.levels[0].colour.bits} bits, none of which is above {share}"
            )
            fault += " of their range: how bright glass is, is not stated"
            raise refused(self.path, fault, SCALE)

    def _statements(self, ome: Ome) -> dict[str, tuple[float, float]]:
        page = self.levels[0].pages[0]
        found = {"OME PhysicalSizeX and -Y": ome.pixel_um} if ome.pixel_um else {}
        if (tags := resolution_um(page, self.tiff)) is not None:
            found["TIFF tags XResolution and YResolution"] = tags
        return found

    def region(self, corner: tuple[int, int], level: int, size: tuple[int, int]) -> Image.Image:
        down = self.downsamples[level]
        place = (round(corner[0] / down), round(corner[1] / down))
        return self.levels[level].region(place, size)

    def close(self) -> None:
        self.tiff.close()


class _Level:
    """One level: a page, or pages that hold one channel each."""

    def __init__(self, path: Path, pages: list["TiffPage"], ome: Ome):
        page = pages[0]
        self.path, self.pages = path, pages
        self.size = (page.imagewidth, page.imagelength)
        # With separate planes, tifffile may count a plane's rows as samples; its axes are right.
        samples = page.shape[page.axes.index("S")] if "S" in page.axes else 1
        self.planes = samples if page.planarconfig == 2 else 1
        self.colour: Colour = colour_of(path, page, samples * len(pages), ome.bits)
        self.tile = (page.tilewidth, page.tilelength) if page.is_tiled else (0, 0)
        self.kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self.whole: np.ndarray | None = None

    def region(self, corner: tuple[int, int], size: tuple[int, int]) -> Image.Image:
        """A part in RGB, white beyond the level; corner and size in its pixels."""
        if not self.pages[0].is_tiled:
            if self.whole is None:
                self.whole = self._decoded()
            return part(self.whole, corner, size)
        (x, y), (width, height) = corner, size
        canvas = np.full((height, width, 3), 255, np.uint8)
        right, bottom = min(x + width, self.size[0]), min(y + height, self.size[1])
        for row in range(max(y, 0) // self.tile[1], -(-bottom // self.tile[1])):
            for column in range(max(x, 0) // self.tile[0], -(-right // self.tile[0])):
                left, top = column * self.tile[0], row * self.tile[1]
                x0, x1 = max(x, left), min(right, left + self.tile[0])
                y0, y1 = max(y, top), min(bottom, top + self.tile[1])
                tile = self._tile(row, column)
                canvas[y0 - y : y1 - y, x0 - x : x1 - x] = tile[
                    y0 - top : y1 - top, x0 - left : x1 - left
                ]
        return Image.fromarray(canvas)

    def try_one(self) -> None:
        """Decode one tile or strip, so that an unknown compression is found at once."""
        page = self.pages[0]
        stored = [i for i, count in enumerate(page.databytecounts) if count]
        if stored:
            self._segment(page, stored[len(stored) // 2])

    def some_tiles(self) -> Iterator[np.ndarray]:
        """Parts in RGB that are spread over the level."""
        edge = 256
        for share_y in (0.1, 0.3, 0.5, 0.7, 0.9):
            for share_x in (0.1, 0.3, 0.5, 0.7, 0.9):
                corner = [int(s * n) for s, n in zip((share_x, share_y), self.size, strict=True)]
                size = [min(edge, n - c) for n, c in zip(self.size, corner, strict=True)]
                yield np.asarray(self.region((corner[0], corner[1]), (size[0], size[1])))

    def _tile(self, row: int, column: int) -> np.ndarray:
        """(h, w, 3) uint8; the tiles that were used last stay decoded."""
        across, down = (-(-n // t) for n, t in zip(self.size, self.tile, strict=True))
        index = row * across + column
        if index in self.kept:
            self.kept.move_to_end(index)
            return self.kept[index]
        parts = [
            self._segment(page, plane * across * down + index)
            for page in self.pages
            for plane in range(self.planes)
        ]
        there = [samples for samples in parts if samples is not None]
        if len(there) == len(parts):
            tile = self.colour.rgb(np.concatenate(there, axis=-1))
        else:
            tile = np.full((self.tile[1], self.tile[0], 3), 255, np.uint8)
        self.kept[index] = tile
        while len(self.kept) > max(1, KEPT // tile.nbytes):
            self.kept.popitem(last=False)
        return tile

    def _segment(self, page: "TiffPage", index: int) -> np.ndarray | None:
        """(h, w, S) samples of one tile, or None if the file does not hold it."""
        count = page.databytecounts[index] if index < len(page.databytecounts) else 0
        if count == 0:
            return None
        file = page.parent.filehandle
        try:
            # Before anything else is asked of the page: it reads its tags when they are needed.
            file.seek(page.dataoffsets[index])
            data = file.read(count)
            found = page.decode(data, index, **_tables(page))[0]
        except UNDECODABLE as error:
            raise damaged(self.path, error) from error
        return None if found is None else found[0]

    def _decoded(self) -> np.ndarray:
        """(H, W, 3) uint8: a picture in strips, decoded strip by strip."""
        width, height = self.size
        whole = _room((height, width, 3))
        whole[:] = 255
        if len(self.pages) > 1 or self.planes > 1:
            whole[:] = self.colour.rgb(self._planes())
            return whole
        try:
            for samples, (_, _, top, left, _), shape in self.pages[0].segments(maxworkers=1):
                if samples is not None:
                    there = self.colour.rgb(samples[0])
                    whole[top : top + shape[1], left : left + shape[2]] = there
        except UNDECODABLE as error:
            raise damaged(self.path, error) from error
        return whole

    def _planes(self) -> np.ndarray:
        """(H, W, S) samples of a picture whose channels are stored one after the other."""
        try:
            found = [page.asarray(maxworkers=1) for page in self.pages]
        except UNDECODABLE as error:
            raise damaged(self.path, error) from error
        if len(found) > 1:
            return np.stack(found, axis=-1)
        return np.moveaxis(found[0], self.pages[0].axes.index("S"), -1)


#: What decoders raise on damaged data; those of imagecodecs are RuntimeErrors.
UNDECODABLE = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    RuntimeError,
    MemoryError,
    struct.error,
)


def open_tiff(path: Path) -> "Container":
    """Open a TIFF that is whole.

    Raises:
        FlagError: its directories are damaged, or the file is cut off behind them.
    """
    import tifffile

    try:
        tiff = tifffile.TiffFile(path)
    except (tifffile.TiffFileError, *UNDECODABLE) as error:
        raise damaged(path, error) from None
    try:
        pages = [page for p in tiff.pages for page in (p, *(p.pages or ()))]
        pieces = [zip(p.dataoffsets, p.databytecounts, strict=True) for p in pages]
        end = max((start + length for page in pieces for start, length in page), default=0)
    except (tifffile.TiffFileError, *UNDECODABLE) as error:
        tiff.close()
        raise damaged(path, error) from None
    # Where the directories precede the tiles, only the offsets show that a file is cut off.
    if not len(tiff.pages) or end > path.stat().st_size:
        tiff.close()
        raise damaged(path, f"cut off: {path.stat().st_size} of {end} bytes")
    return tiff


def largest(tiff: "Container") -> "TiffPageSeries":
    """The picture with the most pixels; a label, a macro picture and a thumbnail have fewer."""
    pictures = [s for s in tiff.series if {"width", "height"} <= s.sizes.keys()]
    if not pictures:
        raise refused(Path(tiff.filehandle.path), "holds no picture", GRAY)
    return max(pictures, key=lambda s: s.sizes["width"] * s.sizes["height"])


def resolution_um(page: "TiffPage", tiff: "Container") -> tuple[float, float] | None:
    """µm per pixel along x and y by a page's tags, or None if they have no unit."""
    unit = page.tags.get("ResolutionUnit")
    um = RESOLUTION_UM.get(int(unit.value)) if unit is not None else None
    if tiff.is_imagej:
        um = IMAGEJ_UM.get(str((tiff.imagej_metadata or {}).get("unit", "")).lower(), um)
    tags = [page.tags.get(name) for name in ("XResolution", "YResolution")]
    if um is None or None in tags:
        return None
    per_unit = [tag.value[0] / (tag.value[1] or 1) for tag in tags if tag is not None]
    return (um / per_unit[0], um / per_unit[1]) if min(per_unit) > 0 else None


def _pages(path: Path, level: "TiffPageSeries", ome: Ome) -> list["TiffPage"]:
    """The page of a level, or one per channel; the first of any further dimension."""
    outer = [axis for axis in level.axes if axis not in "YXS"]
    lengths = [level.shape[level.axes.index(axis)] for axis in outer]
    channels = lengths[outer.index("C")] if "C" in outer else 1
    # Only OME says that channels in pages of their own are colours; those of ImageJ are dyes.
    if (ome.dyes or not ome.present) and channels > 1:
        fault = f"has channels of dyes ({', '.join(ome.dyes) or channels}) and no colour"
        raise refused(path, fault, GRAY)
    found = []
    for channel in range(channels):
        where = [channel if axis == "C" else 0 for axis in outer]
        page = level.pages[int(np.ravel_multi_index(where, lengths)) if outer else 0]
        if page is None:
            raise damaged(path, f"channel {channel} is in another file or absent")
        found.append(page.aspage())
    return found


def _tables(page: "TiffPage") -> dict[str, Any]:
    """What a JPEG tile needs beside its own bytes."""
    if page.compression not in JPEG:
        return {}
    return {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}


def _room(shape: tuple[int, int, int]) -> np.ndarray:
    """An array for a decoded picture, in a temporary file that nobody else sees if it is large."""
    if np.prod(shape, dtype=np.int64) <= KEPT:
        return np.empty(shape, np.uint8)
    return np.memmap(tempfile.TemporaryFile(), np.uint8, "w+", shape=shape)
