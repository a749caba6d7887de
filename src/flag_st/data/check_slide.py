"""Faults of one slide's files, all of them at once and each with its remedy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flag_st.core.errors import Faults, FlagError
from flag_st.core.io import read_json
from flag_st.data.check_on_picture import check_on_picture
from flag_st.data.check_patches import AGAIN as AGAIN_PATCHES
from flag_st.data.check_patches import check_patches
from flag_st.data.check_places import AGREE, Pixel, check_places
from flag_st.data.check_table import Table, check_table
from flag_st.data.field import SIZE, UM_PER_PX
from flag_st.data.hest_layout import HEIGHT_KEYS, PIXEL_KEY, WIDTH_KEYS
from flag_st.data.labels import check_labels
from flag_st.data.patients import patient_of
from flag_st.data.slide_files import SlideFiles
from flag_st.slides.files import open_reader
from flag_st.slides.pixel_size import PIXEL_RANGE
from flag_st.slides.reader import AGAIN as AGAIN_IMAGE
from flag_st.slides.reader import Reader
from flag_st.slides.tiles import check_tiles

#: What readers raise on damaged files and on files of another format.
UNREADABLE = (OSError, KeyError, ValueError, TypeError, RuntimeError)
#: The remedy for an unreadable file, by the kind of file.
AGAIN = {
    "counts": "copy or download it again",
    "metadata": "restore it; it must hold HEST's keys",
    "slide image": AGAIN_IMAGE,
    "patch": AGAIN_PATCHES,
    "label": "write a tab-separated table of barcode and label, or remove the file",
}
#: A share of spots outside the image that is smaller speaks of stray spots, not of wrong positions.
STRAY = 0.05


@dataclass(frozen=True)
class Wanted:
    """What a cohort's key ``prepare`` asks of the files of its slides.

    Attributes:
        size, um_per_px: edge in pixels and resolution of the patches that a patch file must hold.
        patches_from: ``wsi``, ``hest`` or ``auto``, with the meaning they have for ``prepare``.
        unique_genes: whether a repeated gene symbol is a fault.
        pixel_scale: what the pixel sizes that the files state are multiplied by.
        check_places: whether spots must lie on tissue, and the colours at them match expression better
            than at exchanged or mirrored places.
        min_counts: spots with a lower total count are left out.
    """

    size: int = SIZE
    um_per_px: float = UM_PER_PX
    patches_from: str = "auto"
    unique_genes: bool = True
    pixel_scale: float = 1.0
    check_places: bool = True
    min_counts: int = 1


def check_slide(files: SlideFiles, slide: str, **wanted: Any) -> Faults:
    """All faults of one slide's files; nothing is written.

    Args:
        files: paths of the files, which need not exist.
        slide: its id, for messages.
        wanted: the attributes of ``Wanted``, each with its default.
    """
    faults, want = Faults(), Wanted(**wanted)
    given = {"auto": files.patches or files.wsi, "wsi": files.wsi, "hest": files.patches}
    if want.patches_from not in given:
        faults.add(f"patches_from is {want.patches_from!r}", choices=given)
    elif given[want.patches_from] is None:
        fault = f"slide {slide} has no image for patches_from: {want.patches_from}"
        faults.add(fault, remedy="add wsis/<slide>.tif or patches/<slide>.h5, or use the other")
    known = _read(_metadata, files.metadata, "metadata", faults, want.pixel_scale)
    facts, pixel = known or ({}, None)
    spots = (want.unique_genes, want.min_counts)
    table = _read(check_table, files.st, "counts", faults, *spots)
    if files.labels is not None and table is not None:
        _read(check_labels, files.labels, "label", faults, table.spots)
    if files.patches is not None and want.patches_from != "wsi":
        form = (want.size, want.um_per_px)
        there = _read(check_patches, files.patches, "patch", faults, table, form, pixel)
        # Spots without a patch are left out, wherever they lie.
        table = table.part(there) if table is not None and there is not None else table
    bounds = _bounds(facts)
    if files.wsi is not None:
        bounds = _read(_image, files.wsi, "slide image", faults, facts, pixel)
    if table is None or table.position is None or not len(table.position):
        return faults
    if bounds is not None and not _inside(table, bounds, faults):
        return faults
    check_places(table, facts, pixel, faults)
    if files.wsi is not None and not faults.messages:
        _read(_look, files.wsi, "slide image", faults, table, pixel if want.check_places else None)
    return faults


def check_counts(path: Path, unique_genes: bool = True, min_counts: int = 1) -> Faults:
    """All faults of the counts of a section without an image; positions are not asked for."""
    faults = Faults()
    _read(check_table, path, "counts", faults, unique_genes, min_counts, False)
    return faults


def overlapping_spots(metadata: Path) -> str | None:
    """A warning if the metadata say that spots are wider than their distance.

    On no array do spots overlap, so that one of the two numbers is wrong. A pixel size that was
    computed from the distance, as HEST's is, is then wrong by the same factor.
    """
    try:
        facts = read_json(metadata)
        spot, pitch = float(facts["spot_diameter"]), float(facts["inter_spot_dist"])
    except (FlagError, *UNREADABLE):
        return None  # not stated; whether the file is readable at all is for `check_slide` to say
    if not spot > pitch > 0:
        return None
    return (
        f"{metadata}: spots of {spot:g} µm at a distance of {pitch:g} µm would overlap; if the two are "
        f"swapped, the true pixel size is {spot / pitch:.4f} times {PIXEL_KEY}: set prepare: {{pixel_scale: "
        f"{spot / pitch:.4f}}} in the cohort's entry"
    )


def _read(check: Callable, path: Path, kind: str, faults: Faults, *args) -> Any:
    """Return ``check(path, faults, *args)``; add a fault and return None if that is impossible."""
    again = AGAIN[kind]
    try:
        with open(path, "rb") as handle:
            if handle.read(1):
                return check(path, faults, *args)
        faults.add(f"{kind} file {path} is empty", remedy=again)
    except FileNotFoundError:
        faults.add(f"{kind} file {path} does not exist", remedy="restore it or drop the slide")
    except IsADirectoryError:
        faults.add(f"{kind} file {path} is a directory", remedy="put the file itself there")
    except PermissionError:
        faults.add(f"{kind} file {path} may not be read", remedy="give permission to read it")
    except FlagError as error:
        faults.messages.append(str(error))
    except UNREADABLE as error:
        if "filter" in str(error) or "plugin" in str(error):
            again = "write it again with gzip, such as write_h5ad(path, compression='gzip')"
        faults.add(f"{kind} file {path} is damaged or of another format ({error})", remedy=again)
    return None


def _metadata(path: Path, faults: Faults, scale: float) -> tuple[dict[str, Any], Pixel | None]:
    """The metadata, and the pixel size, which ``scale`` corrects, unless that is faulty."""
    facts = read_json(path)
    if not isinstance(facts, dict):
        raise ValueError("not a JSON object")
    faults.attempt(patient_of, facts)
    low, high = PIXEL_RANGE
    size = facts.get(PIXEL_KEY)
    if size is None:
        fault = f"{path} has no {PIXEL_KEY}"
    elif isinstance(size, bool) or not isinstance(size, int | float):
        fault = f"{path}: {PIXEL_KEY} is {size!r}, not a number"
    elif not low <= size * scale <= high:
        corrected = "" if scale == 1 else f" times {scale:g}"
        fault = f"{path}: {PIXEL_KEY} is {size}{corrected}, outside {low} to {high} µm per pixel"
    else:
        return facts, Pixel(float(size), scale)
    faults.add(fault, remedy="write there the µm per pixel of the slide image's level 0")
    return facts, None


def _bounds(facts: Mapping[str, Any]) -> tuple[int, int] | None:
    """Width and height of level 0 by the metadata; None if they are not given as numbers."""
    found = []
    for keys in (WIDTH_KEYS, HEIGHT_KEYS):
        value = next((facts[key] for key in keys if facts.get(key) is not None), None)
        try:
            number = float(value) if isinstance(value, int | float | str) else 0.0
        except ValueError:
            return None
        if not 0 < number < np.inf:
            return None
        found.append(round(number))
    return found[0], found[1]


def _image(
    path: Path, faults: Faults, facts: Mapping[str, Any], pixel: Pixel | None
) -> tuple[int, int]:
    """Width and height of a slide image, which are compared with what the metadata state.

    Raises:
        FlagError: the file is damaged or cut off, or it is no picture of H&E.
    """
    with open_reader(path) as image:
        _same_picture(image, facts, pixel, faults)
        return image.size


def _look(path: Path, faults: Faults, table: Table, pixel: Pixel | None) -> None:
    """Check the parts of a slide image that the spots lie on.

    Args:
        path: the file.
        faults: faults are added to it.
        table: of the spots that are used; all of them lie on the image.
        pixel: the size of a pixel; None if it does not matter whether spots lie on tissue.

    Raises:
        FlagError: a part is absent or damaged.
    """
    assert table.position is not None
    with open_reader(path) as image:
        check_tiles(image, table.position)
        if pixel is not None:
            check_on_picture(table, image, pixel.um, faults)


def _same_picture(
    image: Reader, facts: Mapping[str, Any], pixel: Pixel | None, faults: Faults
) -> None:
    """Compare the image's size, and what it states of its pixels, with the metadata."""
    told = _bounds(facts)
    if told is not None and np.abs(np.subtract(told, image.size)).max() > 2:
        faults.add(
            f"slide image {image.path} has {image.size[0]} x {image.size[1]} px, and by the metadata it has "
            f"{told[0]} x {told[1]} px",
            remedy="give the picture that the positions refer to, and its size in the metadata",
        )
    if pixel is None:
        return
    low, high = PIXEL_RANGE
    for where, sides in image.statements.items():
        # Tags that say how large a picture is to be printed are no statement of a microscope.
        if not all(low <= side <= high for side in sides):
            continue
        mean = (sides[0] + sides[1]) / 2
        if all(abs(mean / own - 1) > AGREE for own in (pixel.stated, pixel.um)):
            corrected = "" if pixel.scale == 1 else f", corrected to {pixel.um:.4g} µm"
            faults.add(
                f"slide image {image.path} has pixels of {mean:.4g} µm by {where}, and of {pixel.stated:.4g} µm by "
                f"{PIXEL_KEY} of the metadata{corrected}",
                remedy="find out which is right, and correct the other; the tags of a TIFF are set, in pixels "
                "per mm, by: vips tiffsave IN OUT --tile --pyramid --xres 2000 --yres 2000",
            )


def _inside(table: Table, bounds: tuple[int, int], faults: Faults) -> bool:
    """Whether all spots lie on an image of width and height ``bounds``; a fault if not."""
    assert table.position is not None
    position = table.position
    out = ((position < 0) | (position >= bounds)).any(1)
    if not out.any():
        return True
    (left, top), (right, bottom) = position.min(0), position.max(0)
    swapped = ((position >= 0) & (position < bounds[::-1])).all()
    remedy = "swap the columns, x comes first" if swapped else "give pixels of its level 0"
    if not swapped and out.mean() < STRAY:
        some = ", ".join(np.asarray(table.spots)[out][:3])
        remedy = f"leave these spots out of the counts ({some})"
    faults.add(
        f"{table.path}: {out.sum()} of {len(position)} spots lie outside the image of {bounds[0]} x "
        f"{bounds[1]} px; x is {left:.0f} to {right:.0f}, y {top:.0f} to {bottom:.0f}",
        remedy=f"mend obsm['spatial']: {remedy}",
    )
    return False
