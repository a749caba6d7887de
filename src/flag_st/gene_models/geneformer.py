"""Geneformer (Theodoris et al., Nature 2023; V2: Chen et al. 2024), read from its official files.

The model is a standard BERT over rank-value tokens, so it needs transformers only.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.gene_models import safe_pickle
from flag_st.gene_models.base import GeneModel, Scope
from flag_st.gene_models.bert import bert_states, load_bert
from flag_st.gene_models.columns import identifiers, positions, read_symbols, report_unknown
from flag_st.gene_models.files import Files
from flag_st.gene_models.rank_values import RankValues
from flag_st.gene_models.token_states import contextual

REPO = "ctheodoris/Geneformer"
FILES = ("config.json", "model.safetensors")


@dataclass(frozen=True)
class Release:
    """What belongs to one published model; the dictionaries of V1 and V2 must not be exchanged."""

    corpus: str
    special: bool

    def dictionary(self, name: str) -> str:
        folder = "geneformer/gene_dictionaries_30m" if self.corpus == "gc30M" else "geneformer"
        return f"{folder}/{name}_{self.corpus}.pkl"


ModelName = Literal[
    "Geneformer-V1-10M",
    "Geneformer-V2-104M",
    "Geneformer-V2-104M_CLcancer",
    "Geneformer-V2-316M",
]
RELEASES: dict[ModelName, Release] = {
    "Geneformer-V1-10M": Release("gc30M", special=False),
    "Geneformer-V2-104M": Release("gc104M", special=True),
    "Geneformer-V2-104M_CLcancer": Release("gc104M", special=True),
    "Geneformer-V2-316M": Release("gc104M", special=True),
}


class Geneformer(GeneModel):
    """Contextual gene embeddings: the hidden state at each panel gene's position, spot by spot.

    Args:
        name: folder of the model in the repository.
        weights: folder with the files of the repository under their names there (a clone with its
            LFS files, or a download of the needed ones), or None to fetch them.
        repo, revision: hub repository and commit.
        sha256: file name → digest that it must have; files not named are not checked.
        scope: ``panel`` ranks the panel genes alone, with their sum as depth (the release of
            FLAG); ``transcriptome`` ranks all genes of the slide (as Geneformer was trained).
        layer: which hidden state, counted as transformers does: -1 is the output of the last
            block (the release of FLAG), -2 that of the last but one (which Geneformer's own
            extractor calls layer -1); 0 would be the input.
        symbols: table (columns symbol, ensembl) for slides without ids; None uses the
            dictionary that comes with the model.
        batch_tokens: tokens of one forward pass, padding included.
        dtype: ``float32``, or ``bfloat16`` for half the memory and time.
    """

    kind: str = "contextual"

    def __init__(
        self,
        name: ModelName = "Geneformer-V2-316M",
        weights: str | None = None,
        repo: str = REPO,
        revision: str = "main",
        sha256: Mapping[str, str] | None = None,
        scope: Scope = "panel",
        layer: int = -1,
        symbols: str | None = None,
        batch_tokens: int = 16384,
        dtype: Literal["float32", "bfloat16"] = "float32",
    ):
        self.name, self.release = name, RELEASES[name]
        self.files = Files(weights, f"the hub's {repo}", repo, revision, sha256 or {})
        self.scope, self.layer, self.symbols = scope, layer, symbols
        self.batch_tokens, self.dtype = batch_tokens, dtype

    def open(self, device: str) -> None:
        """Load dictionaries and weights.

        Raises:
            FlagError: a file is missing, damaged, of another model or of another digest.
        """
        import torch

        config, weights = (self.files[f"{self.name}/{file}"] for file in FILES)
        self.model = load_bert(config, weights, self.layer, f"{self.name} of {self.files.repo}")
        tokens = self._dictionary("token_dictionary", int)
        vocabulary = self.model.config.vocab_size
        if len(tokens) != vocabulary or not 0 <= max(tokens.values()) < vocabulary:
            raise FlagError(
                f"{self.release.dictionary('token_dictionary')} has {len(tokens)} tokens, but "
                f"{config} a vocabulary of {vocabulary}",
                remedy=f"put the {self.release.corpus} dictionaries beside {self.name}",
            )
        self.ranks = RankValues(
            tokens=tokens,
            medians=self._dictionary("gene_median_dictionary", float),
            length=self.model.config.max_position_embeddings,
            special=self.release.special,
        )
        self.canonical = self._aliases("ensembl_mapping_dict")
        self.by_symbol = (
            self._aliases("gene_name_id_dict")
            if self.symbols is None
            else read_symbols(self.symbols)
        )
        dtype = getattr(torch, self.dtype)
        self.model = self.model.to(device, dtype)  # type: ignore[arg-type]  # its wrapper hides self

    def embed(
        self,
        counts,
        genes: Sequence[str],
        ensembl: Sequence[str],
        panel: Sequence[str],
        progress: Callable[..., Iterable] = lambda items, **_: items,
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Yield (rows, (n, G, K) float32, (n, G) mask).

        A panel gene is masked, and its vector zero, in spots where it is not expressed (or ranks
        beyond the context), and everywhere if the model has no token for it.
        """
        columns = positions(genes, panel, "the slide")
        names = identifiers(genes, ensembl, self.by_symbol)
        names = [self.canonical.get(name, name) for name in names]
        wanted = np.array([self.ranks.token(names[i]) for i in columns], dtype=np.int64)  # (G,)
        report_unknown(panel, wanted >= 0, self.name)
        if self.scope == "panel":
            counts, names = counts[:, columns], [names[i] for i in columns]
        sequences = self.ranks.encode(counts, names)
        yield from contextual(
            sequences,
            wanted,
            self.model.config.hidden_size,
            lambda tokens, present, _: bert_states(self.model, tokens, present),
            self.batch_tokens,
            self.ranks.tokens["<pad>"],
            progress,
        )

    def digest(self) -> str:
        """One digest of the weights and the dictionaries."""
        return self.files.digest()

    def _dictionary(self, name: str, kind: type) -> dict:
        return safe_pickle.mapping(self.files[self.release.dictionary(name)], kind)

    def _aliases(self, name: str) -> dict[str, str]:
        """A dictionary of names; entries that are not names are left out."""
        return safe_pickle.mapping(self.files[self.release.dictionary(name)], str, strict=False)
