"""Which counts a gene model learns from: by name, never a held-out slide, and unknown is not zero."""

import json
import re
import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from stages import Job

from flag_st.commands.check import check
from flag_st.core.errors import FlagError
from flag_st.core.io import CONTRACT, load_arrays
from flag_st.data.corpora import Corpus, check_sections, corpus_of
from flag_st.data.prepare import prepare, prepare_counts
from flag_st.data.slide_files import SlideRow
from flag_st.data.splits import Split
from flag_st.gene_models.coexpression import Coexpression
from flag_st.gene_models.corpus import CorpusModel, Section, fit_slides
from flag_st.planning import config
from flag_st.planning.traits import bounds_others
from flag_st.sources.folder import Folder
from flag_st.sources.synthetic import Synthetic

ROWS = [SlideRow(i, i[0]) for i in ("A1", "A2", "B1", "C1", "C2")]
FURTHER = [SlideRow(i, i[0]) for i in ("A3", "A4", "B2", "D1")]
SPLIT = Split(("A1", "B1", "C1"), ("C2",), ("A2",))


# --- which sections -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("train", Corpus()),
        ("others", Corpus(("B2", "D1"))),
        ("open", Corpus(("A3", "A4", "B2", "D1"))),
        ("oracle", Corpus(("A3", "A4", "B2", "D1"), ("A2",))),
    ],
)
def test_what_each_corpus_adds(kind, wanted):
    assert corpus_of(kind, SPLIT, ROWS, FURTHER, "x") == wanted


@pytest.mark.parametrize(
    ("kind", "rows", "further", "said"),
    [
        ("open", ROWS, [], "x: the cohort has no sections with counts and no image.*corpus: train"),
        ("others", ROWS, [], "x: the cohort has no sections with counts"),
        ("others", ROWS, FURTHER[:2], "x: the corpus is empty, .* of A, who is tested"),
        ("open", ROWS, [*FURTHER, ROWS[1]], "x: A2 are slides of the cohort, which are held out"),
        ("oracle", ROWS, [*FURTHER, ROWS[1]], "x: A2 are slides of the cohort"),
        ("open", ROWS, [*FURTHER, ROWS[0]], "x: A1 are slides .* which the split has already"),
        ("others", ROWS, [*FURTHER, SlideRow("E1")], "x: the patient of E1 is unknown"),
        ("others", [SlideRow(r.id) for r in ROWS], FURTHER, "x: the patient of A2 is unknown"),
    ],
)
def test_impossible_corpora_are_refused_by_name(kind, rows, further, said):
    with pytest.raises(FlagError, match=said):
        corpus_of(kind, SPLIT, rows, further, "x")


def test_a_job_refuses_what_the_split_holds_out_by_the_name_inside_the_file():
    split = SPLIT.as_dict()
    check_sections(["A1", "B1", "C1", "D1"], split, "open")
    check_sections(["A1", "A2"], split, "oracle")
    with pytest.raises(FlagError, match="the corpus open holds A2, which the split holds out"):
        check_sections(["A1", "A2"], split, "open")
    with pytest.raises(FlagError, match="the corpus oracle holds C2"):
        check_sections(["A2", "C2"], split, "oracle")


def test_a_gene_model_that_saw_the_test_slides_does_not_compete():
    loaded = config.load()
    bound = {name for name in loaded["methods"] if bounds_others(loaded, name)}
    assert bound == {"oracle", "node_only_oracle", "node_only_edm_oracle", "hinge_oracle"}


@pytest.mark.parametrize(
    ("overlay", "said"),
    [
        ({"gene_models": {"scgpt": {"corpus": "open"}}}, "scgpt: only models with fits: true"),
        ({"gene_models": {"cellfm_mini": {"corpus": "all"}}}, "gene_models.cellfm_mini.corpus"),
        ({"encoders": {"ssl_vit": {"corpus": "open"}}}, "encoders.ssl_vit: unknown key corpus"),
    ],
)
def test_a_corpus_where_there_is_none_is_refused(overlay, said):
    with pytest.raises(FlagError, match=said):
        config.load(overlay)


