"""The small CellFM that is pre-trained on the training slides."""

import numpy as np
import pytest
import torch
from scipy import sparse

from flag_st.core.errors import FlagError
from flag_st.gene_models.cellfm_mini import CellFmMini
from flag_st.gene_models.corpus import Section
from flag_st.gene_models.masked_values import Pretraining, _sequences

GENES = [f"g{i}" for i in range(30)]
PANEL = [f"g{i}" for i in (3, 0, 20, 17, 25, 28)]
SIZES = {"width": 16, "layers": 2, "heads": 2, "bins": 16, "vocabulary": 20}


def slides(seed=0, spots=(150, 100)):
    """Two kinds of spots: one expresses the even genes, the other the odd ones."""
    rng = np.random.default_rng(seed)
    out = []
    for n in spots:
        kind = rng.integers(0, 2, n)
        out.append(sparse.csr_matrix(rng.poisson(4.0 * (np.arange(30) % 2 == kind[:, None]) + 0.1)))
    return out


def fitted(**settings):
    pretraining = Pretraining(**{"context": 12, "epochs": 12, "learning_rate": 1e-2, **settings})
    model = CellFmMini(**SIZES, pretraining=pretraining)
    model.open("cpu")
    model.fit(slides(), GENES, PANEL, seed=0)
    return model


@pytest.fixture(scope="module")
def trained():
    return fitted()


def hidden_pair(model) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model says of two hidden genes of the panel, and what they are; (N, 2) each."""
    own = [GENES.index(g) for g in PANEL]
    values = torch.from_numpy(Section.whole(slides(5, (80,))[0]).expression(own, model.unit))
    hidden = torch.zeros_like(values, dtype=torch.bool)
    hidden[:, 2:4] = True
    with torch.inference_mode():
        return model.backbone(PANEL)(values * ~hidden, hidden)[:, 2:4], values[:, 2:4]


def test_hidden_values_are_told_from_visible_ones(trained):
    """The other half of the panel says which kind a spot is; the gene's mean says nothing of that."""
    found, values = hidden_pair(trained)
    assert (found - values).square().mean() < 0.5 * values.var()
    assert trained.history[-1] < 0.7 * trained.history[0]


def test_the_published_regime_never_learns_what_undetected_genes_are(trained):
    """It sees detected genes alone, so that it takes hidden ones for detected; this is what HINGE has."""
    model = fitted(regime="cellfm", context=8)  # fewer than a spot detects
    found, values = hidden_pair(model)
    there = values > 0
    assert model.history[-1] < 0.1 * model.history[0]
    assert abs(found[there].mean() - values[there].mean()) < 1
    assert found[~there].mean() > 0.5 * values[there].mean()  # and these are zero
    matched, wanted = hidden_pair(trained)
    assert matched[wanted == 0].mean() < 0.5 * wanted[wanted > 0].mean()


def test_sequences_of_each_regime():
    values = np.log1p(np.random.default_rng(0).poisson(0.5, (40, 20))).astype(np.float32)
    rng = np.random.default_rng(1)
    known = np.ones_like(values, dtype=bool)
    matched = list(_sequences(values, known, 6, Pretraining(context=10, epochs=2, batch=16), rng))
    assert len(matched) == 2 * 3
    shares = []
    for rows, columns, hidden in matched:
        assert columns.shape == hidden.shape == (len(rows), 10)
        assert (columns[:, :6] == np.arange(6)).all()  # the panel is always there
        assert all(len(set(line)) == 10 for line in columns)
        shares += list(hidden.mean(1))
    assert min(shares) < 0.2 < 0.8 < max(shares)
    published = Pretraining("cellfm", context=5, epochs=1, batch=40)
    ((rows, columns, hidden),) = _sequences(values, known, 6, published, rng)
    detected = np.take_along_axis(values[rows], columns, 1) > 0
    assert detected.mean() > 0.95  # detected genes come first
    assert 0.1 < hidden.mean() < 0.3


def test_states_are_those_of_the_spot_and_unknown_genes_are_masked(trained):
    table, panel = slides(5, (30,))[0], [*PANEL, "g29"]
    known = [gene in trained.genes for gene in panel]
    ((rows, states, mask),) = trained.embed(table, GENES, [""] * 30, panel)
    assert (rows.start, rows.stop) == (0, 30)
    assert states.shape == (30, 7, 16)
    assert (mask == known).all()
    assert np.isfinite(states).all()
    kinds = table[:, [0]].toarray().ravel() > 1
    between = np.linalg.norm(states[kinds, 0].mean(0) - states[~kinds, 0].mean(0))
    assert between > 0.1


