"""Faults of one slide's files, all of them at once and each with its remedy."""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flag_st.core.errors import Faults, FlagError
from flag_st.core.io import read_json
from flag_st.data.hest_layout import HEIGHT_KEY, PATCH_DATASETS, PIXEL_KEY, WIDTH_KEY
from flag_st.data.labels import read_labels
from flag_st.data.slide_files import SlideFiles
from flag_st.slides.files import open_reader
from flag_st.slides.pixel_size import PIXEL_RANGE
from flag_st.slides.reader import AGAIN as AGAIN_IMAGE

#: How many values of a count matrix are read at a time.
BLOCK = 1 << 22
#: What readers raise on damaged files and on files of another format.
UNREADABLE = (OSError, KeyError, ValueError, TypeError, RuntimeError)
#: The remedy for an unreadable file, by the kind of file.
AGAIN = {
    "counts": "copy or download it again",
    "metadata": "restore it; it must hold HEST's keys",
    "slide image": AGAIN_IMAGE,
    "patch": "download it again, or set patches_from: wsi to cut patches from the slide image",
    "label": "write a tab-separated table of barcode and label, or remove the file",
}
GRID_BARCODE = re.compile(r"\d+x\d+")


def check_slide(
    files: SlideFiles,
    slide: str,
    *,
    size: int = 224,
    um_per_px: float = 0.5,
    patches_from: str = "auto",
    unique_genes: bool = True,
    pixel_scale: float = 1.0,
) -> Faults:
    """All faults of one slide's files; nothing is written.

    Args:
        files: paths of the files, which need not exist.
        slide: its id, for messages.
        size, um_per_px: edge in pixels and resolution of the patches that a patch file must hold.
        patches_from: ``wsi``, ``hest`` or ``auto``, with the meaning they have for ``prepare``.
        unique_genes: whether a repeated gene symbol is a fault.
        pixel_scale: what the pixel sizes that the files state are multiplied by.
    """
    faults = Faults()
    given = {"auto": files.patches or files.wsi, "wsi": files.wsi, "hest": files.patches}
    if patches_from not in given:
        faults.add(f"patches_from is {patches_from!r}", choices=given)
    elif given[patches_from] is None:
        fault = f"slide {slide} has no image for patches_from: {patches_from}"
        faults.add(fault, remedy="add wsis/<slide>.tif or patches/<slide>.h5, or use the other")
    bounds = _read(_metadata, files.metadata, "metadata", faults, pixel_scale)
    spots, position = _read(_table, files.st, "counts", faults, unique_genes) or (None, None)
    if files.wsi is not None:
        bounds = _read(_image, files.wsi, "slide image", faults)
    if bounds is not None and position is not None and len(position):
        _inside(files.st, position, bounds, faults)
    if files.labels is not None and spots is not None:
        _read(_labels, files.labels, "label", faults, spots)
    if files.patches is not None and patches_from != "wsi":
        _read(_patches, files.patches, "patch", faults, spots, size, um_per_px, pixel_scale)
    return faults


def check_counts(path: Path, unique_genes: bool = True) -> Faults:
    """All faults of the counts of a section without an image; positions are not asked for."""
    faults = Faults()
    _read(_table, path, "counts", faults, unique_genes, False)
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


def plain(barcodes: Iterable[str]) -> list[str]:
    """Barcodes in one spelling, since "10x13" and "010x013" name the same spot of legacy ST."""
    return [
        "x".join(str(int(n)) for n in b.split("x")) if GRID_BARCODE.fullmatch(b) else b
        for b in barcodes
    ]


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
        faults.add(f"{kind} file {path} is damaged or of another format ({error})", remedy=again)
    return None


def _labels(path: Path, faults: Faults, spots: Sequence[str]) -> None:
    read_labels(path, spots)


def _metadata(path: Path, faults: Faults, scale: float) -> tuple[int, int] | None:
    """Check the pixel size, which is corrected by ``scale``; returns width and height of level 0, or None if they are not given."""
    facts = read_json(path)
    if not isinstance(facts, dict):
        raise ValueError("not a JSON object")
    low, high = PIXEL_RANGE
    size = facts.get(PIXEL_KEY)
    fault = None
    if size is None:
        fault = f"{path} has no {PIXEL_KEY}"
    elif isinstance(size, bool) or not isinstance(size, int | float):
        fault = f"{path}: {PIXEL_KEY} is {size!r}, not a number"
    elif not low <= size * scale <= high:
        corrected = "" if scale == 1 else f" times {scale:g}"
        fault = f"{path}: {PIXEL_KEY} is {size}{corrected}, outside {low} to {high} µm per pixel"
    if fault:
        faults.add(fault, remedy="write there the µm per pixel of the slide image's level 0")
    width, height = facts.get(WIDTH_KEY), facts.get(HEIGHT_KEY)
    if isinstance(width, int) and isinstance(height, int) and min(width, height) > 0:
        return width, height
    return None


def _table(
    path: Path, faults: Faults, unique_genes: bool, placed: bool = True
) -> tuple[Any, np.ndarray | None]:
    """Check the counts; returns the barcodes and the positions (N, 2).

    Positions are None if they are faulty, or if the section is not ``placed`` on an image.
    """
    import h5py
    from anndata.io import read_elem

    with h5py.File(path, "r") as file:
        spots, genes = (read_elem(file[key]).index.astype(str) for key in ("obs", "var"))
        _repeats(path, plain(spots), "barcode", faults)
        if unique_genes:
            _repeats(path, genes, "gene", faults)
        _counts(path, file, (len(spots), len(genes)), faults)
        return spots, _positions(path, file, spots, faults) if placed else None


