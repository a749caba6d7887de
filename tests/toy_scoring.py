"""A pair of arrays to score, metrics to score it by, and how a score is looked up."""

from typing import ClassVar

import numpy as np

from flag_st.metrics.base import Case, Metric
from flag_st.metrics.gsc import Gsc
from flag_st.metrics.mse import Mse
from flag_st.metrics.pcc import Pcc
from flag_st.metrics.ssc import Ssc
from flag_st.scoring.slides import Pair

G, S = 12, 3
GENES = tuple(f"g{i}" for i in range(G))
METRICS = {"pcc": Pcc(), "mse": Mse(), "gsc": Gsc(), "ssc": Ssc()}


def pair(slide="A1", n=50, draws=S, seed=0, **facts):
    rng = np.random.default_rng([seed, n])
    position = rng.uniform(0, 500, size=(n, 2))
    truth = np.sin(position @ rng.normal(size=(2, G)) / 90) + rng.normal(size=(n, G)) / 2
    samples = truth + rng.normal(size=(draws, n, G))
    point = samples.mean(0) if draws else truth + rng.normal(size=(n, G))
    one = (a.astype(np.float32) for a in (truth, point, samples))
    return Pair(slide, GENES, *one, position, facts)


def pick(table, slide, estimator, metric, gene=""):
    found = table.query(
        "slide == @slide and estimator == @estimator and metric == @metric and gene == @gene"
    )
    assert len(found) == 1
    return float(found["value"].iloc[0])


class Mean(Metric):
    """The mean of the prediction, counting its calls."""

    columns: ClassVar = {"mean": ("mean", 0)}
    downstream = True

    def __init__(self):
        self.calls = []

    def __call__(self, case: Case):
        self.calls.append(case)
        return {"mean": float(case.prediction.mean())}


class Spread(Metric):
    columns: ClassVar = {"spread": ("spread", 0), "spread_gene": ("spread", 0)}
    ensemble = True

    def __call__(self, case: Case):
        by_gene = case.draws.std(0).mean(0)
        return {"spread": float(by_gene.mean()), "spread_gene": by_gene}
