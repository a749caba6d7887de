"""What would leave a panel without its genes is told by the check, with the names of panel, genes and slides."""

from pathlib import Path

import anndata
import numpy as np
import pytest
import yaml

from flag_st.commands import cli
from flag_st.core.code import ROOT
from flag_st.data.check_panels import check_common_genes
from flag_st.data.panels import select_panel
from flag_st.sources.synthetic import Synthetic

GENES = 60


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Four sections of 60 genes, of which the second one lacks the last."""
    root = tmp_path_factory.mktemp("sections")
    source = Synthetic(patients=4, sections=1, spots=(8, 8), genes=GENES)
    for row in source.slides():
        source.fetch(row.id, root)
    path = root / "st/P2S1.h5ad"
    table = anndata.read_h5ad(path)
    table[:, :-1].copy().write_h5ad(path)
    return root


@pytest.fixture(scope="module")
def names(root) -> list[str]:
    return list(anndata.read_h5ad(root / "st/P1S1.h5ad").var_names)


@pytest.fixture(scope="module")
def common(root) -> set[str]:
    return set.intersection(*(set(anndata.read_h5ad(p).var_names) for p in (root / "st").iterdir()))


def checked(root: Path, folder: Path, capsys, panel: dict, **prepare) -> str:
    """What the command says on a panel; empty if it says that all is well."""
    overlay = folder / "panel.yaml"
    entry = {"params": {"root": str(root)}, "prepare": prepare}
    overlay.write_text(yaml.safe_dump({"panels": {"hmhvg200": panel}, "cohorts": {"own": entry}}))
    own = ["check", "--configfile", str(ROOT / "config/own.yaml"), str(overlay)]
    code = cli.main(own)
    said = capsys.readouterr().err
    assert (code == 0) == (said == "")
    return said


def test_a_listed_gene_that_a_slide_lacks(root, names, tmp_path, capsys):
    listed = [*names[:3], names[-1], "NOPE"]
    said = checked(root, tmp_path, capsys, {"size": 5, "genes": listed})
    assert "panel hmhvg200 lists 2 genes that some slides lack" in said
    assert f"{names[-1]} is not in P2S1; NOPE is not in P1S1, P2S1, P3S1" in said
    assert checked(root, tmp_path, capsys, {"size": 3, "genes": names[:3]}) == ""


def test_a_list_that_is_shorter_than_the_size(root, names, tmp_path, capsys):
    said = checked(root, tmp_path, capsys, {"size": 5, "genes": names[:3]})
    assert "wants 5 genes, and of those that all slides share genes leave 3" in said


def test_prefixes_that_leave_too_few_genes(root, names, common, tmp_path, capsys):
    prefixes = [name[:2] for name in names[:20]]
    left = sum(not name.startswith(tuple(prefixes)) for name in common)
    said = checked(root, tmp_path, capsys, {"size": left + 1, "drop_prefixes": prefixes})
    assert f"all slides share drop_prefixes leave {left}" in said
    assert f"to {left} or fewer" in said
    assert checked(root, tmp_path, capsys, {"size": left, "drop_prefixes": prefixes}) == ""


def test_a_vocabulary_that_leaves_too_few_genes(root, common, tmp_path, capsys):
    words = tmp_path / "words.txt"
    words.write_text("\n".join([*sorted(common)[:10], "OTHER"]))
    panel = {"size": 11, "vocabulary": str(words)}
    assert "all slides share vocabulary leave 10" in checked(root, tmp_path, capsys, panel)
    assert checked(root, tmp_path, capsys, {**panel, "size": 10}) == ""


def test_prefixes_of_symbols_where_genes_are_ensembl_ids(root, tmp_path, capsys):
    for name in ("st", "metadata", "wsis"):
        (tmp_path / name).mkdir()
        for path in (root / name).iterdir():
            if name == "st":
                table = anndata.read_h5ad(path)
                table.var_names = [f"ENSG{i:011d}" for i in range(table.n_vars)]
                table.write_h5ad(tmp_path / name / path.name)
            else:
                (tmp_path / name / path.name).symlink_to(path)
    said = checked(tmp_path, tmp_path, capsys, {"size": 20, "drop_prefixes": ["MT-"]})
    assert "panels.hmhvg200: " in said
    assert "genes are named by Ensembl ids" in said


def test_variable_genes_that_leave_too_few(root, tmp_path, capsys):
    """The number is that of the rule's own selection, on the slides of the split."""
    said = checked(root, tmp_path, capsys, {"size": 40, "hvg": 5})
    number = int(said.split("wants 40 genes, and ")[1].split()[0])
    assert 5 <= number <= 10
    assert "among the 5 most variable ones of each of" in said
    slides = said.split("of each of ")[1].split(".")[0].split(", ")
    tables = {p.stem: anndata.read_h5ad(p) for p in (root / "st").iterdir()}
    shared = [list(table.var_names) for table in tables.values()]
    fit = [tables[slide] for slide in slides]
    assert len(select_panel(fit, shared, number, hvg=5)) == number
    assert checked(root, tmp_path, capsys, {"size": number, "hvg": 5}) == ""


def test_spots_without_enough_counts(root, tmp_path, capsys):
    tables = {p.stem: anndata.read_h5ad(p) for p in (root / "st").iterdir()}
    most = {name: int(np.asarray(t.X.sum(1)).max()) for name, t in tables.items()}
    poorest = min(most, key=lambda name: most[name])
    said = checked(root, tmp_path, capsys, {"size": 20}, min_counts=most[poorest] + 1)
    assert f"st/{poorest}.h5ad: none of " in said
    assert f"has {most[poorest] + 1} counts (most: {most[poorest]})" in said


def test_no_slide_is_to_be_taken_out_for_nothing():
    """Names with versions that differ in every section are no fault of one of them."""
    names = {f"S{i}": [f"ENSG{g}.{i}" for g in range(40)] for i in range(4)}
    (message,) = check_common_genes(names, 20, "mine").messages
    assert "4 slides share 0" in message
    assert "take" not in message
    assert "in the same way (symbols, not ids)" in message
