"""Gene-wise Pearson correlation over spots."""

from typing import ClassVar

import numpy as np

from flag_st.metrics import policy
from flag_st.metrics.base import Case, Metric


def per_gene(case: Case) -> np.ndarray:
    """(G,) Pearson correlation of truth and prediction; NaN for genes that are not used."""
    n = len(case.truth)
    if n < policy.MIN_SPOTS:
        return np.full(len(case.genes), np.nan)

    def make() -> np.ndarray:
        y, p = policy.truth_of(case), policy.prediction_of(case)
        covariance = np.einsum("ng,ng->g", y.values, p.values) / (n - 1)  # (G,)
        scale = np.where(y.varies & p.varies, y.sd * p.sd, np.inf)
        return np.where(y.varies, covariance / scale, np.nan)

    return policy.of_prediction(case, "pcc", make)


class Pcc(Metric):
    """Mean over genes of the correlation over the spots of a slide, or of all slides pooled.

    Pooling mixes in differences between slides, so that a prediction of slide means alone already
    scores above zero; the value per slide is the primary one.
    """

    columns: ClassVar = {
        "pcc": ("PCC", 1),
        "pcc_gene": ("PCC", 1),
        "n_genes_used": ("genes used", 0),
        "n_constant_truth": ("genes constant in truth", 0),
        "n_constant_prediction": ("genes constant in prediction", 0),
    }

    def __call__(self, case: Case) -> dict[str, float | np.ndarray]:
        r, used = per_gene(case), policy.usable(case)
        defined = len(case.truth) >= policy.MIN_SPOTS and used.any()
        return {
            "pcc": float(r[used].mean()) if defined else float("nan"),
            "pcc_gene": r,
            "n_genes_used": float(used.sum()),
            "n_constant_truth": float((~used).sum()),
            "n_constant_prediction": float(policy.collapsed(case).sum()),
        }
