"""One row per gene of a slide, to be joined to clinical tables by the slide's name."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flag_st.core.io import writing
from flag_st.metrics.policy import MIN_SPOTS_STRUCTURE, centred
from flag_st.metrics.ssc import morans_i, neighbour_graph
from flag_st.slides.predicted import Predicted

if TYPE_CHECKING:
    import pandas


def table_of(made: Predicted) -> "pandas.DataFrame":
    """slide, gene, unit, mean, standard deviation, Moran's I, spread, validation scores and verdicts.

    Moran's I is undefined on fewer than 30 spots, and the spread without draws; both are then empty.
    """
    import pandas as pd

    values, spread = made.point.astype(np.float64), made.spread
    moran = np.full(len(made.genes), np.nan)
    if len(values) >= MIN_SPOTS_STRUCTURE:
        moran = morans_i(centred(values), neighbour_graph(made.slide.position))
    facts = {
        "slide": made.slide.id,
        "patient": made.slide.patient,
        "gene": made.genes,
        "unit": made.unit,
        "spots": len(values),
        "mean": values.mean(0),
        "sd": values.std(0, ddof=1) if len(values) > 1 else np.nan,
        "morans_i": moran,
        "spread": np.nan if spread is None else spread.mean(0),
    }
    genes = made.trust.genes.reset_index(drop=True).rename(columns={"verdict": "gene_verdict"})
    table = pd.concat([pd.DataFrame(facts), genes], axis=1)
    return table.assign(slide_verdict=made.trust.verdict)


def write(made: Predicted, path: str | Path) -> None:
    with writing(path) as temporary:
        table_of(made).to_csv(
            temporary, sep="\t", index=False, float_format="%.6g", lineterminator="\n"
        )
