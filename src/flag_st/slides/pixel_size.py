"""How many µm a pixel is: all statements compared, and none invented."""

import math
from collections.abc import Mapping
from numbers import Real
from pathlib import Path

from flag_st.slides.reader import refused

#: µm per pixel that level 0 of a scan, or of a reduced copy of it, can plausibly have.
PIXEL_RANGE = (0.05, 20.0)
#: Two statements, or the two sides of a pixel, may differ by this share.
TOLERANCE = 0.05
#: What the caller's own statement is called.
GIVEN = "pixel_um"

Size = float | tuple[float, float]


def settle(
    path: Path,
    found: Mapping[str, tuple[float, float]],
    pixel_um: Size | None,
    stated: Mapping[str, Size],
) -> tuple[float, dict[str, float]]:
    """The pixel size of an image, after all statements of it have been compared.

    Args:
        path: the image, for messages.
        found: what its file states, as µm per pixel along x and y.
        pixel_um: what the user says, for both sides or as (x, y).
        stated: what else is known, such as the pitch of an array, for both sides or as (x, y). A pair, also the
            user's, admits pixels that are not square.

    Returns:
        µm per pixel, by the user, else by the file, else by the first further statement, as the mean
        of x and y; and all statements, as such means.

    Raises:
        FlagError: two statements differ by more than 5 %, pixels are not square, a statement of the
            caller is no possible size, or there is no statement.
    """
    own = {} if pixel_um is None else {GIVEN: _pair(path, GIVEN, pixel_um)}
    # Tags of 72, 96 or 300 dots per inch say how large a picture is to be printed (353, 265 or 85 µm
    # per pixel), and no microscope has such pixels.
    known = {where: pair for where, pair in found.items() if all(map(_possible, pair))}
    further = {where: _pair(path, where, value) for where, value in stated.items()}
    statements = own | known | further
    if not statements:
        raise refused(
            path,
            "does not say how many µm a pixel is",
            f"state it, with --pixel-um or as {GIVEN} of the cohort or sheet: about 0.5 for a scan at "
            "20x, 0.25 at 40x; the scanner's software shows it",
        )
    _compare(path, statements)
    if not any(isinstance(size, tuple | list) for size in (pixel_um, *stated.values())):
        _square(path, statements)
    means = {where: (x + y) / 2 for where, (x, y) in statements.items()}
    return next(iter(means.values())), means


def _possible(value: float) -> bool:
    return PIXEL_RANGE[0] <= value <= PIXEL_RANGE[1]


def _pair(path: Path, where: str, value: Size) -> tuple[float, float]:
    sides = tuple(value) if isinstance(value, tuple | list) else (value, value)
    numbers = len(sides) == 2 and all(
        isinstance(s, Real) and not isinstance(s, bool) and math.isfinite(s) for s in sides
    )
    if not numbers or not all(map(_possible, sides)):
        fault = f"cannot have the pixel size {value!r} that {where} states"
        low, high = PIXEL_RANGE
        raise refused(path, fault, f"give µm per pixel of level 0, from {low:g} to {high:g}")
    return float(sides[0]), float(sides[1])


def _compare(path: Path, statements: Mapping[str, tuple[float, float]]) -> None:
    for axis in (0, 1):
        values = [pair[axis] for pair in statements.values()]
        if max(values) > min(values) * (1 + TOLERANCE):
            all_of_them = ", ".join(f"{_text(pair)} by {w}" for w, pair in statements.items())
            raise refused(
                path,
                f"has statements of its pixel size that differ by more than {TOLERANCE:.0%}: {all_of_them}",
                "find out which is right, and correct the other; the tags of a TIFF are set, in pixels "
                "per mm, by: vips tiffsave IN OUT --tile --pyramid --xres 2000 --yres 2000",
            )


def _square(path: Path, statements: Mapping[str, tuple[float, float]]) -> None:
    for where, (x, y) in statements.items():
        if max(x, y) > min(x, y) * (1 + TOLERANCE):
            fault = f"has pixels of {x:.4g} by {y:.4g} µm, which are not square, by {where}"
            remedy = (
                f"resample it to square pixels, or state both sides: {GIVEN}=({x:.4g}, {y:.4g})"
            )
            raise refused(path, fault, remedy)


def _text(pair: tuple[float, float]) -> str:
    x, y = pair
    return f"{x:.4g} µm" if math.isclose(x, y, rel_tol=1e-3) else f"{x:.4g} x {y:.4g} µm"
