"""Tables: scores collected, summarised, put beside the paper's numbers and printed."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from paper_example import METHODS, Study, job, load

from flag_st.core.errors import FlagError
from flag_st.paper import collect, reported
from flag_st.paper.columns import Column
from flag_st.paper.experiment import CohortFacts, Experiment, MethodFacts
from flag_st.paper.leads import paired
from flag_st.paper.summary import summarise
from flag_st.paper.tables import render
from flag_st.paper.tables.comparison import compare
from flag_st.paper.tables.differences import difference_sheet
from flag_st.paper.tables.sheet import (
    Block,
    Cell,
    Head,
    Notes,
    Sheet,
    letters,
    marks,
    number,
    printed,
)
from flag_st.planning import config

REPORTED = Path(__file__).parents[2] / "config" / "reported.csv"
COLUMNS = [
    {"metric": "pcc"},
    {"metric": "pcc", "scope": "pooled", "paper": "pcc"},
    {"metric": "mse", "scope": "pooled", "paper": "mse"},
    {"metric": "ssc", "estimator": "draw"},
    {"metric": "moran_bias"},
]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def tables(study):
    """Scores and runs, collected by the script of the rule."""
    out = study.collect()
    return collect.read_scores(out["scores"]), pd.read_parquet(out["runs"]), out["scores"]


@pytest.fixture(scope="module")
def paper():
    return reported.read_reported(REPORTED, "table_1")


# --- collecting -----------------------------------------------------------------------------------


def test_collected_scores_are_all_rows_in_order(study, tables):
    whole = pd.concat(map(pd.read_parquet, study.files("scores.parquet")), ignore_index=True)
    for genes in (False, True):
        part = whole[(whole["gene"] != "") == genes].reset_index(drop=True)
        found = collect.read_scores(tables[2], genes=genes)
        pd.testing.assert_frame_equal(found[list(part.columns)], part, check_dtype=False)


def test_runs_hold_what_each_run_used(study, tables):
    runs = tables[1]
    assert runs[["method", "seed"]].to_records(index=False).tolist() == [
        (key["method"], key["seed"]) for key in study.keys
    ]
    assert set(runs["encoder"]) == {"uni"}
    assert runs.groupby("method")["gene_model"].first()["flag"] == "geneformer"
    assert runs.groupby("method")["gene_model"].first()["ridge"] == ""


def test_a_file_that_is_no_score_table_is_named(tmp_path):
    foreign = tmp_path / "scores.parquet"
    pd.DataFrame({"metric": ["pcc"], "value": [1.0]}).to_parquet(foreign)
    with pytest.raises(FlagError, match=r"scores\.parquet has no column cohort, split"):
        collect.collect_scores([foreign], tmp_path / "out.parquet")
    foreign.write_bytes(b"PAR1 damaged")
    with pytest.raises(FlagError, match="not a readable score table"):
        collect.collect_scores([foreign], tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


# --- summary --------------------------------------------------------------------------------------


def known(cohorts, methods, params=None):
    """An experiment of which no more is said."""
    metrics = {"pcc": "flag_st.metrics.pcc.Pcc"}
    return Experiment("x", "X", "", "table_1", params or {}, cohorts, methods, metrics)


def rows(values, metric="pcc", estimator="point"):
    """(seed, slide, value) → score table of one method."""
    table = pd.DataFrame(values, columns=["seed", "slide", "value"])
    return table.assign(
        cohort="C",
        split="random",
        panel="p",
        method="m",
        estimator=estimator,
        metric=metric,
        gene="",
    )


def test_summary_is_mean_over_slides_then_seeds():
    values = [(0, "A", 0.2), (0, "B", 0.4), (1, "A", 0.6), (1, "B", 0.8), (0, "", 9.0)]
    (row,) = summarise(rows(values), [Column("pcc")]).to_dict("records")
    assert row["mean"] == pytest.approx(0.5)
    assert row["std"] == pytest.approx(0.4 / np.sqrt(2))  # of the seed means 0.3 and 0.7, n - 1
    assert (row["n_seeds"], row["n_slides"], row["n_undefined"]) == (2, 2, 0)
    (pooled,) = summarise(rows(values), [Column("pcc", scope="pooled")]).to_dict("records")
    assert pooled["mean"] == 9.0


def test_summary_counts_undefined_slides_and_one_seed_has_no_spread():
    values = [(0, "A", 0.2), (0, "B", float("nan"))]
    (row,) = summarise(rows(values), [Column("pcc")]).to_dict("records")
    assert row["mean"] == pytest.approx(0.2)
    assert row["n_undefined"] == 1
    assert np.isnan(row["std"])


def test_summary_takes_the_estimator_asked_for():
    both = pd.concat([rows([(0, "A", 1.0)]), rows([(0, "A", 3.0)], estimator="draw")])
    columns = [Column("pcc"), Column("pcc", estimator="draw")]
    assert summarise(both, columns)["mean"].tolist() == [1.0, 3.0]


def test_an_unknown_estimator_is_refused():
    with pytest.raises(FlagError, match=r"estimator 'median'.*point, mean, draw, ensemble"):
        Column("pcc", estimator="median")


@pytest.mark.parametrize(
    ("values", "direction", "expected"),
    [
        ([0.1, 0.3, 0.2], 1, ["", "best", "second"]),
        ([0.1, 0.3, 0.2], -1, ["best", "", "second"]),
        ([0.1, 0.3, 0.2], 0, ["", "", ""]),
        ([0.3001, 0.2999, 0.1], 1, ["best", "best", "second"]),  # they print alike
        ([float("nan"), 0.1], 1, ["", "best"]),
        ([], 1, []),
    ],
)
def test_marks(values, direction, expected):
    assert marks(values, direction) == expected


def test_a_mark_is_given_for_a_clear_lead_alone():
    def by(gap):
        return lambda first, second: abs(first - second) > gap

    assert marks([0.1, 0.3, 0.2], 1, by(0.15)) == ["", "", ""]
    assert marks([0.1, 0.3, 0.15], 1, by(0.1)) == ["", "best", ""]
    assert marks([0.1, 0.5, 0.3], 1, by(0.1)) == ["", "best", "second"]
    assert marks([0.5], 1, by(0.1)) == ["best"]


def test_a_lead_holds_over_patients_and_exceeds_the_spread_over_seeds():
    column, slides = Column("pcc"), "ABCDEF"

    def lead(difference, patients, spread=0.001, seeds=(0, 1, 2)):
        parts = []
        for method, of_slides in (("m", difference), ("n", [0.0] * len(slides))):
            values = [
                (seed, slide, 0.5 + value + spread * (seed - 1) * (1 if method == "m" else -1))
                for seed in seeds
                for slide, value in zip(slides, of_slides, strict=True)
            ]
            parts.append(rows(values).assign(method=method))
        experiment = known(
            cohorts={"C": CohortFacts("x", (), patients)},
            methods={m: MethodFacts(m, stochastic=True) for m in "mn"},
        )
        return paired(experiment, pd.concat(parts), column, "m", "n").sign

    each = dict(zip(slides, "123456", strict=True))
    clear, mixed = [0.1, 0.12, 0.11, 0.13, 0.1, 0.12], [0.3, -0.2, 0.3, -0.2, 0.3, -0.2]
    assert lead(clear, each) == 1
    assert lead([-v for v in clear], each) == -1
    assert lead(clear, each, spread=0.1) == 0  # seeds differ more
    assert lead(clear, each, seeds=(0,)) == 0  # one seed: nobody knows the spread
    assert lead(mixed, each) == 0  # better on three patients, worse on three
    assert lead(clear, dict.fromkeys(slides, "1")) == 0  # one patient decides nothing
    assert lead(clear, {}) == 1  # unknown patients: each slide counts


def test_two_slides_of_one_patient_are_never_bold():
    """However alike their differences are (+.001 and +.002)."""
    values = [(seed, slide, v) for seed in (0, 1) for slide, v in (("A", 0.001), ("B", 0.002))]
    table = pd.concat(
        [
            rows(values).assign(method="m"),
            rows([(s, p, 0.0) for s, p, _ in values]).assign(method="n"),
        ]
    )
    experiment = known(
        cohorts={"C": CohortFacts("x", (), {"A": "1", "B": "1"})},
        methods={m: MethodFacts(m) for m in "mn"},
        params={"columns": [{"metric": "pcc"}], "reference": "n"},
    )
    sheet, numbers = difference_sheet(experiment, table)
    assert not any(cell.mark for row in sheet.blocks[0].rows for cell in row)
    assert numbers["n_patients"].tolist() == [1]
    assert numbers[["low", "high", "p", "p_holm"]].isna().all(axis=None)


# --- the paper's numbers --------------------------------------------------------------------------


def test_printed_numbers_are_those_of_the_paper():
    table = reported.read_reported(REPORTED)
    counts = table["table"].value_counts()
    assert counts["table_1"] == 3 * 6 * 4
    assert counts["table_8"] == 4 * 3 * 4
    hinge = [*range(1, 6), *(f"S{i}" for i in range(1, 6))]
    assert set(counts.index) == {f"table_{i}" for i in range(1, 16)} | {
        f"hinge_table_{i}" for i in hinge
    }
    assert counts["hinge_table_1"] == 3 * 7 * 4
    assert counts["hinge_table_S4"] == 3 * 5 * 4
    main = reported.read_reported(REPORTED, "table_1")
    cells = {
        ("HER2ST", "flag", "pcc"): (0.6835, 0.0084, ""),
        ("KIDNEY", "stflow", "ssc"): (-0.1007, 0.0765, ""),
        ("PRAD", "bleep", "mse"): (5.6868, 0.0153, ""),
    }
    for (cohort, method, metric), cell in cells.items():
        assert reported.printed_value(main, cohort, "hmhvg200", method, metric) == cell
    hinge = reported.read_reported(REPORTED, "hinge_table_1")
    found = reported.printed_value(hinge, "KIDNEY", "hinge", "hinge_paper", "pcc200_var")
    assert found == (0.309, 0.01, "")


def test_percentages_become_shares_and_out_of_memory_is_said():
    layers = reported.read_reported(REPORTED, "table_15")
    value, _, _ = reported.printed_value(layers, "DLPFC", "hmhvg200", "flag", "deg_overlap_20")
    assert value == pytest.approx(0.6657)
    value, _, note = reported.printed_value(layers, "DLPFC", "hmhvg200", "triplex", "ari")
    assert np.isnan(value)
    assert note == "out of memory"
    assert printed((value, float("nan"), note)).text == "out of memory"


def test_cells_that_the_paper_has_not_are_none(paper):
    assert reported.printed_value(paper, "HER2ST", "hmhvg200", "ridge", "pcc") is None
    assert reported.printed_value(paper, "HER2ST", "hmhvg50", "flag", "pcc") is None


def test_an_unknown_table_is_refused():
    with pytest.raises(FlagError, match=r"no table 'table_99'.*table_1"):
        reported.read_reported(REPORTED, "table_99")


BASE = {"cohort": "HER2ST", "split": "random", "panel": "hmhvg200", "method": "flag", "seed": 0}
BASE |= {"encoder": "uni", "gene_model": "geneformer"}
HEST = {"use": reported.SOURCE}


@pytest.mark.parametrize(
    ("run", "cohort", "method", "expected"),
    [
        ({}, {}, {}, []),
        ({"encoder": "texture"}, {}, {}, ["encoder texture, the paper's is uni"]),
        (
            {"gene_model": "coexpression"},
            {},
            {},
            ["gene model coexpression, the paper's is geneformer"],
        ),
        ({"split": "patient"}, {}, {}, ["split patient, the paper's is random over slides"]),
        ({"panel": "hmhvg50"}, {}, {}, ["panel hmhvg50, the paper's is hmhvg200"]),
        ({}, {"only": ["A1", "B1"]}, {}, ["only 2 slides of cohort HER2ST"]),
        (
            {},
            {"use": "flag_st.sources.folder.Folder"},
            {},
            ["cohort HER2ST is not the paper's HER2ST"],
        ),
        ({"cohort": "mine"}, {}, {}, ["cohort mine is not known to be one of the paper's"]),
        ({}, {}, {"changed": True}, ["settings differ from those that this project ships"]),
        ({"method": "ridge", "gene_model": ""}, {}, {}, []),
        (
            {"method": "ridge", "encoder": "texture"},
            {},
            {},
            ["encoder texture, the paper's is uni"],
        ),
        ({"method": "bleep", "gene_model": ""}, {}, {}, ["encoder uni, the paper's is not stated"]),
        ({"method": "bleep", "gene_model": ""}, {}, {"needs_patches": True}, []),
    ],
)
def test_every_difference_from_the_paper_is_found(paper, run, cohort, method, expected):
    run = BASE | run
    experiment = known(
        cohorts={run["cohort"]: CohortFacts(**(HEST | cohort))},
        methods={run["method"]: MethodFacts("m", **method)},
    )
    assert reported.differences(run, experiment, paper) == expected


HINGE = {"cohort": "cSCC", "split": "hinge_one_slide-NCBI768", "panel": "hinge", "method": "hinge"}
HINGE |= {"seed": 0, "encoder": "uni+conch", "gene_model": "cellfm"}


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ({}, []),
        ({"gene_model": "cellfm_mini"}, ["gene model cellfm_mini, the paper's is cellfm"]),
        (
            {"split": "leave_one_slide_out-NCBI768"},
            ["split leave_one_slide_out-NCBI768, the paper's is hinge_one_slide"],
        ),
        ({"method": "ridge", "gene_model": ""}, []),
        (
            {"method": "ridge", "gene_model": "", "encoder": "uni"},
            ["encoder uni, the paper's is uni+conch"],
        ),
    ],
)
def test_each_table_is_compared_with_the_setting_of_its_own_paper(run, expected):
    run = HINGE | run
    experiment = known({"cSCC": CohortFacts(**HEST)}, {run["method"]: MethodFacts("m")})
    paper = reported.read_reported(REPORTED, "hinge_table_2")
    assert reported.differences(run, experiment, paper) == expected


def test_a_stand_in_cohort_stays_one_when_it_is_shown_beside_the_papers(paper):
    cohorts, methods = {"mini": CohortFacts(**HEST)}, {"flag": MethodFacts("FLAG")}
    experiment = known(cohorts, methods, {"paper_cohort": {"mini": "HER2ST"}})
    found = reported.differences(BASE | {"cohort": "mini"}, experiment, paper)
    assert found == ["cohort mini is not the paper's HER2ST"]


# --- the table ------------------------------------------------------------------------------------


def make(study, tables, paper, **changes):
    experiment = study.experiment(params={"columns": COLUMNS}, **changes)
    return compare(experiment, *tables[:2], paper)


def test_table_shows_ours_and_the_papers(study, tables, paper):
    sheet, numbers = make(study, tables, paper)
    (block,) = sheet.blocks
    assert [row[0].text for row in block.rows[:3]] == list(METHODS)
    flag = block.rows[0]
    places = [i for i, head in enumerate(block.columns) if head.kind == "paper"]
    assert [flag[i].text for i in places] == ["0.6835", "0.7342"]
    ours = numbers.query("method == 'flag' and metric == 'pcc' and scope == 'slide'")
    assert flag[2].text == f"{ours['mean'].item():.3f}"
    assert flag[2].detail == f"± {ours['std'].item():.3f}"
    assert block.rows[1][places[0]].text == ""  # ridge is not in the paper
    assert [row[1].text for row in block.rows[:3]] == ["as in the paper", *["not in the paper"] * 2]
    assert sheet.warning == ""
    assert (numbers["n_genes_used"] == 12).all()


def test_table_agrees_with_the_scores(study, tables, paper):
    _, numbers = make(study, tables, paper)
    scores = tables[0]
    for seed_means in [
        scores.query("method == 'flag' and metric == 'ssc' and estimator == 'draw'")
        .groupby("seed")["value"]
        .mean()
    ]:
        row = numbers.query("method == 'flag' and metric == 'ssc'")
        assert row["mean"].item() == pytest.approx(seed_means.mean())
        assert row["std"].item() == pytest.approx(seed_means.std())


def test_rows_that_only_the_paper_has_stand_below_with_a_reason(study, tables, paper):
    params = {"columns": COLUMNS, "not_run": {"Stem": "too slow"}}
    sheet, numbers = compare(study.experiment(params=params), *tables[:2], paper)
    rows = {row[0].text: row for row in sheet.blocks[0].rows[3:]}
    assert list(rows) == ["HisToGene", "BLEEP", "TRIPLEX", "Stem", "STFlow"]
    texts = [cell.text for cell in rows["Stem"]]
    assert texts == ["Stem", "not run", "–", "–", "0.5772", "–", "0.9535", "–", "–"]
    assert dict(sheet.notes.items())[rows["Stem"][1].notes[0]] == "too slow"
    assert set(numbers["method"]) == set(METHODS)  # the CSV is of ours


def test_what_cannot_be_run_here_stands_with_its_reason(study, tables, paper):
    """As the paper prints OOM: a method of the experiment, and a cohort of which nothing was run."""
    item = study.item(params={"columns": COLUMNS})
    item["methods"] = {**item["methods"], "stem": {**item["methods"]["flag"], "label": "Our Stem"}}
    prad = {"name": "PRAD", "use": "x", "params": {}, "slides": None}
    item["cohorts"] = {**item["cohorts"], "PRAD": prad}
    item["missing"] = [{"cohort": "HER2ST", "method": "stem", "reason": "out of memory"}]
    item["missing"] += [
        {"cohort": "PRAD", "method": m, "reason": "no access"} for m in item["methods"]
    ]
    sheet, numbers = compare(Experiment.of(item), *tables[:2], paper)
    here, prad = sheet.blocks
    (row,) = (row for row in here.rows if row[0].text == "Our Stem")
    texts = [cell.text for cell in row]
    assert texts == ["Our Stem", "not run", "–", "–", "0.5772", "–", "0.9535", "–", "–"]
    assert dict(sheet.notes.items())[row[1].notes[0]] == "out of memory"
    assert not any(row[0].text == "Stem" for row in here.rows)  # the printed row is beside ours
    assert {row[1].text for row in prad.rows} == {"not run"}
    assert [row[0].text for row in prad.rows][: len(METHODS)] == list(METHODS)
    assert set(numbers["cohort"]) == {"HER2ST"}


def test_methods_that_see_the_truth_do_not_compete(study, tables, paper):
    block = make(study, tables, paper)[0].blocks[0]
    oracle = next(row for row in block.rows if row[0].text == "oracle")
    assert oracle[2].text == "1.000"
    assert not any(cell.mark for cell in oracle)
    assert not any(cell.mark for row in block.rows for cell in row)  # two slides decide nothing


def test_with_enough_slides_the_best_that_competes_is_marked(tmp_path, paper):
    large = Study(tmp_path, slides=6)
    collected = large.collect()
    tables = collect.read_scores(collected["scores"]), pd.read_parquet(collected["runs"]), None
    block = make(large, tables, paper)[0].blocks[0]
    marks_of = {row[0].text: row[2].mark for row in block.rows}
    assert marks_of["ridge"] == "best"  # it is a scaled truth here: its r is 1
    assert marks_of["oracle"] == ""


def test_a_stand_in_is_marked_and_warned_of(study, tables, paper):
    scores, runs, _ = tables
    experiment = study.experiment(params={"columns": COLUMNS})
    sheet, numbers = compare(experiment, scores, runs.assign(encoder="texture"), paper)
    assert {row[1].text for row in sheet.blocks[0].rows} == {"stand-in", "not run"}
    assert sheet.notes.items()[0] == ("a", "encoder texture, the paper's is uni")
    assert "not a reproduction" in sheet.warning
    assert set(numbers["setting"]) == {"stand-in"}


def test_a_metric_that_nobody_computes_is_refused(study, tables, paper):
    experiment = study.experiment(params={"columns": [{"metric": "accuracy"}]})
    with pytest.raises(FlagError, match=r"no metric returns accuracy.*gsc"):
        compare(experiment, *tables[:2], paper)


def test_what_was_not_made_or_is_undefined_is_a_dash(study, tables, paper):
    scores, runs, _ = tables
    scores = scores[~((scores["method"] == "ridge") & (scores["metric"] == "mse"))].copy()
    scores.loc[(scores["method"] == "oracle") & (scores["metric"] == "ssc"), "value"] = np.nan
    sheet, _ = compare(study.experiment(params={"columns": COLUMNS}), scores, runs, paper)
    by_name = {row[0].text: row for row in sheet.blocks[0].rows}
    notes = dict(sheet.notes.items())
    assert by_name["ridge"][5].text == "–"
    assert notes[by_name["ridge"][5].notes[0]].startswith("not computed")
    assert by_name["oracle"][7].text == "–"
    assert notes[by_name["oracle"][7].notes[0]].startswith("undefined")


def test_script_writes_four_files_and_the_csv_holds_every_number(study, tables, tmp_path):
    out = {kind: tmp_path / f"t.{kind}" for kind in ("csv", "tex", "md", "html")}
    inputs = {"scores": tables[2], "runs": study.root / "runs.parquet", "reported": REPORTED}
    item = study.item(params={"columns": COLUMNS})
    load("tables/main")(job({"item": item}, input=inputs, output=out))
    numbers = pd.read_csv(out["csv"])
    assert len(numbers) == len(METHODS) * len(COLUMNS)
    assert {"mean", "std", "paper", "differs", "n_constant_prediction"} <= set(numbers.columns)
    for kind in ("tex", "md", "html"):
        assert "0.6835" in out[kind].read_text()


def test_shipped_columns_are_valid():
    for name, entry in config.shipped()["experiments"].items():
        if "columns" in entry.get("params", {}):
            assert known({}, {}, entry["params"]).columns, name


# --- printing -------------------------------------------------------------------------------------

NASTY = "a<b> & 50% of_it $x$ #1 {y} \\ ~ ^ | *z* ± µ"


@pytest.fixture
def sheet():
    notes = Notes()
    rows = [
        [Cell(NASTY, kind="name"), number(0.5, 0.1, notes, "best"), printed((0.25, 0.5, ""))],
        [Cell("n", kind="name"), number(float("nan"), 0.1, notes, ""), printed(None)],
    ]
    heads = [Head("method", kind="name"), Head("per slide"), Head("paper", kind="paper")]
    block = Block(NASTY, [Head(""), Head("PCC ↑", 2)], heads, rows)
    return Sheet("t_1", NASTY, NASTY, [block], notes, warning=NASTY)


class Balance(HTMLParser):
    """Collects text, and fails on tags that do not close in order."""

    VOID = frozenset({"meta", "br"})

    def __init__(self):
        super().__init__()
        self.open, self.text, self.rows = [], "", []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += int(dict(attrs).get("colspan", 1))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_html_escapes_and_is_balanced(sheet):
    parser = Balance()
    parser.feed(render.to_html(sheet))
    assert parser.open == []
    assert parser.text.count(NASTY) == 6  # <title>, <h1>, caption, warning, block, row
    assert set(parser.rows) == {3}


def test_html_fragment_is_what_the_page_holds(sheet, tmp_path):
    page = tmp_path / "t.html"
    page.write_text(render.to_html(sheet), encoding="utf-8")
    assert render.fragment(page) == render.to_fragment(sheet)


def test_markdown_rows_have_as_many_cells_as_the_head(sheet):
    lines = [line for line in render.to_markdown(sheet).splitlines() if line.startswith("| ")]
    assert len(lines) == 4
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {4}
    assert "**0.500 ± 0.100**" in lines[2]
    assert "–<sup>a</sup>" in lines[3]


def test_latex_escapes_every_special_character(sheet):
    text = render.tex(NASTY)
    assert text.startswith(
        r"a\textless{}b\textgreater{} \& 50\% of\_it \$x\$ \#1 \{y\} \textbackslash{}"
    )
    assert r"\textbf{0.500} {\scriptsize $\pm$ 0.100}" in render.to_tex(sheet)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine")
def test_latex_compiles(sheet, tmp_path):
    source = "\\documentclass{article}\\usepackage{booktabs,graphicx,rotating}\\begin{document}\n"
    (tmp_path / "t.tex").write_text(f"{source}{render.to_tex(sheet)}\\end{{document}}\n")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


def test_letters_go_on_after_z():
    assert [letters(i) for i in (0, 25, 26, 27, 701, 702)] == ["a", "z", "aa", "ab", "zz", "aaa"]


def test_a_block_of_uneven_rows_is_refused():
    with pytest.raises(ValueError, match="columns"):
        Block("", [], [Head("a"), Head("b")], [[Cell("1")]])


def test_rounded_zero_has_no_sign():
    assert number(-0.0001, float("nan"), Notes()).text == "0.000"
