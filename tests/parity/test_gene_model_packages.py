"""Our own gene models against the official packages, each in its own environment (``envs/``).

Run ``python -m pytest tests/parity -s`` in one of them: the tests of packages that are not installed
are skipped. They read real spots (``FLAG_ST_HER2ST``, a folder with ``counts/C5.h5ad``) and Geneformer
V1's dictionaries (``FLAG_ST_GENEFORMER_V1``). The weights are random and few layers deep, in the
official formats: the packages themselves make them.
"""

import json
import os
import pickle
from dataclasses import replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse

from flag_st.core.torchvision_guard import ensure_torchvision
from flag_st.gene_models import safe_pickle
from flag_st.gene_models.cellplm import CellPLM
from flag_st.gene_models.geneformer import RELEASES, SPECIAL, Geneformer
from flag_st.gene_models.packages import official
from flag_st.gene_models.scgpt import ScGPT, ScGPTGenes, bin_values

ensure_torchvision()
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
NAMES = Path(os.environ.get("FLAG_ST_GENEFORMER_V1", SHARED / "geneformer_v1"))
SPOTS, PANEL, LAYERS = 20, 200, 3
#: What separate float32 kernels may differ by, where states are of order 1.
TOLERANCE = 2e-5

pytestmark = pytest.mark.skipif(
    not NAMES.exists(), reason="needs Geneformer V1's dictionaries (set FLAG_ST_GENEFORMER_V1)"
)


def needs(package: str):
    return pytest.mark.skipif(
        find_spec(package) is None,
        reason=f"needs the package {package}, which envs/{package.lower()}.yaml installs",
    )