def test_missing_backbones_leave_out_the_methods_that_are_built_on_them():
    from flag_st.planning.grid import Plan

    overlay = {
        "missing": {"cellfm_mini": "no counts"},
        "make": ["table_1"],
        "experiments": {"table_1": {"methods": ["hinge", "ridge"]}},
    }
    assert {run.method for run in Plan(config.load(overlay)).runs("table_1")} == {"ridge"}


# --- the files ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Three slides, and two sections of which only the counts are kept."""
    root = tmp_path_factory.mktemp("made")
    source = Synthetic(patients=5, sections=1, spots=(5, 6), genes=60)
    for row in source.slides():
        files = source.fetch(row.id, root)
        if row.id in ("P4S1", "P5S1"):
            (root / "counts").mkdir(exist_ok=True)
            shutil.move(files.st, root / "counts" / files.st.name)
            files.wsi.unlink()
    return root


def test_a_folder_knows_its_sections_without_an_image(made, tmp_path):
    source = Folder(made)
    assert [row.id for row in source.slides()] == ["P1S1", "P2S1", "P3S1"]
    assert [(r.id, r.patient) for r in source.counts_only()] == [("P4S1", "P4"), ("P5S1", "P5")]
    assert source.counts("P4S1") == made / "counts/P4S1.h5ad"
    sheet = tmp_path / "counts.tsv"
    sheet.write_text("slide\tpatient\nP5S1\tother\nP6S1\t\n")
    source = Folder(made, counts_sheet=sheet)
    assert [(r.id, r.patient) for r in source.counts_only()] == [("P5S1", "other"), ("P6S1", "")]
    with pytest.raises(FlagError, match=r"section P6S1: no file .*counts/P6S1\.h5ad"):
        source.counts("P6S1")
    with pytest.raises(FlagError, match="Synthetic has no section P1S1 with counts and no image"):
        Synthetic().counts("P1S1")
    assert Synthetic().counts_only() == []


def test_files_of_counts_that_are_slides_too_are_no_sections(made, tmp_path):
    """As in the open HER2ST sections, whose folder of counts holds all of them."""
    root = shutil.copytree(made, tmp_path / "root")
    shutil.copy(root / "st/P1S1.h5ad", root / "counts/P1S1.h5ad")
    assert [row.id for row in Folder(root).counts_only()] == ["P4S1", "P5S1"]


def test_prepared_counts_are_those_of_the_file(made, tmp_path):
    raw = anndata.read_h5ad(made / "counts/P4S1.h5ad")
    del raw.obsm["spatial"]  # there is no image that positions would refer to
    raw.write_h5ad(tmp_path / "raw.h5ad")
    prepare_counts(tmp_path / "raw.h5ad", "P4S1", tmp_path / "counts.h5ad", "P4")
    table = anndata.read_h5ad(tmp_path / "counts.h5ad")
    np.testing.assert_array_equal(table.X.toarray(), raw.X.toarray())
    assert table.obs_names.tolist() == raw.obs_names.tolist()
    assert table.var["ensembl"].tolist() == raw.var["gene_ids"].tolist()
    assert dict(table.uns) == {"contract": CONTRACT, "slide": "P4S1", "patient": "P4"}
    raw.X = raw.X * -0.5
    raw.write_h5ad(tmp_path / "raw.h5ad")
    with pytest.raises(FlagError, match=r"section P4S1: 2 faults(.|\n)*negative(.|\n)*non-integer"):
        prepare_counts(tmp_path / "raw.h5ad", "P4S1", tmp_path / "again.h5ad")
    assert not (tmp_path / "again.h5ad").exists()


