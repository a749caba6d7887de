"""Faults of ready-made patches: their form, their scale, and whether they surround their spots."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flag_st.core.errors import Faults
from flag_st.data.barcodes import check_suffixes, plain
from flag_st.data.check_places import Pixel
from flag_st.data.check_table import Table, check_repeats
from flag_st.data.hest_layout import PATCH_DATASETS

#: The remedy for a damaged file.
AGAIN = "download it again, or set patches_from: wsi to cut patches from the slide image"
#: Two statements of a patch's scale may differ by this share, because HEST rounds source sizes and
#: corners to whole pixels.
TOLERANCE = 0.05
#: A smaller share of spots with patches is a fault; that some have none is only told.
FEWEST = 0.25
#: A larger share of patches away from their spots shows that they are of other spots.
STRAYS = 0.1
#: How many patches are looked at.
LOOKED_AT = 16


def check_patches(
    path: Path, faults: Faults, table: Table | None, wanted: tuple[int, float], pixel: Pixel | None
) -> np.ndarray | None:
    """Check ready-made patches in HEST's layout.

    Args:
        path: the file.
        faults: faults and notes are added to it.
        table: of the spots under tissue; None if it could not be read.
        wanted: edge of a patch in pixels, and its µm per pixel.
        pixel: the pixel size of level 0; None if it is not known.

    Returns:
        (N,) bool: the spots of ``table`` that have a patch; None if that could not be found out.
    """
    import h5py

    with h5py.File(path, "r") as file:
        if missing := [k for k in PATCH_DATASETS if k not in file]:
            faults.add(f"{path}: no dataset {', '.join(missing)}", remedy=AGAIN)
            return None
        names = plain(file["barcode"].asstr()[:].ravel())
        before = len(faults.messages)
        _form(path, file, len(names), wanted[0], faults)
        check_repeats(path, names, "barcode", faults)
        if table is None or not table.spots or len(faults.messages) > before:
            return None
        _pixels(path, file["img"], faults)
        there = _joined(path, names, table, faults)
        if pixel is not None:
            fault = _stated_scale(file["img"].attrs, wanted, pixel)
            if fault is None and there.any() and table.position is not None:
                place = {name: i for i, name in enumerate(names)}
                rows = [place[s] for s, t in zip(plain(table.spots), there, strict=True) if t]
                offset = table.position[there] - file["coords"][:][rows]  # (n, 2)
                fault = _true_scale(offset, wanted, pixel)
            if fault is not None:
                faults.add(
                    f"{path}: {fault}",
                    remedy=AGAIN if pixel.scale == 1 else "set patches_from: wsi",
                )
    return there


def _form(path: Path, file, count: int, size: int, faults: Faults) -> None:
    img, coords = file["img"], file["coords"]
    for found, shape in ((img, (count, size, size, 3)), (coords, (count, 2))):
        if found.shape != shape:
            fault = f"{path}: {found.name[1:]} has shape {found.shape}, wanted {shape}"
            faults.add(fault, remedy=AGAIN)
    if img.dtype != np.uint8 or coords.dtype.kind not in "iu":
        fault = f"{path}: img is {img.dtype}, coords {coords.dtype}; wanted uint8 and integers"
        faults.add(fault, remedy=AGAIN)


def _pixels(path: Path, img, faults: Faults) -> None:
    """Refuse patches that are all of one colour, as writers that were interrupted leave them."""
    some = np.unique(np.linspace(0, len(img) - 1, min(LOOKED_AT, len(img))).astype(int))
    if all(np.ptp(img[i].reshape(-1, 3), axis=0).max() == 0 for i in some):
        faults.add(f"{path}: the patches show nothing: each is of one colour", remedy=AGAIN)


def _joined(path: Path, names: list[str], table: Table, faults: Faults) -> np.ndarray:
    """(N,) bool: the spots that have a patch."""
    there = np.isin(plain(table.spots), names)
    if not there.any():
        some = f"{', '.join(names[:2])} here, {', '.join(table.spots[:2])} there"
        fault = f"{path}: no barcode in common with the counts ({some})"
        faults.add(fault, remedy="use files of the same slide")
        return there
    check_suffixes(path, names, table.spots, faults)
    told = f"{path}: {(~there).sum()} of {len(there)} spots have no patch"
    if there.mean() < FEWEST:
        faults.add(told, remedy=AGAIN)
    elif not there.all():
        faults.notes.append(f"{told} and are left out")
    return there


def _stated_scale(attributes: Mapping, wanted: tuple[int, float], pixel: Pixel) -> str | None:
    """What is wrong with the scale that the attributes of the patches state; None if nothing is."""
    (size, um), source = wanted, attributes.get("patch_size_src")
    if source is None:
        return None
    # HEST rounds the source size to whole pixels.
    for own in (attributes.get("pixel_size"), pixel.stated):
        if own is None:
            continue
        scale = float(source) * float(own) * pixel.scale / size
        if abs(scale / um - 1) > TOLERANCE + 0.5 / float(source):
            by = f"patch_size_src {float(source):g} px of {float(own):.4g} µm"
            return f"patches of {scale:.3g} µm per pixel, wanted {um:.3g} (by {by})"
    return None


def _true_scale(offset: np.ndarray, wanted: tuple[int, float], pixel: Pixel) -> str | None:
    """What is wrong with the scale that the corners of the patches show; None if nothing is.

    A patch has its spot in its middle, so that the spot's distance from the corner is half an edge.

    Args:
        offset: (n, 2) pixels of level 0 from the corners of the patches to their spots.
        wanted, pixel: as for ``check_patches``.
    """
    size, um = wanted
    middle = np.median(offset, axis=0)  # (2,)
    slack = max(2.0, 0.1 * np.abs(middle).max())
    strays = (np.abs(offset - middle) > slack).any(1)
    if strays.mean() > STRAYS or np.ptp(middle) > slack:
        return (
            f"the patches do not lie around their spots: from corner to spot it is {middle[0]:.0f} px along x "
            f"and {middle[1]:.0f} px along y in the middle, and {strays.sum()} of {len(offset)} patches lie elsewhere"
        )
    scale = 2 * float(middle.mean()) * pixel.um / size
    if abs(scale / um - 1) <= TOLERANCE + 2 * pixel.um / (size * um):
        return None
    by = f"corners {middle.mean():.4g} px from the spots"
    return f"patches of {scale:.3g} µm per pixel, wanted {um:.3g} (by {by})"
