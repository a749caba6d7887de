"""Writes a synthetic section in HEST-1k layout, byte for byte the same for the same design."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flag_st.core.io import write_json, writing
from flag_st.data.hest_layout import new_paths, section_metadata, spatial_entry
from flag_st.data.pyramid import write_pyramid
from flag_st.data.slide_files import SlideFiles
from flag_st.synthetic.expression import Truth, draw_counts, truth
from flag_st.synthetic.histology import PIXEL_UM, draw
from flag_st.synthetic.tissue import DOMAINS, PITCH_UM, SPOT_UM, Section

#: JPEG levels, each a quarter as wide as the one before.
PYRAMID: dict[str, Any] = dict(
    factor=4, smallest=1024, compression="jpeg", compressionargs={"level": 85}
)


def write_slide(place: Section, directory: str | Path) -> SlideFiles:
    """Make ``st``, ``wsis`` and ``metadata`` of one section in ``directory``."""
    paths = new_paths(Path(directory), place.name)
    known = truth(place.design, place.patient, place.section)
    picture = draw(place)
    write_pyramid(paths["wsi"], Image.fromarray(picture), (PIXEL_UM, PIXEL_UM), **PYRAMID)
    table = _table(place, known, picture)
    with writing(paths["st"]) as temporary:
        table.write_h5ad(temporary, compression="gzip")
    write_json(paths["metadata"], _metadata(place, table.shape, picture.shape))
    return SlideFiles(**paths)


def _table(place: Section, known: Truth, picture: np.ndarray):
    """AnnData as HEST has it; ``obs['domain']`` is the most common domain of the spot."""
    import anndata
    import pandas as pd
    from scipy.sparse import csr_matrix

    counts = draw_counts(place, known)
    pixels = known.centre / PIXEL_UM
    obs = pd.DataFrame(
        {
            "in_tissue": True,
            "array_row": known.array[:, 0],  # legacy ST: the first number runs horizontally
            "array_col": known.array[:, 1],
            "pxl_col_in_fullres": pixels[:, 0],
            "pxl_row_in_fullres": pixels[:, 1],
            "total_counts": counts.sum(1),
            "domain": pd.Categorical.from_codes(known.domains.argmax(1), DOMAINS),
        },
        index=[f"{a:03d}x{b:03d}" for a, b in known.array],
    )
    # A range of ids that Ensembl does not use: these genes must not pass for real ones elsewhere.
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


def _metadata(place: Section, counts: tuple[int, int], picture: tuple[int, ...]) -> dict:
    """Keys and units of HEST's metadata."""
    height, width = picture[:2]
    known = section_metadata(place.name, PIXEL_UM, (width, height), counts, PITCH_UM, SPOT_UM)
    return known | {
        "patient": place.donor,
        "subseries": f"section {place.section + 1}",
        "dataset_title": f"Synthetic cohort, seed {place.design.seed}",
        "species": "none",
        "organ": "Breast",
        "image_filename": f"{place.name}.tif",
    }
