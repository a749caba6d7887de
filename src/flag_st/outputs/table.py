"""One row per gene and gene set of a slide, to be joined to clinical tables by the slide's name."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flag_st.core.io import writing
from flag_st.intervals.certificate import VERDICTS
from flag_st.metrics.policy import MIN_SPOTS_STRUCTURE, centred
from flag_st.metrics.ssc import morans_i, neighbour_graph
from flag_st.slides.gene_sets import FEWEST
from flag_st.slides.predicted import Predicted

if TYPE_CHECKING:
    import pandas

NAME = "summary.tsv"
GENE, SET = "gene", "gene set"
FEW = f"not scored: fewer than {FEWEST} genes, or all of the panel"
#: Probability with which the mean of a further draw is in the interval.
LEVEL = 0.9


def table_of(made: Predicted) -> "pandas.DataFrame":
    """What is predicted for each gene of the panel and, below them, for each gene set.

    The columns are described in ``docs/data_contract.md``. Moran's I is undefined on fewer than 30
    spots, and spread and interval without draws; they are then empty.
    """
    import pandas as pd

    samples = made.prediction.samples
    means = np.array([draw.mean(0, dtype=np.float64) for draw in samples])  # (S, G)
    rows = [_gene_rows(made, means)]
    if made.sets is not None:
        rows.append(_set_rows(made, means))
    table = pd.concat(rows, ignore_index=True)
    first = {"slide": made.slide.id, "patient": made.slide.patient}
    for place, (name, value) in enumerate(first.items()):
        table.insert(place, name, value)
    return table.assign(slide_verdict=made.trust.verdict)


def _gene_rows(made: Predicted, means: np.ndarray) -> "pandas.DataFrame":
    import pandas as pd

    facts = {"kind": GENE, "name": made.genes, "genes_found": np.nan, "genes_named": np.nan}
    facts |= _statistics(made, made.point, made.spread, means)
    table = pd.concat([pd.DataFrame(facts), made.trust.genes.reset_index(drop=True)], axis=1)
    shares = made.spots_by_verdict
    return table.assign(**{f"spots_{v}": shares.get(v, np.nan) for v in ("trust", "coarser")})


def _set_rows(made: Predicted, means: np.ndarray) -> "pandas.DataFrame":
    """The sets that are scored, in the order of the file, and those that the panel cannot score."""
    import pandas as pd

    sets = made.sets
    assert sets is not None
    # A score is linear, so that the score of the mean is the mean of the scores.
    found = _statistics(made, made.set_point, made.set_spread, sets.score(means))
    values = pd.DataFrame(found, index=np.flatnonzero(sets.scored))
    pcc = made.trust.genes["validation_pcc"].to_numpy()  # (G,)
    table = pd.DataFrame(
        {
            "kind": SET,
            "name": sets.names,
            "genes_found": sets.found,
            "genes_named": sets.sizes,
            **{name: values[name].reindex(range(len(sets.names))) for name in values},
            # No validation slide was scored by sets; this is the mean of the set's genes.
            "validation_pcc": [_mean(pcc[column]) for column in sets.members.T],
        }
    )
    table[["unit", "spots", "draws"]] = [found["unit"], found["spots"], found["draws"]]
    return table.assign(verdict=np.where(sets.scored, set_verdicts(made), FEW))


def set_verdicts(made: Predicted) -> list[str]:
    """The best verdict that more than half of a set's genes on the panel reach, for each of K sets."""
    assert made.sets is not None
    ranks = made.trust.certificate.ranks  # (G,)
    found = [
        np.sort(ranks[column])[(column.sum() - 1) // 2] if column.any() else 0
        for column in made.sets.members.T
    ]
    return [VERDICTS[rank] for rank in found]


def _statistics(
    made: Predicted, point: np.ndarray, spread: np.ndarray | None, means: np.ndarray
) -> dict[str, object]:
    """Of (N, K) point and spread and the (S, K) means over spots of all draws."""
    values = point.astype(np.float64)
    moran = np.full(values.shape[1], np.nan)
    if len(values) >= MIN_SPOTS_STRUCTURE:
        moran = morans_i(centred(values), neighbour_graph(made.slide.position))
    low, high = interval(means)
    return {
        "unit": made.unit,
        "spots": len(values),
        "draws": len(means),
        "predicted_mean": values.mean(0),
        "draws_low_90": low,
        "draws_high_90": high,
        "sd": values.std(0, ddof=1) if len(values) > 1 else np.nan,
        "morans_i": moran,
        "spread": np.nan if spread is None else spread.mean(0),
    }


def interval(means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the mean over the slide of a further draw is with probability ``LEVEL``, by S draws.

    It is Student's prediction interval, which holds for any number of draws from two on if the means
    are normal. It says how far the draws of the model are apart, and nothing of the model's error.

    Args:
        means: (S, K) of each draw over the spots.

    Returns:
        (K,) lower and (K,) upper ends; NaN for one draw.
    """
    from scipy import stats

    count = len(means)
    if count < 2:
        return np.full(means.shape[1], np.nan), np.full(means.shape[1], np.nan)
    factor = stats.t.ppf((1 + LEVEL) / 2, count - 1) * np.sqrt(1 + 1 / count)
    half = factor * means.std(0, ddof=1)  # (K,)
    return means.mean(0) - half, means.mean(0) + half


def _mean(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def write(made: Predicted, path: str | Path) -> None:
    with writing(path) as temporary:
        table_of(made).to_csv(
            temporary, sep="\t", index=False, float_format="%.6g", lineterminator="\n"
        )
