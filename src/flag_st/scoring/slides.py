"""From predictions and truth of the test slides to one tidy table of scores."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.metrics.base import Case, Metric

if TYPE_CHECKING:
    import pandas

#: A metric returns one value per gene under a name with this ending. The table holds these values
#: under the plain name, with the column ``gene`` filled in.
OF_GENE = "_gene"
#: A pooled value without one slide is in the rows of that slide, under a name with this ending.
REST = "_rest"
COLUMNS = ["slide", "estimator", "metric", "gene", "value"]
#: What identifies a run, in the order of its path; a run's table has these columns before the others.
KEYS = ["cohort", "split", "panel", "method", "seed"]


@dataclass(frozen=True)
class Pair:
    """Truth and prediction of one test slide, spots and genes in the same order.

    Attributes:
        slide: its name.
        genes: G names.
        truth: (N, G) in the panel's unit.
        point: (N, G) point estimate.
        draws: (S, N, G); S = 0 if only a point estimate is known.
        position: (N, 2) spot centres in µm.
        facts: what else is known about the slide, under the keys of ``flag_st.metrics.policy``.
    """

    slide: str
    genes: Sequence[str]
    truth: np.ndarray
    point: np.ndarray
    draws: np.ndarray
    position: np.ndarray | None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.truth), len(self.genes))
        shapes = {"truth": self.truth.shape, "point": self.point.shape}
        shapes["draws"] = self.draws.shape[1:] if len(self.draws) else shape
        wrong = [f"{name} {found}" for name, found in shapes.items() if found != shape]
        if wrong:
            raise FlagError(f"slide {self.slide}: {', '.join(wrong)} but (N, G) is {shape}")


def columns(metrics: Mapping[str, Metric]) -> dict[str, tuple[str, int]]:
    """Name of every value that ``metrics`` return → (label, direction).

    Raises:
        FlagError: two metrics return the same name, so that a table could not tell them apart.
    """
    found: dict[str, tuple[str, int]] = {}
    for name, metric in metrics.items():
        twice = sorted(set(found) & set(metric.columns))
        if twice:
            raise FlagError(
                f"metric {name} returns {', '.join(twice)}, as another metric does",
                remedy="keep one of the two entries in the configuration",
            )
        found.update(metric.columns)
    return found


def score_slides(
    pairs: Iterable[Pair],
    metrics: Mapping[str, Metric],
    facts: Mapping[str, Any] | None = None,
    labels: Mapping[str, Any] | None = None,
    each_draw: bool = False,
) -> "pandas.DataFrame":
    """Score every slide and, where a metric allows it, all slides pooled (slide "").

    Args:
        pairs: one per test slide, all with the same genes in the same order.
        metrics: name → metric.
        facts: what holds for all slides, under the keys of ``flag_st.metrics.policy``.
        labels: columns to put before the others (cohort, method, seed, …), the same in all rows.
        each_draw: also return the values of each draw, as estimators ``draw_0``, ``draw_1``, …

    Returns:
        Long table with ``labels`` and slide, estimator, metric, gene ("" for all genes), value. The
        estimator ``point`` judges the point estimate and ``mean`` the mean of the draws (the same
        for methods without a better point estimate); ``draw`` judges each draw and takes the mean
        over draws; ``ensemble`` judges all draws at once. What all slides but one have pooled is in
        the rows of this slide, for ``point`` and ``mean``, under names that end in ``REST``; it says
        how much a pooled value owes to each slide. Only ``point`` and ``ensemble`` have values per
        gene. The ``draw`` of a ``downstream`` metric, which is too costly for all draws, is the value
        of the first draw, and such a metric has no ``mean`` of its own.

    Raises:
        FlagError: genes differ between slides, or a prediction is not finite.
    """
    import pandas

    columns(metrics)
    pairs, facts = list(pairs), dict(facts or {})
    if not pairs:
        raise FlagError("there is no test slide to score")
    for pair in pairs:
        if tuple(pair.genes) != tuple(pairs[0].genes):
            raise FlagError(f"slides {pairs[0].slide} and {pair.slide} have different genes")
    pooling = {name: metric for name, metric in metrics.items() if metric.pooled}
    rows = [row for pair in pairs for row in score_slide(pair, metrics, facts, each_draw)]
    rows += score_slide(_pool(pairs), pooling, facts, each_draw)
    rows += [row for pair in pairs for row in _without(pair, pairs, pooling, facts)]
    table = pandas.DataFrame(rows, columns=COLUMNS)
    for place, (name, value) in enumerate((labels or {}).items()):
        table.insert(place, name, value)
    return table


def _pool(pairs: Sequence[Pair]) -> Pair:
    draws = min(len(pair.draws) for pair in pairs)
    return Pair(
        slide="",
        genes=pairs[0].genes,
        truth=np.concatenate([pair.truth for pair in pairs]),
        point=np.concatenate([pair.point for pair in pairs]),
        draws=np.concatenate([pair.draws[:draws] for pair in pairs], axis=1),
        position=None,
    )


def _without(
    pair: Pair, pairs: Sequence[Pair], metrics: Mapping[str, Metric], facts: Mapping[str, Any]
) -> list[tuple]:
    """Rows of ``pair`` with the values that all other slides have together; none if it is alone."""
    others = [other for other in pairs if other is not pair]
    single = {name: metric for name, metric in metrics.items() if not metric.ensemble}
    if not others or not single:
        return []
    rest = _pool(others)
    if len(rest.draws) > 1:
        mean = rest.draws.mean(axis=0, dtype=np.float64, keepdims=True)  # (1, N, G)
        rest = replace(rest, draws=mean)
    return [
        (pair.slide, estimator, metric + REST, "", value)
        for _, estimator, metric, gene, value in score_slide(rest, single, facts, False)
        if estimator in ("point", "mean") and gene == ""
    ]


def score_slide(
    pair: Pair, metrics: Mapping[str, Metric], facts: Mapping[str, Any], each_draw: bool
) -> list[tuple]:
    """Rows (slide, estimator, metric, gene, value) of one slide; arguments as ``score_slides``."""
    truth = np.asarray(pair.truth, dtype=np.float64)
    of_truth: dict = {}

    def case(prediction: np.ndarray, draws: np.ndarray | None = None) -> Case:
        known = {**facts, **pair.facts, "slide": pair.slide, "truth": of_truth}
        values = np.asarray(prediction, dtype=np.float64)
        return Case(truth, values, pair.position, tuple(pair.genes), draws, known)

    single = [metric for metric in metrics.values() if not metric.ensemble]
    ensemble = [metric for metric in metrics.values() if metric.ensemble]
    point = _values(case(pair.point), single)
    of_draws: list[dict] = []
    for k, draw in enumerate(pair.draws):
        # A deterministic method's one draw is its point estimate: the same numbers.
        same = len(pair.draws) == 1 and np.array_equal(draw, pair.point)
        asked = [m for m in single if k == 0 or not m.downstream]
        of_draws.append(point if same else _values(case(draw), asked))
    samples = pair.draws if len(pair.draws) else pair.point[None]
    of_ensemble = _values(case(pair.point, samples), ensemble)

    rows = _rows(pair, "point", point) + _rows(pair, "draw", _mean(of_draws))
    if len(pair.draws):
        of_mean = _of_mean(pair, point, of_draws, case, single)
        rows += _rows(pair, "mean", _mean([of_mean]))
    if each_draw:
        for k, values in enumerate(of_draws):
            rows += _rows(pair, f"draw_{k}", _mean([values]))
    return rows + _rows(pair, "ensemble", of_ensemble)


def _of_mean(pair: Pair, point: dict, of_draws: list[dict], case, metrics) -> dict:
    """Values of the mean of the draws, reusing those of equal predictions."""
    mean = pair.draws.mean(0, dtype=np.float64)
    if len(pair.draws) == 1:
        return of_draws[0]
    if np.allclose(mean, pair.point, rtol=1e-5, atol=1e-6):
        return point
    return _values(case(mean), [m for m in metrics if not m.downstream])


def _values(case: Case, metrics: Iterable[Metric]) -> dict[str, float | np.ndarray]:
    return {name: value for metric in metrics for name, value in metric(case).items()}


def _mean(of_draws: Sequence[Mapping]) -> dict[str, float]:
    """Mean over the draws for which a value was computed; values per gene are left out."""
    if not of_draws:
        return {}
    names = [name for name, value in of_draws[0].items() if np.ndim(value) == 0]
    return {n: float(np.mean([values[n] for values in of_draws if n in values])) for n in names}


def _rows(pair: Pair, estimator: str, values: Mapping[str, float | np.ndarray]) -> list[tuple]:
    rows = []
    for name, value in values.items():
        if np.ndim(value) == 0:
            rows.append((pair.slide, estimator, name, "", float(value)))
        else:
            name = name.removesuffix(OF_GENE)
            named = zip(pair.genes, np.asarray(value), strict=True)
            rows += [(pair.slide, estimator, name, gene, float(v)) for gene, v in named]
    return rows
