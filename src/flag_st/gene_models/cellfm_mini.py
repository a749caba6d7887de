"""A small CellFM that is pre-trained here, on the counts of the training slides alone.

The architecture is CellFM's, and only the corpus and the sizes are small. It needs no download and has
never seen a test slide. HINGE can take it as its frozen backbone, and FLAG can align to its states.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.fitted import digest_arrays, refill, require, unfitted
from flag_st.core.io import pack_names, unpack_names
from flag_st.gene_models.base import GeneModel
from flag_st.gene_models.columns import OTHER_GENES, positions, report_unknown, vocabulary
from flag_st.gene_models.masked_values import Pretraining, pretrain
from flag_st.gene_models.token_states import blocks

if TYPE_CHECKING:
    from flag_st.nets.cellfm import CellFm, CellFmSizes

NAME, PRETRAINING = "cellfm_mini", Pretraining()


class CellFmMini(GeneModel):
    """Contextual gene embeddings of a CellFM fitted to the training slides.

    Args:
        width, layers, heads, bins: sizes of the network (``nets.cellfm.CellFmSizes``).
        vocabulary: how many genes it knows: the panel and the genes detected most often.
        pretraining: how it is trained.
    """

    kind: str = "contextual"
    fits: bool = True

    def __init__(
        self,
        width: int = 64,
        layers: int = 4,
        heads: int = 2,
        bins: int = 64,
        vocabulary: int = 1000,
        pretraining: Pretraining = PRETRAINING,
    ):
        self.width, self.layers, self.heads, self.bins = width, layers, heads, bins
        self.vocabulary, self.pretraining = vocabulary, pretraining
        self.device = "cpu"
        self.net: CellFm | None = None
        self.genes: list[str] = []
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
        """Pre-train on log(1 + count).

        Raises:
            FlagError: no training spots, or panel genes that the slides lack.
        """
        from scipy import sparse

        table = sparse.vstack([sparse.csr_matrix(c, dtype=np.float32) for c in counts]).tocsr()
        if not table.nnz:
            raise FlagError(f"{NAME}: no training spot has any count, so that the corpus is empty")
        own = positions(genes, panel, "the training slides' counts")  # (G,)
        columns = vocabulary(table, own, self.vocabulary)
        self.genes = [genes[i] for i in columns]
        values = np.log1p(table[:, columns].toarray())  # (N, V)
        self.net, self.history = pretrain(
            self._sizes(len(columns)), values, len(panel), self.pretraining, seed, self.device
        )

    def embed(
        self,
        counts,
        genes: Sequence[str],
        ensembl: Sequence[str],
        panel: Sequence[str],
        progress: Callable[..., Iterable] = lambda items, **_: items,
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield (rows, (n, G, D) states of the last layer, (n, G) mask of the genes it knows)."""
        import torch
        from scipy import sparse

        known = {gene: row for row, gene in enumerate(self.genes)}
        here = np.array([gene in known for gene in panel])
        report_unknown(panel, here, f"the fitted {NAME}")
        net = self.backbone([gene for gene in panel if gene in known])
        table = sparse.csr_matrix(counts)[:, positions(genes, panel, "the slide")]  # (N, G)
        for rows in progress(blocks(table.shape[0], len(panel), self.width), desc="spots"):
            values = np.log1p(table[rows].toarray()[:, here]).astype(np.float32)
            with torch.inference_mode():
                states = net.states(torch.from_numpy(values).to(self.device)).cpu().numpy()
            found = np.zeros((len(values), len(panel), self.width), np.float32)
            found[:, here] = states
            yield rows, found, np.tile(here, (len(values), 1))

    def backbone(self, panel: Sequence[str], **body: Any) -> "CellFm":
        """The pre-trained network for the genes of ``panel`` alone, in their order.

        Args:
            panel: G symbols; the gene table keeps their rows and no other.
            body: how it reads masked input, arguments of ``nets.cellfm.CellFm``.

        Raises:
            FlagError: it was not fitted, a gene is outside its vocabulary, or ``body`` asks for a token
                that was not pre-trained.
        """
        if self.net is None:
            raise unfitted(NAME)
        rows = positions(self.genes, panel, f"the vocabulary of {NAME}", OTHER_GENES) + 1
        arrays = self.arrays()
        arrays["gene_emb"] = arrays["gene_emb"][[0, *rows]]
        net = self.empty(len(panel), **body)
        refill(net, arrays, NAME)
        return net.to(self.device)

    def empty(self, genes: int, **body: Any) -> "CellFm":
        """A network of the same sizes for a panel of G genes, without pre-trained weights."""
        from flag_st.nets.cellfm import CellFm

        return CellFm(self._sizes(genes), range(1, genes + 1), **body)

    def digest(self) -> str:
        return digest_arrays(self.arrays())

    def arrays(self) -> dict[str, np.ndarray]:
        if self.net is None:
            raise unfitted(NAME)
        arrays = {key: value.cpu().numpy() for key, value in self.net.state_dict().items()}
        return arrays | {"genes": pack_names(self.genes), "history": np.array(self.history)}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        require(arrays, ("genes", "history"), NAME)
        self.genes, self.history = unpack_names(arrays["genes"]), arrays["history"].tolist()
        net = self.empty(len(self.genes))
        refill(net, arrays, NAME)
        self.net = net.to(self.device).eval().requires_grad_(False)

    def _sizes(self, genes: int) -> "CellFmSizes":
        from flag_st.nets.cellfm import CellFmSizes

        return CellFmSizes(genes + 1, self.width, self.layers, self.heads, self.bins)
