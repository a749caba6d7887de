"""Scores of one run: its prediction files, joined by name to the counts of the test slides."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.core.io import check_contract, load_arrays, writing
from flag_st.data.slide import read_expression
from flag_st.intervals.calibration import Calibration
from flag_st.metrics.base import Metric
from flag_st.scoring.slides import KEYS, Pair, score_slides

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
    labels: Mapping[str, Any],
    calibration: str | Path | None = None,
) -> "pd.DataFrame":
    """The metrics of one run: every test slide, and all of them pooled.

    Args:
        predictions, truths: one file of each per test slide, in the same order.
        panel: the genes, as ``select_panel`` writes them; ``transform`` is their unit.
        metrics: name → metric.
        labels: what identifies the run, as columns to put before the others.
        calibration: the file of the run's intervals, for metrics that judge them.
    """
    pairs = [
        read_pair(prediction, truth, transform)
        for prediction, truth in zip(predictions, truths, strict=True)
    ]
    facts: dict[str, Any] = {"transform": transform}
    if calibration:
        facts["calibration"] = Calibration.restore(load_arrays(calibration)[0])
    if "variance" in panel:
        facts["train_variance"] = panel.set_index("gene")["variance"][
            list(pairs[0].genes)
        ].to_numpy()
    return score_slides(pairs, metrics, facts=facts, labels=labels)


def write_scores(job: Any) -> None:
    """What the rules ``evaluate`` and ``evaluate_downstream`` do, each with metrics of its own."""
    import pandas as pd

    panel = pd.read_parquet(job.input.panel)
    metrics = {n: registry.build(m["use"], m["params"]) for n, m in job.params.metrics.items()}
    transform = job.params.panel.get("transform", "log1p")
    run = {name: job.wildcards[name] for name in KEYS}
    labels = {**run, "seed": int(run["seed"])}
    files = (job.input.predictions, job.input.truth)
    calibration = job.input.get("calibration")
    scores = score_run(
        *files, panel, transform, metrics, labels, calibration[0] if calibration else None
    )
    with writing(job.output.scores) as temporary:
        scores.to_parquet(temporary, index=False)
