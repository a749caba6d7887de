"""Agreement of differentially expressed genes of reference domains (FLAG Tables 3 and 15)."""

from typing import ClassVar

import numpy as np

from flag_st.metrics import policy
from flag_st.metrics.base import Case, Metric
from flag_st.metrics.domains import leiden_domains

#: Domains with fewer spots inside or outside are skipped.
MIN_DOMAIN = 10
TOP = (20, 50)


def wilcoxon_z(values: np.ndarray, domains: np.ndarray, tested: np.ndarray) -> np.ndarray:
    """(D, G) z-scores of scanpy's rank-sum test of each domain against the rest, up-regulated > 0.

    They are without correction for ties.

    Args:
        values: (N, G).
        domains: (N,) number of each spot's domain.
        tested: (D,) the domains to test, of two spots or more.
    """
    import anndata
    import pandas as pd
    import scanpy as sc

    genes = [str(gene) for gene in range(values.shape[1])]
    obs = pd.DataFrame({"domain": pd.Categorical(domains.astype(str))}).rename(index=str)
    table = anndata.AnnData(values, obs=obs, var=pd.DataFrame(index=genes))
    groups = [str(domain) for domain in tested]
    # scanpy also takes logarithms of fold changes, which negative predictions do not have, and warns
    # of counts wherever all values are whole numbers, as those of a constant prediction are.
    with np.errstate(invalid="ignore"), sc.settings.verbosity.override("error"):
        sc.tl.rank_genes_groups(table, "domain", groups=groups, method="wilcoxon")
    ranking = (sc.get.rank_genes_groups_df(table, group).set_index("names") for group in groups)
    return np.array([found["scores"][genes].to_numpy(np.float64) for found in ranking])


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
    downstream = True

    def __call__(self, case: Case) -> dict[str, float | np.ndarray]:
        truth, prediction = policy.checked(case)
        result: dict[str, float | np.ndarray] = dict.fromkeys(self.columns, float("nan"))
        labels = self._domains(case)
        if labels is None:
            return result
        labelled = labels != ""
        _, domains, size = np.unique(labels[labelled], return_inverse=True, return_counts=True)
        large = (size >= MIN_DOMAIN) & (len(domains) - size >= MIN_DOMAIN)
        result["deg_domains"] = float(large.sum())
        result["deg_domains_skipped"] = float((~large).sum())
        if not large.any():
            return result
        tested = np.flatnonzero(large)
        y = policy.of_truth(case, "deg", lambda: wilcoxon_z(truth[labelled], domains, tested))
        # Constant predictions imply no ranking, and rounding must not make one.
        varies = policy.prediction_of(case).varies | ~policy.usable(case)
        p = wilcoxon_z(np.where(varies, prediction, 0)[labelled], domains, tested)
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
        result["deg_spearman"] = float(np.mean([policy.spearman(a, b) for a, b in pairs]))
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
