"""CellPLM (Wen et al., ICLR 2024), read from its 85M checkpoint: one embedding per spot.

The layers are written here with the names of the published keys; ``cellplm_package.py`` is the
pipeline of the official package. Attention runs over the spots of a slide, so that the embedding of
a spot depends on its whole slide. Coordinates are not used, because the published inference sets
the positional term to zero.

``20230926_85M.best.ckpt`` is read only by the restricted unpickler of torch. If your copy holds
more than tensors and numbers, convert it once, where nothing can be harmed::

    state = torch.load("20230926_85M.best.ckpt", map_location="cpu", weights_only=False)
    torch.save({"model_state_dict": state["model_state_dict"]}, "20230926_85M.best.ckpt")
"""

import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from flag_st.core.errors import FlagError
from flag_st.gene_models.base import GeneModel
from flag_st.gene_models.cellplm_package import Pipeline
from flag_st.gene_models.columns import identifiers, positions, read_symbols, report_unknown
from flag_st.gene_models.files import Files, check_sizes, read_object
from flag_st.gene_models.packages import Backend
from flag_st.transfer.weights import fill

ADDRESS = "https://github.com/OmicsML/CellPLM (ckpt)"
PREFIX = "20230926_85M"
EPS = 1e-6
HEADS = 8  # unless the configuration says otherwise
GROUPS = 4  # of the embedder's group norm
SIZES = ("enc_hid", "enc_layers", "enc_head", "post_latent_dim", "num_clusters")
#: What the published file holds and inference does not need: the decoder, an embedding of positions
#: that the published code leaves out, and the variances and priors of the latent.
UNUSED = (
    "decoder.",
    "embedder.norm0.",
    "embedder.pe_enc.",
    *(f"latent.layers.1.inference.{part}." for part in ("inference_qzyx.2.var", "y_mu", "y_var")),
)


class FlowAttention(nn.Module):
    """Attention linear in the number of spots (Wu et al., Flowformer, ICML 2022, Eq. 5-8)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query_projection = nn.Linear(width, width)
        self.key_projection = nn.Linear(width, width)
        self.value_projection = nn.Linear(width, width)
        self.out_projection = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q = self._split(self.query_projection(x)).sigmoid()  # (H, N, D)
        k = self._split(self.key_projection(x)).sigmoid()  # (H, N, D)
        v = self._split(self.value_projection(x))  # (H, N, D)
        incoming, outgoing = flow(q, k), flow(k, q)  # 2 of (H, N, 1)
        allocation = flow(q, k / outgoing).sigmoid()  # (H, N, 1)
        competition = flow(k, q / incoming).clamp(-1, 1).softmax(1) * x.shape[0]  # (H, N, 1)
        kv = k.transpose(1, 2) @ (v * competition)  # (H, D, D)
        out = (q / incoming) @ kv * allocation  # (H, N, D)
        return self.out_projection(out.transpose(0, 1).flatten(1))  # (N, d)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(0, 1)  # (H, N, D)


def flow(a: Tensor, b: Tensor) -> Tensor:
    """What each row of ``a`` exchanges with all rows of ``b``."""
    return ((a + EPS) * (b.sum(1, keepdim=True) + EPS)).sum(-1, keepdim=True)  # (H, N, 1)


class Layer(nn.Module):
    """Pre-norm layer; the gaps in the numbers of the keys are dropouts, which are off here."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.self_attn = FlowAttention(width, heads)
        self._ff_block = nn.ModuleDict(
            {"0": nn.Linear(width, 2 * width), "3": nn.Linear(2 * width, width)}
        )
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.norm1(x))  # (N, d)
        inner = nn.functional.gelu(self._ff_block["0"](self.norm2(x)))  # (N, 2 d)
        return x + self._ff_block["3"](inner)  # (N, d)


