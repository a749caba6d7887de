"""The image of a section as its owner has it: its size, and its pixel size as all statements have it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flag_st.core.errors import FlagError


@dataclass(frozen=True)
class Picture:
    """An image at full resolution.

    Attributes:
        path: its file, of any format that ``slides.files.open_reader`` reads.
        size: width and height in pixels.
        pixel_um: µm per pixel, settled; every statement agrees with it.
        statements: every statement of the pixel size, by where it stands.
    """

    path: Path
    size: tuple[int, int]
    pixel_um: float
    statements: dict[str, float] = field(default_factory=dict)


def open_picture(
    path: Path, pixel_um: float | None = None, stated: Mapping[str, float] = {}
) -> Picture:
    """Look at an image, and settle its pixel size; arguments and errors are ``open_image``'s."""
    from flag_st.slides.image import open_image

    with open_image(path, pixel_um, stated) as image:
        return Picture(path, image.size, image.pixel_um, image.statements)


def size_of(path: Path) -> tuple[int, int]:
    """Width and height in pixels of a small picture, whose pixel size does not matter.

    Raises:
        FlagError: it is damaged.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError) as error:
        raise FlagError(f"{path} is damaged ({error})", remedy="copy it again") from None
