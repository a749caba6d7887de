"""What is wrong with a method's backbone is found before the first job, and its files are planned for."""

import pytest

from flag_st.commands.check import check
from flag_st.commands.downloads import origins
from flag_st.core.errors import FlagError
from flag_st.planning import config
from flag_st.planning.grid import Plan


def of(method: str, **overlay) -> dict:
    """An overlay whose one experiment has one method on synthetic sections with any encoder."""
    small = {"make": ["table_1"], "defaults": {"cohorts": ["synthetic"], "encoder": "texture"}}
    small["experiments"] = {"table_1": {"methods": [method], "cohorts": ["synthetic"]}}
    return config.merge(small, overlay)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "geneformer",
            "geneformer has no network to build on. Valid: cellfm, cellfm_80m, cellfm_mini,",
        ),
        ("cellfm_1b", "no 'cellfm_1b' in gene_models"),
    ],
)
def test_a_gene_model_without_a_usable_network_is_refused_by_the_configuration(name, message):
    with pytest.raises(FlagError, match=rf"methods\.hinge\.backbone: {message}"):
        config.load({"methods": {"hinge": {"backbone": name}}})


def test_entries_that_can_be_built_on_are_those_whose_class_says_so(capsys):
    overlay = {"gene_models": {"geneformer_mini": {"backbone": True}}}
    overlay["methods"] = {"hinge": {"backbone": "geneformer_mini"}}
    assert check(config.load(of("hinge", **overlay)), data=False) == 1
    said = capsys.readouterr().err
    assert "gene_models.geneformer_mini says backbone: true, but GeneformerMini" in said
    assert "methods.hinge: hinge cannot be built on flag_st.gene_models.geneformer_mini" in said


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"masking": {"horizon": 1}}, "hinge: masking.horizon is 1; give at least 2 steps"),
        ({"sampling": {"budget": 60}}, "budget 60 of a chain of 50 steps: give 1 to 50"),
        ({"sampling": {"budget": 0}}, "budget 0 of a chain of 50 steps: give 1 to 50"),
    ],
)
def test_impossible_chains_are_found_by_check(capsys, params, message):
    overlay = {"methods": {"hinge_paper": {"params": params}}}
    assert check(config.load(of("hinge_paper", **overlay)), data=False) == 1
    assert f"methods.hinge_paper: {message}" in capsys.readouterr().err


def test_a_method_that_names_no_backbone_is_found_by_check(capsys):
    overlay = {"methods": {"hinge": {"backbone": None}}}
    assert check(config.load(of("hinge", **overlay)), data=False) == 1
    said = capsys.readouterr().err
    assert "methods.hinge: hinge has no backbone to freeze" in said
    assert "backbone: cellfm_mini" in said


@pytest.mark.parametrize(
    ("method", "entry", "file"),
    [("hinge_paper", "cellfm", "base_weight.ckpt"), ("hinge_scgpt", "scgpt", "best_model.pt")],
)
def test_files_that_are_not_where_the_entry_says_are_found_by_check(
    capsys, tmp_path, method, entry, file
):
    overlay = {"gene_models": {entry: {"params": {"weights": str(tmp_path)}}}}
    assert check(config.load(of(method, **overlay)), data=False) == 1
    assert f"gene_models.{entry}: {tmp_path / file} does not exist" in capsys.readouterr().err
    (tmp_path / file).touch()
    (tmp_path / "args.json").touch()
    (tmp_path / "vocab.json").touch()
    assert check(config.load(of(method, **overlay)), data=False) == 0


def test_published_backbones_are_among_the_downloads():
    found = [
        (name, getattr(o, "file", "")) for name, o in origins(Plan(config.load(of("hinge_80m"))))
    ]
    assert ("cellfm_80m", "CellFM_80M_weight.ckpt") in found
    assert ("uni+conch", "pytorch_model.bin") in found


def test_what_is_declared_missing_takes_the_methods_that_are_built_on_it_along():
    plan = Plan(config.load(of("hinge_paper", missing={"cellfm": "its terms were not accepted"})))
    assert plan.runs("table_1") == []
    assert plan.absent("table_1")[0]["reason"] == "its terms were not accepted"
