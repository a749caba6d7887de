"""GSC and SSC, corrected for the depth of spots.

Raw counts of all genes rise and fall with the depth of a spot, and depth alone reproduces much of
the gene-gene correlation and of Moran's I. Here each gene is replaced by its residual on the log
of the panel's total count; truth and prediction each have their own total.
"""

from typing import ClassVar

import numpy as np

from flag_st.metrics import policy
from flag_st.metrics.base import Case, Metric
from flag_st.metrics.gsc import Gsc
from flag_st.metrics.ssc import Ssc

#: From the panel's unit back to counts: the inverse of ``flag_st.data.slide.TRANSFORMS``. Values are
#: clipped because predictions may be negative, or so large that exp would overflow.
TO_COUNTS = {
    "log1p": lambda x: np.expm1(np.clip(x, 0, 50)),
    "log2p1": lambda x: np.exp2(np.clip(x, 0, 50)) - 1,
    "log1p_cp10k": lambda x: np.expm1(np.clip(x, 0, 50)),
    "counts": lambda x: np.maximum(x, 0),
}


def log_depth(values: np.ndarray, transform: str) -> np.ndarray:
    """(N,) log of one plus the panel's total count, from (N, G) in the unit ``transform``."""
    return np.log1p(TO_COUNTS[transform](values).sum(axis=1))


def residuals(values: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """(N, G) residuals of least squares on (N,) ``depth`` and a constant."""
    values, depth = values - values.mean(axis=0), depth - depth.mean()
    square = depth @ depth
    return values - np.outer(depth, depth @ values / square) if square > 1e-12 else values


class Depth(Metric):
    """GSC and SSC between residuals; the parameters are those of ``Ssc``."""

    columns: ClassVar = {
        "gsc_depth": ("GSC, depth-corrected", 1),
        "gsc_error_depth": ("mean |ΔR|, depth-corrected", -1),
        "ssc_depth": ("SSC, depth-corrected", 1),
        "ssc_spearman_depth": ("SSC (Spearman), depth-corrected", 1),
        "moran_bias_depth": ("bias of Moran's I, depth-corrected", 0),
    }
    pooled = False

    def __init__(self, k: int = 8, ties: bool = False):
        self.parts = (Gsc(), Ssc(k, ties))

    def __call__(self, case: Case) -> dict[str, float | np.ndarray]:
        truth, prediction = policy.checked(case)
        transform = case.cache.get("transform", "log1p")

        def corrected(values: np.ndarray) -> np.ndarray:
            return residuals(values, log_depth(values, transform))

        # A constant gene has nothing to correct, and rounding must not make it vary.
        y = policy.of_truth(
            case, "residuals", lambda: np.where(policy.usable(case), corrected(truth), 0)
        )
        p = np.where(policy.prediction_of(case).varies, corrected(prediction), 0)
        known = {"slide": case.cache.get("slide", "")}
        known["truth"] = policy.of_truth(case, "of residuals", dict)
        left = Case(y, p, case.position, case.genes, cache=known)
        values = {name: v for part in self.parts for name, v in part(left).items()}
        return {name: values[name.removesuffix("_depth")] for name in self.columns}
