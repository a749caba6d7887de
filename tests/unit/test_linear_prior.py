"""Moments of genes over sections that know some of them, and the regression onto their components."""

import numpy as np
import pytest
import toy
from scipy import sparse

from flag_st.core.errors import FlagError
from flag_st.core.seeds import Draws
from flag_st.gene_models.corpus import Section
from flag_st.gene_models.linear_prior import LinearPrior
from flag_st.gene_models.moments import Moments, moments
from flag_st.methods.base import Run, load
from flag_st.methods.ridge import Ridge
from flag_st.methods.ridge_prior import RidgePrior

GENES = [f"g{i}" for i in range(toy.GENES)]
PRIOR = {"use": "flag_st.gene_models.linear_prior.LinearPrior", "params": {"width": 12}}


def test_moments_are_those_of_all_spots_where_all_genes_are_known():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(n, 4)) @ rng.normal(size=(4, 4)) + 3 for n in (30, 50)]
    found = moments(parts, [np.ones(4, bool)] * 2)
    whole = np.concatenate(parts)
    np.testing.assert_allclose(found.mean, whole.mean(0))
    np.testing.assert_allclose(found.covariance, np.cov(whole.T, bias=True), atol=1e-12)


def test_what_a_section_lacks_changes_no_moment_of_its_gene():
    """Were it zero, the mean would fall and the gene would seem to vary with all others."""
    rng = np.random.default_rng(1)
    full, part = rng.normal(5, 1, (200, 3)), rng.normal(5, 1, (300, 3))
    part[:, 2] = 0
    found = moments([full, part], [np.ones(3, bool), np.array([True, True, False])])
    assert found.mean[2] == pytest.approx(full[:, 2].mean())
    assert found.mean[0] == pytest.approx(np.concatenate([full, part])[:, 0].mean())
    assert found.covariance[2, 2] == pytest.approx(full[:, 2].var(), rel=1e-6)
    assert found.covariance[0, 2] == pytest.approx(np.cov(full[:, [0, 2]].T, bias=True)[0, 1])
    with pytest.raises(FlagError, match="1 genes are in no section of the corpus"):
        moments([part], [np.array([True, True, False])])


def test_the_conditional_mean_is_the_regression_on_visible_genes():
    spread = np.array([[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 1.0]])
    found = Moments(np.array([1.0, 2.0, 3.0]), spread)
    values = np.array([[3.0, -99, 7.0], [-99, -99, -99]])
    hidden = np.array([[False, True, False], [True, True, True]])
    out = found.conditional(values, hidden)
    assert out[0] == pytest.approx([3, 2 + 0.95 * 0.8 * 2, 7], abs=1e-4)
    assert out[1] == pytest.approx([1, 2, 3])  # nothing is visible: the means


def section(patient, level, seed, known=None):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(level * np.linspace(1, 3, toy.GENES), (60, toy.GENES))
    one = Section.whole(sparse.csr_matrix(counts))
    there = one.known if known is None else known
    return Section(sparse.csr_matrix(counts * there), one.depth, there, patient)


@pytest.fixture
def prior(tmp_path):
    known = np.arange(toy.GENES) != 4
    model = LinearPrior(12)
    sections = [section("p1", 2, 0), section("p2", 9, 1, known), section("", 2, 2)]
    model.fit_sections(sections, GENES, GENES, "log1p", 0)
    model.save(tmp_path / "prior.safetensors")
    return model


def test_components_are_orthonormal_and_means_those_of_the_patients(prior):
    np.testing.assert_allclose(prior.components.T @ prior.components, np.eye(12), atol=1e-9)
    assert prior.patients == ["p1", "p2"]
    one = section("p1", 2, 0).expression(np.arange(toy.GENES), "log1p")
    np.testing.assert_allclose(prior.patient_means[0], one.mean(0), rtol=1e-5)
    assert np.isnan(prior.patient_means[1]).nonzero()[0].tolist() == [4]
    ((_, vectors, mask),) = prior.embed(None, GENES, [], ["g3", "g1"])
    np.testing.assert_allclose(vectors, prior.components[[3, 1]], rtol=1e-6)
    assert mask is None


def fitted(method, path=None):
    train, valid = toy.cohort("a", "b", "c", patient="p9"), toy.cohort("d", patient="p9")
    method.fit(train, valid, Run(backbone=path))
    return method


def predicted(method, slide):
    return method.predict(slide.without_truth(), 1, Draws(0, slide.id)).point


def test_with_all_components_it_is_ridge(prior, tmp_path):
    """The projection is then the identity; and no patient of the corpus is here to recentre."""
    one = fitted(RidgePrior(PRIOR, scores=12, components=8), tmp_path / "prior.safetensors")
    slide = toy.slide("e", "p9")
    np.testing.assert_allclose(
        predicted(one, slide), predicted(fitted(Ridge(components=8)), slide), atol=1e-5
    )


def test_predictions_lie_on_the_components_of_the_corpus(prior, tmp_path):
    one = fitted(RidgePrior(PRIOR, scores=3), tmp_path / "prior.safetensors")
    out = predicted(one, toy.slide("e", "p9")) - prior.mean
    basis = prior.components[:, :3]
    np.testing.assert_allclose(out @ basis @ basis.T, out, atol=1e-5)
    assert np.linalg.matrix_rank(out, tol=1e-4) == 3


def test_recentring_gives_the_gene_means_of_the_patient_and_changes_no_correlation(prior, tmp_path):
    path = tmp_path / "prior.safetensors"
    one, other = (fitted(RidgePrior(PRIOR, recentre=r, scores=5), path) for r in (True, False))
    slide = toy.slide("e", "p2")
    moved, plain = predicted(one, slide), predicted(other, slide)
    known = np.arange(toy.GENES) != 4
    np.testing.assert_allclose(moved.mean(0)[known], prior.patient_means[1][known], rtol=1e-4)
    np.testing.assert_allclose(moved[:, 4], plain[:, 4], atol=1e-6)  # unknown there: left as it was
    np.testing.assert_allclose(moved - moved.mean(0), plain - plain.mean(0), atol=1e-4)


def test_the_model_file_needs_no_prior(prior, tmp_path):
    one = fitted(RidgePrior(PRIOR, scores=5), tmp_path / "prior.safetensors")
    use = "flag_st.methods.ridge_prior.RidgePrior"
    one.save(tmp_path / "model.safetensors", use=use, params={"backbone": PRIOR, "scores": 5})
    (tmp_path / "prior.safetensors").unlink()
    again, slide = load(tmp_path / "model.safetensors")[0], toy.slide("e", "p2")
    assert np.array_equal(predicted(again, slide), predicted(one, slide))


def test_what_cannot_be_is_refused(prior, tmp_path):
    with pytest.raises(FlagError, match=r"no linear prior.*backbone: linear_prior"):
        RidgePrior()
    with pytest.raises(FlagError, match="no linear prior"):
        RidgePrior({"use": "flag_st.gene_models.coexpression.Coexpression"})
    with pytest.raises(FlagError, match="its backbone was not fitted before it"):
        fitted(RidgePrior(PRIOR))
    with pytest.raises(FlagError, match="scores is 13, but the prior has 12 components"):
        fitted(RidgePrior(PRIOR, scores=13), tmp_path / "prior.safetensors")
    with pytest.raises(FlagError, match="width is 0"):
        LinearPrior(0)
    with pytest.raises(FlagError, match="learned nothing"):
        LinearPrior().arrays()
