"""Mean absolute error, in the panel's unit."""

from typing import ClassVar

import numpy as np

from flag_st.metrics import policy
from flag_st.metrics.base import Case, Metric


class Mae(Metric):
    """Mean absolute error over spots and genes; for a deterministic method it equals the CRPS."""

    columns: ClassVar = {"mae": ("MAE", -1), "mae_gene": ("MAE", -1)}

    def __call__(self, case: Case) -> dict[str, float | np.ndarray]:
        truth, prediction = policy.checked(case)
        by_gene = np.abs(prediction - truth).mean(axis=0)  # (G,)
        return {"mae": float(by_gene.mean()), "mae_gene": by_gene}
