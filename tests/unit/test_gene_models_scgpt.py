"""scGPT on tiny checkpoints with the official file and key names."""

import json
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
import torch
import toy
from published import write_scgpt
from scipy import sparse
from torch import nn

from flag_st.core.errors import FlagError
from flag_st.data.targets import Targets
from flag_st.gene_models.base import embed_slide
from flag_st.gene_models.scgpt import Encoder, ScGPT, ScGPTGenes, bin_values

GENES = [f"GENE{i}" for i in range(25)]
VOCABULARY = {g: i for i, g in enumerate(GENES[:23])} | {"<pad>": 23, "<cls>": 24, "<eoc>": 25}
ARGUMENTS = {
    "embsize": 16,
    "nheads": 2,
    "d_hid": 20,
    "nlayers": 2,
    "n_layers_cls": 3,
    "dropout": 0.2,
    "n_bins": 51,
    "pad_token": "<pad>",
    "pad_value": -2,
    "mask_value": -1,
    "max_seq_len": 1200,
    "input_style": "binned",
    "input_emb_style": "continuous",
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Published(nn.Module):
    """The published layout, put together from torch's own layers: the independent reference."""

    def __init__(self, rows, width, heads, inner, layers):
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.embedding = nn.Embedding(rows, width, padding_idx=23)
        self.encoder.enc_norm = nn.LayerNorm(width)
        self.value_encoder = nn.Module()
        self.value_encoder.linear1 = nn.Linear(1, width)
        self.value_encoder.linear2 = nn.Linear(width, width)
        self.value_encoder.norm = nn.LayerNorm(width)
        layer = nn.TransformerEncoderLayer(width, heads, inner, dropout=0.0, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.decoder = nn.Linear(width, 1)
        self.flag_encoder = nn.Embedding(2, width)

    def forward(self, genes, values):
        e, v = self.encoder, self.value_encoder
        x = e.enc_norm(e.embedding(genes))
        value = values.clamp(max=512)[..., None]
        return self.transformer_encoder(x + v.norm(v.linear2(torch.relu(v.linear1(value)))))


def flash(state):
    return {k.replace("self_attn.in_proj_", "self_attn.Wqkv."): v for k, v in state.items()}


@pytest.fixture(scope="module")
def published():
    torch.manual_seed(0)
    model = Published(26, 16, 2, 20, 2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.train()  # dropout is 0; training mode keeps torch off its fused path


def make(root, state, arguments=ARGUMENTS, vocabulary=VOCABULARY):
    root.mkdir(parents=True, exist_ok=True)
    (root / "args.json").write_text(json.dumps(arguments))
    (root / "vocab.json").write_text(json.dumps(vocabulary))
    torch.save(state, root / "best_model.pt")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory, published):
    return make(tmp_path_factory.mktemp("scgpt"), flash(published.state_dict()))


def opened(folder, cls=ScGPT, **params):
    model = cls(weights=folder and str(folder), **params)
    model.open("cpu")
    return model


def counts(n=20, seed=0):
    return sparse.csr_matrix(np.random.default_rng(seed).negative_binomial(1, 0.3, (n, 25)))


def embedded(model, table=None, panel=GENES[:9]):
    blocks = list(model.embed(counts() if table is None else table, GENES, [""] * 25, panel))
    return np.concatenate([b for _, b, _ in blocks]), np.concatenate([m for _, _, m in blocks])


def test_whole_human_sizes():
    """50.3 M of the 51.3 M parameters in the published file of 205 MB are used here."""
    arguments = ARGUMENTS | {"embsize": 512, "nheads": 8, "d_hid": 512, "nlayers": 12}
    with torch.device("meta"):
        model = Encoder(arguments, 60697, 60694)
    shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    assert shapes["encoder.embedding.weight"] == (60697, 512)
    assert shapes["value_encoder.linear1.weight"] == (512, 1)
    layer = "transformer_encoder.layers.11"
    assert shapes[f"{layer}.self_attn.Wqkv.weight"] == (1536, 512)
    assert shapes[f"{layer}.self_attn.Wqkv.bias"] == (1536,)
    assert shapes[f"{layer}.self_attn.out_proj.weight"] == (512, 512)
    assert shapes[f"{layer}.linear2.weight"] == (512, 512)
    per_layer = 4 * (512 * 512 + 512) + 2 * (512 * 512 + 512) + 4 * 512
    head = 60697 * 512 + 2 * 512 + (512 + 512) + (512 * 512 + 512) + 2 * 512
    assert sum(p.numel() for p in model.parameters()) == head + 12 * per_layer == 50_278_400


def read(model, table, panel, genes=GENES):
    """What the network is given of each spot, without padding: [(tokens, values), …]."""
    seen = []
    net = model.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    list(model.embed(table, genes, [""] * len(genes), panel))
    net.remove()
    return [
        (t[p].tolist(), v[p].tolist())
        for tokens, values, present in seen
        for t, v, p in zip(tokens, values, present, strict=True)
    ]


def test_a_spot_is_cls_and_then_the_whole_panel_in_its_order(folder):
    """Appendix F.2.2, with the counts A, B, C = 5, 0, 2; also where the panel is in another order."""
    table = sparse.csr_matrix([[5, 0, 2] + [9] * 22])
    model, cls = opened(folder), VOCABULARY["<cls>"]
    assert read(model, table, GENES[:3]) == [([cls, 0, 1, 2], [0, 50, 0, 1])]
    assert read(model, table, GENES[2::-1]) == [([cls, 2, 1, 0], [0, 1, 0, 50])]
    assert read(model, table, ["GENE24", *GENES[:3]]) == [([cls, 0, 1, 2], [0, 50, 0, 1])]
    found, mask = embedded(model, table, GENES[:3])
    assert mask.tolist() == [[True, False, True]]
    assert found.any(axis=2).tolist() == mask.tolist()
    # A panel longer than `length` is read whole as well, and `length` is of the other scope alone.
    assert read(opened(folder, length=2), table, GENES[:3])[0][0] == [cls, 0, 1, 2]


def test_embeddings_equal_torchs_own_transformer(folder, published):
    found, mask = embedded(opened(folder))
    table = counts().toarray()[:, :9]
    assert (table == 0).any()
    tokens = torch.tensor([[VOCABULARY["<cls>"], *range(9)]])
    for spot, row in enumerate(table):
        here = np.flatnonzero(row)
        assert mask[spot].tolist() == (row > 0).tolist()
        assert len(here)
        edges = np.quantile(row[here], np.linspace(0, 1, 50))
        high = np.array([(edges <= v).sum() for v in row[here]], dtype=float)
        low = np.array([(edges < v).sum() for v in row[here]], dtype=float)
        values = np.zeros((1, 10), dtype=np.float32)
        values[0, 1 + here] = np.ceil((high + low) / 2)
        with torch.no_grad():
            states = published(tokens, torch.tensor(values))[0, 1:]
        np.testing.assert_allclose(found[spot, here], states[here].numpy(), atol=1e-5)
        assert not found[spot, row == 0].any()


@pytest.mark.parametrize("spelling", ["self_attn.in_proj_", "self_attn._impl.Wqkv."])
def test_other_spellings_of_the_keys_give_the_same(tmp_path, folder, published, spelling):
    state = {
        k.replace("self_attn.in_proj_", spelling).replace(
            "self_attn.out_proj",
            "self_attn._impl.out_proj" if "_impl" in spelling else "self_attn.out_proj",
        ): v
        for k, v in published.state_dict().items()
    }
    other = opened(make(tmp_path, state))
    np.testing.assert_array_equal(embedded(other)[0], embedded(opened(folder))[0])


def test_a_spots_embedding_does_not_depend_on_its_batch(folder):
    together, _ = embedded(opened(folder, batch_tokens=1000))
    np.testing.assert_allclose(embedded(opened(folder, batch_tokens=1))[0], together, atol=1e-5)
    order = np.random.default_rng(0).permutation(20)
    for ties in ("middle", "spread"):
        model = opened(folder, ties=ties)
        np.testing.assert_allclose(
            embedded(model, counts()[order])[0], embedded(model)[0][order], atol=1e-5
        )


def test_bins_of_distinct_values_are_their_quantiles():
    values = np.random.default_rng(0).permutation(np.arange(1.0, 51))
    np.testing.assert_array_equal(bin_values(values, 51), values)


def test_ties_go_to_the_middle_or_are_spread_over_the_bins_that_they_straddle():
    values = np.array([1.0] * 60 + [2.0] * 30 + [9.0] * 10)
    middle = bin_values(values, 51)
    assert sorted(set(middle)) == [15, 38, 48]  # bins 1-30, 31-45, 46-50
    spread = np.concatenate(
        [bin_values(values, 51, np.random.default_rng(i)).reshape(1, -1) for i in range(400)]
    )
    for part, low, high in (
        (slice(0, 60), 1, 30),
        (slice(60, 90), 31, 45),
        (slice(90, 100), 46, 50),
    ):
        assert set(np.unique(spread[:, part])) == set(range(low, high + 1))
        assert abs(spread[:, part].mean() - (low + high) / 2) < 0.2
    assert bin_values(np.array([3.0]), 51).tolist() == [25]
    assert bin_values(np.zeros(0), 51).tolist() == []


def test_transcriptome_reads_cls_and_the_expressed_genes(folder):
    """As the package's ``embed_data``, where ``<cls>`` has the value of padding."""
    table = sparse.csr_matrix([[0, 3, 0, 7] + [0] * 21])
    model = opened(folder, scope="transcriptome")
    assert read(model, table, GENES[:2]) == [([VOCABULARY["<cls>"], 1, 3], [-2, 1, 50])]
    _, mask = embedded(model, table, GENES[:2])
    assert mask.tolist() == [[False, True]]


def test_transcriptome_keeps_the_panel_and_samples_the_rest(folder):
    whole = opened(folder, scope="transcriptome")
    assert not np.allclose(embedded(whole)[0], embedded(opened(folder))[0])
    full = sparse.csr_matrix(np.arange(1, 26)[None])
    short = opened(folder, scope="transcriptome", length=12)
    ((first, *tokens), (_, *bins)), *none = read(short, full, GENES[:9])
    assert not none
    assert first == VOCABULARY["<cls>"]
    assert len(tokens) == len(bins) == 11
    assert set(range(9)) < set(tokens) < set(range(23))
    # Values are binned among all genes, before some are left out.
    expected = bin_values(np.arange(1.0, 24), 51)
    np.testing.assert_array_equal(bins, expected[tokens])
    assert read(short, full, GENES[:9])[0][0] == [first, *tokens]
    assert set(read(short, full * 2, GENES[:9])[0][0]) != {first, *tokens}


def test_genes_without_a_token_are_masked(folder, caplog):
    found, mask = embedded(opened(folder), panel=["GENE3", "GENE24"])
    assert mask[:, 0].any()
    assert not mask[:, 1].any()
    assert not found[:, 1].any()
    assert "lacks 1 of 2" in caplog.text


def test_static_table_is_the_normalised_gene_table(folder, published):
    model = opened(folder, ScGPTGenes)
    assert model.kind == "static"
    ((rows, table, mask),) = model.embed(counts(), GENES, [], ["GENE4", "GENE24", "GENE0"])
    assert rows == slice(0, 0)
    assert mask.tolist() == [True, False, True]
    with torch.no_grad():
        expected = published.encoder.enc_norm(published.encoder.embedding(torch.tensor([4, 0])))
    np.testing.assert_allclose(table[[0, 2]], expected.numpy(), atol=1e-6)
    assert not table[1].any()


def test_files_placed_for_the_repository_are_found_and_verified(folder, tmp_path, monkeypatch):
    """As for every hub entry: no path in the configuration, and no network."""
    monkeypatch.setenv("FLAG_ST_MODELS", str(tmp_path))
    shutil.copytree(folder, tmp_path / "owner" / "name")
    found, _ = embedded(opened(None, repo="owner/name", revision="0" * 40))
    np.testing.assert_array_equal(found, embedded(opened(folder))[0])
    with pytest.raises(FlagError, match=r"vocab\.json has sha256 .*, expected 0000"):
        opened(None, repo="owner/name", sha256={"vocab.json": "0" * 64})


def test_target_file_of_the_static_table_masks_genes_without_a_token(folder, tmp_path):
    import anndata

    slide = anndata.AnnData(counts().astype(np.float32))
    slide.var_names = GENES
    panel, path = ["GENE4", "GENE24", "GENE0"], tmp_path / "t.h5"
    model = opened(folder, ScGPTGenes)
    embed_slide(model, slide, panel, path, progress=lambda items, **_: items)
    targets = Targets.open(path, slide.obs_names, panel)
    block, mask = targets.read(np.array([2, 0]))
    assert block.shape[0] == 3
    np.testing.assert_array_equal(mask, [[True, False, True]] * 2)


def test_files_of_another_model_are_refused(tmp_path, published):
    state = flash(published.state_dict())
    key = "transformer_encoder.layers.1.self_attn.Wqkv.weight"
    lacking = {k: v for k, v in state.items() if k != key}
    with pytest.raises(
        FlagError, match=rf"best_model\.pt lacks {key}".replace("layers.1", r"layers\.1")
    ):
        opened(make(tmp_path / "a", lacking))
    with pytest.raises(FlagError, match=r"embedding\.weight of shape \(26, 16\), not \(25, 16\)"):
        opened(
            make(tmp_path / "b", state, vocabulary={k: v for k, v in VOCABULARY.items() if v < 25})
        )


def test_keys_that_the_published_model_does_not_have_are_refused(tmp_path, published):
    """A deeper model, or one trained with batch labels, computes something else."""
    state = flash(published.state_dict())
    with pytest.raises(FlagError, match=r"an unknown key transformer_encoder\.layers\.1\."):
        opened(make(tmp_path / "deep", state, ARGUMENTS | {"nlayers": 1}))
    for key in ("dsbn.bns.0.weight", "batch_encoder.embedding.weight", "bn.weight"):
        with pytest.raises(FlagError, match=f"an unknown key {key}"):
            opened(make(tmp_path / key, state | {key: torch.zeros(16)}))
    heads = ("cls_decoder.out_layer.bias", "mvc_decoder.gene2query.bias", "decoder.fc.0.bias")
    opened(make(tmp_path / "heads", state | {key: torch.zeros(16) for key in heads}))


@pytest.mark.parametrize(
    ("vocabulary", "words"),
    [
        (list(VOCABULARY), "list instead of an object"),
        ({gene: str(token) for gene, token in VOCABULARY.items()}, "does not number its 26 tokens"),
        ({gene: token + 1 for gene, token in VOCABULARY.items()}, "does not number its 26 tokens"),
        (VOCABULARY | {"GENE3": 26}, "does not number its 26 tokens"),
        (VOCABULARY | {"GENE3": 4}, "does not number its 26 tokens"),
        (VOCABULARY | {"GENE3": None}, "does not number its 26 tokens"),
        (VOCABULARY | {"GENE1": True}, "does not number its 26 tokens"),
        ({}, "does not number its 0 tokens"),
        ({"A": 0, "<cls>": 1}, "no <pad>"),
        ({"A": 0, "<pad>": 1}, "no <cls>"),
    ],
)
def test_vocabularies_that_number_no_genes_are_refused(tmp_path, published, vocabulary, words):
    folder = make(tmp_path, flash(published.state_dict()), vocabulary=vocabulary)
    with pytest.raises(FlagError, match=rf"vocab\.json .*{words}.*scGPT"):
        opened(folder)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], r"args\.json holds a list instead of an object"),
        ({k: v for k, v in ARGUMENTS.items() if k != "nheads"}, r"args\.json lacks nheads"),
        (ARGUMENTS | {"nheads": 7}, "embsize 16 is no multiple of nheads 7"),
        (ARGUMENTS | {"nheads": 0}, "nheads is 0 instead of a whole number"),
        (ARGUMENTS | {"embsize": "16"}, "embsize is '16' instead of a whole number"),
        (ARGUMENTS | {"nlayers": 2.0}, "nlayers is 2.0 instead of a whole number"),
        (ARGUMENTS | {"n_bins": None}, "n_bins is None instead of a whole number"),
        (ARGUMENTS | {"pad_value": "-2"}, "no usable pad_value: '-2'"),
        (ARGUMENTS | {"pad_token": ["<pad>"]}, "no usable pad_token"),
        (ARGUMENTS | {"input_emb_style": "category"}, "input_emb_style 'category'"),
    ],
)
def test_arguments_of_no_usable_model_are_refused(tmp_path, published, arguments, words):
    with pytest.raises(FlagError, match=words):
        opened(make(tmp_path, flash(published.state_dict()), arguments))


