"""What a gene model is, and how one is applied to a slide."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.fitted import Fitted
from flag_st.data.targets import writing_targets

#: The genes that a contextual model reads: those of the panel alone, or all genes of the slide.
Scope = Literal["panel", "transcriptome"]


class GeneModel(Fitted, ABC):
    """Embeds panel genes, once per panel or in the context of each spot.

    A model whose network a method can be built on also has ``backbone(panel, **body)``, that network
    (``flag_st.nets.backbone.Backbone``) for the genes of a panel, and ``empty(genes, **body)``, one of the
    same sizes without pre-trained weights, which needs neither files nor a fit.

    Class attributes:
        kind: ``static`` (one vector per gene, (G, K)), ``contextual`` (one per spot and gene,
            (N, G, K)) or ``spot`` (one per spot, (N, K)).
        fits: True if ``fit`` must see training counts, so that embeddings belong to one split;
            ``arrays``, ``restore``, ``save`` and ``load`` are then those of ``Fitted``.
        backs: True if methods can be built on it, on its network or on what it has fitted.
    """

    kind: str
    backs: bool = False

    def open(self, device: str) -> None:
        """Load weights onto ``device``; called once."""

    def fit(
        self,
        counts: Sequence,
        genes: Sequence[str],
        panel: Sequence[str],
        seed: int,
        ensembl: Sequence[str] | None = None,
    ) -> None:
        """Learn from the raw counts of the training slides alone (list of CSR (N, all genes)).

        Args:
            genes, panel: as in ``embed``.
            ensembl: ids of ``genes`` ("" where unknown); None if none is known.
        """

    def known_symbols(self) -> list[str]:
        """The gene symbols that it knows, told without its weights, so that a panel can be made of them.

        Raises:
            FlagError: it cannot tell them without its weights or a fit.
        """
        raise FlagError(
            f"{type(self).__name__} cannot tell its genes before it is loaded or fitted",
            remedy="name another gene model in the panel's vocabulary, or a file of gene symbols",
        )

    @abstractmethod
    def embed(
        self,
        counts,
        genes: Sequence[str],
        ensembl: Sequence[str],
        panel: Sequence[str],
        progress: Callable[..., Iterable] = lambda items, **_: items,
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray | None]]:
        """Yield blocks (rows, embedding, mask) of one slide.

        Args:
            counts: CSR (N, all genes) of raw counts.
            genes: the symbols of the columns; ``ensembl`` their ids ("" where unknown).
            panel: the G symbols to embed, in this order.

        Yields:
            rows of the slide, (n, G, K) or (n, K) or, for ``static``, one (G, K) with rows
            ``slice(0, 0)``; and a mask of the embedded genes, (n, G) or, for ``static``, (G,), or
            None for all. Nothing is learned from a vector that is masked, zero or not.
        """

    def digest(self) -> str:
        """Identifies the weights; stored with the embeddings."""
        return "none"


def embed_slide(model: GeneModel, slide, panel: Sequence[str], path: str | Path, progress) -> None:
    """Embed the panel genes of ``slide`` (AnnData as in ``spots.h5ad``) into a target file."""
    blocks = model.embed(slide.X, list(slide.var_names), ensembl_of(slide), panel, progress)
    first = next(blocks)
    width, facts = first[1].shape[-1], {"digest": model.digest()}
    with writing_targets(path, model.kind, slide.obs_names, panel, width, **facts) as put:
        put(*first)
        for block in blocks:
            put(*block)


def ensembl_of(slide) -> list[str]:
    """The ids that the slide states, "" where it states none."""
    return list(slide.var["ensembl"]) if "ensembl" in slide.var else [""] * slide.n_vars
