"""Continuous ranked probability score of the draws, in the panel's unit."""

from typing import ClassVar

import numpy as np

from flag_st.metrics import policy
from flag_st.metrics.base import Case, Metric


class Crps(Metric):
    """Mean over spots and genes of the fair CRPS, which does not depend on the number of draws.

    Fair: mean |x - y| less half the mean |x - x'| over pairs of different draws. A method with
    one draw has the CRPS of its point estimate, the absolute error, so that all methods fit in
    one table.
    """

    columns: ClassVar = {"crps": ("CRPS", -1), "crps_gene": ("CRPS", -1)}
    ensemble = True

    def __call__(self, case: Case) -> dict[str, float | np.ndarray]:
        truth, _ = policy.checked(case)
        draws = policy.draws_of(case)
        if len(draws) == 1:
            by_gene = np.abs(draws[0] - truth).mean(axis=0)
        else:
            # "pwm" is the same number as "fair" from sorted draws: O(S log S), not O(S²).
            from scoringrules import crps_ensemble

            by_gene = np.array(
                [
                    crps_ensemble(
                        truth[:, g],
                        draws[:, :, g].astype(np.float64),
                        m_axis=0,
                        estimator="pwm",
                        backend="numpy",
                    ).mean()
                    for g in range(truth.shape[1])
                ]
            )  # (G,)
        return {"crps": float(by_gene.mean()), "crps_gene": by_gene}
