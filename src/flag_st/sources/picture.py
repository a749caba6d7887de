"""The image of a section as its owner has it: its size, its pixel size, and whether it must be converted.

This is the one place of the sources that opens a slide image.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from flag_st.core.errors import FlagError
from flag_st.data.check_slide import PIXEL_RANGE

if TYPE_CHECKING:
    from PIL import Image

#: By how much two statements of the pixel size may differ.
TOLERANCE = 0.05


@dataclass(frozen=True)
class Picture:
    """An image at full resolution.

    Attributes:
        path: its file.
        size: width and height in pixels.
        pyramid: whether OpenSlide reads the file as it is.
        pixel_um: µm per pixel, settled; every statement agrees with it.
        statements: every statement of the pixel size, by where it stands.
    """

    path: Path
    size: tuple[int, int]
    pyramid: bool
    pixel_um: float
    statements: dict[str, float] = field(default_factory=dict)


def open_picture(
    path: Path, pixel_um: float | None = None, stated: Mapping[str, float] = {}
) -> Picture:
    """Look at an image without decoding it, and settle its pixel size.

    Args:
        path: the image.
        pixel_um: what the user says.
        stated: further statements, by where they stand; the first one is used if the user says nothing.

    Raises:
        FlagError: the file is unreadable, nothing states the pixel size, or two statements differ by
            more than 5 %.
    """
    size, own, pyramid = _look(path)
    statements = {} if pixel_um is None else {"pixel_um of the configuration": pixel_um}
    statements |= stated
    if own is not None:
        statements[f"the image {path.name}"] = own
    return Picture(path, size, pyramid, settle(statements, str(path)), statements)


def settle(statements: Mapping[str, float], what: str) -> float:
    """The first of several statements of one pixel size, all of which must agree.

    Raises:
        FlagError: there is none, one is no plausible size, or two differ by more than 5 %.
    """
    low, high = PIXEL_RANGE
    for where, value in statements.items():
        if not low <= value <= high:
            raise FlagError(
                f"{what}: {where} states {value:.4g} µm per pixel, which is outside {low} to {high}",
                remedy="correct it there",
            )
    if not statements:
        raise FlagError(
            f"{what}: nothing states its pixel size",
            remedy="state it: the column pixel_um of the sheet, or pixel_um in the cohort's params",
        )
    least, most = (
        min(statements, key=statements.__getitem__),
        max(statements, key=statements.__getitem__),
    )
    if statements[most] > statements[least] * (1 + TOLERANCE):
        raise FlagError(
            f"{what}: two statements of the pixel size differ by more than 5 %: {least} states "
            f"{statements[least]:.4f} µm, {most} {statements[most]:.4f} µm",
            remedy="find out which one is wrong; positions, scale factors and image must be of one image",
        )
    return next(iter(statements.values()))


def _look(path: Path) -> tuple[tuple[int, int], float | None, bool]:
    """Width and height, own statement of the pixel size, and whether OpenSlide reads the file.

    Many programs write 72 or 300 dots per inch into any image, which would be pixels of 353 or 85 µm:
    an implausible size is no statement.
    """
    import openslide

    if not path.is_file():
        raise FlagError(
            f"slide image {path} does not exist", remedy="correct its name in the sheet"
        )
    try:
        if openslide.OpenSlide.detect_format(str(path)) is None:
            return _look_flat(path)
        with openslide.OpenSlide(path) as slide:
            stated = slide.properties.get(openslide.PROPERTY_NAME_MPP_X)
            return slide.dimensions, _plausible(stated), True
    except openslide.OpenSlideError as error:
        raise FlagError(
            f"slide image {path} is damaged ({error})", remedy="copy it again"
        ) from None


def _look_flat(path: Path) -> tuple[tuple[int, int], float | None, bool]:
    with _flat(path) as image:
        dpi = float((image.info.get("dpi") or (0,))[0])
        return image.size, _plausible(25400 / dpi) if dpi > 0 else None, False


@contextmanager
def _flat(path: Path) -> Iterator["Image.Image"]:
    """An image that Pillow reads, of any size: Pillow's own limit is meant for pictures from strangers.

    Raises:
        FlagError: Pillow cannot read the file.
    """
    from PIL import Image, UnidentifiedImageError

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as image:
            yield image
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise FlagError(
            f"slide image {path} is of no format that is read here ({error})",
            remedy="make it a pyramid: vips tiffsave IN OUT --tile --pyramid --compression jpeg",
        ) from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _plausible(stated: str | float | None) -> float | None:
    low, high = PIXEL_RANGE
    return float(stated) if stated is not None and low <= float(stated) <= high else None


def write_picture(picture: Picture, target: Path) -> Path:
    """The slide image that the pipeline reads: the picture itself, or a pyramid of it at ``target``."""
    if picture.pyramid:
        return picture.path
    from flag_st.data.pyramid import write_pyramid
    from flag_st.sources.legacy_st import PYRAMID

    with _flat(picture.path) as image:
        write_pyramid(target, image.convert("RGB"), (picture.pixel_um,) * 2, **PYRAMID)
    return target


def size_of(path: Path) -> tuple[int, int]:
    """Width and height in pixels of a small picture, whose pixel size does not matter.

    Raises:
        FlagError: it is damaged.
    """
    with _flat(path) as image:
        return image.size
