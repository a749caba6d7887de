"""Names and numbers that stand for two things: patients, folds, listed genes, and units of a score."""

import json
import os
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.data.panels import select_panel
from flag_st.data.slide_files import SlideRow
from flag_st.data.splits import expand
from flag_st.scoring.files import score_files
from flag_st.sources.folder import Folder

LEFT_OUT = {"scheme": "leave_one_out", "by": "slide"}


@pytest.mark.parametrize(
    "value", ["NaN", "null", '""', '"nan"', '"NA"', '" None "', '"unknown"', '"N/A"']
)
def test_an_unknown_patient_is_no_patient(tmp_path, value):
    for folder in ("st", "metadata"):
        (tmp_path / folder).mkdir()
    for slide, patient in (("S1", value), ("S2", '"donor A"'), ("S3", "7")):
        (tmp_path / f"st/{slide}.h5ad").touch()
        (tmp_path / f"metadata/{slide}.json").write_text(
            '\ufeff{"patient": ' + patient + "}", encoding="utf-8"
        )
    rows = Folder(tmp_path).slides()
    assert [row.patient for row in rows] == ["", "donor A", "7"]
    with pytest.raises(FlagError, match="the patient of S1 is unknown"):
        expand("own", {**LEFT_OUT, "by": "patient"}, rows)


def test_folds_of_one_name_are_refused():
    rows = [SlideRow(name) for name in ("A-1", "A_1", "B1", "C1")]
    with pytest.raises(FlagError, match="'A-1' and 'A_1' would both be called own-A_1"):
        expand("own", LEFT_OUT, rows)
    assert len(expand("own", LEFT_OUT, rows[1:])) == 3
    assert list(expand("own", {**LEFT_OUT, "only": ["A-1"]}, rows)) == ["own-A_1"]


@pytest.mark.parametrize("other", ["case 1", "Case  1", "Case-1", "CASE_1", "Case 01", "Case 1.0"])
@pytest.mark.parametrize("scheme", ["leave_one_out", "random"])
def test_spellings_of_one_patient_are_told(other, scheme):
    names = ["Case 1", other, "Case 2", "Case 10"]
    rows = [SlideRow(f"S{i}", name) for i, name in enumerate(names)]
    entry = {"scheme": scheme, "by": "patient", "ratio": [2, 1, 1], "seed": 0}
    with pytest.raises(FlagError, match="may be one patient"):
        expand("own", entry, rows)
    assert expand("own", entry, [rows[0], *rows[2:]])


def test_no_listed_gene_is_left_out():
    names = ["A", "B", "C", "D"]
    counts = scipy.sparse.csr_matrix(np.random.default_rng(0).poisson(3, (30, 4)).astype(float))
    fit = [anndata.AnnData(counts, var=pd.DataFrame(index=names))]
    with pytest.raises(FlagError, match="lists 3 genes and has size 2"):
        select_panel(fit, [names], size=2, genes=["A", "B", "C"])
    assert set(select_panel(fit, [names], size=3, genes=["A", "B", "C"])["gene"]) == {"A", "B", "C"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"size": 3, "genes": ["A", "B", "C"], "drop_prefixes": ["B"]}, "drops B by its prefix"),
        ({"size": 3, "genes": ["A", "B", "A"]}, "lists A twice"),
    ],
)
def test_a_list_of_genes_does_not_contradict_itself(more, said):
    names = ["A", "B", "C", "D"]
    counts = scipy.sparse.csr_matrix(np.random.default_rng(0).poisson(3, (30, 4)).astype(float))
    with pytest.raises(FlagError, match=said):
        select_panel([anndata.AnnData(counts, var=pd.DataFrame(index=names))], [names], **more)


@pytest.mark.parametrize("version", ["", ".7"])
def test_prefixes_of_symbols_are_not_asked_of_ensembl_ids(version):
    names = [f"ENSG{i:011d}{version}" for i in range(4)]
    counts = scipy.sparse.csr_matrix(np.random.default_rng(0).poisson(3, (30, 4)).astype(float))
    fit = [anndata.AnnData(counts, var=pd.DataFrame(index=names))]
    with pytest.raises(FlagError, match="4 of 4 genes are named by Ensembl ids"):
        select_panel(fit, [names], size=2, drop_prefixes=["MT-"])
    assert len(select_panel(fit, [names], size=2)) == 2