def test_check_looks_at_the_counts_that_a_configuration_learns_from(made, tmp_path, capsys):
    root = shutil.copytree(made, tmp_path / "root")
    overlay = {
        "root": str(root),
        "make": ["table_1"],
        "defaults": {
            "cohorts": ["own"],
            "split": "own",
            "panel": "own",
            "encoder": "texture",
            "metrics": ["pcc"],
        },
        "cohorts": {"own": {"use": "flag_st.sources.folder.Folder", "params": {"root": None}}},
        "splits": {
            "own": {"scheme": "fixed", "train": ["P1S1"], "valid": ["P2S1"], "test": ["P3S1"]}
        },
        "panels": {"own": {"size": 12}},
        "experiments": {
            "table_1": {
                "methods": ["hinge_open"],
                "params": {"columns": [{"metric": "pcc", "estimator": "point"}]},
            }
        },
    }
    assert check(config.load(overlay)) == 0
    (root / "counts/P5S1.h5ad").write_bytes(b"nothing")
    assert check(config.load(overlay)) == 1
    assert "P5S1.h5ad is damaged" in capsys.readouterr().err
    shutil.rmtree(root / "counts")
    assert check(config.load(overlay)) == 1
    said = capsys.readouterr().err
    assert "gene_models.cellfm_mini_open, corpus open, split own of cohort own: the cohort" in said
    overlay["gene_models"] = {"coexpression": {"corpus": "open"}}
    overlay["methods"] = {"flag": {"gene_model": "coexpression"}}
    overlay["experiments"]["table_1"]["methods"] = ["flag"]
    assert check(config.load(overlay), data=False) == 1
    assert "gene_models.coexpression: Coexpression learns from training" in capsys.readouterr().err


# --- fitting ------------------------------------------------------------------------------------


class Recorder(CorpusModel):
    """Keeps what it is fitted to."""

    kind = "static"

    def fit_sections(self, sections, genes, panel, unit, seed):
        self.sections, self.genes, self.unit = sections, list(genes), unit

    def embed(self, *_):
        raise NotImplementedError


def table(name, genes, counts):
    return anndata.AnnData(
        sparse.csr_matrix(np.asarray(counts, np.float32)),
        var=pd.DataFrame(index=list(genes)),
        uns={"slide": name, "patient": name[0]},
    )


def test_genes_that_a_section_lacks_are_unknown_and_shrink_nothing():
    slides = [table("A1", "abcd", [[1, 2, 3, 4]]), table("B1", "dcbx", [[5, 6, 7, 8]])]
    further = [table("C1", "yxb", [[3, 4, 9], [1, 0, 2]])]
    model = Recorder()
    fit_slides(model, slides, ["b", "d"], 0, further, "log2p1")
    assert model.genes == ["b", "c", "d"]  # those of the training slides, whatever a section lacks
    assert model.unit == "log2p1"
    first, second, third = model.sections
    np.testing.assert_array_equal(first.counts.toarray(), [[2, 3, 4]])
    np.testing.assert_array_equal(second.counts.toarray(), [[7, 6, 5]])
    assert first.known.all()
    assert second.known.all()
    np.testing.assert_array_equal(third.counts.toarray(), [[9, 0, 0], [2, 0, 0]])
    assert third.known.tolist() == [True, False, False]
    # Depth is that of all genes of the section, as in `read_expression`.
    np.testing.assert_array_equal(third.depth, [[16], [3]])
    assert third.patient == "C"
    np.testing.assert_allclose(
        third.expression(np.array([0]), "log1p_cp10k"), np.log1p([[9e4 / 16], [2e4 / 3]]), rtol=1e-6
    )


def test_sections_of_another_species_and_models_that_cannot_use_sections_are_refused():
    slides = [table("A1", "abcd", [[1, 2, 3, 4]])]
    with pytest.raises(FlagError, match="section C1 of the corpus has none of the 2 panel genes"):
        fit_slides(Recorder(), slides, ["b", "d"], 0, [table("C1", "BD", [[1, 2]])])
    with pytest.raises(FlagError, match=r"Coexpression learns from training slides alone.*train"):
        fit_slides(Coexpression(), slides, ["b", "d"], 0, [table("C1", "bd", [[1, 2]])])


