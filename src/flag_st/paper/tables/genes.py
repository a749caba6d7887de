"""The genes that are predicted, by cohort (HINGE Figure S1)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from flag_st.paper.experiment import Experiment
from flag_st.paper.tables.sheet import Block, Cell, Head, Sheet
from flag_st.paper.tissue import Tissue

if TYPE_CHECKING:
    import pandas

#: Genes in a row of the printed table.
ACROSS = 10


def gene_sheet(
    experiment: Experiment, tissues: Mapping[str, Tissue]
) -> tuple[Sheet, "pandas.DataFrame"]:
    """One block per cohort with the genes of its panel, and a table of them with their moments.

    Args:
        experiment: what the table is of.
        tissues: cohort → the test section on which mean and variance are those of the truth.
    """
    import pandas as pd

    blocks, tables = [], []
    for cohort, tissue in tissues.items():
        variance = tissue.truth.var(axis=0)  # (G,)
        order = np.argsort(-variance, kind="stable")
        names = [tissue.genes[i] for i in order]
        rows = [names[start : start + ACROSS] for start in range(0, len(names), ACROSS)]
        cells = [
            [Cell(name, kind="name") for name in [*row, *[""] * ACROSS][:ACROSS]] for row in rows
        ]
        heads = [Head(str(place + 1)) for place in range(ACROSS)]
        blocks.append(Block(f"{cohort}: {len(names)} genes, unit {tissue.unit}", [], heads, cells))
        facts = {"cohort": cohort, "rank": range(1, len(names) + 1), "gene": names}
        facts |= {"mean": tissue.truth.mean(axis=0)[order], "variance": variance[order]}
        tables.append(pd.DataFrame(facts))
    sheet = Sheet(experiment.name, experiment.title, experiment.caption, blocks)
    return sheet, pd.concat(tables, ignore_index=True)
