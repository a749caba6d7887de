"""Comparing two methods on the same test patients: difference, interval, exact test and power.

The unit of replication is the patient or, where patients are unknown, the slide. It is never a seed,
a gene or a spot: seeds repeat the training on the same patients, and genes and spots of one slide are
not independent. Each patient counts the same, however many slides it has.

Two things have to agree before a difference is called one. The exact sign-flip test asks whether it
could have come from the choice of patients; it cannot reach 5 % with fewer than six of them. The
interval adds what seeds contribute, which the test does not see, because a lucky seed is lucky on every
patient.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, inf, isfinite, log2, nan, sqrt
from typing import TYPE_CHECKING

import numpy as np

from flag_st.core.seeds import numpy_generator
from flag_st.scoring.slides import REST

if TYPE_CHECKING:
    import pandas

#: Error of the first kind that tests and intervals allow.
ALPHA = 0.05
#: The power that a study is planned for.
PLANNED = 0.8
#: Up to 14 units every assignment of signs is looked at; beyond, so many at random.
FLIPS = 2**14


@dataclass(frozen=True)
class Paired:
    """What the test units say about one method against another, or against a number.

    Attributes:
        differences: (n,) one method minus the other for each unit, averaged over seeds.
        seed_variances: for each random method the variance of its mean over units from seed to seed,
            and the number of seeds. The variance of a random method with one seed is NaN.
        margin: the value that the difference is compared with.
    """

    differences: np.ndarray
    seed_variances: Sequence[tuple[float, int]] = ()
    margin: float = 0.0

    @property
    def n(self) -> int:
        """The number of units."""
        return len(self.differences)

    @property
    def difference(self) -> float:
        """Mean over units."""
        return float(self.differences.mean()) if self.n else nan

    @property
    def sd(self) -> float:
        """Standard deviation over units; NaN for fewer than two."""
        return float(self.differences.std(ddof=1)) if self.n > 1 else nan

    @cached_property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference by Student's t.

        The variances of the mean over units and over seeds are summed. The degrees of freedom are
        those of Welch and Satterthwaite, and at most those of the units. NaN where one of the
        variances is unknown.
        """
        from scipy.stats import t

        parts = [(self.sd**2 / self.n if self.n > 1 else nan, self.n - 1)]
        parts += [(variance / max(seeds, 1), seeds - 1) for variance, seeds in self.seed_variances]
        total = sum(part for part, _ in parts)
        if not isfinite(total) or self.n < 2:
            return nan, nan
        if total == 0:
            return self.difference, self.difference
        freedom = total**2 / sum(part**2 / k for part, k in parts if part)
        # With two or three units the formula overrates how well their variance is known.
        freedom = min(freedom, self.n - 1)
        half = float(t.ppf(1 - ALPHA / 2, freedom)) * sqrt(total)
        return self.difference - half, self.difference + half

    @cached_property
    def p(self) -> float:
        """Two-sided p of the sign-flip test against ``margin``; exact for up to 14 units."""
        return sign_flip(self.differences - self.margin)

    @property
    def p_smallest(self) -> float:
        """The smallest p that so many units can reach."""
        return 2.0 ** (1 - self.n) if self.n else nan

    @property
    def sign(self) -> int:
        """1 or -1 if the difference is above or below ``margin`` for certain, else 0."""
        low, high = self.interval
        outside = 1 if low > self.margin else -1 if high < self.margin else 0
        return outside if outside and self.p <= ALPHA else 0

    @property
    def needed(self) -> float:
        """How many units find a difference of this size in four of five studies; NaN if unknown."""
        return units_needed(self.difference - self.margin, self.sd)


def sign_flip(differences: np.ndarray) -> float:
    """Two-sided p of the null hypothesis that every difference is as likely as its negative."""
    from scipy.stats import permutation_test

    if not len(differences):
        return nan
    if len(differences) == 1 or not np.any(differences):
        return 1.0
    flips = {"permutation_type": "samples", "n_resamples": FLIPS, "vectorized": True}
    generator = numpy_generator("sign flips", len(differences))
    return float(permutation_test((differences,), np.mean, rng=generator, **flips).pvalue)


def fewest() -> int:
    """The fewest units with which the sign-flip test can reach ``ALPHA``."""
    return ceil(1 - log2(ALPHA))


