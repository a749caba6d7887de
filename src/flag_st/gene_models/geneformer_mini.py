"""A small Geneformer that is pre-trained here on the counts of the training slides alone.

The recipe is that of Geneformer (rank values over non-zero medians, BERT, masked genes); only the
corpus and the sizes are small. It needs no download, and its weights have never seen a test slide.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.fitted import digest_arrays, refill, require, unfitted
from flag_st.core.io import pack_names, unpack_names
from flag_st.gene_models.base import GeneModel
from flag_st.gene_models.bert import bert_config, bert_states, empty_bert, published_config, ready
from flag_st.gene_models.columns import positions, report_unknown, vocabulary
from flag_st.gene_models.masked_genes import pretrain
from flag_st.gene_models.rank_values import TARGET_SUM, RankValues
from flag_st.gene_models.token_states import contextual

if TYPE_CHECKING:
    from transformers import BertConfig, BertModel

SPECIAL = ("<pad>", "<mask>", "<cls>", "<eos>")


class GeneformerMini(GeneModel):
    """Contextual gene embeddings of a BERT fitted to the training slides.

    Args:
        width, layers, heads, inner: sizes of the BERT; ``inner`` is the feed-forward width.
        vocabulary: how many genes have a token: the panel and the genes detected most often.
        context: longest sequence, ``<cls>`` and ``<eos>`` included.
        epochs: passes over the training spots.
        learning_rate: peak learning rate of AdamW, between a warm-up and a linear decay.
        batch_tokens: tokens per step, padding included.
    """

    kind: str = "contextual"
    fits: bool = True

    def __init__(
        self,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        inner: int = 256,
        vocabulary: int = 400,
        context: int = 256,
        epochs: int = 2,
        learning_rate: float = 1e-3,
        batch_tokens: int = 512,
    ):
        if width % heads:
            raise FlagError(f"geneformer_mini: width {width} is no multiple of heads {heads}")
        if context < 3:
            raise FlagError(f"geneformer_mini: context {context} has no room for a gene")
        self.width, self.layers, self.heads, self.inner = width, layers, heads, inner
        self.vocabulary, self.context, self.epochs = vocabulary, context, epochs
        self.learning_rate, self.batch_tokens = learning_rate, batch_tokens
        self.device = "cpu"
        self.model: BertModel | None = None
        self.history: list[float] = []

    def open(self, device: str) -> None:
        self.device = device

    def fit(
        self,
        counts: Sequence,
        genes: Sequence[str],
        panel: Sequence[str],
        seed: int,
        ensembl: Sequence[str] | None = None,
    ) -> None:
        """Pre-train on the counts of the training slides, with their medians; tokens are symbols.

        Raises:
            FlagError: no training spots, or panel genes that the slides lack.
        """
        from scipy import sparse

        table = sparse.vstack([sparse.csr_matrix(c, dtype=np.float64) for c in counts]).tocsr()
        columns = positions(genes, panel, "the training slides' counts")
        self.ranks = self._vocabulary(table, genes, columns)
        sequences = self.ranks.encode(table, genes)
        sequences = [s for s in sequences if len(s) > 2]
        if not sequences:
            raise FlagError("geneformer_mini: no training spot has counts of a gene with a token")
        self.model, self.history = pretrain(
            self._config(),
            sequences,
            special=len(SPECIAL),
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch_tokens=self.batch_tokens,
            seed=seed,
            device=self.device,
        )

    def embed(
        self,
        counts,
        genes: Sequence[str],
        ensembl: Sequence[str],
        panel: Sequence[str],
        progress: Callable[..., Iterable] = lambda items, **_: items,
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield (rows, (n, G, K) float32, (n, G) mask of the genes expressed and in context)."""
        model = self.model
        if model is None:
            raise unfitted("geneformer_mini")
        wanted = np.array([self.ranks.token(gene) for gene in panel], dtype=np.int64)  # (G,)
        report_unknown(panel, wanted >= 0, "the fitted geneformer_mini")
        yield from contextual(
            self.ranks.encode(counts, genes),
            wanted,
            self.width,
            lambda tokens, present, _: bert_states(model, tokens, present),
            self.batch_tokens,
            self.ranks.tokens["<pad>"],
            progress,
        )

    def digest(self) -> str:
        return digest_arrays(self.arrays())

    def arrays(self) -> dict[str, np.ndarray]:
        if self.model is None:
            raise unfitted("geneformer_mini")
        arrays = {key: value.cpu().numpy() for key, value in self.model.state_dict().items()}
        arrays["medians"] = np.array(list(self.ranks.medians.values()))
        arrays["history"] = np.array(self.history)
        return arrays | {"genes": pack_names(self.ranks.medians)}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        require(arrays, ("genes", "medians", "history"), "geneformer_mini")
        self.history = arrays["history"].tolist()
        self.ranks = self._ranks(unpack_names(arrays["genes"]), arrays["medians"])
        model = empty_bert(self._config())
        refill(model, arrays, "geneformer_mini")
        self.model = ready(model).to(self.device)  # type: ignore[arg-type]  # its wrapper hides self

    def _ranks(self, genes: Sequence[str], medians: Iterable[float]) -> RankValues:
        tokens = {name: token for token, name in enumerate([*SPECIAL, *genes])}
        known = dict(zip(genes, map(float, medians), strict=True))
        return RankValues(tokens, known, self.context, special=True)

    def _vocabulary(self, table, genes: Sequence[str], panel: np.ndarray) -> RankValues:
        """Tokens of the panel and of the genes detected most often, with their non-zero medians."""
        from scipy import sparse

        chosen = vocabulary(table, panel, self.vocabulary)
        depth = np.maximum(np.asarray(table.sum(axis=1)).ravel(), 1)
        scaled = (sparse.diags(TARGET_SUM / depth) @ table).tocsc()[:, chosen]  # (N, V)
        columns = np.split(scaled.data, scaled.indptr[1:-1])
        medians = [np.median(c[c > 0]) if (c > 0).any() else 0.0 for c in columns]
        return self._ranks([genes[i] for i in chosen], medians)

    def _config(self) -> "BertConfig":
        sizes = self.width, self.layers, self.heads, self.inner, self.context
        return bert_config(published_config(len(self.ranks.tokens), *sizes))
