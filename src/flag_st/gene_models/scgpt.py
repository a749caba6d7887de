"""scGPT (Cui et al., Nature Methods 2024), read from its whole-human checkpoint.

Its networks are those of ``nets.scgpt``, which run beside the versions of all other models;
``scgpt_package.py`` is the encoder of the official package. HINGE can take it as its frozen backbone.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from flag_st.core.errors import FlagError
from flag_st.core.seeds import numpy_generator
from flag_st.gene_models.base import GeneModel, Scope
from flag_st.gene_models.columns import OTHER_GENES, positions, report_unknown
from flag_st.gene_models.files import Files, check_sizes, read_object
from flag_st.gene_models.packages import Backend
from flag_st.gene_models.scgpt_package import PackageEncoder, package_encoder
from flag_st.gene_models.token_states import contextual, pad
from flag_st.nets.scgpt import Encoder, ScGptBackbone
from flag_st.transfer.weights import fill, read_state

ADDRESS = "https://github.com/bowang-lab/scGPT (pre-trained models, whole-human)"
WEIGHTS = f"best_model.pt of {ADDRESS}"
CLS = "<cls>"
SIZES = ("embsize", "nheads", "d_hid", "nlayers", "n_bins")
#: What ``args.json`` of the whole-human release states; the backbone is counted by it without the file.
WHOLE_HUMAN = {"embsize": 512, "nheads": 8, "d_hid": 512, "nlayers": 12, "mask_value": -1}
#: What the published file holds beside the encoder: decoders, and a table that nothing uses.
UNUSED = ("decoder.", "cls_decoder.", "mvc_decoder.", "flag_encoder.")
#: How other versions of the package spelled the keys of the attention.
SPELLINGS = ((r"self_attn\._impl\.", "self_attn."), (r"self_attn\.in_proj_", "self_attn.Wqkv."))


class ScGPT(GeneModel):
    """Contextual gene embeddings: the encoder's output at each panel gene's position.

    With ``scope: panel``, every spot is read as ``<cls>`` and then the whole panel in its order,
    unexpressed genes included (FLAG, Appendix F.2.2). Expressed genes have their bin as value, the
    others 0, and so has ``<cls>``, as in the package's ``tokenize_batch``. With
    ``scope: transcriptome``, a spot is read as ``<cls>``, whose value is then ``pad_value``, and its
    expressed genes, as in the package's ``embed_data``.

    Args:
        weights: folder with ``args.json``, ``vocab.json`` and ``best_model.pt``, or None to fetch
            them from the hub.
        repo, revision: hub repository and commit; None if only ``weights`` is used.
        sha256: file name → digest that it must have.
        scope: ``panel`` or ``transcriptome``, as above.
        ties: most counts are ties, and the published code spreads tied genes over their bins at
            random. ``middle`` takes the expected bin; ``spread`` draws as published, from a stream
            that only depends on the counts of the spot.
        length: tokens in a sequence of ``transcriptome``, at most. If more genes are expressed,
            those of the panel and a random sample of the others are kept.
        batch_tokens: tokens per forward pass, padding included.
        backend: ``own``, or ``package`` for the network of the official package.
    """

    kind: str = "contextual"
    backs: bool = True

    def __init__(
        self,
        weights: str | None = None,
        repo: str | None = None,
        revision: str | None = None,
        sha256: Mapping[str, str] | None = None,
        scope: Scope = "panel",
        ties: Literal["middle", "spread"] = "middle",
        length: int = 1200,
        batch_tokens: int = 16384,
        backend: Backend = "own",
    ):
        if length < 2:
            raise FlagError(f"scgpt: length {length} has no room for a gene behind {CLS}")
        self.files = Files(weights, ADDRESS, repo, revision, sha256 or {})
        self.scope, self.ties, self.length, self.batch_tokens = scope, ties, length, batch_tokens
        self.backend = backend
        self.arguments: dict[str, Any] = dict(WHOLE_HUMAN)

    def open(self, device: str) -> None:
        """Load vocabulary and weights.

        Raises:
            FlagError: a file is missing, damaged or of another model, or the package is missing.
        """
        self.arguments = read_arguments(self.files["args.json"])
        special = (self.arguments["pad_token"], CLS)
        self.vocabulary = read_vocabulary(self.files["vocab.json"], special)
        self.padding, self.cls = (self.vocabulary[token] for token in special)
        with torch.device("meta"):
            empty = Encoder(self.arguments, len(self.vocabulary), self.padding)
        # The file is checked key by key in any case, because the package skips what does not fit.
        self.path = self.files["best_model.pt"]
        own = load_encoder(empty, self.path)
        model: Encoder | PackageEncoder = own
        if self.backend == "package":
            model = package_encoder(self.arguments, self.vocabulary, own)
        self.model, self.device = model.to(device), device

    def embed(
        self,
        counts,
        genes: Sequence[str],
        ensembl: Sequence[str],
        panel: Sequence[str],
        progress: Callable[..., Iterable] = lambda items, **_: items,
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield (rows, (n, G, K) float32, (n, G) mask of the genes expressed and known).

        A masked vector is zero, although with ``scope: panel`` the network reads its gene.
        """
        from scipy import sparse

        columns = positions(genes, panel, "the slide")
        wanted = self._tokens(panel)  # (G,)
        report_unknown(panel, wanted >= 0, "the vocabulary of scGPT")
        counts = sparse.csr_matrix(counts, dtype=np.float64)
        here = counts[:, columns]  # (N, G)
        if self.scope == "panel":
            spots = list(self._whole_panel(here, wanted))
        else:
            spots = list(self._expressed_genes(counts, self._tokens(genes), wanted))
        for rows, block, mask in contextual(
            [tokens for tokens, _ in spots],
            wanted,
            self.arguments["embsize"],
            lambda tokens, present, rows: self._states(
                tokens, present, [spots[i][1] for i in rows]
            ),
            self.batch_tokens,
            self.padding,
            progress,
        ):
            mask &= here[rows].toarray() > 0
            block[~mask] = 0
            yield rows, block, mask

    def digest(self) -> str:
        return self.files.digest()

    def backbone(self, panel: Sequence[str], **body: Any) -> ScGptBackbone:
        """The network with its decoder, for the genes of ``panel`` alone, in their order.

        Raises:
            FlagError: a gene has no token, ``body`` has an option that only CellFM knows, or the file
                lacks a part of the decoder.
        """
        with torch.device("meta"):
            net = self.empty(len(panel), **body)
        names = sorted(self.vocabulary, key=self.vocabulary.__getitem__)
        rows = [self.cls, *positions(names, panel, "the vocabulary of scGPT", OTHER_GENES)]
        state, table = read_weights(self.path), "encoder.embedding.weight"
        others = [part for part in UNUSED if part != "decoder."]
        fill(net, {**state, table: state[table][rows]}, self.path, WEIGHTS, ignore=others)
        return net.float().to(self.device)

    def empty(self, genes: int, **body: Any) -> ScGptBackbone:
        """A network of the same sizes for a panel of G genes, without pre-trained weights."""
        if body:
            raise FlagError(
                f"scGPT has no body.{', body.'.join(sorted(body))}, which is of CellFM alone",
                remedy="leave it out of the method's params",
            )
        return ScGptBackbone(self.arguments, genes)

    def _tokens(self, genes: Sequence[str]) -> np.ndarray:
        """The token of each gene, -1 where there is none."""
        return np.array([self.vocabulary.get(gene, -1) for gene in genes], dtype=np.int64)

    def _whole_panel(self, counts, panel: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Tokens and values, both (1 + genes with a token,), of each spot of CSR ``counts`` (N, G)."""
        genes = panel[panel >= 0]
        tokens = np.concatenate([[self.cls], genes])
        for row in counts[:, panel >= 0].toarray():
            values, here = np.zeros(len(tokens), dtype=np.float32), row > 0
            values[1:][here] = self._bins(row[here], spot_generator(genes[here], row[here]))
            yield tokens, values

    def _expressed_genes(
        self, counts, token: np.ndarray, panel: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Tokens and values of each spot of CSR ``counts``, whose columns have these tokens."""
        for row in np.split(np.arange(counts.nnz), counts.indptr[1:-1]):
            found, value = token[counts.indices[row]], counts.data[row]
            used = np.flatnonzero((found >= 0) & (value > 0))
            used = used[np.argsort(found[used])]
            found, value = found[used], value[used]
            rng = spot_generator(found, value)
            bins = self._bins(value, rng)
            if len(found) >= self.length:
                # The genes of the panel come first, then the others in random order.
                order = np.lexsort((rng.random(len(found)), ~np.isin(found, panel)))
                kept = order[: self.length - 1]
                found, bins = found[kept], bins[kept]
            first = np.float32(self.arguments["pad_value"])
            yield np.concatenate([[self.cls], found]), np.concatenate([[first], bins])

    def _bins(self, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        drawn = rng if self.ties == "spread" else None
        return bin_values(values, self.arguments["n_bins"], drawn)

    def _states(self, tokens: np.ndarray, present: np.ndarray, values: list) -> np.ndarray:
        padded, _ = pad(values, self.arguments["pad_value"])
        with torch.inference_mode():
            inputs = (torch.from_numpy(a).to(self.device) for a in (tokens, padded, present))
            return self.model(*inputs).cpu().numpy()  # (B, L, K)


class ScGPTGenes(ScGPT):
    """Static gene embeddings: the normalised gene table, the same in every spot.

    The authors use it for gene networks. Genes without a token are masked.
    """

    kind: str = "static"

    def embed(self, counts, genes, ensembl, panel, progress=lambda items, **_: items):
        """Yield the (G, K) table of the panel and the (G,) mask of the genes with a token."""
        wanted = self._tokens(panel)
        report_unknown(panel, wanted >= 0, "the vocabulary of scGPT")
        with torch.inference_mode():
            ids = torch.from_numpy(np.maximum(wanted, 0)).to(self.device)
            table = self.model.encoder(ids).cpu().numpy()  # (G, K)
        known = wanted >= 0  # (G,)
        yield slice(0, 0), table * known[:, None], known


def read_arguments(path: Path) -> dict[str, Any]:
    """``args.json``; the values that the encoder needs are checked.

    Raises:
        FlagError: it is no object, or a value is missing, of the wrong type or not supported.
    """
    arguments = {"n_bins": 51, "mask_value": -1, **read_object(path, ADDRESS)}
    check_sizes(arguments, SIZES, path, ADDRESS)
    width, heads = arguments["embsize"], arguments["nheads"]
    if width % heads:
        raise FlagError(
            f"{path}: embsize {width} is no multiple of nheads {heads}",
            remedy=f"get it again from {ADDRESS}",
        )
    number = (int, float)
    for key, kinds in (("pad_token", (str,)), ("pad_value", number), ("mask_value", number)):
        if type(arguments.get(key)) not in kinds:
            raise FlagError(
                f"{path} has no usable {key}: {arguments.get(key)!r}",
                remedy=f"get it again from {ADDRESS}",
            )
    style = arguments.get("input_emb_style", "continuous")
    if style != "continuous":
        raise FlagError(f"{path}: input_emb_style {style!r} is not known", choices=["continuous"])
    return arguments


def read_vocabulary(path: Path, special: Iterable[str]) -> dict[str, int]:
    """``vocab.json``: the token of every gene and of the ``special`` tokens.

    Raises:
        FlagError: it is no object, does not number its tokens 0, 1, 2, …, or lacks a special one.
    """
    vocabulary = read_object(path, ADDRESS)
    tokens = list(vocabulary.values())
    if {type(t) for t in tokens} != {int} or sorted(tokens) != list(range(len(tokens))):
        raise FlagError(
            f"{path} does not number its {len(tokens)} tokens 0, 1, 2, …, each once",
            remedy=f"get it again from {ADDRESS}",
        )
    missing = [token for token in special if token not in vocabulary]
    if missing:
        raise FlagError(
            f"{path} has no {missing[0]}", remedy=f"get it and args.json again from {ADDRESS}"
        )
    return vocabulary


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of ``best_model.pt`` by the names of ``nets.scgpt``, whichever attention wrote them."""
    state = read_state(path)
    for old, new in SPELLINGS:
        state = {re.sub(old, new, key): value for key, value in state.items()}
    return state


def load_encoder(model: Encoder, path: Path) -> Encoder:
    """Fill ``model`` from ``best_model.pt``, without its decoders.

    Raises:
        FlagError: the file is damaged, or lacks or has a key that the published model does not.
    """
    fill(model, read_weights(path), path, WEIGHTS, ignore=UNUSED)
    return model.float().eval().requires_grad_(False)


def spot_generator(tokens: np.ndarray, values: np.ndarray) -> np.random.Generator:
    """A stream that depends on the content of the spot alone, and not on spots beside it."""
    content = hashlib.sha256(tokens.tobytes() + values.tobytes()).hexdigest()
    return numpy_generator("scgpt", content)


def bin_values(
    values: np.ndarray, n_bins: int, rng: np.random.Generator | None = None
) -> np.ndarray:
    """Expression as quantile bins 1 … n_bins - 1 within the spot (Cui et al., Methods).

    Values that straddle several bins are spread over them at random, or all put into the middle bin
    if there is no ``rng``.
    """
    if not len(values):
        return np.zeros(0, dtype=np.float32)
    edges = np.quantile(values, np.linspace(0, 1, n_bins - 1))
    high, low = np.digitize(values, edges), np.digitize(values, edges, right=True)
    share = rng.random(len(values)) if rng is not None else 0.5
    return np.ceil(share * (low - high) + high).astype(np.float32)
