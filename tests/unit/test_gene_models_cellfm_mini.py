"""The small CellFM that is pre-trained on the training slides."""

import numpy as np
import pytest
import torch
from scipy import sparse

from flag_st.core.errors import FlagError
from flag_st.gene_models.cellfm_mini import CellFmMini
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


@pytest.mark.parametrize(("regime", "share"), [("matched", 0.5), ("cellfm", 0.9)])
def test_hidden_values_are_told_from_visible_ones(regime, share, trained):
    """The other half of the panel says which kind a spot is; the gene's mean says nothing of that.

    CellFM's regime knows detected genes alone, so that it is worse where undetected ones are asked for.
    """
    model = trained if regime == "matched" else fitted(regime=regime)
    counts = slides(5, (80,))[0].toarray()[:, [GENES.index(g) for g in PANEL]]
    values = torch.as_tensor(np.log1p(counts), dtype=torch.float32)
    hidden = torch.zeros_like(values, dtype=torch.bool)
    hidden[:, 2:4] = True
    with torch.inference_mode():
        found = model.backbone(PANEL)(values * ~hidden, hidden)
    error = (found - values)[hidden].square().mean()
    assert error < share * values[hidden].var()
    assert model.history[-1] < 0.7 * model.history[0]


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
