"""Reduced: a PCA around another gene model."""

from collections.abc import Iterator
from typing import ClassVar

import anndata
import numpy as np
import pytest
from scipy import sparse

from flag_st.core.errors import FlagError
from flag_st.gene_models.base import GeneModel
from flag_st.gene_models.corpus import fit_slides
from flag_st.gene_models.reduce import Reduced

GENES = [f"g{i}" for i in range(10)]


class Linear(GeneModel):
    """Embeddings that are a known function of the counts: rank 4 in 12 dimensions, plus noise."""

    kind: ClassVar[str] = "contextual"

    def __init__(self, noise: float = 0.0):
        rng = np.random.default_rng(0)
        self.noise, self.plane = noise, np.linalg.qr(rng.normal(size=(12, 12)))[0]

    def embed(self, counts, genes, ensembl, panel, progress=lambda items, **_: items) -> Iterator:
        dense = counts.toarray().astype(float)
        for start in range(0, len(dense), 7):
            part = dense[start : start + 7, : len(panel)]
            code = np.stack([part, part**2, np.sin(part), np.ones_like(part)], axis=-1)
            rest = np.stack([np.cos(k * part + k) for k in range(8)], axis=-1)
            block = np.concatenate([code, self.noise * rest], axis=-1) @ self.plane.T
            mask = part > 0
            yield slice(start, start + len(part)), block * mask[..., None], mask


class Spotwise(Linear):
    kind: ClassVar[str] = "spot"

    def embed(self, *args, **more):
        for rows, block, _ in super().embed(*args, **more):
            yield rows, block.sum(1), None


HERE = __name__


def slides():
    rng = np.random.default_rng(1)
    return [sparse.csr_matrix(rng.poisson(1.5, (n, 10))) for n in (30, 40)]


def fitted(width, noise=0.0, cls="Linear", **params):
    inner = {"use": f"{HERE}.{cls}", "params": {"noise": noise}}
    model = Reduced(inner, width=width, **params)
    model.open("cpu")
    model.fit(slides(), GENES, GENES[:6], seed=0)
    return model


def blocks(model):
    found = list(model.embed(slides()[0], GENES, [""] * 10, GENES[:6]))
    return [np.concatenate([b[i] for b in found]) for i in (1, 2) if found[0][i] is not None]


def test_cosines_survive_where_the_width_holds_the_rank():
    model = fitted(4)
    full, mask = blocks(Linear())
    small, same = blocks(model)
    np.testing.assert_array_equal(same, mask)
    assert small.shape == (30, 6, 4)
    a, b = full[mask], small[mask]
    np.testing.assert_allclose(b @ b.T, a @ a.T, atol=1e-3)
    assert model.error < 1e-6


def test_error_is_the_mean_squared_sine_to_the_projection():
    model = fitted(3, noise=3.0)
    units = []
    for one in slides():
        for _, block, mask in Linear(3.0).embed(one, GENES, [], GENES[:6]):
            units.append(block[mask] / np.linalg.norm(block[mask], axis=1, keepdims=True))
    units = np.concatenate(units)
    kept = np.linalg.norm(units @ model.basis, axis=1) ** 2
    assert model.error == pytest.approx((1 - kept).mean(), abs=1e-5)
    assert 0.01 < model.error < 0.9
    # No other basis of three directions does better: the SVD's is as good.
    _, _, v = np.linalg.svd(units, full_matrices=False)
    assert model.error == pytest.approx(1 - ((units @ v[:3].T) ** 2).sum() / len(units), abs=1e-5)


def test_basis_is_orthonormal_and_fitted_on_evenly_spaced_spots():
    model = fitted(5, noise=0.5, spots=8)
    np.testing.assert_allclose(model.basis.T @ model.basis, np.eye(5), atol=1e-6)
    assert not np.allclose(model.basis, fitted(5, noise=0.5).basis)


def test_kinds_of_the_model_are_kept():
    model = fitted(2, cls="Spotwise")
    (block,) = blocks(model)
    assert (model.kind, block.shape) == ("spot", (30, 2))
    inner = {"use": "flag_st.gene_models.coexpression.Coexpression", "params": {"width": 6}}
    static = Reduced(inner, width=3)
    static.fit(slides(), GENES, GENES[:6], seed=0)
    ((rows, block, mask),) = static.embed(slides()[0], GENES, [], GENES[:6])
    assert (static.kind, rows, block.shape) == ("static", slice(0, 0), (6, 3))
    assert mask.tolist() == [True] * 6


@pytest.mark.parametrize("fits", [True, False])
def test_save_and_load_bring_back_basis_and_model(tmp_path, fits):
    coexpression = {"use": "flag_st.gene_models.coexpression.Coexpression", "params": {"width": 6}}
    entry = coexpression if fits else {"use": f"{HERE}.Linear", "params": {"noise": 0.5}}
    model, loaded = Reduced(entry, width=3), Reduced(entry, width=3)
    model.fit(slides(), GENES, GENES[:6], seed=0)
    model.save(tmp_path / "m.safetensors")
    loaded.load(tmp_path / "m.safetensors")
    for a, b in zip(blocks(model), blocks(loaded), strict=True):
        np.testing.assert_array_equal(a, b)
    assert loaded.error == model.error
    assert loaded.digest() == model.digest()


class ById(Linear):
    """Knows genes by Ensembl id alone, as Geneformer does."""

    def embed(self, counts, genes, ensembl, panel, **more):
        known = [bool(dict(zip(genes, ensembl, strict=True))[gene]) for gene in panel]
        for rows, block, mask in super().embed(counts, genes, ensembl, panel, **more):
            yield rows, block, mask & known


def test_the_slides_own_ids_reach_the_model_that_is_reduced():
    """Ids of the shared genes, of whichever slide states one; no symbol is looked up."""
    tables = []
    for counts, ids in zip(slides(), (["E0", "", "E2"], ["X0", "E1", ""]), strict=True):
        table = anndata.AnnData(counts.astype(np.float32))
        table.var_names = GENES
        table.var["ensembl"] = ids + [""] * 7
        tables.append(table)
    seen = []

    class Spy(ById):
        def embed(self, counts, genes, ensembl, panel, **more):
            seen.append(dict(zip(genes, ensembl, strict=True)))
            return super().embed(counts, genes, ensembl, panel, **more)

    model = Reduced({"use": f"{HERE}.ById"}, width=2)
    model.model = Spy()
    fit_slides(model, tables, GENES[:6], seed=0)
    expected = {"g0": "E0", "g1": "E1", "g2": "E2"} | dict.fromkeys(GENES[3:], "")
    assert seen == [expected, expected]
    with pytest.raises(FlagError, match="no training spot has an embedding"):
        Reduced({"use": f"{HERE}.ById"}, width=2).fit(slides(), GENES, GENES[:6], seed=0)


def test_faults_are_said():
    with pytest.raises(FlagError, match="width 13 exceeds the model's 12"):
        fitted(13)
    with pytest.raises(FlagError, match="learned nothing"):
        next(Reduced({"use": f"{HERE}.Linear"}).embed(slides()[0], GENES, [], GENES))
    empty = Reduced({"use": f"{HERE}.Linear"}, width=2)
    with pytest.raises(FlagError, match="no training spot"):
        empty.fit([sparse.csr_matrix((5, 10))], GENES, GENES[:6], 0)
    with pytest.raises(FlagError, match="lacks error"):
        empty.restore({"basis": np.eye(2)})
