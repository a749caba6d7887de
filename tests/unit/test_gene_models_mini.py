"""The small Geneformer that is pre-trained on the training slides."""

import numpy as np
import pytest
import torch
from scipy import sparse

from flag_st.core.torchvision_guard import ensure_torchvision

ensure_torchvision()

from flag_st.core.errors import FlagError  # noqa: E402
from flag_st.gene_models.geneformer_mini import GeneformerMini  # noqa: E402
from flag_st.gene_models.masked_genes import IGNORED, MASK_TOKEN, mask, ramp, shuffled  # noqa: E402

GENES = [f"g{i}" for i in range(40)]
PANEL = [f"g{i}" for i in (3, 0, 20, 17, 25, 30)]
SMALL = {"width": 32, "layers": 2, "heads": 2, "inner": 32, "vocabulary": 32, "context": 24}
TRAINED = SMALL | {"epochs": 12, "learning_rate": 3e-3, "batch_tokens": 512}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def slides(seed=0, spots=(120, 80)):
    """Two kinds of spots: one expresses the even genes, the other the odd ones; g38, g39 none."""
    rng = np.random.default_rng(seed)
    out = []
    for n in spots:
        kind = rng.integers(0, 2, n)
        rate = 1.2 * (np.arange(40) % 2 == kind[:, None])
        rate[:, 38:] = 0
        out.append(sparse.csr_matrix(rng.poisson(rate)))
    return out


def fitted(counts=None, seed=0, **params):
    model = GeneformerMini(**{**TRAINED, **params})
    model.open("cpu")
    model.fit(counts if counts is not None else slides(), GENES, PANEL, seed)
    return model


@pytest.fixture(scope="module")
def trained():
    torch.set_num_threads(1)
    return fitted()


def embedded(model, table=None, panel=PANEL):
    table = slides(5, (50,))[0] if table is None else table
    blocks = list(model.embed(table, GENES, [""] * 40, panel))
    return np.concatenate([b for _, b, _ in blocks]), np.concatenate([m for _, _, m in blocks])


def test_it_learns_which_genes_go_together(trained):
    """A spot shows 11 of the 32 genes with a token, all of one kind.

    Naming a hidden gene costs ln 32 nats without looking, ln 21 by leaving out those in sight;
    less takes knowing which genes go together.
    """
    assert trained.history[0] > np.log(32) - 0.1
    assert trained.history[-1] < np.log(21) - 0.1
    genes = list(trained.ranks.medians)
    found, mask = embedded(trained, slides(5, (50,))[0], genes)
    assert mask.sum(1).mean() == pytest.approx(11, abs=1)
    centres = np.stack([found[mask[:, g], g].mean(0) for g in range(32)])
    centres -= centres.mean(0)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    kind = np.array([int(g[1:]) % 2 for g in genes])
    cosine, same = centres @ centres.T, np.equal.outer(kind, kind)
    off = ~np.eye(32, dtype=bool)
    assert cosine[same & off].mean() > cosine[~same].mean() + 0.5


def test_medians_are_those_of_the_training_counts(trained):
    table = np.concatenate([c.toarray() for c in slides()]).astype(float)
    scaled = table / np.maximum(table.sum(1, keepdims=True), 1) * 1e4
    for gene, median in trained.ranks.medians.items():
        column = scaled[:, GENES.index(gene)]
        assert median == pytest.approx(np.median(column[column > 0]))


def test_vocabulary_is_the_panel_and_the_most_detected(trained):
    detected = sum((c.toarray() > 0).sum(0) for c in slides())
    genes = list(trained.ranks.medians)
    assert genes[: len(PANEL)] == PANEL
    rest = [g for g in GENES if g not in PANEL]
    expected = sorted(rest, key=lambda g: (-detected[GENES.index(g)], GENES.index(g)))
    assert genes[len(PANEL) :] == expected[: 32 - len(PANEL)]
    assert trained.ranks.tokens["<cls>"] == 2
    assert len(trained.ranks.tokens) == 36


def test_masks_tell_which_genes_a_spot_expresses(trained):
    table = slides(5, (50,))[0]
    found, mask = embedded(trained, table)
    expressed = table.toarray()[:, [GENES.index(g) for g in PANEL]] > 0
    np.testing.assert_array_equal(mask, expressed)
    assert not found[~mask].any()
    assert np.abs(found[mask]).max(1).min() > 0
    _, unknown = embedded(trained, table, [*PANEL[:1], "g39"])
    assert not unknown[:, 1].any()


