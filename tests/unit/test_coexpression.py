"""Coexpression: gene vectors from training counts alone."""

import numpy as np
import pytest
from scipy import sparse

from flag_st.core.errors import FlagError
from flag_st.data.targets import Targets
from flag_st.gene_models.base import embed_slide
from flag_st.gene_models.coexpression import Coexpression, compress, correlations, log_normalised

GENES = [f"g{i}" for i in range(40)]
PANEL = [f"g{i}" for i in range(12)]  # 4 genes each of three modules


def slides(seed: int, spots=(150, 200)) -> list:
    """Counts of three modules (genes i, i mod 3) that vary on their own from spot to spot."""
    rng = np.random.default_rng(seed)
    out = []
    for n in spots:
        activity = rng.gamma(2.0, 1.0, (n, 3))  # (n, modules)
        depth = rng.gamma(4.0, 1.0, (n, 1))
        rate = depth * activity[:, np.arange(len(GENES)) % 3]  # (n, P)
        out.append(sparse.csr_matrix(rng.poisson(rate)))
    return out


def fitted(counts=None, **params) -> Coexpression:
    model = Coexpression(**params)
    model.open("cpu")
    model.fit(counts if counts is not None else slides(0), GENES, PANEL, seed=0)
    return model


def embedded(model: Coexpression) -> tuple[np.ndarray, np.ndarray]:
    ((rows, block, mask),) = model.embed(slides(1)[0], GENES, [""] * len(GENES), PANEL)
    assert rows == slice(0, 0)
    assert mask.shape == (len(PANEL),)
    return block, mask


def vectors(model: Coexpression) -> np.ndarray:
    block, mask = embedded(model)
    assert mask.all()
    return block


def test_correlations_equal_a_dense_reference_pooled_within_slides():
    counts, columns = slides(3), np.array([5, 0, 17])
    dense = []
    for one in counts:
        x = one.toarray().astype(float)
        x = np.log1p(x / np.maximum(x.sum(1, keepdims=True), 1) * 1e4)
        dense.append(x - x.mean(0))
    expected = np.corrcoef(np.concatenate(dense).T)[columns]
    np.testing.assert_allclose(correlations(counts, columns), expected, atol=1e-12)


def test_levels_that_differ_between_slides_are_no_coexpression():
    rng = np.random.default_rng(0)
    rate = np.ones((2, 400, 300))
    rate[1, :, :2] = 8  # two genes are high on the second slide, yet independent within each
    counts = [sparse.csr_matrix(rng.poisson(r)) for r in rate]
    pooled = np.concatenate([log_normalised(c, 1e4).toarray() for c in counts])
    assert np.corrcoef(pooled.T)[0, 1] > 0.5
    assert abs(correlations(counts, np.array([0]))[0, 1]) < 0.15


def test_genes_of_one_module_are_closer_than_genes_of_others():
    cosine = (unit := vectors(fitted())) @ unit.T
    same = np.equal.outer(np.arange(12) % 3, np.arange(12) % 3)
    off = ~np.eye(12, dtype=bool)
    assert cosine[same & off].min() > cosine[~same].max() + 0.3


def test_vectors_are_unit_and_their_cosines_those_of_the_centred_correlations():
    counts = slides(0)
    full = correlations(counts, np.arange(12), min_fraction=0.01)
    full -= full.mean(0)
    full /= np.linalg.norm(full, axis=1, keepdims=True)
    unit = vectors(fitted(counts, width=12))
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(unit @ unit.T, full @ full.T, atol=1e-5)


def test_width_beyond_the_rank_is_padded_with_zeros():
    wide, exact = vectors(fitted(width=30)), vectors(fitted(width=11))
    assert wide.shape == (12, 30)
    assert not wide[:, 11:].any()  # 12 centred rows have rank 11
    np.testing.assert_array_equal(wide[:, :11], exact)
    assert vectors(fitted(width=2)).shape == (12, 2)


def test_bytes_do_not_depend_on_seed_or_repetition_but_on_counts(tmp_path):
    first, again, other = fitted(), Coexpression(), fitted(slides(9))
    again.fit(slides(0), GENES, PANEL, seed=77)
    assert first.digest() == again.digest() != other.digest()
    for name, model in (("a", first), ("b", again)):
        model.save(tmp_path / f"{name}.safetensors")
    read = [(tmp_path / f"{n}.safetensors").read_bytes() for n in "ab"]
    assert read[0] == read[1]


