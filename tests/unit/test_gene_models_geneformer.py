"""Geneformer on tiny checkpoints in the official format: same files, same keys."""

import json
import os
import pickle
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import toy
from safetensors.torch import load_file, save_file
from scipy import sparse

from flag_st.core.torchvision_guard import ensure_torchvision

ensure_torchvision()

from transformers import BertConfig, BertForMaskedLM  # noqa: E402

from flag_st.core.errors import FlagError  # noqa: E402
from flag_st.data.targets import Targets  # noqa: E402
from flag_st.gene_models import safe_pickle  # noqa: E402
from flag_st.gene_models.base import embed_slide  # noqa: E402
from flag_st.gene_models.bert import bert_config, empty_bert  # noqa: E402
from flag_st.gene_models.geneformer import (  # noqa: E402
    RELEASES,
    Geneformer,
    Release,
    check_medians,
    check_tokens,
)
from flag_st.gene_models.packages import official  # noqa: E402

V2, V1 = "Geneformer-V2-316M", "Geneformer-V1-10M"
SYMBOLS = [f"SYM{i}" for i in range(30)]
IDS = [f"ENSG{i:011d}" for i in range(30)]
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 20,
    "hidden_act": "relu",
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
    "type_vocab_size": 2,
}


#: The releases as they were published, and as they are in most of these tests.
PUBLISHED = dict(RELEASES)
SMALL = {V2: Release("gc104M", 32, 3, 16, 2, 24, 20), V1: Release("gc30M", 30, 3, 16, 2, 24, 20)}
#: Geneformer V1's own dictionaries, if they are at hand.
OFFICIAL = Path(
    os.environ.get("FLAG_ST_GENEFORMER_V1", Path(__file__).parents[3] / "shared/data/geneformer_v1")
)


@pytest.fixture(autouse=True)
def small_releases(monkeypatch):
    """The tests' checkpoints have the published form at a small size."""
    for name, release in SMALL.items():
        monkeypatch.setitem(RELEASES, name, release)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(root, name=V2):
    """A release: model folder and dictionaries, with the names they have in the repository."""
    v1 = name == V1
    special = ["<pad>", "<mask>"] if v1 else ["<pad>", "<mask>", "<cls>", "<eos>"]
    tokens = {n: i for i, n in enumerate([*special, *IDS[:28]])}  # the last two have no token
    config = BertConfig(vocab_size=len(tokens), **SIZES)
    torch.manual_seed(1)
    model = BertForMaskedLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    (root / name).mkdir(parents=True)
    (root / name / "config.json").write_text(json.dumps(config.to_dict()))
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    state.pop("cls.predictions.decoder.weight", None)  # tied, so not in the published files
    state.pop("cls.predictions.decoder.bias", None)
    save_file(state, root / name / "model.safetensors")
    folder = root / ("geneformer/gene_dictionaries_30m" if v1 else "geneformer")
    folder.mkdir(parents=True, exist_ok=True)
    corpus = "gc30M" if v1 else "gc104M"
    medians = {n: np.float64(0.5 + i % 5) for i, n in enumerate(IDS)}
    for file, value in {
        "token_dictionary": tokens,
        "gene_median_dictionary": medians,
        "gene_name_id_dict": dict(zip(SYMBOLS, IDS, strict=True)) | {"odd": float("nan")},
        "ensembl_mapping_dict": {n: n for n in IDS} | {"ENSGOLD": IDS[3]},
    }.items():
        (folder / f"{file}_{corpus}.pkl").write_bytes(pickle.dumps(value))
    return tokens, medians


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    root = tmp_path_factory.mktemp("geneformer")
    make(root)
    return root


def opened(root, **params) -> Geneformer:
    model = Geneformer(weights=str(root), **params)
    model.open("cpu")
    return model


def counts(n=25, seed=0):
    return sparse.csr_matrix(np.random.default_rng(seed).poisson(0.8, (n, 30)))


def embedded(model, table=None, panel=SYMBOLS[:10], genes=SYMBOLS, ensembl=None):
    table = counts() if table is None else table
    blocks = list(model.embed(table, genes, ensembl or [""] * len(genes), panel))
    assert [r for rows, *_ in blocks for r in range(rows.start, rows.stop)] == list(
        range(table.shape[0])
    )
    return np.concatenate([b for _, b, _ in blocks]), np.concatenate([m for _, _, m in blocks])