def test_weights_that_are_no_numbers_are_refused(tmp_path, published):
    state, key = flash(published.state_dict()), "value_encoder.linear2.bias"
    for value in (float("nan"), float("inf")):
        broken = state[key].clone()
        broken[3] = value
        with pytest.raises(FlagError, match=f"{key} with numbers that are not finite"):
            opened(make(tmp_path / str(value), state | {key: broken}))
    with pytest.raises(FlagError, match=rf"{key} of torch\.int64, not torch\.float32"):
        opened(make(tmp_path / "int", state | {key: state[key].long()}))


def test_half_precision_weights_are_computed_in_full(tmp_path, folder, published):
    half = {key: value.half() for key, value in flash(published.state_dict()).items()}
    found, _ = embedded(opened(make(tmp_path, half)))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, embedded(opened(folder))[0], atol=0.05)


@pytest.mark.skipif(find_spec("scgpt") is not None, reason="the package scgpt is installed here")
def test_a_missing_package_is_told_with_its_environment(folder):
    with pytest.raises(FlagError, match=r"scgpt.*--sdm conda.*envs/scgpt\.yaml.*backend to own"):
        opened(folder, backend="package")


def test_damaged_missing_and_code_bearing_files_are_refused(tmp_path, published):
    folder = make(tmp_path, flash(published.state_dict()))
    file = folder / "best_model.pt"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(FlagError, match=r"best_model\.pt is not a readable weight file"):
        opened(folder)

    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"a": Attack()}, file)
    with pytest.raises(FlagError, match="not a readable weight file"):
        opened(folder)
    assert not (tmp_path / "owned").exists()
    file.unlink()
    with pytest.raises(FlagError, match=r"best_model\.pt does not exist.*scGPT"):
        opened(folder)
    with pytest.raises(FlagError, match=r"on no hub.*params\.weights"):
        ScGPT().open("cpu")
    for params in ({"scope": "all"}, {"ties": "up"}, {"backend": "theirs"}):
        with pytest.raises(FlagError, match="is one of"):
            toy.made(ScGPT, **params)
    with pytest.raises(FlagError, match="length 1 has no room for a gene"):
        toy.made(ScGPT, length=1)


