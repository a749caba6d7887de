"""Mean squared error, in the square of the panel's unit."""

from typing import ClassVar

import numpy as np

from flag_st.metrics import policy
from flag_st.metrics.base import Case, Metric


class Mse(Metric):
    """Mean squared error over spots and genes, comparable only between equal units of expression."""

    columns: ClassVar = {"mse": ("MSE", -1), "mse_gene": ("MSE", -1)}

    def __call__(self, case: Case) -> dict[str, float | np.ndarray]:
        truth, prediction = policy.checked(case)
        by_gene = ((prediction - truth) ** 2).mean(axis=0)  # (G,)
        return {"mse": float(by_gene.mean()), "mse_gene": by_gene}