@pytest.fixture(scope="module")
def slide(her2st):
    """Counts of 20 spots of a section, symbols, ids, and 200 of its 1,000 most frequent genes.

    One of the spots is emptied.
    """
    import anndata

    found = anndata.read_h5ad(her2st / "counts" / "C5.h5ad")
    known = safe_pickle.mapping(NAMES / "gene_name_id_dict.pkl", str, strict=False)
    tokens = safe_pickle.mapping(NAMES / "token_dictionary.pkl", int)
    symbols = list(found.var_names)
    ensembl = [known.get(symbol, "") for symbol in symbols]
    counts = sparse.csr_matrix(found.X[:: max(1, found.n_obs // SPOTS)][:SPOTS])
    counts = sparse.csr_matrix(counts.multiply(np.arange(SPOTS)[:, None] != 7))
    total = np.asarray(counts.sum(axis=0)).ravel() * [id_ in tokens for id_ in ensembl]
    panel = [symbols[i] for i in np.argsort(-total, kind="stable")[: 5 * PANEL : 5]]
    assert counts.shape[0] == SPOTS
    return counts, symbols, ensembl, panel


def perturbed(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The state of a model whose weights are all random, those of its norms included."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.state_dict()


def embedded(model, slide) -> tuple[np.ndarray, np.ndarray | None]:
    model.open("cpu")
    blocks = list(model.embed(*slide))
    masks = [mask for _, _, mask in blocks]
    vectors = np.concatenate([block for _, block, _ in blocks])
    return vectors, None if masks[0] is None else np.concatenate(masks)


def compare(what: str, own, package, slide) -> None:
    """Both give the same masks and, within the tolerance, the same vectors; how close is printed."""
    (a, mask), (b, other) = embedded(own, slide), embedded(package, slide)
    np.testing.assert_array_equal(mask, other)
    chosen = slice(None) if mask is None else mask
    a, b = a[chosen], b[chosen]
    cosine = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    print(
        f"\n{what}: {len(a)} vectors, rms {np.sqrt((a**2).mean()):.2f}, largest difference "
        f"{np.abs(a - b).max():.1e}, lowest cosine {cosine.min():.7f}; torch {torch.__version__}"
    )
    assert len(a)
    np.testing.assert_allclose(a, b, atol=TOLERANCE * max(1, np.abs(a).max()))


# --- scGPT ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scgpt_folder(tmp_path_factory, slide):
    """A release with the whole-human sizes but for its depth, and the slide's genes as vocabulary."""
    folder = tmp_path_factory.mktemp("scgpt")
    vocabulary = {gene: i for i, gene in enumerate([*slide[1], "<pad>", "<cls>", "<eoc>"])}
    arguments = {"embsize": 512, "nheads": 8, "d_hid": 512, "nlayers": LAYERS, "n_layers_cls": 3}
    arguments |= {"dropout": 0.2, "n_bins": 51, "pad_token": "<pad>", "pad_value": -2}
    model = official("scgpt.model").TransformerModel(
        len(vocabulary), 512, 8, 512, LAYERS, vocab=vocabulary, pad_value=-2, do_mvc=True
    )
    (folder / "args.json").write_text(json.dumps(arguments))
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    # The published file was written with flash attention, which has other names.
    state = {k.replace("in_proj_", "Wqkv."): v for k, v in perturbed(model).items()}
    torch.save(state, folder / "best_model.pt")
    return folder


@needs("scgpt")
@pytest.mark.parametrize("scope", ["panel", "transcriptome"])
def test_scgpt(scgpt_folder, slide, scope):
    own, package = (
        ScGPT(str(scgpt_folder), scope=scope, backend=backend) for backend in ("own", "package")
    )
    compare(f"scgpt {metadata.version('scgpt')}, {scope}", own, package, slide)


@needs("scgpt")
def test_the_gene_table_of_scgpt(scgpt_folder, slide):
    own, package = (
        ScGPTGenes(str(scgpt_folder), backend=backend) for backend in ("own", "package")
    )
    compare(f"scgpt {metadata.version('scgpt')}, gene table", own, package, slide)


@needs("scgpt")
def test_sequences_of_scgpt_are_those_of_its_tokenizer(scgpt_folder, slide):
    """Tokens and values as ``tokenize_batch`` puts them, with the bins of ``binning``."""
    counts, symbols, _, panel = slide
    model = ScGPT(str(scgpt_folder), ties="spread")
    model.open("cpu")
    tokens = np.array([model.vocabulary[gene] for gene in panel])
    table = counts[:, [symbols.index(gene) for gene in panel]]
    binned = np.zeros(table.shape)
    for spot, row in enumerate(table.toarray()):
        np.random.seed(spot)
        binned[spot] = official("scgpt.preprocess").binning(row, 51)
        expected = bin_values(row[row > 0], 51, np.random.RandomState(spot))  # type: ignore[arg-type]
        np.testing.assert_array_equal(binned[spot, row > 0], expected)
    published = official("scgpt.tokenizer").tokenize_batch(
        binned, tokens, append_cls=True, include_zero_gene=True, cls_id=model.cls
    )
    for (gene, value, _), (token, bins) in zip(
        published, model._whole_panel(table, tokens), strict=True
    ):
        np.testing.assert_array_equal(gene.numpy(), token)
        np.testing.assert_array_equal(value.numpy() == 0, bins == 0)  # the bins of ties are drawn
        assert value[0] == bins[0] == 0


# --- CellPLM -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cellplm_folder(tmp_path_factory, slide):
    """A release with the sizes of 85M but for its depth, and fewer genes and covariates."""
    folder = tmp_path_factory.mktemp("cellplm")
    genes = sorted(safe_pickle.mapping(NAMES / "token_dictionary.pkl", int).keys() - set(SPECIAL))
    config = {
        **{"enc_mod": "flowformer", "enc_hid": 1024, "enc_layers": LAYERS, "post_latent_dim": 512},
        **{"latent_mod": "gmvae", "num_clusters": 16, "norm": "groupnorm", "cat_pe": False},
        **{"dec_mod": "nbmlp", "dec_hid": 64, "dec_layers": 2, "out_dim": len(genes)},
        **{"batch_num": 12, "dataset_num": 4, "mask_node_rate": 0.75, "mask_feature_rate": 0.25},
        "gene_list": genes,
    }
    model = official("CellPLM.model").OmicsFormer(**config)
    (folder / "20230926_85M.config.json").write_text(json.dumps(config))
    numbers = {"model_state_dict": perturbed(model), "score": np.float64(0.5)}
    torch.save(numbers, folder / "20230926_85M.best.ckpt")
    return folder


@needs("CellPLM")
@pytest.mark.parametrize("scope", ["panel", "slide"])
def test_cellplm(cellplm_folder, slide, scope):
    own, package = (
        CellPLM(str(cellplm_folder), scope=scope, backend=backend) for backend in ("own", "package")
    )
    compare(f"cellplm {metadata.version('cellplm')}, {scope}", own, package, slide)


@needs("CellPLM")
def test_the_mean_of_cellplm_s_draws_approaches_the_one_that_is_taken(cellplm_folder, slide):
    """Without our hook the package draws clusters; averages of more draws come closer."""
    package = CellPLM(str(cellplm_folder), backend="package")
    expected, _ = embedded(package, slide)
    latent = package.vectors.pipeline.model.get_submodule("latent.layers.1.inference")
    latent._forward_hooks.clear()
    torch.manual_seed(0)
    draws = np.stack([next(package.embed(*slide))[1] for _ in range(32)])
    spread = np.sqrt(((draws - expected) ** 2).mean())
    error = np.sqrt(((draws.mean(axis=0) - expected) ** 2).mean())
    norm = np.sqrt((expected**2).mean())
    print(
        f"\ncellplm, draws: one is off by {spread / norm:.2%}, the mean of 32 by {error / norm:.2%}"
    )
    assert 0 < error < spread / 3  # independent draws give spread / 5.7


# --- Geneformer ----------------------------------------------------------------------------------


def geneformer_folder(folder: Path, name: str, layers: int) -> Path:
    """A release of this name, ``layers`` deep; V2 has the first 20,271 genes of V1."""
    from transformers import BertConfig, BertForMaskedLM

    release = RELEASES[name] = replace(RELEASES[name], layers=layers)
    genes = [g for g in safe_pickle.mapping(NAMES / "token_dictionary.pkl", int) if g[0] != "<"]
    special = list(release.special_tokens)
    kept = [*special, *genes][: release.vocabulary]
    medians = safe_pickle.mapping(NAMES / "gene_median_dictionary.pkl", float)
    dictionaries = {
        "token_dictionary": {gene: token for token, gene in enumerate(kept)},
        "gene_median_dictionary": {gene: medians[gene] for gene in kept[len(special) :]},
        "gene_name_id_dict": {},
        "ensembl_mapping_dict": {gene: gene for gene in genes},
    }
    for file, value in dictionaries.items():
        path = folder / release.dictionary(file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(value))
    model = BertForMaskedLM(BertConfig(**release.config()))
    perturbed(model)
    model.save_pretrained(folder / name)
    return folder


@needs("geneformer")
@pytest.mark.parametrize("name", ["Geneformer-V1-10M", "Geneformer-V2-104M", "Geneformer-V2-316M"])
def test_geneformer(tmp_path, slide, monkeypatch, name):
    monkeypatch.setitem(RELEASES, name, RELEASES[name])  # put back after the test
    folder = str(geneformer_folder(tmp_path, name, LAYERS))
    few = (slide[0][:4], *slide[1:])  # whole transcriptomes of V2 are 4,096 tokens long
    for scope, layer, spots in (("panel", -1, slide), ("transcriptome", -2, few)):
        own, package = (
            Geneformer(name, folder, scope=scope, layer=layer, backend=backend)
            for backend in ("own", "package")
        )
        compare(f"{name}, {scope}, layer {layer}", own, package, spots)
        names = [i if i in own.ranks.tokens else "" for i in slide[2]]
        ours, theirs = (model.encode(slide[0], names) for model in (own, package))
        same = sum(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
        print(f"{name}: {same} of {len(ours)} sequences of all genes identical")
        assert same == len(ours)
