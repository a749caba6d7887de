"""Comparing methods: seeds, intervals and tests, from the tidy table of scores to tidy tables.

The unit of replication is the patient or, where nothing is known of patients, the slide; never a
gene or a spot, which are not independent. Values of genes (``gene`` not "") are left out
throughout. Columns other than method, seed, slide, gene and value (cohort, split, panel,
estimator, metric) tell groups apart: nothing is averaged or compared across them.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from flag_st.core.errors import FlagError
from flag_st.core.seeds import numpy_generator

NOT_GROUPS = ("method", "seed", "slide", "gene", "value")
#: Sign flips of so many patients are all enumerated; of more, a random sample is taken.
EXACT_PATIENTS, FLIPS = 16, 100_000


def groups_of(scores: pd.DataFrame) -> list[str]:
    return [name for name in scores.columns if name not in NOT_GROUPS]


def over_seeds(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over seeds of the macro average over slides.

    Returns:
        One row a group, method and scope ("slide": mean over slides; "pooled": all spots of all
        slides together): mean, std (N - 1; NaN for one seed), n_seeds, n_slides (defined values
        per seed, the fewest) and n_undefined (NaN values per seed, the most).
    """
    table = _of_cases(scores).assign(scope=lambda t: np.where(t["slide"] == "", "pooled", "slide"))
    keys = [*groups_of(scores), "method", "scope"]
    runs = table.groupby([*keys, "seed"], sort=False, dropna=False)["value"].agg(
        value="mean", n_slides="count", size="size"
    )
    runs["n_undefined"] = runs["size"] - runs["n_slides"]
    return (
        runs.groupby(keys, sort=False, dropna=False)
        .agg(
            mean=("value", "mean"),
            std=("value", "std"),
            n_seeds=("value", "count"),
            n_slides=("n_slides", "min"),
            n_undefined=("n_undefined", "max"),
        )
        .reset_index()
    )


