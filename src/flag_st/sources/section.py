"""One section from its owner's files: checked against its image, then written in HEST-1k layout."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.core.errors import Faults, FlagError
from flag_st.core.hdf5 import write_table
from flag_st.core.io import read_json, write_json
from flag_st.data.hest_layout import new_paths, section_metadata
from flag_st.data.slide_files import SlideFiles
from flag_st.slides.image import Picture

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_matrix

#: To be raised when the conversion changes, so that existing slides are converted again.
VERSION = 2
LOG = logging.getLogger("flag_st")
#: The remedy for anything but raw counts.
RAW = "give the raw counts, which are whole numbers from zero up"


@dataclass
class Section:
    """One section: N spots under tissue and G genes.

    Attributes:
        counts: (N, G) raw counts.
        spots: table whose index holds the N barcodes; it may have ``array_row`` and ``array_col``.
        genes: table whose index holds the G symbols; ``gene_ids`` are the Ensembl ids, if known.
        position: (N, 2) x and y of the spots in pixels of ``picture``.
        picture: the image at full resolution.
        technology: name of the technology, for the metadata.
        pitch_um, spot_um: distance and diameter of the spots in µm.
        told: what was left out or changed, by name; it is logged and kept in the metadata.
        paint: writes the image as a TIFF, where it is no file; None if it stays where its owner has it.
    """

    counts: "csr_matrix"
    spots: "pd.DataFrame"
    genes: "pd.DataFrame"
    position: np.ndarray
    picture: Picture
    technology: str
    pitch_um: float
    spot_um: float
    told: dict[str, Any] = field(default_factory=dict)
    paint: Callable[[Path], None] | None = None


def count_faults(values: np.ndarray, where: str) -> Faults:
    """Why ``values`` are no raw counts; empty if they are.

    Args:
        values: the stored values of a count matrix, in any shape.
        where: the matrix, for messages.
    """
    faults = Faults()
    if not len(values) or not np.any(values):
        faults.add(f"{where} holds no count above zero", remedy=RAW)
    elif not np.isfinite(values).all():
        faults.add(f"{where} holds NaN or infinite values", remedy=RAW)
    elif (values < 0).any():
        faults.add(f"{where} holds negative values, as scaled expression does", remedy=RAW)
    elif (values % 1 != 0).any():
        faults.add(f"{where} holds fractions, as normalised expression does", remedy=RAW)
    return faults


def check_size(picture: Picture, wanted: tuple[float, float] | None, slack: float) -> None:
    """Refuse an image of another size than the one that the positions refer to.

    Args:
        picture: the image.
        wanted: width and height in pixels that the files tell, or None if they tell nothing.
        slack: pixels by which the two may differ, because the files tell rounded sizes.
    """
    if wanted is None or np.abs(np.subtract(picture.size, wanted)).max() <= slack:
        return
    factor = np.divide(picture.size, wanted)
    fault = (
        f"slide image {picture.path} has {picture.size[0]} x {picture.size[1]} px, and the positions are of an "
        f"image of {wanted[0]:.0f} x {wanted[1]:.0f} px"
    )
    if np.abs(np.subtract(picture.size, wanted[::-1])).max() <= slack:
        fault += ": it is turned by 90°"
    elif abs(factor[0] / factor[1] - 1) < 0.02:
        fault += f": it is a copy of {factor.mean():.3g} times the width and height"
    raise FlagError(
        fault,
        remedy="give the file that Space Ranger was given, neither reduced nor cropped nor turned",
    )


def check_place(
    picture: Picture,
    wanted: tuple[float, float] | None,
    slack: float,
    position: np.ndarray | None,
    where: str,
) -> None:
    """Refuse an image that is not the one that the positions refer to.

    Args:
        picture, wanted, slack: as for ``check_size``.
        position: (N, 2) pixels of the spots under tissue, or None if they are not known.
        where: the file of the positions, for messages.
    """
    check_size(picture, wanted, slack)
    if position is None:
        return
    width, height = size = picture.size
    out = ((position < 0) | (position >= size)).any(1)  # (N,)
    if not out.any():
        return
    (left, top), (right, bottom) = position.min(0), position.max(0)
    swapped = ((position >= 0) & (position < size[::-1])).all()
    raise FlagError(
        f"{where}: {out.sum()} of {len(position)} spots under tissue lie outside the image of {width} x "
        f"{height} px; x is {left:.0f} to {right:.0f}, y {top:.0f} to {bottom:.0f}",
        remedy="give x before y" if swapped else "give pixels of this image at full resolution",
    )


def write_section(
    section: Section,
    directory: Path,
    slide: str,
    made_from: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> SlideFiles:
    """Write counts and metadata of ``slide``, and its image unless its owner has it as a file.

    Args:
        section: what was read.
        directory: folder in HEST-1k layout.
        slide: its id.
        made_from: digests and settings that the conversion depends on.
        facts: further metadata, by HEST's names.
    """
    paths = new_paths(directory, slide)
    for what, value in section.told.items():
        LOG.warning("slide %s: %s: %s", slide, what, value)
    _write_table(paths["st"], section)
    wsi = section.picture.path if section.paint is None else paths["wsi"]
    if section.paint is not None:
        section.paint(wsi)
    um = section.picture.pixel_um
    local = {
        "made_from": made_from,
        "image": str(wsi),
        "pixel_size_statements": section.picture.statements,
        "told": section.told,
    }
    known = section_metadata(
        slide, um, section.picture.size, section.counts.shape, section.pitch_um, section.spot_um
    )
    known |= {"st_technology": section.technology, **facts, "local": local}
    # The metadata come last: they say that the conversion is complete.
    write_json(paths["metadata"], known)
    return SlideFiles(st=paths["st"], metadata=paths["metadata"], wsi=wsi)


def written(directory: Path, slide: str, made_from: Mapping[str, Any]) -> SlideFiles | None:
    """The files of an earlier conversion of the same files with the same settings, or None."""
    paths = new_paths(directory, slide)
    if not (paths["st"].exists() and paths["metadata"].exists()):
        return None
    try:
        local = read_json(paths["metadata"]).get("local", {})
    except FlagError:
        return None  # another program's file, which is written anew
    wsi = Path(local.get("image", ""))
    if local.get("made_from") != made_from or not wsi.is_file():
        return None
    return SlideFiles(st=paths["st"], metadata=paths["metadata"], wsi=wsi)


def _write_table(path: Path, section: Section) -> None:
    import anndata
    import pandas as pd
    from scipy.sparse import csr_matrix

    keep = [c for c in ("array_row", "array_col") if c in section.spots]
    obs = section.spots[keep].copy()
    obs.index = pd.Index(section.spots.index.astype(str), dtype=object)
    genes = section.genes.copy()
    genes.index = pd.Index(genes.index.astype(str), dtype=object)
    table = anndata.AnnData(
        csr_matrix(section.counts, dtype=np.float32),
        obs=obs,
        var=genes,
        obsm={"spatial": np.asarray(section.position, dtype=np.float64)},
    )
    write_table(path, table, "gzip")