def test_unknown_values_of_a_small_cellfm_are_neither_read_nor_asked_for():
    """Whatever stands in place of an unknown value, the same network is learned."""
    from flag_st.gene_models.cellfm_mini import CellFmMini
    from flag_st.gene_models.masked_values import Pretraining

    rng = np.random.default_rng(0)
    genes = [f"g{i}" for i in range(12)]
    known = np.arange(12) < 8

    def fitted(there, regime, filler):
        counts = rng_counts.copy()
        counts[:, ~known] = filler
        whole = Section.whole(sparse.csr_matrix(first))
        depth = rng_counts.sum(1, keepdims=True)  # not that of the filler
        part = Section(sparse.csr_matrix(counts), depth, there)
        settings = Pretraining(regime, context=10, epochs=2)
        model = CellFmMini(16, 2, 2, 16, vocabulary=12, pretraining=settings)
        model.open("cpu")
        model.fit_sections([whole, part], genes, genes[4:10], "log1p", 0)
        return model.digest()

    first, rng_counts = rng.poisson(2.0, (40, 12)), rng.poisson(2.0, (40, 12))
    for regime in ("matched", "cellfm"):
        # Equal numbers of detected genes, so that the vocabulary is the same.
        digests = {fitted(known, regime, filler) for filler in (1, 7)}
        assert len(digests) == 1
        assert fitted(np.ones(12, bool), regime, 7) not in digests


@pytest.fixture(scope="module")
def prepared(made, tmp_path_factory):
    """The files that a job finds: spots of three slides, counts of two sections, split and panel."""
    folder, source = tmp_path_factory.mktemp("prepared"), Folder(made)
    for row in source.slides():
        out = folder / "slides" / row.id
        prepare(source.fetch(row.id, made), row.id, out / "spots.h5ad", out / "patches.h5")
    for row in source.counts_only():
        out = folder / "slides" / row.id / "counts.h5ad"
        prepare_counts(source.counts(row.id), row.id, out, row.patient)
    split = {"train": ["P1S1"], "valid": ["P2S1"], "test": ["P3S1"], "contract": CONTRACT}
    (folder / "split.json").write_text(json.dumps(split))
    genes = anndata.read_h5ad(folder / "slides/P1S1/spots.h5ad").var_names[:12]
    pd.DataFrame({"gene": genes}).to_parquet(folder / "panel.parquet")
    return folder


def fit(folder, corpus, kind):
    use, params = "flag_st.gene_models.cellfm_mini.CellFmMini", {"width": 16, "layers": 2}
    job = Job(
        "fit_gene_model",
        {
            "spots": ["slides/P1S1/spots.h5ad"],
            "corpus": corpus,
            "panel": "panel.parquet",
            "split": "split.json",
        },
        {"model": "model.safetensors"},
        {
            "gene_model": {"use": use, "params": params},
            "corpus": kind,
            "unit": "log1p",
        },
    )
    return job.run(folder)


def test_the_job_says_in_the_file_what_the_model_has_seen(prepared):
    corpus = ["slides/P4S1/counts.h5ad", "slides/P5S1/counts.h5ad"]
    assert fit(prepared, corpus, "open")[0] == 0
    facts = load_arrays(prepared / "model.safetensors")[1]
    assert facts["corpus"] == "open"
    assert facts["sections"] == ["P1S1", "P4S1", "P5S1"]


@pytest.mark.parametrize(
    ("corpus", "kind", "said"),
    [
        (["slides/P3S1/spots.h5ad"], "open", "the corpus open holds P3S1"),
        (["slides/P2S1/spots.h5ad"], "oracle", "the corpus oracle holds P2S1"),
        (
            ["slides/P9S1/counts.h5ad"],
            "open",
            "counts file .*P9S1.* does not exist.*prepare_counts",
        ),
    ],
)
def test_the_job_refuses_held_out_slides_and_foreign_files(prepared, corpus, kind, said):
    code, log = fit(prepared, corpus, kind)
    assert code == 1
    assert re.search(said, log), log
