"""Write a synthetic section in HEST-1k layout; the same design gives the same bytes."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flag_st.core.hdf5 import write_table
from flag_st.core.io import write_json
from flag_st.data.hest_layout import new_paths, section_metadata, spatial_entry
from flag_st.data.pyramid import write_pyramid
from flag_st.data.slide_files import SlideFiles
from flag_st.synthetic.expression import Truth, draw_counts, truth
from flag_st.synthetic.histology import PIXEL_UM, paint
from flag_st.synthetic.tissue import DOMAINS, PITCH_UM, SPOT_UM, Section

#: JPEG levels, each a quarter as wide as the one before.
PYRAMID: dict[str, Any] = dict(
    factor=4, smallest=1024, compression="jpeg", compressionargs={"level": 85}
)


def write_slide(section: Section, directory: str | Path) -> SlideFiles:
    """Write counts, slide image and metadata of one section below ``directory``."""
    paths = new_paths(Path(directory), section.name)
    known = truth(section.design, section.patient, section.number)
    picture = write_image(section, paths["wsi"])
    table = _table(section, known, picture)
    write_table(paths["st"], table, "gzip")
    write_json(paths["metadata"], _metadata(section, table.shape, picture.shape))
    return SlideFiles(**paths)


def write_image(section: Section, path: Path) -> np.ndarray:
    """Write the slide image of one section, and return it: (H, W, 3) uint8."""
    picture = paint(section)
    write_pyramid(path, Image.fromarray(picture), (PIXEL_UM, PIXEL_UM), **PYRAMID)
    return picture


def _table(section: Section, known: Truth, picture: np.ndarray):
    """AnnData in HEST's form; ``obs['domain']`` is the most common domain of each spot."""
    import anndata
    import pandas as pd
    from scipy.sparse import csr_matrix

    counts = draw_counts(section, known)
    pixels = known.centre / PIXEL_UM
    obs = pd.DataFrame(
        {
            "in_tissue": True,
            "array_row": known.array[:, 0],  # as in legacy ST, where the row is horizontal
            "array_col": known.array[:, 1],
            "pxl_col_in_fullres": pixels[:, 0],
            "pxl_row_in_fullres": pixels[:, 1],
            "total_counts": counts.sum(1),
            "domain": pd.Categorical.from_codes(known.domains.argmax(1), DOMAINS),
        },
        index=[f"{a:03d}x{b:03d}" for a, b in known.array],
    )
    # Ensembl does not use these ids, so that nobody takes these genes for real ones.
    identifiers = [f"ENSG99{i:09d}" for i in range(len(known.genes))]
    var = pd.DataFrame({"gene_ids": identifiers}, index=known.genes)[known.measured]
    small = Image.fromarray(picture)
    small.thumbnail((1000, 1000))
    spatial = spatial_entry(np.asarray(small), picture.shape[1], SPOT_UM / PIXEL_UM)
    return anndata.AnnData(
        X=csr_matrix(counts.astype(np.float32)),
        obs=obs,
        var=var,
        obsm={"spatial": pixels},
        uns={"spatial": spatial},
    )


def _metadata(section: Section, counts: tuple[int, int], picture: tuple[int, ...]) -> dict:
    """The metadata, with HEST's keys and units."""
    height, width = picture[:2]
    known = section_metadata(section.name, PIXEL_UM, (width, height), counts, PITCH_UM, SPOT_UM)
    return known | {
        "patient": section.donor,
        "subseries": f"section {section.number + 1}",
        "dataset_title": f"Synthetic cohort, seed {section.design.seed}",
        "species": "none",
        "organ": "Breast",
        "image_filename": f"{section.name}.tif",
    }