# --- the model -----------------------------------------------------------------------------------


HEAD = {  # what the published files hold besides the encoder; the table of the head is tied
    "cls.predictions.bias": lambda vocabulary, width: [vocabulary],
    "cls.predictions.transform.dense.weight": lambda vocabulary, width: [width, width],
    "cls.predictions.transform.dense.bias": lambda vocabulary, width: [width],
    "cls.predictions.transform.LayerNorm.weight": lambda vocabulary, width: [width],
    "cls.predictions.transform.LayerNorm.bias": lambda vocabulary, width: [width],
}


def file_size(shapes, integers=()):
    """Bytes of a safetensors file as transformers writes it: names and shapes decide."""
    sizes = {name: 4 * int(np.prod(shape)) for name, shape in shapes.items()}
    sizes |= {name: 8 * int(np.prod(shapes[name])) for name in integers}
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(shapes, key=lambda n: (n not in integers, n)):
        span = [offset, offset := offset + sizes[name]]
        kind = "I64" if name in integers else "F32"
        header[name] = {"dtype": kind, "shape": shapes[name], "data_offsets": span}
    length = len(json.dumps(header, separators=(",", ":")))
    return 8 + length + -length % 8 + offset


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("Geneformer-V1-10M", 41_183_536),
        ("Geneformer-V2-104M", 417_571_156),
        ("Geneformer-V2-104M_CLcancer", 417_571_156),
        ("Geneformer-V2-316M", 1_265_455_076),
    ],
)
def test_keys_and_shapes_make_files_of_exactly_the_published_size(name, published):
    release = PUBLISHED[name]
    assert release.width == 64 * release.heads  # which no shape tells
    encoder = empty_bert(bert_config(release.config()))
    assert all(p.is_meta for p in encoder.parameters())
    shapes = {f"bert.{k}": list(v.shape) for k, v in encoder.state_dict().items()}
    shapes |= {key: shape(release.vocabulary, release.width) for key, shape in HEAD.items()}
    old = [] if release.special else ["bert.embeddings.position_ids"]  # V1 was saved in 2021
    shapes |= {key: [1, release.length] for key in old}
    assert file_size(shapes, old) == published


