"""Writes a synthetic section in HEST-1k layout, byte for byte the same for the same design."""

from pathlib import Path

import numpy as np
from PIL import Image

from flag_st.core.io import write_json, writing
from flag_st.data.slide_files import SlideFiles
from flag_st.synthetic.expression import Truth, draw_counts, truth
from flag_st.synthetic.histology import PIXEL_UM, draw
from flag_st.synthetic.tissue import DOMAINS, PITCH_UM, SPOT_UM, Section


def write_slide(place: Section, directory: str | Path) -> SlideFiles:
    """Make ``st``, ``wsis`` and ``metadata`` of one section in ``directory``."""
    root = Path(directory)
    image = root / "wsis" / f"{place.name}.tif"
    files = SlideFiles(
        st=root / "st" / f"{place.name}.h5ad",
        metadata=root / "metadata" / f"{place.name}.json",
        wsi=image,
    )
    known = truth(place.design, place.patient, place.section)
    picture = draw(place)
    _write_pyramid(image, picture)
    table = _table(place, known, picture)
    with writing(files.st) as temporary:
        table.write_h5ad(temporary, compression="gzip")
    write_json(files.metadata, _metadata(place, table.shape, picture.shape))
    return files


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
    spatial = {
        "images": {"downscaled_fullres": np.asarray(small)},
        "scalefactors": {
            "tissue_downscaled_fullres_scalef": small.width / picture.shape[1],
            "spot_diameter_fullres": SPOT_UM / PIXEL_UM,
        },
    }
    return anndata.AnnData(
        X=csr_matrix(counts.astype(np.float32)),
        obs=obs,
        var=var,
        obsm={"spatial": pixels},
        uns={"spatial": {"ST": spatial}},
    )


def _write_pyramid(path: Path, picture: np.ndarray) -> None:
    """Tiled JPEG pyramid, each level a quarter as wide, that OpenSlide reads as generic TIFF."""
    import tifffile

    per_cm = 1e4 / PIXEL_UM
    levels = [Image.fromarray(picture)]
    while max(levels[-1].size) > 1024:
        levels.append(levels[-1].reduce(4))
    with writing(path) as temporary, tifffile.TiffWriter(temporary) as tif:
        for i, level in enumerate(levels):
            tif.write(
                np.asarray(level),
                tile=(256, 256),
                photometric="rgb",
                compression="jpeg",
                compressionargs={"level": 85},
                subfiletype=int(i > 0),
                resolution=(per_cm / 4**i, per_cm / 4**i),
                resolutionunit="CENTIMETER",
                metadata=None,
                software=False,
            )


def _metadata(place: Section, counts: tuple[int, int], picture: tuple[int, ...]) -> dict:
    """Keys and units of HEST's metadata."""
    return {
        "id": place.name,
        "patient": place.donor,
        "subseries": f"section {place.section + 1}",
        "dataset_title": f"Synthetic cohort, seed {place.design.seed}",
        "species": "none",
        "organ": "Breast",
        "st_technology": "Spatial Transcriptomics",
        "image_filename": f"{place.name}.tif",
        "pixel_size_um_embedded": PIXEL_UM,
        "pixel_size_um_estimated": PIXEL_UM,
        "fullres_px_height": picture[0],
        "fullres_px_width": picture[1],
        "inter_spot_dist": PITCH_UM,
        "spot_diameter": SPOT_UM,
        "spots_under_tissue": counts[0],
        "nb_genes": counts[1],
    }