def sampling_variance(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over draws of the macro average over slides (FLAG Table 9).

    The variance is taken over the draws of one trained model and averaged over seeds, so that
    training does not enter it. Needs the values of each draw (estimators ``draw_0``, ``draw_1``
    …).

    Returns:
        One row a group (less estimator) and method: mean, std, n_draws, n_seeds.
    """
    table = _of_cases(scores)
    table = table[(table["slide"] != "") & table["estimator"].str.fullmatch(r"draw_\d+")]
    if table.empty:
        raise FlagError(
            "the scores hold no values of single draws", remedy="score with each_draw=True"
        )
    keys = [name for name in groups_of(scores) if name != "estimator"] + ["method"]
    draws = table.groupby([*keys, "seed", "estimator"], sort=False, dropna=False)["value"].mean()
    runs = draws.groupby([*keys, "seed"], sort=False, dropna=False).agg(["mean", "var", "count"])
    result = runs.groupby(keys, sort=False, dropna=False).agg(
        mean=("mean", "mean"),
        std=("var", "mean"),
        n_draws=("count", "min"),
        n_seeds=("var", "size"),
    )
    return result.assign(std=np.sqrt(result["std"])).reset_index()


def patient_differences(
    scores: pd.DataFrame, patients: Mapping[str, str], reference: str
) -> pd.DataFrame:
    """Difference method less reference of each patient: mean over slides of seed averages.

    Returns:
        One row a group, method and patient: reference, difference, n_slides.
    """
    rows = []
    for facts, wide in _slides_by_method(scores):
        owner = _owners(wide.index, patients)
        for method, difference in _differences(wide, reference):
            by_patient = difference.groupby(owner.loc[difference.index], sort=True)
            for patient, values in by_patient:
                facts_of = {"method": method, "reference": reference, "patient": patient}
                values_of = {"difference": values.mean(), "n_slides": len(values)}
                rows.append({**facts, **facts_of, **values_of})
    return pd.DataFrame(rows)


def bootstrap(
    scores: pd.DataFrame,
    patients: Mapping[str, str],
    reference: str | None = None,
    resamples: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Percentile intervals from resampling patients and then slides within patient.

    All methods and metrics of the same slides see the same resamples, and seeds are averaged
    inside, so that differences are paired. Below about eight patients the intervals are too
    narrow: show ``patient_differences`` too.

    Args:
        patients: slide → patient.
        reference: the method that others are compared with; None for intervals of the methods'
            own means.

    Returns:
        One row a group and method: reference, estimate (mean over slides), low, high, n_patients,
        n_slides.
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
    """(B, slides) how often each slide is drawn: a patient drawn c times gives c times n slides.

    Drawing n of n slides c times is one multinomial of c n, so that no loop over resamples is
    needed. The stream depends on the slides alone, which makes it the same for all metrics.
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


def wilcoxon(
    scores: pd.DataFrame, reference: str, patients: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Wilcoxon signed-rank test of each method against ``reference``, two-sided.

    Pairs are slides, as in the literature, or, with ``patients``, patient means, which are
    independent. Zero differences are split between the signs (``zsplit``); p is exact up to 50
    pairs without zeros or ties.

    Returns:
        One row a group and method: reference, difference (mean), n, n_zero, statistic, p,
        p_smallest (2 / 2^n, what n pairs can reach at best) and p_holm over all rows.
    """
    from scipy.stats import wilcoxon as signed_rank

    rows = []
    for facts, method, values in _paired(scores, reference, patients):
        n, zero = len(values), int((values == 0).sum())
        statistic, p = np.nan, np.nan
        if n > zero:
            found = signed_rank(values, zero_method="zsplit")
            statistic, p = float(found.statistic), float(found.pvalue)
        count = {"difference": values.mean() if n else np.nan, "n": n, "n_zero": zero}
        smallest = 2.0 ** (1 - n) if n else np.nan
        test = {"statistic": statistic, "p": p, "p_smallest": smallest}
        rows.append({**facts, "method": method, "reference": reference, **count, **test})
    return _with_holm(rows)


def sign_flip(
    scores: pd.DataFrame, reference: str, patients: Mapping[str, str], seed: int = 0
) -> pd.DataFrame:
    """Permutation test on patient means: under the null each difference may change its sign.

    All sign patterns of up to 16 patients, a random 100,000 of more; two-sided, of the mean.

    Returns:
        One row a group and method: reference, difference (mean over patients), n, p, p_smallest
        and p_holm over all rows.
    """
    rows = []
    for facts, method, values in _paired(scores, reference, patients):
        n, p, smallest = len(values), np.nan, np.nan
        if n:
            p, smallest = _flip(values, seed)
        difference = values.mean() if n else np.nan
        test = {"difference": difference, "n": n, "p": p, "p_smallest": smallest}
        rows.append({**facts, "method": method, "reference": reference, **test})
    return _with_holm(rows)


def _flip(values: np.ndarray, seed: int) -> tuple[float, float]:
    n, observed = len(values), abs(values.sum())
    # Sums of the same numbers in another order differ by rounding.
    bound = observed - 1e-12 * np.abs(values).sum()
    if n <= EXACT_PATIENTS:
        bits = np.arange(2**n)[:, None] >> np.arange(n) & 1
        return float((np.abs((1 - 2 * bits) @ values) >= bound).mean()), min(2.0 ** (1 - n), 1.0)
    signs = numpy_generator(seed, "sign flip", n).choice([-1.0, 1.0], size=(FLIPS, n))
    beyond = int((np.abs(signs @ values) >= bound).sum())
    return (beyond + 1) / (FLIPS + 1), 1 / (FLIPS + 1)


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction; NaN takes no part in the family."""
    values = np.asarray(p, dtype=np.float64)
    result, known = np.full(len(values), np.nan), np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    result[order] = np.minimum(np.maximum.accumulate(factors * values[order]), 1)
    return result


def _with_holm(rows: list[dict]) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"])) if rows else table


def _paired(
    scores: pd.DataFrame, reference: str, patients: Mapping[str, str] | None
) -> Iterator[tuple[dict, str, np.ndarray]]:
    """Group, method and differences of slides or, if ``patients`` are given, of patients."""
    for facts, wide in _slides_by_method(scores):
        owner = None if patients is None else _owners(wide.index, patients)
        for method, difference in _differences(wide, reference):
            if owner is not None:
                difference = difference.groupby(owner.loc[difference.index], sort=True).mean()
            yield facts, method, difference.to_numpy()


def _slides_by_method(scores: pd.DataFrame) -> Iterator[tuple[dict, pd.DataFrame]]:
    """Of each group: its facts and the table slides by methods, averaged over seeds."""
    table, groups = _of_cases(scores), groups_of(scores)
    table = table[table["slide"] != ""]
    for key, part in table.groupby(groups, sort=False, dropna=False):
        wide = part.groupby(["slide", "method"])["value"].mean().unstack("method")
        yield dict(zip(groups, key, strict=True)), wide


def _differences(wide: pd.DataFrame, reference: str) -> Iterator[tuple[str, pd.Series]]:
    """Method less reference on the slides where both are defined."""
    if reference not in wide:
        raise FlagError(f"no scores of the reference method {reference!r}", choices=wide.columns)
    for method in wide.columns.drop(reference):
        yield method, (wide[method] - wide[reference]).dropna()


def _owners(slides: pd.Index, patients: Mapping[str, str]) -> pd.Series:
    unknown = [slide for slide in slides if not patients.get(slide)]
    if unknown:
        raise FlagError(
            f"the patient of {len(unknown)} slides is unknown, such as {', '.join(unknown[:3])}",
            remedy="fill the patient column of the cohort's slide sheet",
        )
    return pd.Series({slide: patients[slide] for slide in slides})


def _of_cases(scores: pd.DataFrame) -> pd.DataFrame:
    missing = sorted(set(NOT_GROUPS) - set(scores.columns))
    if missing:
        raise FlagError(f"the scores lack the columns {', '.join(missing)}")
    return scores[scores["gene"] == ""]
