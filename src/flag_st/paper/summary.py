"""The numbers of a comparison: means over slides and seeds, with the paper's numbers beside them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flag_st.core.errors import FlagError
from flag_st.paper import reported
from flag_st.paper.columns import Column
from flag_st.paper.experiment import Experiment, Labels

if TYPE_CHECKING:
    import pandas

#: Counts that go into the CSV: how many genes a number rests on.
COUNTS = ("n_genes_used", "n_constant_truth", "n_constant_prediction")
GROUP = ["cohort", "panel", "method"]


def summarise(scores: "pandas.DataFrame", columns: Sequence[Column]) -> "pandas.DataFrame":
    """Mean over slides, then mean and standard deviation over seeds.

    Returns:
        One row per cohort, panel, method and column: mean, std (NaN for one seed), n_seeds,
        n_slides, n_undefined (slides without a value) and the counts of genes.
    """
    import pandas as pd

    parts = [_of_column(scores, place, column) for place, column in enumerate(columns)]
    return pd.concat(parts, ignore_index=True).merge(_counts(scores), how="left")


def _of_column(scores: "pandas.DataFrame", place: int, column: Column) -> "pandas.DataFrame":
    pooled = scores["slide"] == ""
    rows = scores[
        (scores["metric"] == column.metric)
        & (scores["estimator"] == column.estimator)
        & (pooled if column.scope == "pooled" else ~pooled)
    ]
    # Folds of one seed are one run of the experiment: their slides are averaged together.
    seeds = rows.groupby([*GROUP, "seed"], sort=False)["value"].mean().reset_index()
    table = seeds.groupby(GROUP, sort=False)["value"].agg(["mean", "std", "size"])
    table = table.rename(columns={"size": "n_seeds"})
    by_method = rows.groupby(GROUP, sort=False)
    table["n_slides"] = by_method["slide"].nunique()
    table["n_undefined"] = by_method["value"].agg(lambda values: int(values.isna().sum()))
    for position, name in enumerate(("metric", "estimator", "scope")):
        table.insert(position, name, getattr(column, name))
    table.insert(0, "column", place)
    return table.reset_index()


def _counts(scores: "pandas.DataFrame") -> "pandas.DataFrame":
    """The fewest genes used and the most left out on any slide, by cohort, panel and method."""
    import pandas as pd

    rows = scores[scores["slide"] != ""]
    tables = []
    for name in COUNTS:
        values = rows[rows["metric"] == name].groupby(GROUP)["value"]
        tables.append((values.min() if name == "n_genes_used" else values.max()).rename(name))
    return pd.concat(tables, axis=1).reset_index()


def numbers_of(
    experiment: Experiment,
    scores: "pandas.DataFrame",
    runs: "pandas.DataFrame",
    printed: "pandas.DataFrame",
    labels: Labels | None = None,
) -> "pandas.DataFrame":
    """``summarise``, with the paper's number in each row and how its setting differs from ours.

    Args:
        experiment: its ``params.columns`` are summarised.
        scores, runs: as collected.
        printed: one table of ``config/reported.csv``.
        labels: of all values that can be asked for, if not those of the metrics.

    Returns:
        One row per cohort, panel, method and column. Every run has its rows, also where a metric
        was not computed or is undefined.

    Raises:
        FlagError: a column asks for a value that no metric returns.
    """
    import pandas as pd

    columns, labels = experiment.columns, labels or experiment.labels
    if unknown := sorted({c.metric for c in columns} - set(labels)):
        raise FlagError(
            f"experiment {experiment.name}: no metric returns {', '.join(unknown)}",
            choices=sorted(labels),
        )
    wanted = [
        {"column": i, "metric": c.metric, "estimator": c.estimator, "scope": c.scope}
        for i, c in enumerate(columns)
    ]
    numbers = runs[GROUP].drop_duplicates().merge(pd.DataFrame(wanted), how="cross")
    numbers = numbers.merge(summarise(scores, columns), how="left")
    counts = ["n_seeds", "n_slides", "n_undefined"]
    numbers[counts] = numbers[counts].fillna(0).astype(int)
    _add_printed(numbers, experiment, printed)
    _add_setting(numbers, reported.stand_ins(runs, experiment, printed), set(printed["method"]))
    return numbers


def _add_printed(
    numbers: "pandas.DataFrame", experiment: Experiment, printed: "pandas.DataFrame"
) -> None:
    """Add what the paper printed: paper, paper_std and paper_note."""

    def cell(row: Mapping[str, Any]) -> tuple[float, float, str] | None:
        metric = experiment.columns[row["column"]].paper
        if not metric:
            return None
        cohort = experiment.paper_cohort(row["cohort"])
        return reported.printed_value(printed, cohort, row["panel"], row["method"], metric)

    cells = [cell(row) for row in numbers.to_dict("records")]
    for place, name in enumerate(("paper", "paper_std", "paper_note")):
        numbers[name] = [None if c is None else c[place] for c in cells]
    for name in ("paper", "paper_std"):
        numbers[name] = numbers[name].astype(float)


def _add_setting(
    numbers: "pandas.DataFrame",
    stand_ins: Mapping[tuple[str, str, str], Sequence[str]],
    in_paper: set[str],
) -> None:
    """Add ``differs``, the differences from the paper's setting, and ``setting``, which sums them up."""
    keys = zip(numbers["cohort"], numbers["panel"], numbers["method"], strict=True)
    numbers["differs"] = ["; ".join(stand_ins.get(key, [])) for key in keys]
    numbers["setting"] = [
        "stand-in" if differs else "as in the paper" if method in in_paper else "not in the paper"
        for differs, method in zip(numbers["differs"], numbers["method"], strict=True)
    ]
