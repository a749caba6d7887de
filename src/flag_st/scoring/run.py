"""Scores of one run: its prediction files, joined by name to the counts of the test slides."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.io import check_contract
from flag_st.data.slide import read_expression
from flag_st.metrics.base import Metric
from flag_st.scoring.slides import Pair, score_slides

if TYPE_CHECKING:
    import pandas as pd


def read_pair(prediction: str | Path, truth: str | Path, transform: str) -> Pair:
    """One test slide's prediction and truth, in the prediction's order of spots and genes.

    Args:
        prediction: as ``flag_st.data.slide.write_prediction`` writes it.
        truth: the slide's ``spots.h5ad``.
        transform: unit of the panel.

    Raises:
        FlagError: the files are of different slides, or the truth lacks spots or genes.
    """
    import anndata

    table = anndata.read_h5ad(prediction)
    check_contract(table.uns.get("contract"), prediction, "prediction")
    genes, spots = table.var_names.to_numpy().astype(str), table.obs_names.to_numpy().astype(str)
    slide, folder = str(table.uns["slide"]), Path(truth).parent.name
    if slide != folder:
        raise FlagError(
            f"{prediction} is of slide {slide}, {truth} of {folder}",
            remedy="delete the prediction and run the same command again",
        )
    return Pair(
        slide=slide,
        genes=genes,
        truth=read_expression(truth, spots, genes, transform),
        point=np.asarray(table.X),
        draws=np.stack([table.layers[f"draw_{k}"] for k in range(int(table.uns["draws"]))]),
        position=np.asarray(table.obsm["spatial"], dtype=np.float64),
        facts=read_facts(truth, spots),
    )


def read_facts(truth: str | Path, spots: np.ndarray) -> dict[str, np.ndarray]:
    """What a slide's file says about ``spots`` besides counts: ``grid`` (N, 2), ``domains`` (N,)."""
    import anndata

    obs = anndata.read_h5ad(truth, backed="r").obs.loc[spots]
    facts = {}
    if {"array_row", "array_col"} <= set(obs):
        facts["grid"] = obs[["array_row", "array_col"]].to_numpy().astype(np.int64)
    if "domain" in obs:
        facts["domains"] = obs["domain"].astype(str).to_numpy()
    return facts


def score_run(
    predictions: Sequence[str | Path],
    truths: Sequence[str | Path],
    panel: "pd.DataFrame",
    transform: str,
    metrics: Mapping[str, Metric],
) -> "pd.DataFrame":
    """All metrics of one run: every test slide, and all of them pooled."""
    pairs = [
        read_pair(prediction, truth, transform)
        for prediction, truth in zip(predictions, truths, strict=True)
    ]
    facts = {"transform": transform}
    if "variance" in panel:
        facts["train_variance"] = panel.set_index("gene")["variance"][
            list(pairs[0].genes)
        ].to_numpy()
    return score_slides(pairs, metrics, facts=facts)
