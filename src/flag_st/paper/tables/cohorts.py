"""The sizes of the cohorts (Table 4)."""

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
