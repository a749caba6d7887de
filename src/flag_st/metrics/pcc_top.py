"""PCC of the top 10, 50 and 200 genes, in the two meanings that papers give it."""

from typing import ClassVar

import numpy as np

from flag_st.metrics.base import Case, Metric
from flag_st.metrics.pcc import per_gene


class PccTop(Metric):
    """Mean PCC of the top genes; names ending in ``best`` and ``var`` differ in what top means.

    ``best``: the genes with the highest PCC on the very case that is scored (FLAG, Stem). They are
    chosen after the fact, so the value is optimistic and every method has a set of its own.
    ``var``: the genes with the highest variance on the training slides (HINGE's text), the same for
    every method. The two must not be mixed. Undefined if fewer genes are usable than are asked for.
    """

    columns: ClassVar = {
        "pcc10_best": ("PCC-10, best genes", 1),
        "pcc50_best": ("PCC-50, best genes", 1),
        "pcc10_var": ("PCC-10, variable genes", 1),
        "pcc50_var": ("PCC-50, variable genes", 1),
        "pcc200_var": ("PCC-200, variable genes", 1),
    }

    def __call__(self, case: Case) -> dict[str, float | np.ndarray]:
        r = per_gene(case)
        best = -np.sort(-r[np.isfinite(r)])
        variance = case.cache.get("train_variance")
        ranked = None if variance is None else r[np.argsort(-np.asarray(variance), kind="stable")]
        return {
            "pcc10_best": _mean_of_first(best, 10),
            "pcc50_best": _mean_of_first(best, 50),
            "pcc10_var": _mean_of_first(ranked, 10),
            "pcc50_var": _mean_of_first(ranked, 50),
            "pcc200_var": _mean_of_first(ranked, 200),
        }


def _mean_of_first(r: np.ndarray | None, count: int) -> float:
    """Mean of the first ``count``, without the genes that are constant in truth."""
    if r is None or len(r) < count or not np.isfinite(r[:count]).any():
        return float("nan")
    return float(np.nanmean(r[:count]))
