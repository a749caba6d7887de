"""The prediction file of ``docs/data_contract.md``, with the verdicts beside it."""

from pathlib import Path

import anndata
import numpy as np

from flag_st.core.hdf5 import hdf5_file
from flag_st.core.io import writing
from flag_st.data.slide import prediction_table
from flag_st.slides.predicted import Predicted
from flag_st.slides.trust import as_facts


def table_of(made: Predicted) -> anndata.AnnData:
    """All genes and draws; ``obs`` and ``var`` have the verdicts, ``uns`` unit and origin."""
    table = prediction_table(made.slide, made.prediction, dict(made.facts))
    for name, values in made.trust.spots.items():
        table.obs[name] = values.to_numpy()
    table.obs["array_row"], table.obs["array_col"] = made.array.T.astype(np.int64)
    for name, values in made.trust.genes.items():
        table.var[name] = values.to_numpy()
    table.obsm["spatial_px"] = made.slide.position / made.pixel_um
    table.uns |= {
        "unit_name": made.unit,
        "unit_to_counts": made.back,
        "pixel_size_um": made.pixel_um,
        "pitch_um": made.pitch_um,
        "spot_um": made.spot_um,
        "trust": as_facts(made.trust),
        "origin": dict(made.origin),
    }
    return table


def write(made: Predicted, path: str | Path) -> None:
    with writing(path) as temporary, hdf5_file(temporary) as file:
        anndata.io.write_elem(file, "/", table_of(made), dataset_kwargs={"compression": "gzip"})