class Latent(nn.Module):
    """Mean of the Gaussian-mixture posterior q(z | x), over its clusters.

    The published code draws a cluster by Gumbel noise even at inference, so that no two calls
    agree. A draw takes cluster c with probability softmax(logits)_c. The mean over draws is
    therefore the weighted sum of the few means that a draw can give.
    """

    def __init__(self, width: int, latent: int, clusters: int):
        super().__init__()
        logits = nn.ModuleDict({"logits": nn.Linear(width, clusters)})
        mean = nn.ModuleDict({"mu": nn.Linear(512, latent)})
        self.inference_qyx = nn.ModuleDict({"0": logits})
        self.inference_qzyx = nn.ModuleDict({"0": nn.Linear(width + clusters, 512), "2": mean})

    def forward(self, x: Tensor) -> Tensor:
        share = self.get_submodule("inference_qyx.0.logits")(x).softmax(-1)  # (N, C)
        first = self.inference_qzyx["0"]
        assert isinstance(first, nn.Linear)
        width = x.shape[1]
        base = nn.functional.linear(x, first.weight[:, :width], first.bias)  # (N, 512)
        hidden = sum(
            share[:, c, None] * (base + first.weight[:, width + c]).relu()
            for c in range(share.shape[1])
        )  # (N, 512)
        return self.get_submodule("inference_qzyx.2.mu")(hidden)  # (N, K)


class CellPLMEncoder(nn.Module):
    """Embedder, encoder and latent of the published model."""

    def __init__(self, config: Mapping):
        super().__init__()
        width, latent = config["enc_hid"], config["post_latent_dim"]
        table = nn.Module()
        table.emb = nn.Parameter(torch.empty(len(config["gene_list"]), width))
        linear = nn.ModuleDict({"0": nn.Linear(width, width), "3": nn.GroupNorm(GROUPS, width)})
        self.embedder = nn.ModuleDict({"feat_enc": table, "extra_linear": linear})
        layers = nn.ModuleList(
            Layer(width, config.get("enc_head", HEADS)) for _ in range(config["enc_layers"])
        )
        self.encoder = nn.ModuleDict({"layers": layers})
        self.pre_latent_norm = nn.ModuleDict({"norm": nn.LayerNorm(width)})
        mixture = nn.ModuleDict({"inference": Latent(width, latent, config["num_clusters"])})
        self.latent = nn.ModuleDict({"layers": nn.ModuleDict({"1": mixture})})

    def forward(self, x: Tensor) -> Tensor:
        """Sparse log counts (N, P) of the P genes of the model → (N, K)."""
        x = torch.sparse.mm(x, self.get_parameter("embedder.feat_enc.emb"))  # (N, d)
        x = self.get_submodule("embedder.extra_linear.0")(x)  # (N, d)
        x = self.get_submodule("embedder.extra_linear.3")(x.relu())  # (N, d)
        for layer in self.encoder["layers"].children():
            x = layer(x)  # (N, d)
        x = self.pre_latent_norm["norm"](x)  # (N, d)
        return self.get_submodule("latent.layers.1.inference")(x)  # (N, K)


class CellPLM(GeneModel):
    """Spot embeddings (N, 512) of whole slides.

    Args:
        weights: folder with ``<prefix>.config.json`` and ``<prefix>.best.ckpt``.
        prefix: start of the two file names.
        sha256: file name → digest that it must have.
        symbols: table (columns symbol, ensembl) for slides without ids.
        scope: ``panel`` reads the panel's genes alone ("the selected gene expression profile",
            FLAG, Appendix F.3); ``slide`` reads all genes of the slide.
        backend: ``own``, or ``package`` for the pipeline of the official package.
    """

    kind: str = "spot"

    def __init__(
        self,
        weights: str | None = None,
        prefix: str = PREFIX,
        sha256: Mapping[str, str] | None = None,
        symbols: str | None = None,
        scope: Literal["panel", "slide"] = "panel",
        backend: Backend = "own",
    ):
        self.files = Files(weights, ADDRESS, sha256=sha256 or {})
        self.prefix, self.symbols, self.scope, self.backend = prefix, symbols, scope, backend

    def open(self, device: str) -> None:
        """Load configuration and weights.

        Raises:
            FlagError: a file is missing, damaged or of another model, or the package is missing.
        """
        self.by_symbol = read_symbols(self.symbols) if self.symbols else {}
        config = read_config(self.files[f"{self.prefix}.config.json"])
        self.gene_index = {name: i for i, name in enumerate(config["gene_list"])}
        with torch.device("meta"):
            model = CellPLMEncoder(config)
        path = self.files[f"{self.prefix}.best.ckpt"]
        # The file is checked key by key in any case, because the package skips what does not fit.
        fill(model, read_checkpoint(path), path, f"{path.name} of {ADDRESS}", ignore=UNUSED)
        model = model.float().eval().requires_grad_(False)
        self.vectors: Callable[[Any], np.ndarray]
        if self.backend == "package":
            self.vectors = Pipeline(config, model, device)
        else:
            self.vectors = partial(encode, model.to(device))

    def embed(
        self,
        counts,
        genes: Sequence[str],
        ensembl: Sequence[str],
        panel: Sequence[str],
        progress: Callable[..., Iterable] = lambda items, **_: items,
    ) -> Iterator[tuple[slice, np.ndarray, None]]:
        """Yield one block, the whole slide: (rows, (N, K) float32, None)."""
        from scipy import sparse

        counts = sparse.csr_matrix(counts, dtype=np.float64)
        names = identifiers(genes, ensembl, self.by_symbol)
        if self.scope == "panel":
            columns = positions(genes, panel, "the slide")
            counts, names = counts[:, columns], [names[i] for i in columns]
        place = np.array([self.gene_index.get(name, -1) for name in names])
        here = np.flatnonzero(place >= 0)
        if self.scope == "panel":
            report_unknown(panel, place >= 0, "CellPLM")
        elif not len(here):
            raise FlagError(
                "CellPLM knows none of the slide's genes, which it looks up by Ensembl id",
                remedy="set params.symbols to a table of columns symbol, ensembl",
            )
        shape = (len(names), len(self.gene_index))
        collect = sparse.csr_matrix((np.ones(len(here)), (here, place[here])), shape=shape)
        (rows,) = progress([slice(0, counts.shape[0])], desc="embed")
        yield rows, self.vectors(counts @ collect), None

    def digest(self) -> str:
        return self.files.digest()


