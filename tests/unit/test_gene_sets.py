"""Gene sets: scores that scanpy agrees with, coverage that is told, and intervals that hold what they say."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from toy_predicted import NAMES, toy_predicted

from flag_st.core.errors import FlagError
from flag_st.outputs import explorer, h5ad, page, table, together
from flag_st.outputs.folder import FILES, MAPS, write_files
from flag_st.slides.gene_sets import FEWEST, GeneSets, read_gene_sets, read_gmt

SETS = {
    "FIRST": [*NAMES[:5], "NOT_HERE", "NOR_THIS"],
    "FEW": [NAMES[0], "NOT_HERE"],
    "LAST": NAMES[-6:],
    "ALL": NAMES,
    "NONE": ["NOT_HERE"],
}


@pytest.fixture(scope="module")
def gmt(tmp_path_factory):
    path = tmp_path_factory.mktemp("sets") / "sets.gmt"
    lines = ["\t".join([name, "https://example.org", *genes]) for name, genes in SETS.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def made(gmt):
    return toy_predicted(sets=read_gene_sets(gmt, NAMES))


def test_a_gmt_file_is_read_as_msigdb_writes_it(gmt):
    assert read_gmt(gmt) == SETS


def test_coverage_decides_which_sets_are_scored(made):
    assert made.sets.found.tolist() == [5, 1, 6, len(NAMES), 0]
    assert made.sets.sizes.tolist() == [7, 2, 6, len(NAMES), 1]
    assert made.sets.scored_names == ["FIRST", "LAST"]


def test_scores_are_scanpy_s_with_one_bin():
    """scanpy puts the gene of highest mean into a bin of its own, so that it is made part of the set."""
    rng = np.random.default_rng(0)
    genes = [f"x{i}" for i in range(40)]
    values = rng.gamma(2.0, 1.0, (30, 40)).astype(np.float32)
    values[:, 3] += 50
    wanted = [genes[i] for i in (3, 7, 8, 20, 39)]
    data = anndata.AnnData(values, var=pd.DataFrame(index=genes))
    sc.tl.score_genes(data, wanted, ctrl_size=40, n_bins=2)
    ours = GeneSets.of({"set": wanted}, genes).score(values)
    assert ours[:, 0] == pytest.approx(data.obs["score"].to_numpy(), abs=1e-5)


def test_scores_of_two_slides_have_one_zero():
    """Adding the same to all genes of a slide, such as its depth in a logarithm, changes no score."""
    sets = GeneSets.of(SETS, NAMES)
    values = np.random.default_rng(1).uniform(0, 4, (20, len(NAMES)))
    assert sets.score(values + 3.0) == pytest.approx(sets.score(values))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it has no gene sets"),
        ("gene,score\nA,1\n", "line 1 is no gene set"),
        ("S\tabout\n", "line 1 is no gene set"),
        ("S\tabout\tA\n\nS\tabout\tB\n", "line 3: the set S is there twice"),
        ("S\tabout\tA\tB\n", f"no gene set has {FEWEST} genes among the"),
        ("\t".join(["ALL", "x", *NAMES]), "leaves others to compare with"),
    ],
)
def test_faults_of_a_file_of_gene_sets_are_named(tmp_path, text, why):
    path = tmp_path / "sets.gmt"
    path.write_text(text)
    with pytest.raises(FlagError, match=why) as found:
        read_gene_sets(path, NAMES)
    assert str(path) in str(found.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FlagError, match="cannot read the gene sets"):
        read_gmt(tmp_path / "gone.gmt")


def test_the_table_has_every_set_with_its_coverage(made, tmp_path):
    table.write(made, tmp_path / "summary.tsv")
    read = pd.read_csv(tmp_path / "summary.tsv", sep="\t").set_index("name")
    assert list(read.index) == [*NAMES, *SETS]
    sets = read[read["kind"] == "gene set"]
    assert sets["genes_found"].tolist() == made.sets.found.tolist()
    assert sets["genes_named"].tolist() == made.sets.sizes.tolist()
    assert sets.loc[["FEW", "ALL", "NONE"], "predicted_mean"].isna().all()
    assert sets.loc["FEW", "verdict"].startswith("not scored: fewer than 5 genes")
    assert sets.loc["LAST", "verdict"] == "trust"
    # One of its five genes cannot be trusted, and four at a coarser scale only.
    assert sets.loc["FIRST", "verdict"] == "at a coarser scale only"
    point = made.point.astype(np.float64)
    wanted = point[:, :5].mean() - point[:, 5:].mean()
    assert sets.loc["FIRST", "predicted_mean"] == pytest.approx(wanted, rel=1e-4)
    scores = np.array([made.sets.score(draw)[:, 0] for draw in made.prediction.samples])  # (S, N)
    assert sets.loc["FIRST", "spread"] == pytest.approx(scores.std(0, ddof=1).mean(), rel=1e-4)
    low, high = table.interval(scores.mean(1)[:, None])
    assert sets.loc["FIRST", "draws_low_90"] == pytest.approx(low[0], rel=1e-4)
    assert sets.loc["FIRST", "draws_high_90"] == pytest.approx(high[0], rel=1e-4)
    assert set(read["draws"]) == {3}


@pytest.mark.parametrize("draws", [2, 4, 8])
def test_the_interval_holds_the_mean_of_a_further_draw_nine_times_in_ten(draws):
    """Draws share errors over the slide, as those of a generative model do; their means still differ."""
    rng = np.random.default_rng(draws)
    shared = rng.normal(0, 0.3, (draws + 1, 1, 4000))  # of a draw, over all spots
    values = 2 + shared + rng.normal(0, 1, (draws + 1, 25, 4000))  # (S + 1, N, K)
    means = values.mean(1)
    low, high = table.interval(means[:-1])
    inside = (low <= means[-1]) & (means[-1] <= high)
    assert inside.mean() == pytest.approx(0.9, abs=0.015)


def test_one_draw_has_no_interval(gmt):
    found = table.table_of(toy_predicted(draws=1, sets=read_gene_sets(gmt, NAMES)))
    assert found["draws_low_90"].isna().all()
    assert found["spread"].isna().all()


def test_every_spot_has_its_scores_in_the_h5ad(made, tmp_path):
    h5ad.write(made, tmp_path / "prediction.h5ad")
    read = anndata.read_h5ad(tmp_path / "prediction.h5ad")
    assert list(read.obsm["gene_sets"]) == ["FIRST", "LAST"]
    assert read.obsm["gene_sets"]["LAST"].to_numpy() == pytest.approx(made.set_point[:, 1])
    assert read.obsm["gene_sets_spread"]["LAST"].to_numpy() == pytest.approx(made.set_spread[:, 1])
    assert read.uns["gene_sets"]["genes_found"].to_list() == made.sets.found.tolist()
    assert "gene_sets" not in h5ad.table_of(toy_predicted()).obsm


def test_pages_show_the_sets(made, tmp_path):
    found = explorer.data_of(made)
    assert found["genes"][:2] == ["FIRST", "LAST"]
    assert found["notes"][:2] == ["gene set, 5 of its 7 genes", "gene set, 6 of its 6 genes"]
    page.write(made, tmp_path / "summary.html", {})
    text = (tmp_path / "summary.html").read_text()
    assert '<th scope="row">FIRST</th><td>5 of 7</td>' in text
    page.write(toy_predicted(), tmp_path / "summary.html", {})
    assert "Gene sets" not in (tmp_path / "summary.html").read_text()


def test_one_table_holds_all_slides(made, tmp_path):
    folders = [tmp_path / name for name in ("A", "B")]
    for folder, one in zip(folders, (made, toy_predicted(spots=36)), strict=True):
        folder.mkdir()
        write_files(one, folder, {name: FILES[name] for name in (MAPS, table.NAME)}, {})
    together.write_cohort(folders, tmp_path / "cohort.tsv")
    whole = pd.read_csv(tmp_path / "cohort.tsv", sep="\t")
    parts = [pd.read_csv(folder / table.NAME, sep="\t") for folder in folders]
    pd.testing.assert_frame_equal(whole, pd.concat(parts, ignore_index=True))
    old = (folders[1] / table.NAME).read_text().replace("predicted_mean", "mean")
    (folders[1] / table.NAME).write_text(old)
    with pytest.raises(FlagError, match="different columns"):
        together.write_cohort(folders, tmp_path / "cohort.tsv")