def reference(state, tokens, heads, blocks):
    """BERT after ``blocks`` blocks, in float64 numpy, for one unpadded sequence (L,)."""
    w = {k.removeprefix("bert."): v.double().numpy() for k, v in state.items()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    e = "embeddings"
    x = w[f"{e}.word_embeddings.weight"][tokens]
    x = x + w[f"{e}.position_embeddings.weight"][: len(tokens)]
    x = norm(x + w[f"{e}.token_type_embeddings.weight"][0], f"{e}.LayerNorm")
    for i in range(blocks):
        name = f"encoder.layer.{i}"
        q, k, v = (
            linear(x, f"{name}.attention.self.{part}").reshape(len(x), heads, -1).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        logits = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
        share = np.exp(logits - logits.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
        mixed = (share @ v).swapaxes(0, 1).reshape(x.shape)
        x = norm(
            x + linear(mixed, f"{name}.attention.output.dense"),
            f"{name}.attention.output.LayerNorm",
        )
        inner = np.maximum(linear(x, f"{name}.intermediate.dense"), 0)
        x = norm(x + linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    return x


@pytest.mark.parametrize(("layer", "blocks"), [(-1, 3), (-2, 2), (-3, 1)])
def test_embeddings_equal_an_independent_forward(release, layer, blocks):
    model = opened(release, layer=layer)
    found, mask = embedded(model)
    state = load_file(release / V2 / "model.safetensors")
    tokens = {n: i for i, n in enumerate(IDS[:28], 4)}
    panel = counts().toarray()[:, :10]
    medians = np.array([0.5 + i % 5 for i in range(10)])
    for spot, row in enumerate(panel):
        value = row / max(row.sum(), 1) * 1e4 / medians
        ranked = [t for _, t in sorted((-v, 4 + g) for g, v in enumerate(value) if v > 0)]
        states = reference(state, np.array([2, *ranked, 3]), heads=2, blocks=blocks)
        for gene in range(10):
            assert mask[spot, gene] == (row[gene] > 0)
            if mask[spot, gene]:
                place = 1 + ranked.index(tokens[IDS[gene]])
                np.testing.assert_allclose(found[spot, gene], states[place], atol=1e-5, rtol=1e-5)
            else:
                assert not found[spot, gene].any()


def test_a_spots_embedding_does_not_depend_on_its_batch(release):
    together, mask = embedded(opened(release, batch_tokens=10_000))
    for tokens in (1, 40):
        np.testing.assert_allclose(
            embedded(opened(release, batch_tokens=tokens))[0], together, atol=1e-5
        )
    model, table = opened(release), counts()
    for spot in (0, 7, 24):
        alone, _ = embedded(model, table[[spot]])
        np.testing.assert_allclose(alone[0], together[spot], atol=1e-5)
    order = np.random.default_rng(0).permutation(25)
    np.testing.assert_allclose(embedded(model, table[order])[0], together[order], atol=1e-5)
    assert mask.any()


def test_repeated_runs_give_the_same_bytes(release):
    first, again = (embedded(opened(release))[0].tobytes() for _ in range(2))
    assert first == again


def test_bfloat16_is_close(release):
    exact, mask = embedded(opened(release))
    half, _ = embedded(opened(release, dtype="bfloat16"))
    a, b = exact[mask], half[mask]
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.mean() > 0.99
    assert half.dtype == np.float32


# --- which genes ---------------------------------------------------------------------------------


def test_scope_panel_sees_the_panel_alone_and_transcriptome_all_genes(release):
    table = counts().tolil()
    more = table.copy()
    more[:, 15:] = more[:, 15:].toarray() + 1  # genes outside the panel change
    table, more = table.tocsr(), more.tocsr()
    panel = opened(release)
    np.testing.assert_array_equal(embedded(panel, table)[0], embedded(panel, more)[0])
    whole = opened(release, scope="transcriptome")
    assert not np.allclose(embedded(whole, table)[0], embedded(whole, more)[0])
    assert not np.allclose(embedded(whole, table)[0], embedded(panel, table)[0])


def test_genes_ranked_beyond_the_context_are_masked(release):
    model = opened(release, scope="transcriptome")  # 18 genes fit
    table = sparse.csr_matrix(np.ones((1, 30)))
    _, mask = embedded(model, table)
    # All counts equal: the order is that of small medians, ties by token. Medians 0.5, 1.5, 2.5
    # hold 6, 6 and 6 of the 28 genes with a token, so these 18 are the context.
    assert mask[0].tolist() == [i % 5 < 3 for i in range(10)]


def test_genes_without_a_token_are_masked_everywhere(release, caplog):
    found, mask = embedded(opened(release), panel=["SYM5", "SYM29", "SYM1"])
    assert mask[:, 0].any()
    assert not mask[:, 1].any()
    assert not found[:, 1].any()
    assert "lacks 1 of 3" in caplog.text
    with pytest.raises(FlagError, match="none of the 2 panel genes"):
        embedded(opened(release), panel=["SYM28", "SYM29"])
    with pytest.raises(FlagError, match="ABSENT"):
        embedded(opened(release), panel=["ABSENT"])


def test_panel_order_is_kept(release):
    model = opened(release)
    straight, _ = embedded(model, panel=["SYM0", "SYM4", "SYM9"])
    turned, _ = embedded(model, panel=["SYM9", "SYM0", "SYM4"])
    np.testing.assert_array_equal(turned, straight[:, [2, 0, 1]])


def test_ids_come_from_the_slide_then_from_symbols_and_aliases(release, tmp_path):
    model = opened(release)
    by_symbol = embedded(model)[0]
    np.testing.assert_array_equal(embedded(model, ensembl=IDS)[0], by_symbol)
    versions = [f"{name.lower()}.7" for name in IDS]
    np.testing.assert_array_equal(embedded(model, ensembl=versions)[0], by_symbol)
    alias = ["ENSGOLD" if i == 3 else name for i, name in enumerate(IDS)]
    np.testing.assert_array_equal(embedded(model, ensembl=alias)[0], by_symbol)
    other = [IDS[(i + 1) % 28] for i in range(30)]  # the slide's ids win over its symbols
    assert not np.allclose(embedded(model, ensembl=other)[0], by_symbol)
    table = tmp_path / "symbols.tsv"
    table.write_text("symbol\tensembl\n" + "".join(f"X{i}\t{IDS[i]}\n" for i in range(30)))
    renamed = [f"X{i}" for i in range(30)]
    own = opened(release, symbols=str(table))
    np.testing.assert_array_equal(embedded(own, genes=renamed, panel=renamed[:10])[0], by_symbol)


def test_v1_uses_its_own_dictionaries_and_no_special_tokens(tmp_path):
    make(tmp_path, V1)
    model = opened(tmp_path, name=V1)
    found, mask = embedded(model)
    state = load_file(tmp_path / V1 / "model.safetensors")
    row = counts().toarray()[0, :10]
    value = row / row.sum() * 1e4 / np.array([0.5 + i % 5 for i in range(10)])
    ranked = [t for _, t in sorted((-v, 2 + g) for g, v in enumerate(value) if v > 0)]
    states = reference(state, np.array(ranked), heads=2, blocks=3)
    for gene in np.flatnonzero(row):
        np.testing.assert_allclose(found[0, gene], states[ranked.index(2 + gene)], atol=1e-5)
    assert mask[0].tolist() == (row > 0).tolist()


def test_spots_without_panel_counts_are_masked(release):
    table = counts(3).tolil()
    table[1, :10] = 0
    found, mask = embedded(opened(release), table.tocsr())
    assert not mask[1].any()
    assert not found[1].any()
    assert mask[0].any()


def test_target_file(release, tmp_path):
    import anndata

    slide = anndata.AnnData(counts().astype(np.float32))
    slide.var_names, slide.obs_names = SYMBOLS, [f"s{i}" for i in range(25)]
    slide.var["ensembl"] = IDS
    model, path = opened(release), tmp_path / "t.h5"
    embed_slide(model, slide, SYMBOLS[:10], path, progress=lambda items, **_: items)
    targets = Targets.open(path, slide.obs_names[::-1], SYMBOLS[4:6])
    block, mask = targets.read(np.arange(25))
    full, expected = embedded(model)
    np.testing.assert_allclose(block, full[::-1, 4:6], atol=2e-3)
    np.testing.assert_array_equal(mask, expected[::-1, 4:6])
    assert (targets.kind, targets.width) == ("contextual", 16)


def test_reduced_it_is_fitted_and_used_by_the_slides_own_ids(release):
    """Symbols that its dictionary does not know do no harm where the slides have ids."""
    from flag_st.gene_models.reduce import Reduced

    entry = {
        "use": "flag_st.gene_models.geneformer.Geneformer",
        "params": {"weights": str(release)},
    }
    names = [f"unheard-of {i}" for i in range(30)]
    model = Reduced(entry, width=4)
    model.open("cpu")
    model.fit([counts(), counts(seed=1)], names, names[:10], 0, IDS)
    found, mask = embedded(model, panel=names[:10], genes=names, ensembl=IDS)
    full, expected = embedded(opened(release))
    np.testing.assert_allclose(found, full @ model.basis, atol=1e-5)
    np.testing.assert_array_equal(mask, expected)
    with pytest.raises(FlagError, match="knows none of the 10 panel genes"):
        model.fit([counts()], names, names[:10], 0)


# --- what is refused -----------------------------------------------------------------------------


def broken(tmp_path, change):
    make(tmp_path)
    path = tmp_path / V2 / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    return tmp_path


def test_checkpoints_of_another_model_name_the_first_bad_key(tmp_path):
    key = "bert.encoder.layer.1.output.dense.weight"

    def wrong_shape(state):
        state[key] = state[key][:-1].clone()

    lacking = broken(tmp_path / "a", lambda state: state.pop(key))
    with pytest.raises(FlagError, match=r"lacks encoder\.layer\.1\.output\.dense\.weight.*316M"):
        opened(lacking)
    misshapen = broken(tmp_path / "b", wrong_shape)
    with pytest.raises(
        FlagError, match=r"output\.dense\.weight of shape \(15, 24\), not \(16, 24\)"
    ):
        opened(misshapen)
    deeper = broken(tmp_path / "c", lambda s: s.update({key.replace(".1.", ".3."): s[key] + 0}))
    with pytest.raises(FlagError, match=r"unknown key encoder\.layer\.3"):
        opened(deeper)
    other = broken(tmp_path / "d", lambda s: s.update({"cls.seq_relationship.bias": s[key][0] + 0}))
    with pytest.raises(FlagError, match=r"unknown key cls\.seq_relationship\.bias"):
        opened(other)


def test_damaged_and_missing_files_are_named(tmp_path):
    make(tmp_path)
    weights = tmp_path / V2 / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FlagError, match=r"model\.safetensors is not a readable weight file"):
        opened(tmp_path)
    make(tmp_path / "fresh")
    (tmp_path / "fresh" / "geneformer" / "gene_median_dictionary_gc104M.pkl").unlink()
    with pytest.raises(FlagError, match=r"gene_median_dictionary_gc104M\.pkl does not exist"):
        opened(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"num_attention_heads": 8}, "num_attention_heads is 8, but 2 in Geneformer-V2-316M"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu', but 'relu'"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps is 1e-05"),
        ({"num_hidden_layers": 2}, "num_hidden_layers is 2, but 3"),
        ({"hidden_act": None}, "hidden_act is None"),
        ({"model_type": "gpt2"}, "model_type is 'gpt2', but 'bert'"),
        ({"pad_token_id": 1}, "pad_token_id is 1, but 0"),
    ],
)
def test_configurations_of_another_model_are_refused(tmp_path, changed, words):
    """Shapes do not tell these apart, and each gives other embeddings."""
    make(tmp_path)
    path = tmp_path / V2 / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(FlagError, match=rf"config\.json: {words}"):
        opened(tmp_path)
    path.write_text(json.dumps([changed]))
    with pytest.raises(FlagError, match=r"config\.json holds a list"):
        opened(tmp_path)


def test_a_configuration_cannot_add_what_the_release_does_not_have(release, tmp_path):
    make(tmp_path)
    path = tmp_path / V2 / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"is_decoder": True}))
    np.testing.assert_array_equal(embedded(opened(tmp_path))[0], embedded(opened(release))[0])