def encode(model: CellPLMEncoder, counts) -> np.ndarray:
    """(N, K) float32 vectors of CSR raw counts (N, P) of the model's P genes."""
    x = counts.log1p().tocoo()
    index = torch.from_numpy(np.stack([x.row, x.col]).astype(np.int64))
    values = torch.from_numpy(x.data.astype(np.float32))
    table = torch.sparse_coo_tensor(index, values, x.shape, check_invariants=False).coalesce()
    with torch.inference_mode():
        return model(table.to(next(model.parameters()).device)).cpu().numpy()  # (N, K)


def read_config(path: Path) -> dict[str, Any]:
    """The official configuration; the values that the encoder needs are checked.

    Raises:
        FlagError: it is no object, or a value is missing, of the wrong type or not supported.
    """
    config = {"enc_head": HEADS, **read_object(path, ADDRESS)}
    expected = {"enc_mod": "flowformer", "latent_mod": "gmvae", "norm": "groupnorm"}
    for key, value in expected.items():
        if config.get(key) != value:
            raise FlagError(f"{path}: {key} is {config.get(key)!r}", choices=[value])
    check_sizes(config, SIZES, path, ADDRESS)
    remedy = f"get it again from {ADDRESS}"
    width, heads = config["enc_hid"], config["enc_head"]
    if width % heads or width % GROUPS:
        fault = f"{path}: enc_hid {width} is no multiple of {heads} heads and of {GROUPS} groups"
        raise FlagError(fault, remedy=remedy)
    genes = config.get("gene_list")
    if not isinstance(genes, list) or not all(isinstance(gene, str) for gene in genes):
        raise FlagError(f"{path} lacks a gene_list of names", remedy=remedy)
    if len(set(genes)) != len(genes):
        repeated = next(gene for gene in genes if genes.count(gene) > 1)
        raise FlagError(f"{path} has {repeated} more than once in gene_list", remedy=remedy)
    return config


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of the model, by torch's restricted unpickler; numpy numbers are allowed, too.

    Raises:
        FlagError: damaged, without ``model_state_dict``, or holding objects that are not data.
    """
    remedy = f"get it again from {ADDRESS}, or convert it as the docstring of {__name__} says"
    try:
        with torch.serialization.safe_globals(numpy_numbers()):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, KeyError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        # The message of torch advises to open the file without restrictions; it is not passed on.
        raise FlagError(f"{path} holds no plain tensors ({reason[:80]})", remedy=remedy) from None
    state = found.get("model_state_dict") if isinstance(found, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise FlagError(f"{path} has no model_state_dict of tensors", remedy=remedy)
    return state


def numpy_numbers() -> list:
    """What a pickled numpy number consists of; scores saved beside the weights often are such."""
    scalar: Any = np.float64(0).__reduce__()[0]  # which numpy keeps in a private module
    return [
        scalar,
        (scalar, "numpy.core.multiarray.scalar"),
        np.dtype,
        np.dtypes.Float32DType,
        np.dtypes.Float64DType,
        np.dtypes.Int64DType,
    ]
