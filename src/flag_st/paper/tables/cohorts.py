"""The sizes of cohorts (Table 4) and what there is of each patient (HINGE Table S1)."""

from collections.abc import Mapping, Sequence
from math import nan
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

COHORT_FACTS = {
    "total_slides": ("slides", 0),
    "patients": ("patients", 0),
    "total_spots": ("spots", 0),
    "mean_spots_per_slide": ("spots per slide", 0),
    "genes": ("genes on all slides", 0),
    "median_counts": ("median counts per spot", 0),
}
PATIENT_FACTS = {
    "samples": ("sections", 0),
    "inter_spot_um": ("µm between spots", 0),
    "spot_diameter_um": ("µm, diameter of a spot", 0),
    "spots_min": ("spots, fewest", 0),
    "spots_max": ("spots, most", 0),
    "genes_min": ("genes, fewest", 0),
    "genes_max": ("genes, most", 0),
}


def patient_facts(keys: Sequence[Mapping[str, str]], paths: Sequence[str]) -> "pandas.DataFrame":
    """What there is of each patient: one row per cohort and patient, in the order of the sheets.

    Args:
        keys: cohort and slide of each file.
        paths: their spot files. Distances and diameters are the array's, in µm.
    """
    import anndata
    import pandas as pd

    from flag_st.data.spatial import pitch
    from flag_st.paper.tissue import spot_diameter

    rows = []
    for key, path in zip(keys, paths, strict=True):
        table = anndata.read_h5ad(path, backed="r")
        position = table.obsm["spatial_um"]
        facts = {"cohort": key["cohort"], "row": f"Patient {table.uns['patient'] or 'unknown'}"}
        array = {"pitch": pitch(position), "diameter": spot_diameter(position)}
        rows.append({**facts, **array, "spots": table.n_obs, "genes": table.n_vars})
    groups = pd.DataFrame(rows).groupby(["cohort", "row"], sort=False)
    asked = {"samples": ("spots", "size"), "inter_spot_um": ("pitch", "median")}
    asked |= {"spot_diameter_um": ("diameter", "median")}
    for name in ("spots", "genes"):
        asked |= {f"{name}_min": (name, "min"), f"{name}_max": (name, "max")}
    return groups.agg(**asked).reset_index().assign(method="")


def cohort_facts(keys: Sequence[Mapping[str, str]], paths: Sequence[str]) -> "pandas.DataFrame":
    """Sizes of the cohorts, from all of their prepared slides.

    Args:
        keys: cohort and slide of each file.
        paths: their spot files.
    """
    import anndata
    import numpy as np
    import pandas as pd

    slides: dict[str, list] = {}
    for key, path in zip(keys, paths, strict=True):
        table = anndata.read_h5ad(path)
        depth = np.asarray(table.X.sum(axis=1)).ravel()  # (N,)
        names = set(table.var_names)
        slides.setdefault(key["cohort"], []).append((table.uns["patient"], depth, names))
    rows = []
    for cohort, found in slides.items():
        patients, depths, genes = zip(*found, strict=True)
        depth = np.concatenate(depths)
        rows.append(
            {
                "cohort": cohort,
                "method": "",
                "total_slides": len(found),
                "patients": len({p for p in patients if p}) or nan,
                "total_spots": len(depth),
                "mean_spots_per_slide": len(depth) / len(found),
                "genes": len(set.intersection(*genes)),
                "median_counts": float(np.median(depth)),
            }
        )
    return pd.DataFrame(rows)
