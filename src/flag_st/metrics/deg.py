"""Agreement of differentially expressed genes of reference domains (FLAG Tables 3 and 15)."""

from typing import ClassVar

import numpy as np
from scipy.stats import rankdata

from flag_st.metrics import policy
from flag_st.metrics.base import Case, Metric
from flag_st.metrics.domains import leiden_domains

#: Domains with fewer spots inside or outside are skipped.
MIN_DOMAIN = 10
TOP = (20, 50)


def wilcoxon_z(values: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """(D, G) z-scores of the rank-sum test of each domain against the rest, up-regulated > 0.

    Normal approximation without correction for ties, as scanpy's ``rank_genes_groups`` does.

    Args:
        values: (N, G).
        inside: (D, N) bool.
    """
    n = len(values)
    ranks = rankdata(values, axis=0)  # (N, G)
    size = inside.sum(axis=1)[:, None]  # (D, 1)
    total = inside.astype(np.float64) @ ranks  # (D, G)
    sd = np.sqrt(size * (n - size) * (n + 1) / 12)
    return (total - size * (n + 1) / 2) / sd


class Deg(Metric):
    """Overlap of the most up-regulated genes of truth and of prediction, mean over domains.

    Both are tested on the same spots and the same reference domains. These are ``domains`` in the
    cache, without the unlabelled spots, or else Leiden clusters of the truth. The overlap expected
    by chance is K/G; the ``excess`` is (overlap - K/G) / (1 - K/G). Genes with equal z are ordered
    by name. The Spearman correlation of z over all genes needs no K.
    """

    columns: ClassVar = {
        **{f"deg_overlap_{k}": (f"DEG overlap, top {k}", 1) for k in TOP},
        **{f"deg_excess_{k}": (f"DEG overlap above chance, top {k}", 1) for k in TOP},
        "deg_spearman": ("Spearman of DEG z", 1),
        "deg_domains": ("domains tested", 0),
        "deg_domains_skipped": ("domains too small to test", 0),
    }
    pooled = False
    every_draw = False

    def __call__(self, case: Case) -> dict[str, float | np.ndarray]:
        truth, prediction = policy.checked(case)
        result: dict[str, float | np.ndarray] = dict.fromkeys(self.columns, float("nan"))
        labels = self._domains(case)
        if labels is None:
            return result
        labelled = labels != ""
        names, labels = np.unique(labels[labelled]), labels[labelled]
        inside = labels == names[:, None]  # (D, N)
        size = inside.sum(axis=1)
        tested = (size >= MIN_DOMAIN) & (len(labels) - size >= MIN_DOMAIN)
        result["deg_domains"] = float(tested.sum())
        result["deg_domains_skipped"] = float((~tested).sum())
        if not tested.any():
            return result
        inside = inside[tested]
        y = policy.of_truth(case, "deg", lambda: wilcoxon_z(truth[labelled], inside))
        # Constant predictions imply no ranking, and rounding must not make one.
        varies = policy.prediction_of(case).varies | ~policy.usable(case)
        p = wilcoxon_z(np.where(varies, prediction, 0)[labelled], inside)
        genes = np.asarray(case.genes)
        for k in TOP:
            if k < len(genes):
                shared = [
                    len(_top(a, genes, k) & _top(b, genes, k)) for a, b in zip(y, p, strict=True)
                ]
                overlap, chance = np.mean(shared) / k, k / len(genes)
                result[f"deg_overlap_{k}"] = float(overlap)
                result[f"deg_excess_{k}"] = float((overlap - chance) / (1 - chance))
        pairs = zip(y, p, strict=True)
        result["deg_spearman"] = float(
            np.mean([policy.pearson(rankdata(a), rankdata(b)) for a, b in pairs])
        )
        return result

    @staticmethod
    def _domains(case: Case) -> np.ndarray | None:
        if (known := case.cache.get("domains")) is not None:
            return np.asarray(known).astype(str)
        if not policy.structure_defined(case):
            return None
        values = case.truth[:, policy.usable(case)]
        return policy.of_truth(case, "deg_domains", lambda: leiden_domains(values).astype(str))


def _top(z: np.ndarray, genes: np.ndarray, k: int) -> set[str]:
    return set(genes[np.lexsort((genes, -z))[:k]])
