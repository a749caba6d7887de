"""Tables of facts: cohorts, settings and costs, each beside what the paper printed."""

import ast
import json
from collections.abc import Mapping, Sequence
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

from flag_st.core.code import SRC
from flag_st.core.io import read_json
from flag_st.paper import reported
from flag_st.paper.sheet import DASH, Block, Cell, Head, Sheet, printed

if TYPE_CHECKING:
    import pandas

#: Name of a fact → its heading and the digits it is printed with.
Facts = Mapping[str, tuple[str, int]]


def fact_sheet(
    item: Mapping[str, Any],
    rows: "pandas.DataFrame",
    names: Sequence[str],
    facts: Facts,
    printed_numbers: "pandas.DataFrame",
) -> tuple[Sheet, "pandas.DataFrame"]:
    """Facts in columns; where the paper has one, its number stands beside ours.

    Args:
        rows: one row of ours each, with columns ``names``, ``facts``, and ``cohort`` and
            ``method`` ("" for any) by which the paper's row is found.
        names: columns that say what a row is of.
    """
    known = set(printed_numbers["metric"])
    heads = [Head("method" if name == "label" else name, kind="name") for name in names]
    for fact, (label, _) in facts.items():
        heads += [Head(label)] + [Head("paper", kind="paper")] * (fact in known)
    body, table = [], rows.copy()
    for row in rows.to_dict("records"):
        cells = [Cell(str(row[name]), kind="name") for name in names]
        for fact, (_, digits) in facts.items():
            value = row[fact]
            cells.append(Cell(f"{value:,.{digits}f}" if isfinite(value) else DASH))
            if fact in known:
                cells.append(printed(_paper(printed_numbers, item, row, fact), digits))
        body.append(cells)
    for fact in known & set(facts):
        found = [_paper(printed_numbers, item, row, fact) for row in rows.to_dict("records")]
        table[f"{fact}_paper"] = [nan if cell is None else cell[0] for cell in found]
    texts = {reported.cohort_difference(c, item, printed_numbers) for c in rows["cohort"]} - {""}
    warning = f"Stand-in: {'; '.join(sorted(texts))}" if texts else ""
    block = Block("", [], heads, body)
    return Sheet(item["name"], item["title"], item["caption"], [block], warning=warning), table


def _paper(printed_numbers, item, row: Mapping[str, Any], fact: str):
    cohort = reported.cohort_in_paper(row["cohort"], item)
    return reported.printed_value(printed_numbers, cohort, None, row["method"], fact)


# --- cohorts --------------------------------------------------------------------------------------

COHORT_FACTS = {
    "total_slides": ("slides", 0),
    "patients": ("patients", 0),
    "total_spots": ("spots", 0),
    "mean_spots_per_slide": ("spots a slide", 0),
    "genes": ("genes of all slides", 0),
    "median_counts": ("counts a spot, median", 0),
}


def cohort_facts(keys: Sequence[Mapping[str, str]], paths: Sequence[str]) -> "pandas.DataFrame":
    """Sizes of the cohorts, from all of their prepared slides."""
    import anndata
    import numpy as np
    import pandas as pd

    slides: dict[str, list] = {}
    for key, path in zip(keys, paths, strict=True):
        table = anndata.read_h5ad(path)
        depth = np.asarray(table.X.sum(axis=1)).ravel()
        names = set(table.var_names)
        slides.setdefault(key["cohort"], []).append((table.uns["patient"], depth, names))
    rows = []
    for cohort, found in slides.items():
        patients, depths, genes = zip(*found, strict=True)
        spots = np.concatenate(depths)
        rows.append(
            {
                "cohort": cohort,
                "method": "",
                "total_slides": len(found),
                "patients": len({p for p in patients if p}) or nan,
                "total_spots": len(spots),
                "mean_spots_per_slide": len(spots) / len(found),
                "genes": len(set.intersection(*genes)),
                "median_counts": float(np.median(spots)),
            }
        )
    return pd.DataFrame(rows)


# --- settings -------------------------------------------------------------------------------------


def class_defaults(use: str) -> dict[str, Any]:
    """Literal defaults of a class, of ``__init__`` or of its fields, read without importing it.

    The environment of tables has none of the packages that methods need.
    """
    tree, cls = _class(use)
    fields = _fields(cls)
    for node in cls.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            arguments = node.args.args + node.args.kwonlyargs
            values = [*node.args.defaults, *node.args.kw_defaults]
            named = arguments[len(arguments) - len(values) :]
            fields = {a.arg: v for a, v in zip(named, values, strict=True) if v is not None}
    return {name: _value(v, tree) for name, v in fields.items() if _is_literal(v, tree)}


def recipe_of(use: str) -> dict[str, Any]:
    """The settings of training that a class states as its own, ``recipe`` of ``Network``."""
    tree, cls = _class(use)
    node = _fields(cls).get("recipe")
    return {} if node is None else _value(node, tree)


def _class(use: str) -> tuple[ast.Module, ast.ClassDef]:
    module, _, name = use.rpartition(".")
    tree = _parsed(module)
    return tree, next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)


def _parsed(module: str) -> ast.Module:
    path = SRC.joinpath(*module.split(".")).with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def _fields(cls: ast.ClassDef) -> dict[str, ast.expr]:
    return {
        n.target.id: n.value
        for n in cls.body
        if isinstance(n, ast.AnnAssign) and n.value is not None and isinstance(n.target, ast.Name)
    }