def test_saved_and_loaded_it_is_the_same(trained, tmp_path):
    trained.save(tmp_path / "x.safetensors")
    again = CellFmMini(**SIZES)
    again.open("cpu")
    again.load(tmp_path / "x.safetensors")
    assert again.digest() == trained.digest()
    assert again.genes == trained.genes
    other = CellFmMini(**{**SIZES, "width": 8})
    with pytest.raises(FlagError, match="cellfm_mini"):
        other.load(tmp_path / "x.safetensors")


def test_same_seed_same_bytes():
    assert fitted(epochs=1).digest() == fitted(epochs=1).digest()


def test_an_empty_corpus_and_an_untrained_model_are_refused():
    model = CellFmMini(**SIZES)
    with pytest.raises(FlagError, match="the corpus is empty"):
        model.fit([sparse.csr_matrix((5, 30))], GENES, PANEL, seed=0)
    with pytest.raises(FlagError, match="has learned nothing yet"):
        model.backbone(PANEL)
    with pytest.raises(FlagError, match="such as absent"):
        model.fit(slides(), GENES, ["g0", "absent"], seed=0)


def test_hidden_values_of_held_out_sections_are_told_beside_two_anchors():
    """Two kinds of spots are no normal distribution, but half a panel says the kind to either."""
    settings = Pretraining(context=12, epochs=25, learning_rate=1e-2, held_out=1)
    model = CellFmMini(**SIZES, pretraining=settings)
    model.open("cpu")
    model.fit(slides(spots=(150, 100, 90)), GENES, PANEL, seed=0)
    assert model.explained.shape == (3, 3)
    network, normal, means = model.explained.T
    assert network[0] > normal[0] - 0.05 > 0.4
    assert (network[:2] > means[:2] + 0.4).all()
    assert np.abs(means).max() < 0.05  # all sections have the same gene means
    assert network[2] < network[0]  # the less is seen, the less is told
    with pytest.raises(FlagError, match=r"held_out 3 leaves none of the 3 sections"):
        held = CellFmMini(**SIZES, pretraining=Pretraining(held_out=3))
        held.fit(slides(spots=(9, 9, 9)), GENES, PANEL, seed=0)


def test_a_held_out_section_teaches_nothing():
    """Whatever the section that is kept out holds, the same network is learned."""
    settings = Pretraining(context=12, epochs=1, held_out=1)
    parts, digests = slides(spots=(60, 60, 60)), []
    for changed in range(3):
        counts = [c * 3 if i == changed else c for i, c in enumerate(parts)]
        model = CellFmMini(**SIZES, pretraining=settings)
        model.fit(counts, GENES, PANEL, seed=0)
        digests.append(model.net.state_dict()["gene_emb"].numpy().tobytes())
    plain = CellFmMini(**SIZES, pretraining=settings)
    plain.fit(parts, GENES, PANEL, seed=0)
    assert [d == plain.net.state_dict()["gene_emb"].numpy().tobytes() for d in digests].count(
        True
    ) == 1


@pytest.mark.parametrize(
    ("regime", "unit", "wanted"),
    [
        ("matched", "log1p", "log1p"),
        ("matched", "log2p1", "log1p"),
        ("matched", "log1p_cp10k", "log1p_cp10k"),
        ("cellfm", "log2p1", "log1p_cp10k"),
    ],
)
def test_the_unit_is_the_panels_and_in_the_published_regime_that_of_cellfm(
    regime, unit, wanted, tmp_path
):
    """States are those of values in the unit of the pre-training, also after loading."""
    sections = [Section.whole(c) for c in slides(spots=(40,))]
    settings = Pretraining(regime, context=12, epochs=1)
    model = CellFmMini(**SIZES, pretraining=settings)
    model.fit_sections(sections, GENES, PANEL, unit, 0)
    model.save(tmp_path / "x.safetensors")
    again = CellFmMini(**SIZES)
    again.open("cpu")
    again.load(tmp_path / "x.safetensors")
    assert again.unit == wanted
    table = slides(5, (8,))[0]
    ((_, states, _),) = again.embed(table, GENES, [""] * 30, PANEL)
    own = [GENES.index(g) for g in PANEL]
    values = torch.from_numpy(Section.whole(table).expression(own, wanted))
    np.testing.assert_allclose(
        states, model.backbone(PANEL).states(values).detach().numpy(), atol=1e-5
    )
