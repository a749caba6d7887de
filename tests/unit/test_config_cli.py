"""Configuration layers and the command line."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest

from flag_st.commands import cli
from flag_st.core.errors import FlagError
from flag_st.planning import config


def test_shipped_configuration_is_valid_and_resolved():
    found = config.load()
    assert found["methods"]["flag"]["encoder"] == found["defaults"]["encoder"] == "uni"
    assert found["methods"]["flag"]["gene_model"] == "geneformer"
    assert found["methods"]["ridge"]["gene_model"] is None
    assert found["experiments"]["table_1"]["cohorts"] == ["HER2ST", "KIDNEY", "PRAD"]


def test_later_layers_win_and_mappings_merge(tmp_path):
    overlay = tmp_path / "o.yaml"
    overlay.write_text("methods: {flag: {params: {width: 48}}}\ndefaults: {seeds: [7]}\n")
    found = config.load({"results": "elsewhere"}, [overlay])
    assert found["methods"]["flag"]["params"]["width"] == 48
    assert found["methods"]["flag"]["gpu"] == 1
    assert found["defaults"]["seeds"] == [7]
    assert found["results"] == "elsewhere"


def test_base_inherits_one_level():
    extra = {"methods": {"ablated": {"base": "flag", "params": {"edges": "none"}}}}
    entry = config.load(extra)["methods"]["ablated"]
    assert entry["use"] == "flag_st.methods.flag.Flag"
    assert entry["params"]["edges"] == "none"
    assert entry["stochastic"]
    extra["methods"]["twice"] = {"base": "ablated"}
    with pytest.raises(FlagError, match="itself has a base"):
        config.load(extra)


def test_an_entry_made_of_another_follows_its_overlay():
    size = {"methods": {"triplex": {"params": {"width": 64}}}}
    noisy = config.load(size)["methods"]["triplex_plus_gene_noise"]["params"]
    assert noisy["base"] == {"use": "flag_st.methods.triplex.Triplex", "params": {"width": 64}}
    own = {"methods": {"triplex_plus_gene_noise": {"params": {"base": {"params": {"width": 32}}}}}}
    changed = config.load(config.merge(size, own))["methods"]
    assert changed["triplex_plus_gene_noise"]["params"]["base"]["params"] == {"width": 32}
    assert changed["triplex"]["params"] == {"width": 64}
    for name, words in (("triplexx", "no 'triplexx' in methods"), ("two", "one level")):
        again = {"methods": {"bad": {"use": "x.Y", "params": {"base": {"entry": name}}}}}
        again["methods"]["two"] = {"use": "x.Y", "params": {"base": {"entry": "ridge"}}}
        with pytest.raises(FlagError, match=words):
            config.load(again)


def test_all_faults_are_told_at_once():
    wrong = {
        "make": ["table_77"],
        "defaults": {"encoder": "unii", "cohorts": ["HER3ST"], "metrics": ["pccc"]},
        "methods": {"bad": {"use": "flag_st.methods.rigde.Ridge"}},
        "experiments": {"x": {"script": "tables/nothing", "title": "t"}},
    }
    with pytest.raises(FlagError) as caught:
        config.load(wrong)
    text = str(caught.value)
    for word in ("table_77", "unii", "HER3ST", "pccc", "rigde", "scripts/tables/nothing.py"):
        assert word in text
    assert "6 faults" in text


@pytest.mark.parametrize(
    ("overlay", "words"),
    [
        ({"sedes": [1]}, "unknown key sedes"),
        ({"panels": {"p": {"size": 10, "topk": 5}}}, "unknown key topk"),
        ({"panels": {"p": {"size": "many"}}}, "many"),
        ({"panels": {"p": {"size": 10, "top": 5}}}, "panels.p"),
        ({"panels": {"p": {"transform": "log1p"}}}, "panels.p"),
        (
            {"panels": {"hinge": {"vocabulary": "no/such.txt"}}},
            r"panels\.hinge\.vocabulary: no gene model and no file no/such\.txt.*one a line",
        ),
        ({"splits": {"data": {"scheme": "fixed"}}}, "data"),
        ({"splits": {"s": {"scheme": "random"}}}, "ratio"),
        ({"splits": {"random": {"only": ["SPA154"]}}}, "splits.random"),
        ({"cohorts": {"PRAD": {"prepare": {"pixel_scale": 0}}}}, "pixel_scale"),
        ({"methods": {"a/b": {"use": "x.Y"}}}, "a/b"),
        ({"defaults": {"seeds": [1, 1]}}, "non-unique"),
        ({"defaults": {"samples": 0}}, "minimum"),
    ],
)
def test_schema_faults(overlay, words):
    with pytest.raises(FlagError, match=words):
        config.load(overlay)


def test_bad_files_are_named(tmp_path):
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff\n")
    for name in ("list.yaml", "broken.yaml", "latin.yaml", "absent.yaml"):
        with pytest.raises(FlagError, match=name):
            config.load(files=[tmp_path / name])


def test_describe(capsys):
    assert cli.main(["describe", "flag", "--genes", "200", "--features", "1024"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["params"]["width"] == 384
    assert found["parameters"] == sum(found["parts"].values()) > 5e7
    assert found["sizes"] == {"genes": 200, "features": 1024, "targets": 1152}
    assert cli.main(["describe", "ridge"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] is None


def test_describe_unknown_method(capsys):
    assert cli.main(["describe", "flagg"]) == 1
    error = capsys.readouterr().err
    assert "flagg" in error
    assert "training_mean" in error


@pytest.fixture
def pair(tmp_path):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(60, 15))
    names = dict(
        obs=pd.DataFrame(index=[f"s{i}" for i in range(60)]),
        var=pd.DataFrame(index=[f"g{i}" for i in range(15)]),
    )
    draws = {f"draw_{k}": truth + rng.normal(size=truth.shape) for k in range(3)}
    one = anndata.AnnData(truth, obsm={"spatial": rng.random((60, 2))}, **names)
    two = anndata.AnnData(np.mean(list(draws.values()), 0), layers=draws, **names)
    one.write_h5ad(tmp_path / "t.h5ad")
    two[::-1, ::-1].copy().write_h5ad(tmp_path / "p.h5ad")
    return str(tmp_path / "t.h5ad"), str(tmp_path / "p.h5ad"), truth, draws


def test_score_agrees_with_numpy(pair, capsys):
    truth_path, prediction_path, truth, draws = pair
    few = ["--metrics", "pcc", "mse", "gsc"]
    assert cli.main(["score", truth_path, prediction_path, "--json", *few]) == 0
    found = json.loads(capsys.readouterr().out)
    point = np.mean(list(draws.values()), 0)
    pcc = lambda p: np.mean([np.corrcoef(p[:, g], truth[:, g])[0, 1] for g in range(15)])  # noqa: E731
    assert found["pcc"]["point"] == pytest.approx(pcc(point), abs=1e-9)
    assert found["pcc"]["draw"] == pytest.approx(
        np.mean([pcc(d) for d in draws.values()]), abs=1e-9
    )
    assert found["mse"]["point"] == pytest.approx(np.mean((point - truth) ** 2))
    upper = np.triu_indices(15, 1)
    gsc = np.corrcoef(np.corrcoef(point.T)[upper], np.corrcoef(truth.T)[upper])[0, 1]
    assert found["gsc"]["point"] == pytest.approx(gsc, abs=1e-9)


def test_score_prints_a_table_and_faults_without_traceback(pair, tmp_path, capsys):
    assert cli.main(["score", *map(str, pair[:2]), "--metrics", "pcc", "ssc"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[:2] == ["metric", "point"]
    assert cli.main(["score", str(pair[0]), str(tmp_path / "no.h5ad")]) == 1
    error = capsys.readouterr().err
    assert "no.h5ad does not exist" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("name", ["her2st_open.yaml", "mob.yaml", "own.yaml"])
def test_one_fault_is_told_once(name, tmp_path, capsys, root):
    """A missing folder stops several experiments, and is one fault."""
    overlay = str(root / "config" / name)
    nowhere = tmp_path / "nowhere"
    assert cli.main(["check", "--configfile", overlay, "--config", f"root={nowhere}"]) == 1
    error = capsys.readouterr().err
    assert error.count("is not a directory") == 1
    assert "1 fault; nothing was run" in error


def test_lists_on_the_command_line_are_those_of_snakemake(capsys, root):
    words = ["--configfile", str(root / "config/demo.yaml"), "--config", "make=[table_1,table_6]"]
    assert cli.main(["check", "--no-data", *words]) == 0
    assert "2 experiments" in capsys.readouterr().out
    assert cli.main(["check", "--no-data", *words[:-1], "make=[table_0]"]) == 1
    assert "table_0" in capsys.readouterr().err


def test_summary_prints_tables_and_says_where_the_rest_is(tmp_path, capsys):
    assert cli.main(["summary", str(tmp_path)]) == 1
    assert "run snakemake with this configuration" in capsys.readouterr().err
    for name in ("report/index.html", "paper/tables/table_1.md", "paper/figures/maps.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("| method |\n")
    assert cli.main(["summary", str(tmp_path)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "| method |"
    assert printed[-2:] == [
        f"figure   {tmp_path}/paper/figures/maps.png",
        f"report   {tmp_path}/report/index.html",
    ]
