"""Scores that the pipeline does not keep: of single draws, or with other settings of a metric."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.data.slide import read_expression
from flag_st.metrics.base import Metric
from flag_st.metrics.ceilings import thin_counts
from flag_st.metrics.ssc import Ssc
from flag_st.scoring.slides import KEYS, Pair, score_slides

if TYPE_CHECKING:
    import pandas

    from flag_st.paper.tissue import Tissue


def of_draws(
    found: Iterable[tuple[Mapping[str, Any], Pair]], metrics: Mapping[str, Metric]
) -> "pandas.DataFrame":
    """Scores of every single draw, with the number of the draw in place of the seed.

    A table of means and spreads over seeds then shows them over the draws of one model, which is
    the model of the first seed.
    """
    import pandas as pd

    parts = []
    seen: dict[tuple, Any] = {}
    for key, slides in _runs(found):
        model = tuple(key[name] for name in KEYS if name != "seed")
        if seen.setdefault(model, key["seed"]) != key["seed"]:
            continue
        scores = score_slides(slides, metrics, labels=key, each_draw=True)
        scores = scores[scores["estimator"].str.startswith("draw_") & (scores["gene"] == "")]
        number = scores["estimator"].str.removeprefix("draw_").astype(int)
        parts.append(scores.assign(seed=number, estimator="draw"))
    return pd.concat(parts, ignore_index=True)


def ssc_of(
    found: Iterable[tuple[Mapping[str, Any], Pair]], neighbours: Sequence[int]
) -> "pandas.DataFrame":
    """SSC with several numbers of neighbours, as the values ``ssc_k4``, ``ssc_k8`` and so on."""
    import pandas as pd

    parts = []
    for key, slides in _runs(found):
        for k in neighbours:
            scores = score_slides(slides, {"ssc": Ssc(k=k)}, labels=key)
            scores = scores[(scores["metric"] == "ssc") & (scores["gene"] == "")]
            parts.append(scores.assign(metric=f"ssc_k{k}"))
    return pd.concat(parts, ignore_index=True)


def ceilings_of(
    found: Iterable[tuple[Mapping[str, Any], "Tissue"]], spots: Mapping[tuple[str, str], str]
) -> dict[tuple[str, str], float]:
    """(cohort, ``gsc`` or ``ssc``) → the value that a second measurement of the truth would attain.

    It is the mean over test slides of the agreement between two random halves of all counts,
    corrected for their halved depth.

    Args:
        found: test slides with their keys (``predictions.tissues``).
        spots: (cohort, slide) → spot file.
    """
    values: dict[tuple[str, str], list[float]] = {}
    for key, tissue in found:
        path = spots[key["cohort"], key["slide"]]
        counts = read_expression(path, tissue.spots, tissue.genes, "counts")
        ceilings = thin_counts(counts, tissue.position, tissue.slide, tissue.unit)
        for metric in ("gsc", "ssc"):
            values.setdefault((key["cohort"], metric), []).append(ceilings[metric])
    return {name: float(np.nanmean(found)) for name, found in values.items()}


def _runs(
    found: Iterable[tuple[Mapping[str, Any], Pair]],
) -> Iterable[tuple[dict[str, Any], list[Pair]]]:
    """The slides of each run together; predictions must come run by run."""

    def run(entry: tuple[Mapping[str, Any], Pair]) -> tuple:
        return tuple(entry[0][name] for name in KEYS)

    for values, group in groupby(found, key=run):
        yield dict(zip(KEYS, values, strict=True)), [pair for _, pair in group]
