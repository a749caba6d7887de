"""The numbers that the paper printed, and in what a run of ours differs from the paper's setting."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flag_st.core.errors import FlagError

if TYPE_CHECKING:
    import pandas

FIELDS = ["table", "cohort", "panel", "row", "method", "metric", "value", "std"]
FIELDS += ["encoder", "gene_model", "unit", "note"]
#: The source class whose slides are the paper's; a cohort entry of another class is a stand-in.
SOURCE = "flag_st.sources.hest.Hest"
SPLIT = "random"
ENCODER = "uni"


def read_reported(path: str | Path, table: str | None = None) -> "pandas.DataFrame":
    """Rows of ``config/reported.csv``, of one table or of all; texts are "" where empty.

    Raises:
        FlagError: unreadable, other columns, or no such table.
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


def differences(
    run: Mapping[str, Any], item: Mapping[str, Any], printed: "pandas.DataFrame"
) -> list[str]:
    """In what one run differs from the setting whose numbers the paper printed; empty if nothing.

    Args:
        run: a row of the runs table (``collect.run_facts``).
        item: what the workflow says of the experiment: ``cohorts``, ``methods``.
        printed: rows of one table of ``read_reported``.
    """
    method, found = item["methods"][run["method"]], []
    if difference := cohort_difference(run["cohort"], item, printed):
        found.append(difference)
    rows = printed[printed["method"] == run["method"]]
    # A method of ours has no row of its own: the features are FLAG's, the gene model is free.
    paper = rows.iloc[0] if len(rows) else {"encoder": ENCODER, "gene_model": run["gene_model"]}
    found += _plugin_differences(run, method, paper)
    if run["split"] != SPLIT:
        found.append(f"split {run['split']}, the paper's is {SPLIT} over slides")
    panels = set(printed["panel"]) - {""}
    if panels and run["panel"] not in panels:
        found.append(f"panel {run['panel']}, the paper's is {', '.join(sorted(panels))}")
    if method.get("changed"):
        found.append("settings are not those that this project ships")
    return found


def cohort_difference(name: str, item: Mapping[str, Any], printed: "pandas.DataFrame") -> str:
    """In what a cohort is not the paper's; "" if it is."""
    cohort, paper_name = item["cohorts"][name], cohort_in_paper(name, item)
    if paper_name not in set(printed["cohort"]):
        return f"cohort {name} is not in the paper"
    if name != paper_name or cohort["use"] != SOURCE:
        return f"cohort {name} is not the paper's {paper_name}"
    return f"only {len(cohort['slides'])} slides of cohort {name}" if cohort.get("slides") else ""


def _plugin_differences(
    run: Mapping[str, Any], method: Mapping[str, Any], paper: Mapping[str, Any]
) -> list[str]:
    found = []
    # A method that reads pixels itself makes no use of the encoder it was given.
    if run["encoder"] != paper["encoder"] and not method.get("needs_patches"):
        stated = (
            f"the paper's is {paper['encoder']}"
            if paper["encoder"]
            else "the paper's is not stated"
        )
        found.append(f"encoder {run['encoder']}, {stated}")
    if run["gene_model"] != paper["gene_model"]:
        stated = paper["gene_model"] or "none"
        found.append(f"gene model {run['gene_model'] or 'none'}, the paper's is {stated}")
    return found


def cohort_in_paper(cohort: str, item: Mapping[str, Any]) -> str:
    """The paper's cohort whose numbers stand beside ours: the same name, or as
    ``params.paper_cohort`` of the experiment says."""
    return item.get("params", {}).get("paper_cohort", {}).get(cohort, cohort)


def printed_value(
    printed: "pandas.DataFrame", cohort: str, panel: str | None, method: str, metric: str
) -> tuple[float, float, str] | None:
    """(value, std, note) as printed, NaN where there is none; None if the paper has no such cell.

    A printed row without a panel, and ``panel`` None, agree with any.
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
    runs: "pandas.DataFrame", item: Mapping[str, Any], printed: "pandas.DataFrame"
) -> dict[tuple[str, str, str], list[str]]:
    """(cohort, panel, method) → differences of its runs from the paper's setting."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for run in runs.to_dict("records"):
        key = run["cohort"], run["panel"], run["method"]
        known: Sequence[str] = found.setdefault(key, [])
        found[key] = [*known, *(d for d in differences(run, item, printed) if d not in known)]
    return found
