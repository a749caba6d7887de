"""The numbers that the papers printed, and how a run of ours differs from the setting of a paper."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flag_st.core.errors import FlagError
from flag_st.paper.experiment import Experiment, MethodFacts

if TYPE_CHECKING:
    import pandas

FIELDS = ["table", "cohort", "panel", "split", "row", "method", "metric", "value", "std"]
FIELDS += ["encoder", "gene_model", "unit", "note"]
#: The class that provides the slides of both papers.
SOURCE = "flag_st.sources.hest.Hest"
#: Start of the names of a paper's tables → the image encoder of the paper's own method, if it is known.
ENCODERS = {"table": "uni", "hinge_table": "uni+conch"}


def read_reported(path: str | Path, table: str | None = None) -> "pandas.DataFrame":
    """Rows of ``config/reported.csv``, of one table or of all; empty texts are "".

    Raises:
        FlagError: the file cannot be read, has other columns, or lacks the table.
    """
    import pandas as pd

    texts = {name: str for name in FIELDS if name not in ("value", "std")}
    try:
        rows = pd.read_csv(
            path, dtype=texts, keep_default_na=False, na_values={"value": "", "std": ""}
        )
    except (OSError, ValueError) as error:
        raise FlagError(f"cannot read the printed numbers {path} ({error})") from None
    if list(rows.columns) != FIELDS:
        raise FlagError(f"{path} has columns {', '.join(rows.columns)}", choices=FIELDS)
    if table is None:
        return rows
    if table not in set(rows["table"]):
        raise FlagError(f"{path} has no table {table!r}", choices=sorted(set(rows["table"])))
    return rows[rows["table"] == table].reset_index(drop=True)


def paper_of(table: str) -> str:
    """What the names of all tables of a paper start with, such as ``hinge_table``."""
    return table.rpartition("_")[0]


def differences(
    run: Mapping[str, Any],
    experiment: Experiment,
    printed: "pandas.DataFrame",
    unstated: bool = True,
) -> list[str]:
    """How one run differs from the setting whose numbers the paper printed; empty if it does not.

    Args:
        run: a row of the runs table (``collect.run_facts``).
        experiment: the experiment of the run.
        printed: one table of ``read_reported``.
        unstated: whether what the paper does not state counts as a difference.
    """
    method, found = experiment.methods[run["method"]], []
    if difference := cohort_difference(run["cohort"], experiment, printed):
        found.append(difference)
    rows = printed[printed["method"] == run["method"]]
    # A method that the paper lacks has no row: its features must be those of the paper's own method, and
    # its gene model is free.
    own = ENCODERS.get(paper_of(printed["table"].iloc[0]), "")
    paper = rows.iloc[0] if len(rows) else {"encoder": own, "gene_model": run["gene_model"]}
    if not unstated and not paper["encoder"]:
        paper = {**paper, "encoder": run["encoder"]}
    found += _plugin_differences(run, method, paper)
    if difference := _split_difference(run["split"], printed, unstated):
        found.append(difference)
    panels = set(printed["panel"]) - {""}
    if panels and run["panel"] not in panels:
        found.append(f"panel {run['panel']}, the paper's is {', '.join(sorted(panels))}")
    if method.changed:
        found.append("settings differ from those that this project ships")
    return found


def cohort_difference(name: str, experiment: Experiment, printed: "pandas.DataFrame") -> str:
    """How a cohort differs from the paper's; "" if it does not."""
    cohort, paper_name = experiment.cohorts[name], experiment.paper_cohort(name)
    if paper_name not in set(printed["cohort"]):
        return f"cohort {name} is not known to be one of the paper's"
    if name != paper_name or cohort.use != SOURCE:
        return f"cohort {name} is not the paper's {paper_name}"
    return f"only {len(cohort.only)} slides of cohort {name}" if cohort.only else ""


def _split_difference(fold: str, printed: "pandas.DataFrame", unstated: bool) -> str:
    """How the split of a run differs from the paper's; "" if it does not.

    Args:
        fold: the name of a split, or of one of its folds, which is the split's with a slide or patient
            behind it.
        unstated: whether it counts as a difference that the paper does not state its split.
    """
    splits = set(printed["split"]) - {""}
    if not (splits or unstated):
        return ""
    if any(fold == split or fold.startswith(f"{split}-") for split in splits):
        return ""
    stated = ", ".join(sorted(splits)).replace("random", "random over slides") or "not stated"
    return f"split {fold}, the paper's is {stated}"


def _plugin_differences(
    run: Mapping[str, Any], method: MethodFacts, paper: Mapping[str, Any]
) -> list[str]:
    found = []
    # A method that reads pixels itself makes no use of the encoder that it was given.
    if run["encoder"] != paper["encoder"] and not method.needs_patches:
        stated = f"the paper's is {paper['encoder'] or 'not stated'}"
        found.append(f"encoder {run['encoder']}, {stated}")
    if run["gene_model"] != paper["gene_model"]:
        stated = paper["gene_model"] or "none"
        found.append(f"gene model {run['gene_model'] or 'none'}, the paper's is {stated}")
    return found


def printed_value(
    printed: "pandas.DataFrame", cohort: str, panel: str | None, method: str, metric: str
) -> tuple[float, float, str] | None:
    """(value, std, note) as printed, NaN for a missing number; None if the paper has no such cell.

    A printed row without a panel matches any panel, and so does ``panel`` None. Percentages are
    returned as shares.
    """
    rows = printed[
        (printed["cohort"] == cohort)
        & (printed["method"] == method)
        & (printed["metric"] == metric)
        & ((panel is None) | printed["panel"].isin((panel, "")))
    ]
    if rows.empty:
        return None
    row = rows.iloc[0]
    scale = 0.01 if row["unit"] == "%" else 1.0
    return float(row["value"]) * scale, float(row["std"]) * scale, row["note"]


def stand_ins(
    runs: "pandas.DataFrame",
    experiment: Experiment,
    printed: "pandas.DataFrame",
    unstated: bool = True,
) -> dict[tuple[str, str, str], list[str]]:
    """(cohort, panel, method) → how its runs differ from the paper's setting (``differences``)."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for run in runs.to_dict("records"):
        key = run["cohort"], run["panel"], run["method"]
        known: Sequence[str] = found.setdefault(key, [])
        more = differences(run, experiment, printed, unstated)
        found[key] = [*known, *(text for text in more if text not in known)]
    return found
