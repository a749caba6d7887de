"""Gene structural correlation (FLAG Eqs. 18-19)."""

from typing import ClassVar

import numpy as np

from flag_st.metrics import policy
from flag_st.metrics.base import Case, Metric
from flag_st.metrics.policy import Centred


def correlations(values: Centred, genes: np.ndarray) -> np.ndarray:
    """Upper triangle, without diagonal, of the correlation matrix of ``genes`` ((G,) bool).

    Returns:
        K(K-1)/2 values for K genes; 0 wherever a column is constant.
    """
    z = values.standardised(genes)  # (N, K)
    matrix = z.T @ z / (len(z) - 1)  # (K, K)
    return matrix[np.triu_indices(len(matrix), 1)]


class Gsc(Metric):
    """Pearson correlation between the gene-gene correlations of truth and of prediction.

    Affine changes of the correlations do not show in it, hence the error, the slope and the mean
    strengths beside it.
    """

    columns: ClassVar = {
        "gsc": ("GSC", 1),
        "gsc_error": ("mean |ΔR|", -1),
        "gsc_slope": ("slope of R", 0),
        "gsc_strength_truth": ("mean |r| of truth", 0),
        "gsc_strength_prediction": ("mean |r| of prediction", 0),
    }

    def __call__(self, case: Case) -> dict[str, float | np.ndarray]:
        genes = policy.usable(case)
        prediction = policy.prediction_of(case)
        if not policy.structure_defined(case):
            return dict.fromkeys(self.columns, float("nan"))
        y = policy.of_truth(
            case, "correlations", lambda: correlations(policy.truth_of(case), genes)
        )
        p = correlations(prediction, genes)
        deviation = y - y.mean()
        return {
            "gsc": policy.pearson(y, p),
            "gsc_error": float(np.abs(p - y).mean()),
            "gsc_slope": float(deviation @ (p - p.mean()) / (deviation @ deviation)),
            "gsc_strength_truth": float(np.abs(y).mean()),
            "gsc_strength_prediction": float(np.abs(p).mean()),
        }