def rewritten(root, file, change):
    """The release with one dictionary changed: ``change`` takes it and returns the new one."""
    make(root)
    path = root / "geneformer" / f"{file}_gc104M.pkl"
    path.write_bytes(pickle.dumps(change(safe_pickle.load(path))))
    return root


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: dict(list(t.items())[:4]), "has 4 tokens; .* numbers 32 of them"),
        (lambda t: {}, "has 0 tokens"),
        (lambda t: t | {IDS[3]: t[IDS[4]]}, "has 32 tokens; .* each once"),
        (lambda t: {gene: token + 1 for gene, token in t.items()}, "has 32 tokens; .* from 0"),
        (lambda t: t | {IDS[3]: 0, "<pad>": t[IDS[3]]}, "does not begin with <pad>, <mask>, <cls>"),
        (
            lambda t: {gene.replace("<cls>", "X"): token for gene, token in t.items()},
            "does not begin with <pad>, <mask>, <cls>, <eos>",
        ),
    ],
)
def test_token_dictionaries_of_another_version_are_refused(tmp_path, change, words):
    root = rewritten(tmp_path, "token_dictionary", change)
    with pytest.raises(
        FlagError, match=rf"token_dictionary_gc104M\.pkl {words}.*gc104M dictionaries"
    ):
        opened(root)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: dict(list(m.items())[::2]), "no positive median of 14 of the 28 genes"),
        (lambda m: m | {IDS[5]: 0.0}, f"no positive median of 1 of the 28 genes .* {IDS[5]}"),
        (lambda m: m | {IDS[5]: -1.0}, "no positive median of 1 of"),
        (lambda m: m | {IDS[5]: float("nan")}, "no positive median of 1 of"),
        (lambda m: m | {IDS[5]: float("inf")}, "no positive median of 1 of"),
        (lambda m: {}, "no positive median of 28 of"),
        # a token dictionary under the name of the medians
        (lambda m: {"<pad>": 0, "<mask>": 1} | {g: i for i, g in enumerate(m, 2)}, "of <pad>"),
    ],
)
def test_medians_that_do_not_cover_the_tokens_are_refused(tmp_path, change, words):
    root = rewritten(tmp_path, "gene_median_dictionary", change)
    with pytest.raises(FlagError, match=rf"gene_median_dictionary_gc104M\.pkl has .*{words}"):
        opened(root)


