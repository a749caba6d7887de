"""Comparing methods: intervals and tests, computed from the tidy table of scores.

The unit of replication is the patient or, where patients are unknown, the slide. It is never a gene
or a spot, because those are not independent. Scores of single genes (``gene`` not "") are left out
throughout. All columns other than method, seed, slide, gene and value (such as cohort, split, panel,
estimator and metric) define groups: nothing is averaged or compared across groups.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from flag_st.core.errors import FlagError
from flag_st.core.seeds import numpy_generator

NOT_GROUPS = ("method", "seed", "slide", "gene", "value")


def groups_of(scores: pd.DataFrame) -> list[str]:
    return [name for name in scores.columns if name not in NOT_GROUPS]


def bootstrap(
    scores: pd.DataFrame,
    patients: Mapping[str, str],
    reference: str | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Percentile intervals from resampling patients, and then slides within each patient.

    Seeds are averaged first, and all methods and metrics on the same slides see the same resamples,
    so that differences are paired. With fewer than about eight patients the intervals are too
    narrow.

    Args:
        scores: the tidy table of scores.
        patients: slide → patient.
        reference: the method that the others are compared with, or None for intervals of the
            methods' own means.
        resamples: number of resamples, B.
        level: coverage of the interval.
        seed: of the resampling.

    Returns:
        One row per group and method: reference, estimate (mean over slides), low, high, n_patients,
        n_slides.

    Raises:
        FlagError: the reference has no scores, or the patient of a slide is unknown.
    """
    rows = []
    for facts, wide in _slides_by_method(scores):
        owner = _owners(wide.index, patients)
        weights = _resample(owner, resamples, seed)  # (B, slides)
        if reference is None:
            columns = [(method, wide[method].dropna()) for method in wide]
        else:
            columns = list(_differences(wide, reference))
        for method, values in columns:
            used = weights[:, wide.index.get_indexer(values.index)]
            total = used.sum(axis=1)
            # A resample may hold none of the slides that this metric is defined on.
            means = (used @ values.to_numpy())[total > 0] / total[total > 0]
            tails = [(1 - level) / 2, (1 + level) / 2]
            low, high = np.quantile(means, tails) if len(means) else (np.nan, np.nan)
            interval = {"estimate": values.mean(), "low": low, "high": high}
            count = {"n_patients": owner.loc[values.index].nunique(), "n_slides": len(values)}
            rows.append(
                {**facts, "method": method, "reference": reference or "", **interval, **count}
            )
    return pd.DataFrame(rows)


def _resample(owner: pd.Series, resamples: int, seed: int) -> np.ndarray:
    """(B, slides) how often each slide is drawn: a patient with n slides drawn c times gives c n.

    Drawing n of n slides c times is one multinomial draw of c n, so no loop over resamples is
    needed. The random stream depends on the slides alone and is therefore the same for all metrics.
    """
    generator = numpy_generator(seed, "bootstrap", *owner.index)
    names = sorted(owner.unique())
    drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    weights = np.zeros((resamples, len(owner)))
    for column, name in enumerate(names):
        mine = np.flatnonzero(owner == name)
        even = np.full(len(mine), 1 / len(mine))
        weights[:, mine] = generator.multinomial(drawn[:, column] * len(mine), even)
    return weights


def wilcoxon(scores: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Wilcoxon signed-rank test of each method against ``reference``, two-sided, paired by slide.

    Zero differences are split between the signs (``zsplit``). The p value is exact for up to 50
    pairs without zeros or ties.

    Returns:
        One row per group and method: reference, difference (mean), n, n_zero, statistic, p,
        p_smallest (2 / 2^n, the smallest p that n pairs can reach) and p_holm over all rows.

    Raises:
        FlagError: the reference has no scores.
    """
    rows = []
    for facts, wide in _slides_by_method(scores):
        for method, difference in _differences(wide, reference):
            test = _signed_rank(difference.to_numpy())
            rows.append({**facts, "method": method, "reference": reference, **test})
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"])) if rows else table


def _signed_rank(differences: np.ndarray) -> dict[str, float]:
    from scipy.stats import wilcoxon as signed_rank

    n, zero = len(differences), int((differences == 0).sum())
    statistic, p = np.nan, np.nan
    if n > zero:
        result = signed_rank(differences, zero_method="zsplit")
        statistic, p = float(result.statistic), float(result.pvalue)
    return {
        "difference": differences.mean() if n else np.nan,
        "n": n,
        "n_zero": zero,
        "statistic": statistic,
        "p": p,
        "p_smallest": 2.0 ** (1 - n) if n else np.nan,
    }


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction; NaN values are not counted as members of the family."""
    values = np.asarray(p, dtype=np.float64)
    result, known = np.full(len(values), np.nan), np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    result[order] = np.minimum(np.maximum.accumulate(factors * values[order]), 1)
    return result


def _slides_by_method(scores: pd.DataFrame) -> Iterator[tuple[dict, pd.DataFrame]]:
    """For each group: what it is, and a table of slides by methods, averaged over seeds."""
    table, groups = _without_genes(scores), groups_of(scores)
    table = table[table["slide"] != ""]
    for key, part in table.groupby(groups, sort=False, dropna=False):
        wide = part.groupby(["slide", "method"])["value"].mean().unstack("method")
        yield dict(zip(groups, key, strict=True)), wide


def _differences(wide: pd.DataFrame, reference: str) -> Iterator[tuple[str, pd.Series]]:
    """Method minus reference, on the slides where both are defined."""
    if reference not in wide:
        raise FlagError(f"no scores of the reference method {reference!r}", choices=wide.columns)
    for method in wide.columns.drop(reference):
        yield method, (wide[method] - wide[reference]).dropna()


def _owners(slides: pd.Index, patients: Mapping[str, str]) -> pd.Series:
    unknown = [slide for slide in slides if not patients.get(slide)]
    if unknown:
        raise FlagError(
            f"the patients of {len(unknown)} slides are unknown, such as {', '.join(unknown[:3])}",
            remedy="fill in the patient column of the cohort's slide sheet",
        )
    return pd.Series({slide: patients[slide] for slide in slides})


def _without_genes(scores: pd.DataFrame) -> pd.DataFrame:
    missing = sorted(set(NOT_GROUPS) - set(scores.columns))
    if missing:
        raise FlagError(f"the scores lack the columns {', '.join(missing)}")
    return scores[scores["gene"] == ""]