def power(n: int, effect: float, sd: float) -> float:
    """How probable it is that n units show an effect, by the noncentral t distribution.

    Args:
        n: number of units; fewer than ``fewest`` show nothing.
        effect: the true distance from the margin, in the favoured direction.
        sd: standard deviation of the difference over units.
    """
    from scipy.stats import nct, t

    if n < fewest():
        return 0.0
    if not (isfinite(effect) and isfinite(sd)):
        return nan
    if sd == 0:
        return float(effect > 0)
    limit = t.ppf(1 - ALPHA / 2, n - 1)
    return float(nct.sf(limit, n - 1, effect / sd * sqrt(n)))


def units_needed(effect: float, sd: float, most: int = 10_000) -> float:
    """The fewest units with a power of ``PLANNED``; infinite beyond ``most``, NaN if unknown."""
    if not (isfinite(effect) and isfinite(sd)):
        return nan
    low, high = fewest(), most
    if power(high, abs(effect), sd) < PLANNED:
        return inf
    while low < high:
        middle = (low + high) // 2
        if power(middle, abs(effect), sd) < PLANNED:
            low = middle + 1
        else:
            high = middle
    return float(low)


def by_unit(
    scores: "pandas.DataFrame", method: str, patients: Mapping[str, str], scope: str = "slide"
) -> "pandas.DataFrame":
    """One method's values as a table of units by seeds.

    A pooled value is one number for all slides. What each slide contributes to it is its jackknife
    pseudo-value n θ - (n - 1) θ₋ᵢ, where θ₋ᵢ is the value without slide i.

    Args:
        scores: rows of one cohort, panel and estimator, with those of the metric and, for pooled
            values, those that end in ``REST``.
        method: the method.
        patients: slide → patient, or slide → slide where patients are unknown.
        scope: ``slide`` or ``pooled``.
    """
    rows = scores[scores["method"] == method]
    if scope == "pooled":
        rows = _pseudo_values(rows)
    rows = rows[(rows["slide"] != "") & ~rows["metric"].str.endswith(REST)]
    # Folds of one seed are one run: every slide is tested in one of them.
    slides = rows.groupby(["slide", "seed"])["value"].mean().unstack("seed")
    return slides.groupby(lambda slide: patients[slide]).mean()


def _pseudo_values(rows: "pandas.DataFrame") -> "pandas.DataFrame":
    fold = ["split", "seed"] if "split" in rows else ["seed"]
    pooled = rows[rows["slide"] == ""].set_index(fold)["value"]
    rest = rows[rows["metric"].str.endswith(REST)]
    if rest.empty:
        single = rows[rows["slide"] != ""]
        # The pooled value of a single slide is its own; of several without rest, nothing is known.
        return single if single.groupby(fold)["slide"].nunique().max() == 1 else single[:0]
    n = rest.groupby(fold)["slide"].transform("nunique")
    whole = rest.set_index(fold).index.map(pooled)
    values = n * whole.to_numpy() - (n - 1) * rest["value"]
    return rest.assign(value=values, metric=rest["metric"].str.removesuffix(REST))


def compare(
    first: "pandas.DataFrame",
    second: "pandas.DataFrame | float",
    random: Sequence[bool] = (True, True),
    direction: int = 1,
    margin: float = 0.0,
) -> Paired:
    """One method against another on the units that both have values for, or against a number.

    Args:
        first, second: as ``by_unit`` returns them, or a number in place of the second.
        random: whether two seeds give two results, for each of the two.
        direction: -1 if lower values are better; differences then count the other way.
        margin: what the difference is compared with.
    """
    tables = [first] if isinstance(second, float | int) else [first, second]
    means = [table.mean(axis=1).dropna() for table in tables]
    units = means[0].index
    for mean in means[1:]:
        units = units.intersection(mean.index)
    differences = means[0][units] - (means[1][units] if len(means) > 1 else second)
    variances = []
    for table, is_random in zip(tables, random, strict=False):
        of_seeds = table.loc[units].mean(axis=0).dropna()
        if is_random or len(of_seeds) > 1:
            variances.append((float(of_seeds.var(ddof=1)), len(of_seeds)))
    return Paired(direction * differences.to_numpy(dtype=float), variances, margin)


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction; NaN values are not counted as members of the family."""
    values = np.asarray(p, dtype=np.float64)
    result, known = np.full(len(values), np.nan), np.flatnonzero(np.isfinite(values))
    order = known[np.argsort(values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    result[order] = np.minimum(np.maximum.accumulate(factors * values[order]), 1)
    return result