def test_components_are_those_of_an_svd_with_the_largest_entry_positive():
    matrix = np.random.default_rng(0).normal(size=(6, 9))
    u, s, _ = np.linalg.svd(matrix, full_matrices=False)
    scores = u * s * np.sign(u[np.abs(u).argmax(0), np.arange(6)])
    expected = scores[:, :4] / np.linalg.norm(scores[:, :4], axis=1, keepdims=True)
    np.testing.assert_allclose(compress(matrix, 4), expected, atol=1e-6)


def test_save_and_load_give_the_same_vectors_for_any_part_of_the_panel(tmp_path):
    model, path = fitted(), tmp_path / "model.safetensors"
    model.save(path)
    loaded = Coexpression()
    loaded.load(path)
    np.testing.assert_array_equal(vectors(loaded), vectors(model))
    ((_, block, _),) = loaded.embed(slides(1)[0], GENES, [], ["g7", "g2"])
    np.testing.assert_array_equal(block, vectors(model)[[7, 2]])


def test_a_gene_that_never_varies_is_masked():
    counts = slides(0)
    silent = [c.tolil() for c in counts]
    for c in silent:
        c[:, 4] = 0
    found, mask = embedded(fitted([c.tocsr() for c in silent]))
    assert np.isfinite(found).all()
    assert not correlations([c.tocsr() for c in silent], np.array([4])).any()
    # Centred over the panel it would be minus the mean profile, which is nobody's co-expression.
    assert not found[4].any()
    assert np.flatnonzero(~mask).tolist() == [4]


def test_target_file_holds_the_vectors(tmp_path):
    import anndata

    counts = slides(1)[0].astype(np.float32)
    slide = anndata.AnnData(counts)
    slide.var_names, slide.obs_names = GENES, [f"s{i}" for i in range(counts.shape[0])]
    path = tmp_path / "targets.h5"
    embed_slide(fitted(), slide, PANEL, path, progress=lambda items, **_: items)
    targets = Targets.open(path, ["s3", "s1"], ["g2", "g0"])
    block, mask = targets.read(np.array([0, 1]))
    np.testing.assert_allclose(block, vectors(fitted())[[2, 0]], atol=1e-3)
    assert mask.all()


def test_faults_are_said():
    with pytest.raises(FlagError, match="absent"):
        Coexpression().fit(slides(0), GENES, ["g1", "absent"], 0)
    with pytest.raises(FlagError, match="no spots"):
        Coexpression().fit([slides(0)[0][:0]], GENES, PANEL, 0)
    with pytest.raises(FlagError, match="learned nothing"):
        next(Coexpression().embed(None, GENES, [], PANEL))
    with pytest.raises(FlagError, match="g39"):
        next(fitted().embed(None, GENES, [], ["g39"]))
    with pytest.raises(FlagError, match="width is 0"):
        Coexpression(width=0)
    with pytest.raises(FlagError, match="lacks panel"):
        Coexpression().restore({"vectors": np.zeros((2, 2))})


def test_known_programmes_of_breast_tissue_are_found():
    import os
    from pathlib import Path

    import anndata

    default = Path(__file__).parents[2].parent / "shared" / "data" / "her2st"
    folder = Path(os.environ.get("FLAG_ST_HER2ST", default)) / "counts"
    if not folder.is_dir():
        pytest.skip("real data absent: set FLAG_ST_HER2ST to the her2st folder")
    tables = [anndata.read_h5ad(folder / f"{s}.h5ad") for s in ("A1", "B4", "C2", "D1", "E1", "G1")]
    genes = sorted(set.intersection(*(set(t.var_names) for t in tables)))
    counts = [t[:, genes].X.tocsr() for t in tables]
    mean = sum(np.asarray(c.mean(axis=0)).ravel() for c in counts)
    panel = [genes[i] for i in np.argsort(-mean)[:200]]
    model = Coexpression()
    model.fit(counts, genes, panel, seed=0)
    cosine = model.vectors @ model.vectors.T

    def rank(gene: str, partner: str) -> int:
        order = np.argsort(-cosine[panel.index(gene)])
        return order.tolist().index(panel.index(partner))

    # Stroma, plasma cells and the amplified HER2 region, among 200 genes.
    assert rank("COL1A1", "COL3A1") <= 5
    assert rank("IGKC", "IGHG3") <= 5
    assert rank("ERBB2", "GRB7") <= 5
