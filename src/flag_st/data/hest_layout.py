"""The layout of HEST-1k (Jaume et al., NeurIPS 2024): folders, suffixes, keys and datasets."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flag_st.slides.suffixes import SUFFIXES

if TYPE_CHECKING:
    import numpy as np

#: Field of ``SlideFiles`` → folder and suffixes; new files get the first suffix. HEST-1k has no
#: ``labels``: this project adds them.
FOLDERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "st": ("st", (".h5ad",)),
    "metadata": ("metadata", (".json",)),
    "wsi": ("wsis", (*SUFFIXES, *(suffix.upper() for suffix in SUFFIXES))),
    "patches": ("patches", (".h5",)),
    "labels": ("labels", (".tsv",)),
}
#: Where this project looks for the counts of a section without an image.
COUNTS = "counts/{}.h5ad"
#: Keys of the metadata: µm per pixel of the slide image's level 0, and its width and height.
PIXEL_KEY, WIDTH_KEY, HEIGHT_KEY = (
    "pixel_size_um_estimated",
    "fullres_px_width",
    "fullres_px_height",
)
#: Other names that tools of HEST give to width and height.
WIDTH_KEYS, HEIGHT_KEYS = (WIDTH_KEY, "fullres_width"), (HEIGHT_KEY, "fullres_height")
#: Datasets of a patch file: images, their top-left corners at level 0, and spots.
PATCH_DATASETS = ("img", "coords", "barcode")
#: Name of the thumbnail in ``uns['spatial']``, and of its pixels per pixel of level 0.
THUMBNAIL, THUMBNAIL_SCALE = "downscaled_fullres", "tissue_downscaled_fullres_scalef"


def names(kind: str, slide: str) -> list[str]:
    """Names that a file of ``slide`` may have, relative to the root; the first is preferred."""
    folder, suffixes = FOLDERS[kind]
    return [f"{folder}/{slide}{suffix}" for suffix in suffixes]


def new_paths(root: Path, slide: str) -> dict[str, Path]:
    """Where counts, slide image and metadata of ``slide`` are written below ``root``."""
    return {kind: root / names(kind, slide)[0] for kind in ("st", "wsi", "metadata")}


def spatial_entry(
    thumbnail: "np.ndarray", full_width: int, spot_diameter_px: float
) -> dict[str, dict[str, dict[str, Any]]]:
    """``uns['spatial']`` of a legacy Spatial Transcriptomics section.

    Args:
        thumbnail: (H, W, 3) uint8.
        full_width: width of level 0 in pixels.
        spot_diameter_px: in pixels of level 0.
    """
    scales = {
        THUMBNAIL_SCALE: thumbnail.shape[1] / full_width,
        "spot_diameter_fullres": spot_diameter_px,
    }
    return {"ST": {"images": {THUMBNAIL: thumbnail}, "scalefactors": scales}}


def section_metadata(
    slide: str,
    um_per_px: float,
    size: tuple[int, int],
    counts: tuple[int, int],
    pitch_um: float,
    spot_um: float,
) -> dict[str, Any]:
    """The metadata of a legacy Spatial Transcriptomics section, by HEST's names.

    Args:
        slide: its id.
        um_per_px: µm per pixel of level 0.
        size: width and height of level 0 in pixels.
        counts: shape of the count matrix: spots, genes.
        pitch_um, spot_um: distance and diameter of the spots in µm.
    """
    return {
        "id": slide,
        "st_technology": "Spatial Transcriptomics",
        "pixel_size_um_embedded": um_per_px,
        PIXEL_KEY: um_per_px,
        WIDTH_KEY: size[0],
        HEIGHT_KEY: size[1],
        "spots_under_tissue": counts[0],
        "nb_genes": counts[1],
        "inter_spot_dist": pitch_um,
        "spot_diameter": spot_um,
    }