@pytest.mark.skipif(not OFFICIAL.exists(), reason="needs Geneformer V1's dictionaries")
def test_the_published_dictionaries_are_accepted():
    release = PUBLISHED[V1]
    tokens = safe_pickle.mapping(OFFICIAL / "token_dictionary.pkl", int)
    medians = safe_pickle.mapping(OFFICIAL / "gene_median_dictionary.pkl", float)
    check_tokens(tokens, release, V1)
    check_medians(medians, tokens, release, V1)
    with pytest.raises(FlagError, match="of <pad>"):
        check_medians({k: float(v) for k, v in tokens.items()}, tokens, release, V1)


def test_dictionary_that_would_run_code_is_refused(tmp_path):
    make(tmp_path)

    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    path = tmp_path / "geneformer" / "gene_median_dictionary_gc104M.pkl"
    path.write_bytes(pickle.dumps({"g": Attack()}))
    with pytest.raises(FlagError, match=r"refused for naming .*open"):
        opened(tmp_path)
    assert not (tmp_path / "owned").exists()


def test_pinned_digests_bind(release):
    file = "geneformer/token_dictionary_gc104M.pkl"
    with pytest.raises(FlagError, match=r"token_dictionary_gc104M\.pkl has sha256"):
        opened(release, sha256={file: "0" * 64})
    model = opened(release)
    opened(release, sha256={file: model.files.digests[file].upper()})


