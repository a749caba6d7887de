"""From any path to an open slide image, or to the reason why it is none."""

from pathlib import Path

from flag_st.core.errors import FlagError
from flag_st.slides.colour import GRAY
from flag_st.slides.openslide_file import OpenSlideFile
from flag_st.slides.picture_file import PictureFile
from flag_st.slides.reader import AGAIN, Reader, refused
from flag_st.slides.tiff_file import TiffFile, largest, open_tiff

#: First bytes of little- and big-endian TIFF and BigTIFF.
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: What OpenSlide calls a tiled TIFF of no scanner.
GENERIC = "generic-tiff"
#: First bytes of files that are no pictures: what they are, and what to do.
OTHERS = {
    b"version https://git-lfs": ("is a pointer of Git LFS", "fetch the picture: git lfs pull"),
    b"\x1f\x8b": ("is compressed by gzip", "unpack it: gunzip -k FILE"),
    b"PK\x03\x04": ("is a ZIP archive", "unpack it, and name the picture in it"),
    b"<!doctype": ("is a web page", "download it again; a login page may have come instead"),
    b"<html": ("is a web page", "download it again; a login page may have come instead"),
    b"\x89HDF": ("holds arrays (HDF5)", "give the slide image itself"),
}


def open_reader(path: str | Path) -> Reader:
    """Open a slide image by the reader that reads it right.

    That is OpenSlide for the formats of scanners and for tiled TIFF in 8-bit RGB, tifffile for
    other TIFF, and Pillow for plain pictures.

    Raises:
        FlagError: the file is missing, empty, cut off, damaged, no picture, or a picture without
            the colours of H&E; it is named with the remedy.
    """
    import openslide

    path = Path(path)
    head = _head(path)
    vendor = openslide.OpenSlide.detect_format(path)
    if head[:4] in TIFF and _is_whole_and_not_for_openslide(path, vendor):
        return TiffFile(path)
    if vendor is None:
        return PictureFile(path)
    try:
        return OpenSlideFile(path)
    except FlagError:
        if vendor != GENERIC:
            raise
        return TiffFile(path)  # of a compression, such as JPEG 2000, that libtiff lacks


def _head(path: Path) -> bytes:
    """The first bytes of a file that may be a picture."""
    if path.is_symlink() and not path.exists():
        remedy = "restore the file that it points to, or link to it anew"
        raise refused(path, f"is a link to {path.readlink()}, which does not exist", remedy)
    if path.is_dir():
        zarr = any((path / n).exists() for n in (".zattrs", ".zgroup", ".zarray", "zarr.json"))
        if zarr:
            raise refused(path, "is a Zarr store", "export the picture as OME-TIFF")
        raise refused(path, "is a directory", "name the file itself")
    try:
        with open(path, "rb") as file:
            head = file.read(64)
    except FileNotFoundError:
        raise refused(path, "does not exist", "restore it, or correct the path") from None
    except PermissionError:
        raise refused(path, "may not be read", "give permission to read it") from None
    if not head:
        raise FlagError(f"slide image file {path} is empty", remedy=AGAIN)
    # The file itself may be a JPEG: a preview, which must not be taken for the slide.
    if path.suffix.lower() == ".mrxs" and not path.with_suffix("").is_dir():
        remedy = f"copy the folder {path.with_suffix('')} beside it"
        raise refused(path, "lacks its folder, which holds the picture", remedy)
    for start, (fault, remedy) in OTHERS.items():
        if head.lstrip()[: len(start)].lower() == start.lower():
            raise refused(path, fault, remedy)
    return head


def _is_whole_and_not_for_openslide(path: Path, vendor: str | None) -> bool:
    """Whether OpenSlide would not read a TIFF, or not right.

    Of a TIFF of no scanner it takes the first page for the picture, whatever its samples mean, and it
    knows nothing of OME's channels and of levels in sub-directories.

    Raises:
        FlagError: the file is damaged, or a scanner's picture of fluorescence.
    """
    with open_tiff(path) as tiff:
        page = tiff.pages.first
        if vendor in ("aperio", "hamamatsu") and page.samplesperpixel == 1:
            raise refused(path, "has 1 channel and no colour", GRAY)
        if vendor != GENERIC:
            return vendor is None
        orientation = page.tags.get("Orientation")
        return not (
            page.photometric in (2, 6)  # RGB, YCbCr
            and page.bitspersample == 8
            and page.samplesperpixel == 3
            and page.planarconfig == 1
            and not tiff.is_ome
            and (orientation is None or orientation.value == 1)
            and largest(tiff).keyframe.index == 0
        )
