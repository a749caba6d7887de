"""Continuous ranked probability score of the draws, in the panel's unit."""

from typing import ClassVar

import numpy as np

from flag_st.metrics import policy
from flag_st.metrics.base import Case, Metric


class Crps(Metric):
    """Mean over spots and genes of the fair CRPS, which does not depend on the number of draws.

    The fair CRPS is the mean of |x - y| minus half the mean of |x - x'| over pairs of different
    draws. For a method with one draw it is the absolute error, so that all methods fit in one table.
    It is computed here because the library that the tests compare it with takes eight seconds to
    import.
    """

    columns: ClassVar = {"crps": ("CRPS", -1), "crps_gene": ("CRPS", -1)}
    ensemble = True

    def __call__(self, case: Case) -> dict[str, float | np.ndarray]:
        truth, _ = policy.checked(case)
        draws = policy.draws_of(case)
        values = draws.astype(np.float64)  # (S, N, G)
        by_gene = np.abs(values - truth).mean(axis=(0, 1))  # (G,)
        count = len(draws)
        if count > 1:
            # Of sorted draws x_0 ≤ x_1 …, half the mean of |x - x'| is a weighted sum: O(S log S).
            weights = (2 * np.arange(count) - count + 1) / (count * (count - 1))  # (S,)
            values.sort(axis=0)
            by_gene -= np.tensordot(weights, values, 1).mean(axis=0)  # (G,)
        return {"crps": float(by_gene.mean()), "crps_gene": by_gene}
