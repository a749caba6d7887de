"""CellPLM on tiny checkpoints with the official file and key names."""

import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from scipy import sparse

from flag_st.core.errors import FlagError
from flag_st.gene_models.cellplm import CellPLM, CellPLMEncoder

IDS = [f"ENSG{i:011d}" for i in range(20)]
SYMBOLS = [f"SYM{i}" for i in range(24)]
ENSEMBL = [*IDS, "", "ENSGX", "ENSGY", ""]
CONFIG = {
    "enc_mod": "flowformer",
    "enc_hid": 16,
    "enc_layers": 2,
    "latent_mod": "gmvae",
    "post_latent_dim": 6,
    "num_clusters": 3,
    "norm": "groupnorm",
    "cat_pe": False,
    "gene_list": IDS,
}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tensors(width=16, inner=512, latent=6, clusters=3, layers=2, genes=20, seed=0):
    """A state dict with the official keys, those that inference does not use included."""
    rng = np.random.default_rng(seed)

    def linear(name, out, into):
        return {
            f"{name}.weight": rng.normal(size=(out, into)) * 0.3,
            f"{name}.bias": rng.normal(size=out),
        }

    def norm(name):
        return {
            f"{name}.weight": 1 + 0.3 * rng.normal(size=width),
            f"{name}.bias": rng.normal(size=width),
        }

    state = {"embedder.feat_enc.emb": rng.normal(size=(genes, width))}
    state |= linear("embedder.extra_linear.0", width, width) | norm("embedder.extra_linear.3")
    state |= norm("embedder.norm0") | {"embedder.pe_enc.missing_pe": rng.normal(size=width)}
    for i in range(layers):
        for part in ("query", "key", "value", "out"):
            state |= linear(f"encoder.layers.{i}.self_attn.{part}_projection", width, width)
        state |= linear(f"encoder.layers.{i}._ff_block.0", 2 * width, width)
        state |= linear(f"encoder.layers.{i}._ff_block.3", width, 2 * width)
        state |= norm(f"encoder.layers.{i}.norm1") | norm(f"encoder.layers.{i}.norm2")
    state |= norm("pre_latent_norm.norm")
    name = "latent.layers.1.inference"
    state |= linear(f"{name}.inference_qyx.0.logits", clusters, width)
    state |= linear(f"{name}.inference_qzyx.0", inner, width + clusters)
    state |= linear(f"{name}.inference_qzyx.2.mu", latent, inner)
    state |= linear(f"{name}.inference_qzyx.2.var", latent, inner) | linear(
        f"{name}.y_mu", latent, clusters
    )
    state |= {"decoder.out_layer.dec_disp": rng.normal(size=genes)}
    return {k: torch.tensor(v, dtype=torch.float32) for k, v in state.items()}


def make(root, state, config=CONFIG, **beside):
    root.mkdir(parents=True, exist_ok=True)
    (root / "20230926_85M.config.json").write_text(json.dumps(config))
    torch.save({"model_state_dict": state, **beside}, root / "20230926_85M.best.ckpt")
    return root


def opened(root, **params):
    model = CellPLM(weights=str(root), **{"scope": "slide", **params})
    model.open("cpu")
    return model


def counts(n=15):
    return sparse.csr_matrix(np.random.default_rng(1).poisson(0.8, (n, 24)))


def embedded(model, table=None, ensembl=ENSEMBL):
    table = counts() if table is None else table
    ((rows, block, mask),) = model.embed(table, SYMBOLS, ensembl, SYMBOLS[:3])
    assert rows == slice(0, table.shape[0])
    assert mask is None
    return block


