"""Patch files: the H&E around the spots of a slide, cut from its image or copied from a patch file."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.hdf5 import hdf5_file
from flag_st.core.io import CONTRACT, writing
from flag_st.data.field import SIZE, um_per_px
from flag_st.slides.files import open_reader
from flag_st.slides.stream import along_tiles, top_left

#: How many patches are copied at a time from a patch file.
BLOCK = 64
#: What to do about slides that have ready-made patches and no image to cut others from.
IMAGE_WANTED = (
    "add wsis/<slide>.tif (HEST-1k: params: {folders: [st, metadata, patches, wsis]} in the cohort's entry), or leave the "
    "encoders of this field out: missing: {NAME: no slide images}"
)

Progress = Callable[..., Iterable]


class Form(NamedTuple):
    """What the patches of a file have in common; attributes of the file.

    Attributes:
        slide: id of the slide.
        pixel_size: µm per pixel of level 0 of its image.
        size: edge of a patch in pixels.
        um_per_px: µm per pixel of a patch.
    """

    slide: str
    pixel_size: float
    size: int
    um_per_px: float


def cut_field(
    wsi: str | Path | None,
    spots: str | Path,
    out: str | Path,
    field_um: float,
    progress: Progress = lambda items, **_: items,
) -> None:
    """Cut patches of another field of view around the spots of a prepared slide, in their order.

    Args:
        wsi: the slide's image, or None if it has none.
        spots: the h5ad that ``flag_st.data.prepare`` has written of this slide.
        out: HDF5 in the form of the standard patches: ``img`` (N, 224, 224, 3), ``coords``, ``barcode``.
        field_um: edge in µm of the tissue that a patch shows.
        progress: goes through an iterable and reports from time to time how far it is.

    Raises:
        FlagError: there is no image, or it cannot be read.
    """
    import anndata

    if wsi is None:
        raise FlagError(
            f"the slide of {spots} has no image, which patches of {field_um} µm have to be cut from",
            remedy=IMAGE_WANTED,
        )
    table = anndata.read_h5ad(spots, backed="r")
    try:
        pixel = float(table.uns["pixel_size_um"])
        form = Form(str(table.uns["slide"]), pixel, SIZE, um_per_px(field_um))
        with writing(out) as temporary:
            cut_patches(Path(wsi), table, temporary, form, progress)
    finally:
        table.file.close()


def cut_patches(path: Path, table: Any, target: Path, form: Form, progress: Progress) -> None:
    """Cut the patch around each spot of the AnnData ``table`` from a slide image."""
    step = form.um_per_px / form.pixel_size
    centre = np.asarray(table.obsm["spatial"], dtype=np.float64)  # (N, 2) pixels of level 0
    corner = top_left(centre, form.size, form.um_per_px, form.pixel_size)  # (N, 2)
    order = along_tiles(corner)
    with (
        open_reader(path) as wsi,
        _writing_patches(target, table.obs_names, corner, form, "wsi") as images,
    ):
        for i in progress(order, desc="patches", total=len(order)):
            x, y = corner[i].tolist()
            images[i] = wsi.square((x, y), step, form.size)


def copy_patches(
    path: Path, where: np.ndarray, table: Any, target: Path, form: Form, progress: Progress
) -> None:
    """Copy the patches of the spots in ``table``, which are the rows ``where`` (N,) of a patch file."""
    import h5py

    with h5py.File(path, "r") as file:
        corner = file["coords"][:][where].astype(np.int64)
        with _writing_patches(target, table.obs_names, corner, form, "hest") as images:
            starts = range(0, len(where), BLOCK)
            for start in progress(starts, desc="patches", total=len(starts)):
                block = where[start : start + BLOCK]
                order = np.argsort(block)  # HDF5 wants rows in rising order
                pixels = np.empty((len(block), *images.shape[1:]), np.uint8)
                pixels[order] = file["img"][block[order]]
                images[start : start + len(block)] = pixels


@contextmanager
def _writing_patches(
    path: Path, spots: Sequence[str], corner: np.ndarray, form: Form, source: str
) -> Iterator[Any]:
    """Yield the empty dataset ``img`` of a new patch file with the names and attributes of HEST."""
    import h5py

    with hdf5_file(path) as file:
        file.attrs.update(contract=CONTRACT, patches_from=source, **form._asdict())
        text = np.asarray(spots, dtype=object)
        file.create_dataset("barcode", data=text, dtype=h5py.string_dtype())
        file.create_dataset("coords", data=corner)
        images = file.create_dataset("img", (len(spots), form.size, form.size, 3), np.uint8)
        for dataset in (images, file["coords"]):
            dataset.attrs.update(
                patch_size_src=round(form.size * form.um_per_px / form.pixel_size),
                patch_size_target=form.size,
                downsample=form.um_per_px / form.pixel_size,
                pixel_size=form.pixel_size,
            )
        yield images
