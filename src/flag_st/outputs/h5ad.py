"""The prediction file of ``docs/data_contract.md``, with the verdicts beside it."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd

from flag_st.core.hdf5 import write_table
from flag_st.data.slide import prediction_table
from flag_st.intervals.certificate import VERDICTS
from flag_st.slides.predicted import LEVEL, Predicted
from flag_st.slides.trust import as_facts


def table_of(made: Predicted) -> anndata.AnnData:
    """All genes and draws; ``obs`` and ``var`` have the verdicts, ``uns`` unit and origin."""
    table = prediction_table(made.slide, made.prediction, dict(made.facts))
    for name, values in made.trust.spots.items():
        table.obs[name] = values.to_numpy()
    add_intervals(table, made)
    table.obs["array_row"], table.obs["array_col"] = made.array.T.astype(np.int64)
    for name, values in made.trust.genes.items():
        table.var[name] = values.to_numpy()
    if made.sets is not None:
        add_gene_sets(table, made)
    table.obsm["spatial_px"] = made.slide.position / made.pixel_um
    table.uns |= {
        "unit_name": made.unit,
        "unit_to_counts": made.back,
        "pixel_size_um": made.pixel_um,
        "pitch_um": made.pitch_um,
        "spot_um": made.spot_um,
        "intervals": made.guarantee,
        "certificate": made.trust.certificate.sentence(),
        "trust": as_facts(made.trust),
        "origin": dict(made.origin),
    }
    return table


def add_intervals(table: anndata.AnnData, made: Predicted) -> None:
    """Ends of the intervals of spots and of means over neighbourhoods, and verdicts at every spot."""
    table.layers["neighbourhood"] = made.mean
    found = {"": made.interval, "neighbourhood_": made.mean_interval}
    for scale, interval in found.items():
        if interval is not None:
            for name, ends in zip(("lower", "upper"), interval, strict=True):
                table.layers[f"{scale}{name}_{LEVEL}"] = ends
    if made.ranks is not None:
        table.layers["verdict"] = made.ranks
        table.uns["verdicts"] = list(VERDICTS)
        shares = made.genes_by_verdict
        table.obs["genes_trust"], table.obs["genes_coarser"] = shares["trust"], shares["coarser"]


def add_gene_sets(table: anndata.AnnData, made: Predicted) -> None:
    """Scores of every spot, their spread, and how much of each set the panel holds."""
    sets = made.sets
    assert sets is not None
    found = {"gene_sets": made.set_point, "gene_sets_spread": made.set_spread}
    for name, values in found.items():
        if values is not None:
            table.obsm[name] = pd.DataFrame(values, table.obs_names, sets.scored_names)
    coverage = {"genes_found": sets.found, "genes_named": sets.sizes, "scored": sets.scored}
    table.uns["gene_sets"] = pd.DataFrame(coverage, index=list(sets.names))


def write(made: Predicted, path: str | Path) -> None:
    write_table(path, table_of(made), "gzip")