# Units of a score

COUNTS = np.random.default_rng(1).poisson(3.0, (40, 6)).astype(float)
LOGS = np.log1p(COUNTS)
NEAR = LOGS + np.random.default_rng(2).normal(0, 0.1, LOGS.shape)
PER_10K = np.log1p(1e4 * COUNTS / COUNTS.sum(1, keepdims=True))


def pair(folder, truth, prediction, truth_uns=None, uns=None, layers=None, place=None):
    paths = []
    for name, x, facts in (("truth", truth, truth_uns), ("prediction", prediction, uns)):
        found = anndata.AnnData(
            x,
            obs=pd.DataFrame(index=[f"s{i}" for i in range(40)]),
            var=pd.DataFrame(index=[f"g{i}" for i in range(6)]),
            uns=facts or {},
        )
        found.obsm["spatial"] = np.array([(i % 8, i // 8) for i in range(40)], dtype=float)
        if name == "truth" and place is not None:
            found.obsm["spatial"][0] = place
        for key, values in (layers or {}).items() if name == "prediction" else ():
            found.layers[key] = values
        paths.append(folder / f"{name}.h5ad")
        found.write_h5ad(paths[-1])
    return paths


def score(paths):
    return score_files(*paths, {"mse": registry.build("flag_st.metrics.mse.Mse", {})})


UNITS = {
    "counts and logarithms": ((COUNTS, NEAR), {}, "seems to hold counts"),
    "logarithms and counts": ((LOGS + 0.01, COUNTS), {}, "seems to hold counts"),
    "CP10K and logarithms": ((PER_10K, NEAR), {}, "in different units"),
    "scanpy's note of another base": (
        (np.log2(COUNTS + 1), NEAR),
        {"truth_uns": {"log1p": {"base": 2}}},
        "holds log2p1, the prediction log1p",
    ),
    "scanpy's note of a base that has no name": (
        (np.log10(COUNTS + 1), NEAR),
        {"truth_uns": {"log1p": {"base": 10}}},
        "holds log1p to base 10, the prediction log1p",
    ),
    "log2 of counts, by their values, and a stated unit": (
        (np.log2(COUNTS + 1), NEAR),
        {"uns": {"unit": "log1p"}},
        "holds log2p1, the prediction log1p",
    ),
    "two logarithms of counts, in single precision": (
        (np.log2(COUNTS + 1).astype(np.float32), np.log1p(COUNTS).astype(np.float32)),
        {},
        "holds log2p1, the prediction log1p",
    ),
    "units that are named": (
        (LOGS, NEAR),
        {"truth_uns": {"transform": "log1p"}, "uns": {"unit": "cp10k"}},
        "holds log1p, the prediction cp10k",
    ),
    "no place": ((LOGS, NEAR), {"place": np.nan}, "NaN or infinite"),
    "no truth": ((None, NEAR), {}, "has no matrix X"),
}


@pytest.mark.parametrize("case", UNITS)
def test_what_cannot_be_compared_is_refused(tmp_path, case):
    tables, more, said = UNITS[case]
    with pytest.raises(FlagError, match=said):
        score(pair(tmp_path, *tables, **more))


@pytest.mark.parametrize("case", ["log2 truth", "log2 prediction", "both in one"])
def test_logarithms_that_seem_to_differ_are_told(tmp_path, caplog, case):
    """A prediction's values do not tell its logarithm; their means do, but they are no proof."""
    rates = np.random.default_rng(3).uniform(0.5, 8, (1, 6))
    counts = np.random.default_rng(4).poisson(rates, (40, 6)).astype(float)
    noise = np.random.default_rng(5).normal(0, 0.1, counts.shape)
    truth, near = np.log1p(counts), np.log1p(counts).mean(0) + noise
    truth = truth / np.log(2) if case == "log2 truth" else truth
    near = near / np.log(2) if case == "log2 prediction" else near
    score(pair(tmp_path, truth, near))
    said = {
        "log2 truth": "truth.h5ad, as if that held log2 (x + 1) and the prediction log1p (x + 1)",
        "log2 prediction": "truth.h5ad, as if that held log1p (x + 1) and the prediction log2 (x + 1)",
    }
    assert (case in said) == ("as if" in caplog.text)
    assert said.get(case, "") in caplog.text
    caplog.clear()
    units = {"truth_uns": {"transform": "mine"}, "uns": {"unit": "mine"}}
    score(pair(tmp_path, truth, near, **units))
    assert caplog.text == ""


def test_units_that_are_named_are_believed(tmp_path):
    stated = {
        "truth_uns": {"transform": "log1p"},
        "uns": {"unit": np.array(["log1p"], dtype=object)},
    }
    found = score(pair(tmp_path, LOGS, 0.1 * NEAR, **stated))["mse"]["point"]
    assert found == pytest.approx(((LOGS - 0.1 * NEAR) ** 2).mean(), rel=1e-6)


def test_layers_of_other_names_are_no_draws(tmp_path):
    layers = {"draw_mean": NEAR * 0, "draw_a": NEAR * 0, "draw_0": NEAR, "draw_10": NEAR}
    found = score(pair(tmp_path, LOGS, NEAR, layers=layers))["mse"]
    assert found["draw"] == pytest.approx(((LOGS - NEAR) ** 2).mean(), rel=1e-6)


JOB = """
import sys
from types import SimpleNamespace
from flag_st.core.errors import FlagError
from flag_st.core.history import History
from flag_st.core.io import write_json
from flag_st.core.job import run

def main(job):
    job.record.add(unit="0.5 µm")
    write_json(job.output.facts, {"unit": "0.5 µm"})
    history = History(job.output.history)
    history({"σ": 1.0})
    history.write()
    import logging
    logging.getLogger("flag_st").warning("pixels of 0.5 µm, σ of 2")
    if job.wildcards.fails:
        raise FlagError("outside 0.05 µm")

class Named(SimpleNamespace):
    items = lambda self: vars(self).items()
    get = lambda self, name, default=None: vars(self).get(name, default)
    __iter__ = lambda self: iter(map(str, vars(self).values()))

class Inputs(dict):
    __iter__ = lambda self: iter(self.values())

folder, fails = sys.argv[1], bool(int(sys.argv[2]))
output = Named(facts=folder + "/facts.json", history=folder + "/history.csv")
run(main, Named(rule="mine", log=[folder + "/job.log"], input=Inputs(), output=output, params=Named(),
    wildcards=Named(fails=fails), resources={}, threads=1))
"""


@pytest.mark.parametrize("fails", [0, 1])
def test_logs_and_files_are_utf_8_in_every_locale(tmp_path, fails):
    """The letters µ and σ stand in messages and in names, and the locale may know neither."""
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    (tmp_path / "job.py").write_text(JOB, encoding="utf-8")
    words = [sys.executable, str(tmp_path / "job.py"), str(tmp_path), str(fails)]
    done = subprocess.run(words, capture_output=True, env={**os.environ, **locale})
    assert done.returncode == fails, done.stderr
    text = (tmp_path / "job.log").read_text(encoding="utf-8")
    assert "pixels of 0.5 µm, σ of 2" in text
    assert ("outside 0.05 µm" in text) == bool(fails)
    assert rb"0.5 \xb5m, \u03c3 of 2" in done.stderr
    assert (tmp_path / "history.csv").read_text(encoding="utf-8") == "σ\n1.0\n"
    assert json.loads((tmp_path / "facts.json").read_text(encoding="utf-8")) == {"unit": "0.5 µm"}


def test_messages_are_written_in_every_locale():
    """A letter that the locale does not know must not cost the message."""
    code = (
        "import argparse; from flag_st.commands import cli; "
        "shown = argparse.Namespace(run=lambda _: print('outside 0.05 µm')); "
        "cli.parser = lambda: argparse.Namespace(parse_args=lambda _: shown); "
        "raise SystemExit(cli.main([]))"
    )
    for encoding, said in (("ascii", rb"\xb5m"), ("latin-1", b"\xb5m"), ("utf-8", "µm".encode())):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
        assert done.returncode == 0, done.stderr
        assert done.stdout == b"outside 0.05 " + said + b"\n"