def _value(node: ast.expr, tree: ast.Module) -> Any:
    """What literals, names of literals and unions of both are worth.

    Raises:
        ValueError: it is anything else.
    """
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        return {**_value(node.left, tree), **_value(node.right, tree)}
    if not isinstance(node, ast.Name):
        return ast.literal_eval(node)
    for n in tree.body:
        if isinstance(n, ast.Assign) and node.id in [ast.unparse(t) for t in n.targets]:
            return _value(n.value, tree)
        if isinstance(n, ast.ImportFrom) and n.module and node.id in [a.name for a in n.names]:
            return _value(node, _parsed(n.module))
    raise ValueError(f"{node.id} is no literal")


def _is_literal(node: ast.expr, tree: ast.Module) -> bool:
    try:
        _value(node, tree)
    except (ValueError, TypeError, OSError):
        return False
    return True


def settings_of(runs: "pandas.DataFrame", method: str) -> dict[str, Any]:
    """Every setting that a method ran with, nested ones as ``training.lr``."""
    run = runs[runs["method"] == method].iloc[0]
    values = class_defaults(run["use"]) | json.loads(run["params"])
    training = values.pop("training", None)
    flat = dict(values)
    if training is not None or "training" in class_defaults(run["use"]):
        loop = class_defaults("flag_st.methods.training.Training") | recipe_of(run["use"])
        loop |= training or {}
        flat |= {f"training.{name}": value for name, value in loop.items()}
    return flat


def settings_sheet(
    item: Mapping[str, Any], runs: "pandas.DataFrame", printed_numbers: "pandas.DataFrame"
) -> tuple[Sheet, "pandas.DataFrame"]:
    """Settings in rows, methods in columns; ``params.rows`` names ours for each of the paper's."""
    import pandas as pd

    methods = [m for m in item["methods"] if m in set(runs["method"])]
    ours = {m: settings_of(runs, m) for m in methods}
    paper_name = {own: paper for paper, own in item["params"].get("rows", {}).items()}
    names = list(dict.fromkeys(name for values in ours.values() for name in values))
    theirs = {r["metric"]: r for r in printed_numbers.to_dict("records")}
    rows, table = [], []
    for name in [*names, *(p for p in theirs if p not in paper_name.values())]:
        paper = theirs.get(paper_name.get(name, name))
        said = "" if paper is None else paper["note"] or f"{paper['value']:g}"
        values = [_setting(ours[m].get(name, DASH)) for m in methods]
        rows.append([Cell(name, kind="name"), *map(Cell, values), Cell(said, kind="paper")])
        table.append({"setting": name, **dict(zip(methods, values, strict=True)), "paper": said})
    heads = [Head("setting", kind="name"), *(Head(item["methods"][m]["label"]) for m in methods)]
    block = Block("", [], [*heads, Head("paper", kind="paper")], rows)
    sheet = Sheet(item["name"], item["title"], item["caption"], [block])
    return sheet, pd.DataFrame(table)


def _setting(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return DASH.join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- costs ----------------------------------------------------------------------------------------

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
    item, keys: Sequence[Mapping[str, Any]], predictions: Sequence[str], records: Sequence[str]
) -> "pandas.DataFrame":
    """One row a cohort and method: its first run on its first test slide, start-up included."""
    import anndata
    import pandas as pd

    rows: dict[tuple, dict[str, Any]] = {}
    for key, path, record in zip(keys, predictions, records, strict=True):
        place = key["cohort"], key["method"]
        if place in rows:
            continue
        table = anndata.read_h5ad(path, backed="r")
        cost = read_json(record)
        seconds, gpu = cost["seconds"], cost["gpu_memory_mb"]
        spots, draws = table.n_obs, int(table.uns["draws"])
        rows[place] = {
            "cohort": key["cohort"],
            "method": key["method"],
            "label": item["methods"][key["method"]]["label"],
            "slide": key["slide"],
            "n_spots": spots,
            "draws": draws,
            "device": cost["device"],
            "inference_time_s": seconds,
            "seconds_per_spot_draw": seconds / spots / draws,
            "spots_per_second": spots / seconds,
            "peak_memory_GB": cost["peak_memory_mb"] / 1024,
            "peak_gpu_memory_GB": nan if gpu is None else gpu / 1024,
        }
    return pd.DataFrame(rows.values())


def training_costs(item, runs: "pandas.DataFrame", histories: Sequence[str]) -> "pandas.DataFrame":
    """One row a cohort and method, of its first run."""
    import pandas as pd

    rows: dict[tuple, dict[str, Any]] = {}
    for run, path in zip(runs.to_dict("records"), histories, strict=True):
        place = run["cohort"], run["method"]
        if place in rows:
            continue
        epochs = len(pd.read_csv(path))
        rows[place] = {
            "cohort": run["cohort"],
            "method": run["method"],
            "label": item["methods"][run["method"]]["label"],
            "device": run["device"],
            "epochs": epochs or nan,
            "train_s_per_epoch": run["seconds"] / epochs if epochs else nan,
            "train_s": run["seconds"],
            "spots_per_second": run["train_spots"] * epochs / run["seconds"] if epochs else nan,
            "peak_memory_GB": run["peak_memory_mb"] / 1024,
            "peak_gpu_memory_GB": run["gpu_memory_mb"] / 1024,
        }
    return pd.DataFrame(rows.values())