def reference(w, x, heads=8, clusters=3):
    """The published inference in float64 numpy, spot by spot and cluster by cluster.

    Returns:
        (N, C) cluster probabilities and (N, C, K) the mean that a draw of each cluster gives.
    """
    w = {k: v.double().numpy() for k, v in w.items()}

    def linear(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x, name, groups=1):
        parts = x.reshape(len(x), groups, -1)
        parts = parts - parts.mean(-1, keepdims=True)
        parts = parts / np.sqrt((parts**2).mean(-1, keepdims=True) + 1e-5)
        return parts.reshape(x.shape) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    erf = np.vectorize(__import__("math").erf)
    h = np.log1p(x) @ w["embedder.feat_enc.emb"]
    h = norm(
        np.maximum(linear(h, "embedder.extra_linear.0"), 0), "embedder.extra_linear.3", groups=4
    )
    eps = 1e-6
    for i in range(2):
        name = f"encoder.layers.{i}"
        inside = norm(h, f"{name}.norm1")
        q, k, v = (
            linear(inside, f"{name}.self_attn.{part}_projection").reshape(len(h), heads, -1)
            for part in ("query", "key", "value")
        )
        q, k = sigmoid(q), sigmoid(k)
        mixed = np.zeros_like(q)
        for head in range(heads):
            a, b, c = q[:, head], k[:, head], v[:, head]
            sink = np.array([(row + eps) @ (b.sum(0) + eps) for row in a])
            source = np.array([(row + eps) @ (a.sum(0) + eps) for row in b])
            sink_kept = np.array([(r + eps) @ ((b / source[:, None]).sum(0) + eps) for r in a])
            source_kept = np.array([(r + eps) @ ((a / sink[:, None]).sum(0) + eps) for r in b])
            weight = np.exp(np.clip(source_kept, -1, 1))
            weight = weight / weight.sum() * len(h)
            for spot in range(len(h)):
                shares = (a[spot] / sink[spot]) @ b.T  # (N,)
                mixed[spot, head] = (shares * weight) @ c * sigmoid(sink_kept[spot])
        h = h + linear(mixed.reshape(len(h), -1), f"{name}.self_attn.out_projection")
        inner = linear(norm(h, f"{name}.norm2"), f"{name}._ff_block.0")
        h = h + linear(inner * 0.5 * (1 + erf(inner / np.sqrt(2))), f"{name}._ff_block.3")
    h = norm(h, "pre_latent_norm.norm")
    name = "latent.layers.1.inference"
    logits = linear(h, f"{name}.inference_qyx.0.logits")
    share = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    means = [
        linear(
            np.maximum(
                linear(np.c_[h, np.eye(clusters)[[c] * len(h)]], f"{name}.inference_qzyx.0"), 0
            ),
            f"{name}.inference_qzyx.2.mu",
        )
        for c in range(clusters)
    ]
    return share, np.stack(means, axis=1)


def test_official_sizes():
    config = CONFIG | {"enc_hid": 1024, "enc_layers": 4, "post_latent_dim": 512, "num_clusters": 16}
    config["gene_list"] = [f"E{i}" for i in range(19374)]
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in CellPLMEncoder(config).state_dict().items()}
    assert shapes["embedder.feat_enc.emb"] == (19374, 1024)
    assert shapes["encoder.layers.3._ff_block.0.weight"] == (2048, 1024)
    assert shapes["encoder.layers.3.self_attn.query_projection.weight"] == (1024, 1024)
    assert shapes["latent.layers.1.inference.inference_qzyx.0.weight"] == (512, 1040)
    assert shapes["latent.layers.1.inference.inference_qzyx.2.mu.weight"] == (512, 512)
    encoder = sum(np.prod(s) for k, s in shapes.items() if k.startswith("encoder."))
    assert round(encoder / 1e6, 1) == 33.6


def test_every_key_is_one_of_the_published(tmp_path):
    with torch.device("meta"):
        wanted = CellPLMEncoder(CONFIG).state_dict()
    assert set(wanted) <= set(tensors())


def test_embeddings_are_the_mean_over_cluster_draws(tmp_path):
    state = tensors()
    found = embedded(opened(make(tmp_path, state)))
    share, means = reference(state, counts().toarray()[:, :20])
    np.testing.assert_allclose(found, (share[..., None] * means).sum(1), atol=1e-5, rtol=1e-5)
    assert found.shape == (15, 6)
    # The draws themselves differ, so that the mean is not a matter of one cluster.
    assert (share.max(1) < 0.99).any()
    assert np.abs(means - means[:, :1]).max() > 0.1


