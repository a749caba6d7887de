"""scGPT (Cui et al., Nature Methods 2024), read from its whole-human checkpoint.

The package itself cannot be imported beside a current torch, so its encoder is written here, with
the names of the published keys.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from flag_st.core.errors import FlagError
from flag_st.core.io import read_json
from flag_st.core.seeds import numpy_generator
from flag_st.gene_models.base import GeneModel, Scope
from flag_st.gene_models.columns import positions, report_unknown
from flag_st.gene_models.files import Files
from flag_st.gene_models.token_states import contextual, pad
from flag_st.transfer.weights import fill, read_state

ADDRESS = "https://github.com/bowang-lab/scGPT (pre-trained models, whole-human)"
ARGUMENTS = ("embsize", "nheads", "d_hid", "nlayers", "pad_token", "pad_value")
#: How other versions of the package spelled the keys of the attention.
SPELLINGS = ((r"self_attn\._impl\.", "self_attn."), (r"self_attn\.in_proj_", "self_attn.Wqkv."))


class GeneEncoder(nn.Module):
    """Embeds which gene a token is."""

    def __init__(self, vocabulary: int, width: int, padding: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=padding)
        self.enc_norm = nn.LayerNorm(width)

    def forward(self, genes: Tensor) -> Tensor:
        return self.enc_norm(self.embedding(genes))  # (B, L, d)


class ValueEncoder(nn.Module):
    """Embeds the expression of the gene, given as its bin."""

    def __init__(self, width: int):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(1, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, values: Tensor) -> Tensor:
        x = self.linear1(values.clamp(max=512)[..., None]).relu()  # (B, L, d)
        return self.norm(self.linear2(x))  # (B, L, d)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.Wqkv, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        qkv = self.Wqkv(x).unflatten(-1, (3, self.heads, -1))  # (B, L, 3, H, d/H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # 3 of (B, H, L, d/H)
        x = scaled_dot_product_attention(q, k, v, present[:, None, None])  # (B, H, L, d/H)
        return self.out_proj(x.transpose(1, 2).flatten(2))  # (B, L, d)


class Layer(nn.Module):
    """Post-norm transformer layer with ReLU."""

    def __init__(self, width: int, heads: int, inner: int):
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.linear1, self.linear2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        x = self.norm1(x + self.self_attn(x, present))  # (B, L, d)
        return self.norm2(x + self.linear2(self.linear1(x).relu()))  # (B, L, d)


class Encoder(nn.Module):
    """The part of the published model that gene embeddings need: all but its decoders."""

    def __init__(self, arguments: Mapping, vocabulary: int, padding: int):
        super().__init__()
        width, heads, inner = (arguments[key] for key in ("embsize", "nheads", "d_hid"))
        self.encoder = GeneEncoder(vocabulary, width, padding)
        self.value_encoder = ValueEncoder(width)
        self.transformer_encoder = nn.ModuleDict(
            {
                "layers": nn.ModuleList(
                    Layer(width, heads, inner) for _ in range(arguments["nlayers"])
                )
            }
        )

    def forward(self, genes: Tensor, values: Tensor, present: Tensor) -> Tensor:
        x = self.encoder(genes) + self.value_encoder(values)  # (B, L, d)
        for layer in self.transformer_encoder["layers"].children():
            x = layer(x, present)  # (B, L, d)
        return x  # (B, L, d)


class ScGPT(GeneModel):
    """Contextual gene embeddings: the encoder's output at each panel gene's position.

    A sequence is the spot's expressed genes without ``<cls>``; values are binned within the spot.

    Args:
        weights: folder with ``args.json``, ``vocab.json`` and ``best_model.pt``, or None to fetch
            them from the hub.
        repo, revision: hub repository and commit; None if only ``weights`` is used.
        sha256: file name → digest that it must have.
        scope: ``panel`` reads the genes of the panel alone; ``transcriptome`` all expressed genes.
            If these are too many, those of the panel and a random sample of the others are kept.
        ties: most counts are ties, and the published code spreads tied genes over their bins at
            random. ``middle`` takes the expected bin; ``spread`` draws as published, from a stream
            that only depends on the counts of the spot.
        length: largest number of genes in a sequence.
        batch_tokens: tokens per forward pass, padding included.
    """

    kind: str = "contextual"

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
    ):
        self.files = Files(weights, ADDRESS, repo, revision, sha256 or {})
        self.scope, self.ties, self.length, self.batch_tokens = scope, ties, length, batch_tokens

    def open(self, device: str) -> None:
        """Load vocabulary and weights.

        Raises:
            FlagError: a file is missing, damaged or of another model.
        """
        path = self.files["args.json"]
        self.arguments = read_arguments(path)
        self.vocabulary = read_json(self.files["vocab.json"])
        padding = self.vocabulary.get(self.arguments["pad_token"])
        if padding is None:
            raise FlagError(f"vocab.json has no {self.arguments['pad_token']}, which {path} names")
        with torch.device("meta"):
            model = Encoder(self.arguments, len(self.vocabulary), padding)
        self.padding, self.device = padding, device
        self.model = load_encoder(model, self.files["best_model.pt"]).to(device)

    def embed(
        self,
        counts,
        genes: Sequence[str],
        ensembl: Sequence[str],
        panel: Sequence[str],
        progress: Callable[..., Iterable] = lambda items, **_: items,
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield (rows, (n, G, K) float32, (n, G) mask of the genes expressed and known)."""
        columns = positions(genes, panel, "the slide")
        wanted = np.array([self.vocabulary.get(gene, -1) for gene in panel])  # (G,)
        report_unknown(panel, wanted >= 0, "the vocabulary of scGPT")
        if self.scope == "panel":
            counts, genes = counts[:, columns], list(panel)
        sequences, values = self._sequences(counts, genes, set(wanted.tolist()))
        yield from contextual(
            sequences,
            wanted,
            self.arguments["embsize"],
            lambda tokens, present, rows: self._states(tokens, present, [values[i] for i in rows]),
            self.batch_tokens,
            self.padding,
            progress,
        )

    def digest(self) -> str:
        return self.files.digest()

    def _sequences(
        self, counts, genes: Sequence[str], keep: set[int]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Tokens and bins of each spot's expressed genes, at most ``length`` of them."""
        from scipy import sparse

        counts = sparse.csr_matrix(counts, dtype=np.float64)
        token = np.array([self.vocabulary.get(gene, -1) for gene in genes], dtype=np.int64)
        tokens, bins = [], []
        for row in np.split(np.arange(counts.nnz), counts.indptr[1:-1]):
            found, value = token[counts.indices[row]], counts.data[row]
            used = np.flatnonzero((found >= 0) & (value > 0))
            used = used[np.argsort(found[used])]
            found, value = found[used], value[used]
            rng = spot_generator(found, value)
            binned = bin_values(
                value, self.arguments["n_bins"], rng if self.ties == "spread" else None
            )
            if len(found) > self.length:
                # The genes of the panel come first, then the others in random order.
                first = ~np.isin(found, list(keep))
                order = np.lexsort((rng.random(len(found)), first))[: self.length]
                found, binned = found[order], binned[order]
            tokens.append(found)
            bins.append(binned)
        return tokens, bins

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
        wanted = np.array([self.vocabulary.get(gene, -1) for gene in panel])
        report_unknown(panel, wanted >= 0, "the vocabulary of scGPT")
        with torch.inference_mode():
            ids = torch.from_numpy(np.maximum(wanted, 0)).to(self.device)
            table = self.model.encoder(ids).cpu().numpy()  # (G, K)
        known = wanted >= 0  # (G,)
        yield slice(0, 0), table * known[:, None], known


def read_arguments(path) -> dict:
    """``args.json``; the values that the encoder needs are checked."""
    arguments = read_json(path)
    missing = [key for key in ARGUMENTS if key not in arguments]
    if missing:
        raise FlagError(f"{path} lacks {missing[0]}", remedy=f"get it again from {ADDRESS}")
    style = arguments.get("input_emb_style", "continuous")
    if style != "continuous":
        raise FlagError(f"{path}: input_emb_style {style!r} is not known", choices=["continuous"])
    return {"n_bins": 51, **arguments}


def load_encoder(model: Encoder, path) -> Encoder:
    """Fill ``model`` from ``best_model.pt``, whichever attention wrote it, without its decoders."""
    state = read_state(path)
    for old, new in SPELLINGS:
        state = {re.sub(old, new, key): value for key, value in state.items()}
    wanted = model.state_dict()
    fill(
        model, {k: v for k, v in state.items() if k in wanted}, path, f"best_model.pt of {ADDRESS}"
    )
    return model.eval().requires_grad_(False)


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
