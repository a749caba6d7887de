"""A small CellFM that is pre-trained here, on the counts of the training slides or of a larger corpus.

The architecture is CellFM's, and only the corpus and the sizes are small. It needs no download and has
never seen a test slide, unless it is the control that is fitted to them. HINGE can take it as its frozen backbone, and FLAG can align to its states.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.fitted import digest_arrays, refill, require, unfitted
from flag_st.core.io import pack_names, unpack_names
from flag_st.core.seeds import numpy_generator
from flag_st.gene_models.columns import OTHER_GENES, positions, report_unknown, vocabulary
from flag_st.gene_models.corpus import CorpusModel, Section
from flag_st.gene_models.hidden_values import TELLERS, explained
from flag_st.gene_models.masked_values import Pretraining, pretrain
from flag_st.gene_models.moments import moments
from flag_st.gene_models.token_states import blocks

if TYPE_CHECKING:
    from flag_st.nets.cellfm import CellFm, CellFmSizes

NAME, PRETRAINING = "cellfm_mini", Pretraining()


class CellFmMini(CorpusModel):
    """Contextual gene embeddings of a CellFM fitted to the sections of a corpus.

    Args:
        width, layers, heads, bins: sizes of the network (``nets.cellfm.CellFmSizes``).
        vocabulary: how many genes it knows: the panel and the genes detected most often.
        pretraining: how it is trained.
    """

    kind: str = "contextual"
    backs: bool = True

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
        self.unit = "log1p"
        self.history: list[float] = []
        self.explained = np.zeros((0, len(TELLERS)))

    def open(self, device: str) -> None:
        self.device = device

    def fit_sections(
        self,
        sections: Sequence[Section],
        genes: Sequence[str],
        panel: Sequence[str],
        unit: str,
        seed: int,
    ) -> None:
        """Pre-train on the natural logarithm of 1 + count, per 10,000 counts if ``unit`` or CellFM is.

        Raises:
            FlagError: no training spots, panel genes that the slides lack, or too many sections held out.
        """
        from scipy import sparse

        own = positions(genes, panel, "the training slides' counts")  # (G,)
        seen, unseen = self._held_out(sections, seed)
        table = sparse.vstack([s.counts for s in seen]).tocsr()
        if not table.nnz:
            raise FlagError(f"{NAME}: no training spot has any count, so that the corpus is empty")
        columns = vocabulary(table, own, self.vocabulary)
        self.genes = [genes[i] for i in columns]
        # CellFM was trained on counts of one depth, whatever it is asked for afterwards.
        per_depth = unit == "log1p_cp10k" or self.pretraining.regime == "cellfm"
        self.unit = "log1p_cp10k" if per_depth else "log1p"
        values = np.concatenate([s.expression(columns, self.unit) for s in seen])  # (N, V)
        known = np.concatenate([np.tile(s.known[columns], (len(s.depth), 1)) for s in seen])
        sizes = self._sizes(len(columns))
        self.net, self.history = pretrain(
            sizes, values, known, len(panel), self.pretraining, seed, self.device
        )
        if unseen:
            self.explained = self._explained(seen, unseen, own, panel, seed)

    def _held_out(
        self, sections: Sequence[Section], seed: int
    ) -> tuple[list[Section], list[Section]]:
        """The sections to train on, and those that are kept out."""
        count = self.pretraining.held_out
        if count >= len(sections):
            raise FlagError(
                f"{NAME}: held_out {count} leaves none of the {len(sections)} sections of the corpus",
                remedy="lower pretraining.held_out",
            )
        order = numpy_generator(seed, NAME, "held out").permutation(len(sections))[:count]
        return (
            [s for i, s in enumerate(sections) if i not in order],
            [s for i, s in enumerate(sections) if i in order],
        )

    def _explained(
        self,
        seen: Sequence[Section],
        unseen: Sequence[Section],
        own: np.ndarray,
        panel: Sequence[str],
        seed: int,
    ) -> np.ndarray:
        """(shares, tellers) R² of hidden values of the sections that were kept out."""
        import torch

        net = self.backbone(panel)

        @torch.inference_mode()
        def network(values: np.ndarray, hidden: np.ndarray) -> np.ndarray:
            pairs = (
                [torch.from_numpy(x[rows]).to(self.device) for x in (values, hidden)]
                for rows in blocks(len(values), len(panel), self.width)
            )
            return np.concatenate([net(v, h).cpu().numpy() for v, h in pairs])  # (N, G)

        of = [
            ([s.expression(own, self.unit) for s in x], [s.known[own] for s in x])
            for x in (seen, unseen)
        ]
        rng = numpy_generator(seed, NAME, "hidden")
        return explained(network, moments(*of[0]), *of[1], rng)

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
        section = Section.whole(sparse.csr_matrix(counts))
        expression = section.expression(positions(genes, panel, "the slide"), self.unit)  # (N, G)
        for rows in progress(blocks(len(expression), len(panel), self.width), desc="spots"):
            values = expression[rows][:, here]
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
        names = {"genes": pack_names(self.genes), "unit": pack_names([self.unit])}
        told = {"history": np.array(self.history), "explained": self.explained}
        return arrays | names | told

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        require(arrays, ("genes", "unit", "history", "explained"), NAME)
        self.explained = arrays["explained"]
        (self.unit,) = unpack_names(arrays["unit"])
        self.genes, self.history = unpack_names(arrays["genes"]), arrays["history"].tolist()
        net = self.empty(len(self.genes))
        refill(net, arrays, NAME)
        self.net = net.to(self.device).eval().requires_grad_(False)

    def _sizes(self, genes: int) -> "CellFmSizes":
        from flag_st.nets.cellfm import CellFmSizes

        return CellFmSizes(genes + 1, self.width, self.layers, self.heads, self.bins)
