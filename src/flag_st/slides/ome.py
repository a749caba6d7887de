"""What an OME-TIFF says of its picture: pixel size, channels and bits."""

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from flag_st.slides.reader import damaged

#: OME's units of length → µm. PhysicalSizeX is in µm if no unit is given.
UNIT_UM = {"nm": 1e-3, "µm": 1.0, "μm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "Å": 1e-4}
#: First letters of the names of colour channels, in the only order in which they are read.
COLOURS = "rgb"


@dataclass(frozen=True)
class Ome:
    """Facts of the first picture.

    Attributes:
        pixel_um: µm per pixel along x and y, or None.
        dyes: names of the channels if they are those of dyes, not of colours.
        bits: bits that are used of each sample, if stated.
        present: whether the file has OME-XML at all.
    """

    pixel_um: tuple[float, float] | None = None
    dyes: tuple[str, ...] = ()
    bits: int | None = None
    present: bool = False


def read_ome(path: Path, text: str | None) -> Ome:
    """The facts in OME-XML; none of them without it.

    Raises:
        FlagError: the XML is damaged.
    """
    if not text:
        return Ome()
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise damaged(path, f"its OME-XML: {error}") from None
    pixels = root.find("{*}Image/{*}Pixels")
    if pixels is None:
        return Ome(present=True)
    sizes = [_um(pixels, axis) for axis in "XY"]
    x, y = sizes[0] or sizes[1], sizes[1] or sizes[0]
    bits = pixels.get("SignificantBits")
    return Ome(
        pixel_um=(x, y) if x and y else None,
        dyes=_dyes(pixels.findall("{*}Channel")),
        present=True,
        bits=int(bits) if bits is not None and bits.isdigit() else None,
    )


def _um(pixels: ElementTree.Element, axis: str) -> float | None:
    value = pixels.get(f"PhysicalSize{axis}")
    unit = UNIT_UM.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
    try:
        return float(value) * unit if value is not None and unit is not None else None
    except ValueError:
        return None


def _dyes(channels: list[ElementTree.Element]) -> tuple[str, ...]:
    """Names of channels that have a dye or a wavelength, or names that are not red, green, blue."""
    names = [channel.get("Name", "") for channel in channels]
    lit = [any(c.get(key) for key in ("Fluor", "EmissionWavelength")) for c in channels]
    # Writers that know no name give "Channel 0", "C0" or nothing.
    named = [n for n in names if n.rstrip("0123456789:_ -").lower() not in ("", "c", "channel")]
    colours = [name[:1].lower() for name in names] == list(COLOURS)
    if any(lit) or (len(channels) > 1 and named and not colours):
        return tuple(name or "unnamed" for name in names)
    return ()