def test_a_spots_embedding_does_not_depend_on_its_batch(trained):
    table = slides(5, (50,))[0]
    together, _ = embedded(trained, table)
    np.testing.assert_allclose(embedded(trained, table[[9]])[0][0], together[9], atol=1e-5)


def test_equal_seeds_give_equal_bytes_and_leave_the_global_stream_alone(tmp_path):
    short = {"epochs": 1, "width": 16, "layers": 1}
    torch.manual_seed(123)
    expected = torch.rand(1)
    torch.manual_seed(123)
    first = fitted(**short)
    assert torch.equal(torch.rand(1), expected)
    np.random.seed(7)  # the global streams must not matter
    second, other = fitted(**short), fitted(seed=1, **short)
    assert first.digest() == second.digest() != other.digest()
    for name, model in (("a", first), ("b", second)):
        model.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_save_and_load_give_the_same_embeddings(trained, tmp_path):
    path = tmp_path / "model.safetensors"
    trained.save(path)
    loaded = GeneformerMini(**TRAINED)
    loaded.open("cpu")
    loaded.load(path)
    np.testing.assert_array_equal(embedded(loaded)[0], embedded(trained)[0])
    assert loaded.history == trained.history
    assert loaded.digest() == trained.digest()


def test_another_model_file_is_refused(trained):
    arrays = trained.arrays()
    arrays.pop("encoder.layer.1.output.dense.weight")
    with pytest.raises(FlagError, match=r"lacks encoder\.layer\.1\.output\.dense\.weight"):
        GeneformerMini(**TRAINED).restore(arrays)


def test_masking_hides_fifteen_percent_of_genes_and_never_special_tokens():
    rng = np.random.default_rng(0)
    tokens = rng.integers(4, 400, (400, 100))
    tokens[:, 0], tokens[:, -10:] = 2, 0
    inputs, labels = mask(tokens, 4, 400, rng)
    chosen, genes = labels != IGNORED, tokens >= 4
    assert not chosen[~genes].any()
    np.testing.assert_array_equal(labels[chosen], tokens[chosen])
    np.testing.assert_array_equal(inputs[~chosen], tokens[~chosen])
    assert chosen[genes].mean() == pytest.approx(0.15, abs=0.01)
    hidden = inputs[chosen] == MASK_TOKEN
    assert hidden.mean() == pytest.approx(0.8, abs=0.02)
    assert (inputs[chosen] == tokens[chosen]).mean() == pytest.approx(0.1, abs=0.02)
    assert inputs[chosen & (inputs != MASK_TOKEN)].min() >= 4


def test_masking_always_hides_a_gene():
    rng = np.random.default_rng(0)
    for _ in range(20):
        _, labels = mask(np.array([[2, 7, 3]]), 4, 9, rng)
        assert labels.tolist() == [[IGNORED, 7, IGNORED]]


def test_learning_rate_rises_then_falls_to_zero():
    factors = [ramp(i, 50) for i in range(51)]
    assert factors[4] == max(factors) == 1
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5:] == sorted(factors[5:], reverse=True)
    assert factors[50] == 0
    assert ramp(0, 1) > 0


def test_batches_hold_every_sequence_once_an_epoch():
    rng = np.random.default_rng(0)
    sequences = [np.zeros(n, dtype=np.int64) for n in rng.integers(3, 60, 90)]
    first, second = shuffled(sequences, 300, rng), shuffled(sequences, 300, rng)
    assert sorted(np.concatenate(first)) == sorted(np.concatenate(second)) == list(range(90))
    assert [b.tolist() for b in first] != [b.tolist() for b in second]


def test_faults_are_said():
    with pytest.raises(FlagError, match="learned nothing"):
        next(GeneformerMini().embed(None, GENES, [], PANEL))
    with pytest.raises(FlagError, match="learned nothing"):
        GeneformerMini().digest()
    with pytest.raises(FlagError, match="width 30 is no multiple of heads 4"):
        GeneformerMini(width=30)
    with pytest.raises(FlagError, match="context 2"):
        GeneformerMini(context=2)
    with pytest.raises(FlagError, match="no training spot has counts"):
        fitted([sparse.csr_matrix((5, 40))])
    with pytest.raises(FlagError, match="absent"):
        GeneformerMini(**SMALL).fit(slides(), GENES, ["absent"], 0)