def test_keys_that_other_versions_of_transformers_wrote_are_let_be(release, tmp_path):
    def older(state):
        state["bert.embeddings.position_ids"] = torch.arange(20)[None]
        state["bert.pooler.dense.weight"] = torch.zeros(16, 16)

    model = opened(broken(tmp_path, older))
    np.testing.assert_array_equal(embedded(model)[0], embedded(opened(release))[0])


def test_files_in_the_models_folder_are_found_without_asking_the_hub(
    release, tmp_path, monkeypatch
):
    monkeypatch.setenv("FLAG_ST_MODELS", str(tmp_path))
    make(tmp_path / "ctheodoris" / "Geneformer")
    model = Geneformer()
    model.open("cpu")
    np.testing.assert_array_equal(embedded(model)[0], embedded(opened(release))[0])


def test_digest_tells_weights_apart(release, tmp_path):
    def nudge(state):
        state["bert.embeddings.word_embeddings.weight"][5, 0] += 1

    assert opened(release).digest() == opened(release).digest()
    assert opened(release).digest() != opened(broken(tmp_path, nudge)).digest()


def test_arguments_are_checked(release):
    for params, words in (
        ({"name": "Geneformer"}, "Geneformer-V2-316M"),
        ({"scope": "genes"}, "panel, transcriptome"),
        ({"dtype": "int8"}, "bfloat16"),
    ):
        with pytest.raises(FlagError, match=words):
            toy.made(Geneformer, **params)
    for layer in (0, -4, 1):
        with pytest.raises(FlagError, match=f"layer is {layer}"):
            opened(release, layer=layer)


@pytest.mark.skipif(find_spec("geneformer") is not None, reason="geneformer is installed here")
def test_a_missing_package_is_told_with_its_environment(release):
    with pytest.raises(FlagError, match=r"geneformer.*--sdm conda.*envs/geneformer\.yaml.*to own"):
        opened(release, backend="package")


def test_cuda_in_the_code_of_the_package_means_the_device_of_the_job():
    from flag_st.gene_models.geneformer_package import CudaMeans

    with CudaMeans(torch.device("cpu")):
        lengths = torch.tensor([3], device="cuda")
        assert lengths.to("cuda").device == torch.device("cpu")
    with pytest.raises((AssertionError, RuntimeError)):  # without a GPU, as everywhere else
        torch.tensor([3], device="cuda:99")


def test_a_package_that_breaks_while_it_is_imported_is_told(tmp_path, monkeypatch):
    (tmp_path / "brokenpackage.py").write_text("raise OSError('libtorchtext.so: undefined symbol')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FlagError, match=r"brokenpackage.*OSError: libtorchtext\.so.*envs/brokenp"):
        official("brokenpackage")