def test_the_panel_alone_is_read_unless_the_slide_is_asked_for(tmp_path):
    """Appendix F.3: "the selected gene expression profile" is that of the panel."""
    root, table = make(tmp_path, tensors()), counts()
    model = CellPLM(weights=str(root))
    model.open("cpu")
    found = embedded(model, table)  # of SYM0, SYM1 and SYM2
    alone = table.tolil()
    alone[:, 3:] = 0
    share, means = reference(tensors(), alone.toarray()[:, :20])
    np.testing.assert_allclose(found, (share[..., None] * means).sum(1), atol=1e-5, rtol=1e-5)
    assert np.abs(found - embedded(opened(root), table)).max() > 0.1
    table = table.tolil()
    table[:, 3:] = 7  # whatever the other genes are
    np.testing.assert_array_equal(embedded(model, table.tocsr()), found)


def test_panel_genes_that_it_does_not_know_are_told(tmp_path, caplog):
    model = opened(make(tmp_path, tensors()), scope="panel")
    list(model.embed(counts(), SYMBOLS, ENSEMBL, ["SYM1", "SYM21"]))
    assert "CellPLM lacks 1 of 2 panel genes" in caplog.text
    with pytest.raises(FlagError, match=r"CellPLM knows none of the 2 panel genes.*symbols"):
        list(model.embed(counts(), SYMBOLS, ENSEMBL, ["SYM20", "SYM21"]))
    with pytest.raises(FlagError, match="1 panel genes are not in the slide"):
        list(model.embed(counts(), SYMBOLS, ENSEMBL, ["SYM1", "SYM99"]))


def test_repeated_runs_give_the_same_bytes_and_genes_unknown_to_the_model_change_nothing(tmp_path):
    model = opened(make(tmp_path, tensors()))
    first = embedded(model)
    assert first.tobytes() == embedded(model).tobytes()
    table = counts().tolil()
    table[:, 20:] = 9
    np.testing.assert_array_equal(embedded(model, table.tocsr()), first)


def test_columns_of_one_gene_are_summed(tmp_path):
    model = opened(make(tmp_path, tensors()))
    table = counts().tolil()
    table[:, 20] = table[:, 4]
    moved = table.copy()
    table[:, 4] = table[:, 4].toarray() * 2
    ensembl = [*IDS, IDS[4], "", "", ""]
    np.testing.assert_allclose(
        embedded(model, moved.tocsr(), ensembl), embedded(model, table.tocsr()), atol=1e-6
    )


def test_symbols_stand_in_for_ids(tmp_path):
    root = make(tmp_path, tensors())
    with pytest.raises(FlagError, match=r"none of the slide's genes.*params\.symbols"):
        embedded(opened(root), ensembl=[""] * 24)
    table = tmp_path / "symbols.tsv"
    table.write_text("symbol\tensembl\n" + "".join(f"SYM{i}\t{IDS[i]}\n" for i in range(20)))
    named = embedded(opened(root, symbols=str(table)), ensembl=[""] * 24)
    np.testing.assert_array_equal(named, embedded(opened(root)))


def test_numbers_beside_the_tensors_are_read_and_objects_are_refused(tmp_path):
    good = make(tmp_path / "a", tensors(), epoch=3, score=np.float64(0.5), best=np.float32(1))
    assert np.isfinite(embedded(opened(good))).all()

    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    bad = make(tmp_path / "b", tensors(), extra=Attack())
    with pytest.raises(FlagError, match=r"holds no plain tensors.*cellplm"):
        opened(bad)
    assert not (tmp_path / "owned").exists()