def test_the_backbone_is_torchs_own_transformer_and_the_decoder(tmp_path):
    """<cls> with the value 0, then the panel in its order, hidden genes with the value of masks."""
    params = write_scgpt(tmp_path, GENES[:23])
    net = toy.made(ScGPT, **params)
    net.open("cpu")
    panel = ["GENE5", "GENE0", "GENE19"]
    found = net.backbone(panel).eval()
    state = torch.load(tmp_path / "best_model.pt", weights_only=True)
    torsos = {k.replace("self_attn.Wqkv.", "self_attn.in_proj_"): v for k, v in state.items()}
    reference = Published(26, 16, 2, 20, 2).train()
    reference.load_state_dict(
        {k: torsos.get(k, v) for k, v in reference.state_dict().items() if "decoder" not in k},
        strict=False,
    )
    values = torch.tensor([[0.5, 3.0, 2.0], [1.0, 0.0, 4.0]])
    hidden = torch.tensor([[False, True, False], [True, True, True]])
    given = torch.tensor([[0, 0.5, -1.0, 2.0], [0, -1.0, -1.0, -1.0]])
    tokens = torch.tensor([[24, 5, 0, 19]] * 2)
    with torch.no_grad():
        h = reference(tokens, given)[:, 1:]
        for place in (0, 2, 4):
            h = nn.functional.linear(
                h, state[f"decoder.fc.{place}.weight"], state[f"decoder.fc.{place}.bias"]
            )
            h = nn.functional.leaky_relu(h, 0.01) if place < 4 else h
        torch.testing.assert_close(found(values, hidden), h[..., 0], atol=1e-5, rtol=1e-5)


def test_what_the_backbone_cannot_do_is_refused_by_name(tmp_path, folder):
    model = toy.made(ScGPT, **write_scgpt(tmp_path, GENES[:23]))
    model.open("cpu")
    with pytest.raises(FlagError, match=r"not in the vocabulary of scGPT, such as GENE24.*another"):
        model.backbone(["GENE1", "GENE24"])
    with pytest.raises(FlagError, match=r"scGPT has no body\.slope, which is of CellFM alone"):
        model.backbone(["GENE1"], slope=0.01)
    with pytest.raises(FlagError, match=r"best_model\.pt lacks decoder\.fc\.0\.weight"):
        opened(folder).backbone(["GENE1"])
