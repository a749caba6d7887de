"""A small picture of stained tissue, and the many ways in which files hold it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 700, 540
GLASS, TISSUE = (244, 243, 245), (176, 96, 168)
TILE = {"tile": (128, 128)}
RGB = {"photometric": "rgb", "metadata": None}


def picture(width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """(height, width, 3) uint8: an ellipse of tissue left of the middle, and unlike corners."""
    image = Image.new("RGB", (width, height), GLASS)
    draw = ImageDraw.Draw(image)
    box = [0.1 * width, 0.15 * height, 0.65 * width, 0.85 * height]
    draw.ellipse(box, fill=TISSUE)
    draw.rectangle([0, 0, 40, 20], fill=(200, 40, 90))
    draw.rectangle([width - 30, height - 60, width, height], fill=(40, 60, 120))
    grain = np.random.default_rng(0).integers(-6, 7, (height, width, 3))
    return np.clip(np.asarray(image) + grain, 0, 255).astype(np.uint8)


PICTURE = picture()
#: A smooth version, which JPEG keeps.
SMOOTH = np.asarray(Image.fromarray(PICTURE).resize((70, 54)).resize((WIDTH, HEIGHT)))


def tiff(pixels: np.ndarray = PICTURE, **options) -> Callable[[Path], None]:
    return lambda path: tifffile.imwrite(path, pixels, **{**RGB, **options})


def ome(pixels: np.ndarray, axes: str, metadata: dict | None = None, **options) -> Callable:
    facts = {"axes": axes, **(metadata or {})}
    return lambda path: tifffile.imwrite(path, pixels, ome=True, metadata=facts, **options)


def levels(*others: tuple[np.ndarray, int], nested: bool = False, **options) -> Callable:
    """A tiled page, then other pictures with a subfile type, as pages or below the first."""

    def write(path: Path) -> None:
        with tifffile.TiffWriter(path, ome=nested) as file:
            below = {"subifds": len(others), "metadata": {"axes": "YXS"}} if nested else {}
            file.write(PICTURE, **{**RGB, **TILE, **below, **options})
            for pixels, kind in others:
                file.write(pixels, subfiletype=kind, **{**RGB, **TILE, **options})

    return write


def save(picture: Image.Image, **options) -> Callable[[Path], None]:
    return lambda path: picture.save(path, **options)


def content(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data)


def cut(write: Callable[[Path], None], share: float) -> Callable[[Path], None]:
    """The same file, of which the last part is absent."""

    def spoil(path: Path) -> None:
        write(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return spoil


def with_absent_tile(write: Callable[[Path], None]) -> Callable[[Path], None]:
    """The same file, whose directory says that the first tile is not stored."""

    def spoil(path: Path) -> None:
        write(path)
        with tifffile.TiffFile(path, mode="r+") as file:
            for name in ("TileOffsets", "TileByteCounts"):
                tag = file.pages.first.tags[name]
                tag.overwrite((0, *tag.value[1:]))

    return spoil


def with_compression(write: Callable[[Path], None], number: int) -> Callable[[Path], None]:
    """The same file, whose directory names another compression."""

    def spoil(path: Path) -> None:
        write(path)
        with tifffile.TiffFile(path, mode="r+") as file:
            file.pages.first.tags["Compression"].overwrite(number)

    return spoil


def with_zeroed_tiles(path: Path) -> None:
    """Directories and the first tiles are sound; the bytes of later tiles are zero."""
    ome(PICTURE, "YXS", photometric="rgb", compression="zlib", **TILE)(path)
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        start, length = page.dataoffsets[-1], page.databytecounts[-1]
    data[start : start + length] = bytes(length)
    path.write_bytes(data)


def cover(opaque: np.ndarray) -> np.ndarray:
    """(HEIGHT, WIDTH, 1) uint8 coverage: half in the left part, full elsewhere."""
    alpha = np.full((HEIGHT, WIDTH, 1), 255, opaque.dtype)
    alpha[:, :200] = 128
    return alpha


WIDE = PICTURE.astype(np.uint16) * 257
ALPHA = cover(PICTURE)
STRAIGHT = np.concatenate([PICTURE, ALPHA], axis=-1)
SHARE = ALPHA / 255
ON_WHITE = np.rint(PICTURE * SHARE + 255 * (1 - SHARE)).astype(np.uint8)
PREMULTIPLIED = np.concatenate([np.rint(PICTURE * SHARE).astype(np.uint8), ALPHA], axis=-1)
PALETTED = Image.fromarray(PICTURE).quantize(64)
OF_PALETTE = np.asarray(PALETTED.convert("RGB"))
FIRST = np.moveaxis(PICTURE, -1, 0)
COLOURMAP = np.zeros((3, 256), np.uint16)
COLOURMAP[:, : len(PALETTED.getpalette()) // 3] = np.array(PALETTED.getpalette()).reshape(-1, 3).T
COLOURMAP *= 257
STACK = np.stack([PICTURE, 255 - PICTURE, PICTURE // 2])
TURNED = Image.fromarray(np.rot90(SMOOTH))  # to be turned by a quarter to the right
EXIF = Image.Exif()
EXIF[0x0112] = 6
WITHOUT_TILE = PICTURE.copy()
WITHOUT_TILE[:128, :128] = 255


def aperio(pixels: np.ndarray = SMOOTH, mpp: float = 0.499, **options) -> Callable[[Path], None]:
    """An SVS file: level 0, thumbnail, level 1, label and macro picture."""
    said = f"Aperio Image Library v11.2.1\n{WIDTH}x{HEIGHT} JPEG Q=70|AppMag = 20|MPP = {mpp}"
    kind = {"photometric": "rgb", "compression": "jpeg", "metadata": None, **options}
    label = np.full((256, 256, 3), (250, 220, 0), np.uint8)[..., : pixels[0, 0].size]
    label = label.reshape(256, 256, *pixels.shape[2:])

    def write(path: Path) -> None:
        with tifffile.TiffWriter(path) as file:
            file.write(pixels, description=said, **TILE, **kind)
            file.write(pixels[::8, ::8], **kind)
            file.write(pixels[::2, ::2], description=said, **TILE, **kind)
            file.write(label, subfiletype=1, description="Aperio\nlabel 256x256", **kind)
            file.write(label[:128], subfiletype=9, description="Aperio\nmacro 256x128", **kind)

    return write