def _counts(path: Path, file, shape: tuple[int, int], faults: Faults) -> None:
    remedy = "put raw counts of the spots under tissue in X"
    if 0 in shape:
        faults.add(f"{path} is empty: {shape[0]} spots, {shape[1]} genes", remedy=remedy)
        return
    store = file["X"]
    sparse = hasattr(store, "keys")
    found = tuple(map(int, store.attrs["shape"] if sparse else store.shape))
    if found != shape:
        raise ValueError(f"X has shape {found} for {shape[0]} spots and {shape[1]} genes")
    values = store["data"] if sparse else store
    bad, total = dict.fromkeys(("NaN or infinite", "negative", "non-integer"), 0), 0.0
    rows = max(1, BLOCK // (1 if sparse else shape[1]))
    for start in range(0, len(values), rows):
        block = values[start : start + rows]
        finite = np.isfinite(block)
        bad["NaN or infinite"] += int((~finite).sum())
        block = block[finite]
        bad["negative"] += int((block < 0).sum())
        bad["non-integer"] += int((block != np.floor(block)).sum())
        total += float(block.sum(dtype=np.float64))
    for kind, number in bad.items():
        if number:
            faults.add(f"{path}: {number} {kind} values in X", remedy=remedy)
    if total == 0 and not any(bad.values()):
        faults.add(f"{path}: all counts are 0", remedy=remedy)


def _positions(path: Path, file, spots, faults: Faults) -> np.ndarray | None:
    from anndata.io import read_elem

    remedy = "store the (x, y) spot centres in level-0 pixels as obsm['spatial'] (N, 2)"
    if "spatial" not in file.get("obsm", {}):
        faults.add(f"{path} has no obsm['spatial']", remedy=remedy)
        return None
    position = np.asarray(read_elem(file["obsm/spatial"]))
    if position.shape != (len(spots), 2) or position.dtype.kind not in "iuf":
        fault = f"{path}: obsm['spatial'] has shape {position.shape} and type {position.dtype}"
        faults.add(fault, remedy=remedy)
        return None
    bad = ~np.isfinite(position).all(1)
    if bad.any():
        fault = f"{path}: NaN or infinite position of {bad.sum()} spots, such as {spots[bad][0]}"
        faults.add(fault, remedy=remedy)
    return position[~bad]


def _image(path: Path, faults: Faults) -> tuple[int, int]:
    """Width and height of a slide image.

    Raises:
        FlagError: the file is damaged or cut off, or it is no picture of H&E.
    """
    with open_reader(path) as image:
        return image.size


def _inside(path: Path, position: np.ndarray, bounds: tuple[int, int], faults: Faults) -> None:
    out = ((position < 0) | (position >= bounds)).any(1)
    if out.any():
        (left, top), (right, bottom) = position.min(0), position.max(0)
        swapped = ((position >= 0) & (position < bounds[::-1])).all()
        remedy = "swap the columns, x comes first" if swapped else "give pixels of its level 0"
        faults.add(
            f"{path}: {out.sum()} of {len(position)} spots lie outside the image of {bounds[0]} x "
            f"{bounds[1]} px; x is {left:.0f} to {right:.0f}, y {top:.0f} to {bottom:.0f}",
            remedy=f"mend obsm['spatial']: {remedy}",
        )


def _patches(
    path: Path, faults: Faults, spots, size: int, um_per_px: float, pixel_scale: float
) -> None:
    """Check ready-made patches in HEST's layout."""
    import h5py

    def fault(text: str, remedy: str = AGAIN["patch"]) -> None:
        faults.add(f"{path}: {text}", remedy=remedy)

    with h5py.File(path, "r") as file:
        missing = [k for k in PATCH_DATASETS if k not in file]
        if missing:
            fault(f"no dataset {', '.join(missing)}")
            return
        img, coords = file["img"], file["coords"]
        names = file["barcode"].asstr()[:].ravel()
        for found, shape in ((img, (len(names), size, size, 3)), (coords, (len(names), 2))):
            if found.shape != shape:
                fault(f"{found.name[1:]} has shape {found.shape}, wanted {shape}")
        if img.dtype != np.uint8 or coords.dtype.kind not in "iu":
            fault(f"img is {img.dtype}, coords {coords.dtype}; wanted uint8 and integers")
        source, pixel = img.attrs.get("patch_size_src"), img.attrs.get("pixel_size")
    _repeats(path, plain(names), "barcode", faults)
    if spots is not None and len(spots) and set(plain(spots)).isdisjoint(plain(names)):
        some = f"{', '.join(names[:2])} here, {', '.join(spots[:2])} there"
        fault(f"no barcode in common with the counts ({some})", "use files of the same slide")
    scale = um_per_px if None in (source, pixel) else float(pixel) * float(source) / size
    scale *= pixel_scale
    if abs(scale / um_per_px - 1) > 0.05:  # HEST rounds the source size to whole pixels
        remedy = AGAIN["patch"] if pixel_scale == 1 else "set patches_from: wsi"
        fault(f"patches of {scale:.3g} µm per pixel, wanted {um_per_px:.3g}", remedy)


def _repeats(path: Path, names: Sequence[str], what: str, faults: Faults) -> None:
    distinct, number = np.unique(np.asarray(names, dtype=str), return_counts=True)
    repeated = distinct[number > 1]
    if len(repeated):
        remedy = "make them unique"
        if what == "gene":
            remedy += (
                ", or have them numbered: prepare: {unique_genes: false} in the cohort's entry"
            )
        some = ", ".join(repeated[:3])
        faults.add(f"{path}: {len(repeated)} {what}s repeat, such as {some}", remedy=remedy)