def test_files_of_another_model_name_the_first_bad_key(tmp_path):
    key = "encoder.layers.1.norm2.weight"
    lacking = {k: v for k, v in tensors().items() if k != key}
    with pytest.raises(FlagError, match=r"best\.ckpt lacks encoder\.layers\.1\.norm2\.weight"):
        opened(make(tmp_path / "a", lacking))
    with pytest.raises(FlagError, match=r"emb of shape \(19, 16\), not \(20, 16\)"):
        opened(make(tmp_path / "b", tensors(genes=19)))
    with pytest.raises(FlagError, match=r"weight with numbers that are not finite"):
        opened(make(tmp_path / "c", tensors() | {key: torch.full((16,), float("nan"))}))
    torch.save(tensors(), make(tmp_path / "e", {}) / "20230926_85M.best.ckpt")
    with pytest.raises(FlagError, match="no model_state_dict"):
        opened(tmp_path / "e")
    file = make(tmp_path / "f", tensors()) / "20230926_85M.best.ckpt"
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(FlagError, match="holds no plain tensors"):
        opened(tmp_path / "f")
    with pytest.raises(FlagError, match=r"on no hub.*CellPLM"):
        CellPLM().open("cpu")


def test_keys_that_the_published_model_does_not_have_are_refused(tmp_path):
    """A deeper model, or one with covariates, computes something else."""
    with pytest.raises(FlagError, match=r"unknown key encoder\.layers\.1\."):
        opened(make(tmp_path / "deep", tensors(), CONFIG | {"enc_layers": 1}))
    for key in ("embedder.cov_enc.weight", "latent.layers.2.hid_2mu.weight", "head.mlp.0.weight"):
        with pytest.raises(FlagError, match=f"unknown key {key}"):
            opened(make(tmp_path / key, tensors() | {key: torch.zeros(3)}))
    known = ("decoder.layers.0.0.weight", "embedder.pe_enc.pe_enc.weight")
    opened(make(tmp_path / "known", tensors() | {key: torch.zeros(3) for key in known}))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ([], "holds a list instead of an object"),
        (CONFIG | {"enc_mod": "performer"}, "enc_mod is 'performer'.*flowformer"),
        ({k: v for k, v in CONFIG.items() if k != "enc_hid"}, "lacks enc_hid"),
        (CONFIG | {"num_clusters": "3"}, "num_clusters is '3' instead of a whole number"),
        (CONFIG | {"enc_layers": True}, "enc_layers is True instead of a whole number"),
        (CONFIG | {"enc_hid": 12}, "enc_hid 12 is no multiple of 8 heads"),
        (CONFIG | {"enc_hid": 18, "enc_head": 3}, "enc_hid 18 is no multiple of .* 4 groups"),
        (CONFIG | {"gene_list": [*IDS[:19], IDS[4]]}, f"{IDS[4]} more than once in gene_list"),
        (CONFIG | {"gene_list": "".join(IDS)}, "lacks a gene_list of names"),
        (CONFIG | {"gene_list": [*IDS[:19], None]}, "lacks a gene_list of names"),
        ({k: v for k, v in CONFIG.items() if k != "gene_list"}, "lacks a gene_list of names"),
    ],
)
def test_configurations_of_no_usable_model_are_refused(tmp_path, config, words):
    with pytest.raises(FlagError, match=rf"config\.json.* {words}"):
        opened(make(tmp_path, tensors(), config))


def test_the_pinned_configuration_binds_the_order_of_the_genes(tmp_path):
    from flag_st.planning.config import load

    pins = load()["gene_models"]["cellplm"]["params"]["sha256"]
    root = make(tmp_path, tensors(), CONFIG | {"gene_list": IDS[::-1]})
    with pytest.raises(FlagError, match=r"config\.json has sha256 .*, expected 949ae2ba0e09"):
        opened(root, sha256=pins)


@pytest.mark.skipif(
    find_spec("CellPLM") is not None, reason="the package CellPLM is installed here"
)
def test_a_missing_package_is_told_with_its_environment(tmp_path):
    root = make(tmp_path, tensors())
    with pytest.raises(
        FlagError, match=r"CellPLM.*--sdm conda.*envs/cellplm\.yaml.*backend to own"
    ):
        opened(root, backend="package")
