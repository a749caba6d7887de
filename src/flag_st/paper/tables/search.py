"""The search for settings: the candidates of each method, their validation scores and their cost.

Only validation slides decide. A candidate's score is the mean correlation of its prediction with the
truth, computed in the same way for all methods, at the epoch whose weights the run kept: the one of
lowest validation loss, which is each method's own.
"""

from collections.abc import Mapping, Sequence
from math import isfinite, nan
from typing import TYPE_CHECKING

from flag_st.paper.experiment import Experiment
from flag_st.paper.tables.settings import settings_of
from flag_st.paper.tables.sheet import DASH, Block, Cell, Head, Notes, Sheet, number

if TYPE_CHECKING:
    import pandas

PLACE = ["cohort", "panel"]
UNEQUAL = "Methods do not all have the same number of candidates"


def candidates(
    experiment: Experiment, runs: "pandas.DataFrame", histories: Sequence[str]
) -> "pandas.DataFrame":
    """One row per cohort, panel and candidate.

    Args:
        experiment: its methods are the candidates.
        runs: as ``collect_runs`` writes them.
        histories: the ``history.csv`` of each run, in the same order.

    Returns:
        cohort, panel, family (the method that it is a candidate for), method, settings (those in
        which the candidates of the family differ), valid_pcc and valid_pcc_std over seeds,
        valid_loss, n_seeds, epochs and seconds of all seeds together, chosen.
    """
    import pandas as pd

    scored = [_score(path) for path in histories]
    table = pd.concat([runs.reset_index(drop=True), pd.DataFrame(scored)], axis=1)
    group = [*PLACE, "method"]
    # Folds of one seed are one run of the experiment.
    means, sums = (
        table.groupby([*group, "seed"], sort=False)[names]
        for names in (["valid_pcc", "valid_loss"], ["epochs", "seconds"])
    )
    seeds = means.mean().join(sums.sum()).reset_index()
    by = seeds.groupby(group, sort=False)
    found = by[["valid_pcc", "valid_loss"]].mean().join(by[["epochs", "seconds"]].sum())
    found.insert(1, "valid_pcc_std", by["valid_pcc"].std())
    found["n_seeds"] = by["seed"].size()
    found = found.reset_index()
    families = _families(experiment, runs)
    found.insert(2, "family", found["method"].map(families))
    found.insert(4, "settings", found["method"].map(_differences(runs, families)))
    best = found.groupby([*PLACE, "family"])["valid_pcc"].transform("max")
    found["chosen"] = found["valid_pcc"].eq(best) & ~found.duplicated(
        [*PLACE, "family", "valid_pcc"]
    )
    return found


def _score(path: str) -> dict[str, float]:
    """Validation at the epoch whose weights were kept, and the number of epochs."""
    import pandas as pd

    history = pd.read_csv(path)
    kept: Mapping[str, float] = {}
    if "valid_loss" in history and history["valid_loss"].notna().any():
        kept = history.loc[history["valid_loss"].idxmin()]
    return {
        "valid_pcc": kept.get("valid_pcc", nan),
        "valid_loss": kept.get("valid_loss", nan),
        "epochs": len(history),
    }


def _families(experiment: Experiment, runs: "pandas.DataFrame") -> dict[str, str]:
    """Candidate → label of the first candidate with the same class and the same input."""
    uses = dict(zip(runs["method"], runs["use"], strict=True))
    kinds = {
        name: (uses[name], method.needs_patches)
        for name, method in experiment.methods.items()
        if name in uses
    }
    first = {kind: m for m, kind in reversed(kinds.items())}
    return {m: experiment.label(first[kind]) for m, kind in kinds.items()}


def _differences(runs: "pandas.DataFrame", families: Mapping[str, str]) -> dict[str, str]:
    """Candidate → its values of the settings that vary within its family."""
    settings, texts = {m: settings_of(runs, m) for m in families}, {}
    for method, family in families.items():
        rivals = [settings[m] for m, f in families.items() if f == family]
        names = [n for n in settings[method] if len({str(r.get(n)) for r in rivals}) > 1]
        values = [f"{n.removeprefix('training.')} {settings[method][n]}" for n in names]
        texts[method] = ", ".join(values) or DASH
    return texts


def search_sheet(experiment: Experiment, table: "pandas.DataFrame") -> Sheet:
    """The candidates under one heading per cohort, followed by the budget of each method."""
    notes, several = Notes(), table["panel"].nunique() > 1
    blocks = [
        _candidates(f"{cohort}, {panel}" if several else cohort, part, notes)
        for (cohort, panel), part in table.groupby(PLACE, sort=False)
    ]
    budgets = table.groupby([*PLACE, "family"], sort=False)["method"].nunique()
    warning = UNEQUAL if budgets.nunique() > 1 else ""
    blocks.append(_budget(table))
    return Sheet(experiment.name, experiment.title, experiment.caption, blocks, notes, warning)


def _candidates(title: str, part: "pandas.DataFrame", notes: Notes) -> Block:
    heads = [Head("method", kind="name"), Head("settings", kind="words")]
    heads += [Head(text) for text in ("validation PCC ↑", "validation loss", "epochs", "chosen")]
    rows, above = [], None
    for row in part.to_dict("records"):
        loss = row["valid_loss"]
        rows.append(
            [
                Cell("" if row["family"] == above else row["family"], kind="name"),
                Cell(row["settings"], kind="words"),
                number(
                    row["valid_pcc"], row["valid_pcc_std"], notes, "best" if row["chosen"] else ""
                ),
                Cell(f"{loss:.4f}" if isfinite(loss) else DASH),
                Cell(str(row["epochs"])),
                Cell("yes" if row["chosen"] else ""),
            ]
        )
        above = row["family"]
    return Block(title, [], heads, rows)


def _budget(table: "pandas.DataFrame") -> Block:
    heads = [Head("method", kind="name")]
    heads += [Head(text) for text in ("candidates", "runs", "epochs", "hours")]
    rows = [
        [
            Cell(family, kind="name"),
            Cell(str(part["method"].nunique())),
            Cell(str(part["n_seeds"].sum())),
            Cell(str(part["epochs"].sum())),
            Cell(f"{part['seconds'].sum() / 3600:.2f}"),
        ]
        for family, part in table.groupby("family", sort=False)
    ]
    return Block("Budget", [], heads, rows)
