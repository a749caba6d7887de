"""Time and memory to train and to predict (Tables 10 and 11)."""

from collections.abc import Mapping, Sequence
from math import nan
from typing import TYPE_CHECKING, Any

from flag_st.core.io import read_json
from flag_st.paper.experiment import Experiment

if TYPE_CHECKING:
    import pandas

INFERENCE_FACTS = {
    "n_spots": ("spots", 0),
    "draws": ("draws", 0),
    "inference_time_s": ("seconds", 1),
    "seconds_per_spot_draw": ("s / spot / draw", 4),
    "spots_per_second": ("spots / s", 1),
    "peak_memory_GB": ("memory GB", 2),
    "peak_gpu_memory_GB": ("GPU memory GB", 2),
}
TRAINING_FACTS = {
    "epochs": ("epochs", 0),
    "train_s_per_epoch": ("s / epoch", 2),
    "train_s": ("seconds", 0),
    "spots_per_second": ("spots / s", 1),
    "peak_memory_GB": ("memory GB", 2),
    "peak_gpu_memory_GB": ("GPU memory GB", 2),
}


def inference_costs(
    experiment: Experiment,
    keys: Sequence[Mapping[str, Any]],
    predictions: Sequence[str],
    records: Sequence[str],
) -> "pandas.DataFrame":
    """One row per cohort and method: its first run on its first test slide, start-up included.

    Args:
        experiment: whose methods are shown.
        keys: cohort, method and slide of each prediction.
        predictions: prediction files.
        records: what the jobs that wrote them recorded.
    """
    import pandas as pd

    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for key, prediction, record in zip(keys, predictions, records, strict=True):
        place = key["cohort"], key["method"]
        if place not in rows:
            label = experiment.label(key["method"])
            names = {"cohort": key["cohort"], "method": key["method"], "label": label}
            rows[place] = {**names, "slide": key["slide"], **_inference(prediction, record)}
    return pd.DataFrame(rows.values())


def _inference(prediction: str, record: str) -> dict[str, Any]:
    import anndata

    table, cost = anndata.read_h5ad(prediction, backed="r"), read_json(record)
    seconds, gpu = cost["seconds"], cost["gpu_memory_mb"]
    spots, draws = table.n_obs, int(table.uns["draws"])
    return {
        "n_spots": spots,
        "draws": draws,
        "device": cost["device"],
        "inference_time_s": seconds,
        "seconds_per_spot_draw": seconds / spots / draws,
        "spots_per_second": spots / seconds,
        "peak_memory_GB": cost["peak_memory_mb"] / 1024,
        "peak_gpu_memory_GB": nan if gpu is None else gpu / 1024,
    }


def training_costs(
    experiment: Experiment, runs: "pandas.DataFrame", histories: Sequence[str]
) -> "pandas.DataFrame":
    """One row per cohort and method, for its first run.

    Args:
        experiment: whose methods are shown.
        runs: as ``collect_runs`` writes them.
        histories: the training history of each run.
    """
    import pandas as pd

    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for run, path in zip(runs.to_dict("records"), histories, strict=True):
        place = run["cohort"], run["method"]
        if place in rows:
            continue
        epochs = len(pd.read_csv(path))
        rows[place] = {
            "cohort": run["cohort"],
            "method": run["method"],
            "label": experiment.label(run["method"]),
            "device": run["device"],
            "epochs": epochs or nan,
            "train_s_per_epoch": run["seconds"] / epochs if epochs else nan,
            "train_s": run["seconds"],
            "spots_per_second": run["train_spots"] * epochs / run["seconds"] if epochs else nan,
            "peak_memory_GB": run["peak_memory_mb"] / 1024,
            "peak_gpu_memory_GB": run["gpu_memory_mb"] / 1024,
        }
    return pd.DataFrame(rows.values())
