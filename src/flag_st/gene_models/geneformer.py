"""Geneformer (Theodoris et al., Nature 2023; V2: Chen et al. 2024), read from its official files.

The model is a standard BERT over rank-value tokens, so it needs transformers only;
``geneformer_package.py`` is tokenizer and model of the official package.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.gene_models import safe_pickle
from flag_st.gene_models.base import GeneModel, Scope
from flag_st.gene_models.bert import bert_states, load_bert, published_config
from flag_st.gene_models.columns import identifiers, positions, read_symbols, report_unknown
from flag_st.gene_models.files import Files, read_object
from flag_st.gene_models.packages import Backend
from flag_st.gene_models.rank_values import RankValues
from flag_st.gene_models.token_states import contextual

REPO = "ctheodoris/Geneformer"
#: The first tokens of every dictionary; V1 has only the first two.
SPECIAL = ("<pad>", "<mask>", "<cls>", "<eos>")


@dataclass(frozen=True)
class Release:
    """One published model: the dictionaries that belong to it, and what its config.json states.

    Attributes:
        corpus: names the dictionaries; those of V1 and V2 must not be exchanged.
        vocabulary: number of tokens.
        layers, width, heads, inner: of the BERT; ``inner`` is the feed-forward width.
        length: longest sequence, special tokens included.
    """

    corpus: Literal["gc30M", "gc104M"]
    vocabulary: int
    layers: int
    width: int
    heads: int
    inner: int
    length: int

    @property
    def special(self) -> bool:
        """Whether sequences begin with ``<cls>`` and end with ``<eos>``."""
        return self.corpus == "gc104M"

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """What the dictionary begins with, numbered from 0; genes follow."""
        return SPECIAL if self.special else SPECIAL[:2]

    def dictionary(self, name: str) -> str:
        folder = "geneformer/gene_dictionaries_30m" if self.corpus == "gc30M" else "geneformer"
        return f"{folder}/{name}_{self.corpus}.pkl"

    def config(self) -> dict[str, Any]:
        """What ``config.json`` states of everything that decides the embeddings."""
        return published_config(
            self.vocabulary, self.width, self.layers, self.heads, self.inner, self.length
        )


ModelName = Literal[
    "Geneformer-V1-10M",
    "Geneformer-V2-104M",
    "Geneformer-V2-104M_CLcancer",
    "Geneformer-V2-316M",
]
RELEASES: dict[ModelName, Release] = {
    "Geneformer-V1-10M": Release("gc30M", 25426, 6, 256, 4, 512, 2048),
    "Geneformer-V2-104M": Release("gc104M", 20275, 12, 768, 12, 3072, 4096),
    "Geneformer-V2-104M_CLcancer": Release("gc104M", 20275, 12, 768, 12, 3072, 4096),
    "Geneformer-V2-316M": Release("gc104M", 20275, 18, 1152, 18, 4608, 4096),
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
        backend: ``own``, or ``package`` for tokenizer and model of the official package.
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
        backend: Backend = "own",
    ):
        self.name, self.release = name, RELEASES[name]
        self.files = Files(weights, f"the hub's {repo}", repo, revision, sha256 or {})
        self.scope, self.layer, self.symbols = scope, layer, symbols
        self.batch_tokens, self.dtype, self.backend = batch_tokens, dtype, backend

    def open(self, device: str) -> None:
        """Load dictionaries and weights.

        Raises:
            FlagError: a file is missing, damaged, of another model or of another digest, or the
                package is missing.
        """
        import torch

        check_config(self.files[f"{self.name}/config.json"], self.name)
        weights = self.files[f"{self.name}/model.safetensors"]
        # The file is checked key by key in any case, because the package skips what does not fit.
        config = self.release.config()
        model = load_bert(config, weights, self.layer, f"{self.name} of {self.files.repo}")
        self.ranks = self._rank_values()
        self.canonical = self._aliases("ensembl_mapping_dict")
        self.by_symbol = (
            self._aliases("gene_name_id_dict")
            if self.symbols is None
            else read_symbols(self.symbols)
        )
        if self.backend == "package":
            from flag_st.gene_models.geneformer_package import Package

            vocabulary = self.ranks, self.canonical
            package = Package(*vocabulary, config, weights, self.layer, device, self.dtype)
            self.encode, self.states = package.encode, package.states
        else:
            model = model.to(device, getattr(torch, self.dtype))  # type: ignore[arg-type]  # its wrapper hides self
            self.encode, self.states = self.ranks.encode, partial(bert_states, model)

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
        yield from contextual(
            self.encode(counts, names),
            wanted,
            self.release.width,
            lambda tokens, present, _: self.states(tokens, present),
            self.batch_tokens,
            self.ranks.tokens["<pad>"],
            progress,
        )

    def digest(self) -> str:
        """One digest of the weights and the dictionaries."""
        return self.files.digest()

    def _rank_values(self) -> RankValues:
        """The vocabulary of the release.

        Raises:
            FlagError: tokens or medians are not those of such a release.
        """
        tokens = self._dictionary("token_dictionary", int)
        medians = self._dictionary("gene_median_dictionary", float)
        check_tokens(tokens, self.release, self.name)
        check_medians(medians, tokens, self.release, self.name)
        return RankValues(tokens, medians, self.release.length, self.release.special)

    def _dictionary(self, name: str, kind: type) -> dict:
        return safe_pickle.mapping(self.files[self.release.dictionary(name)], kind)

    def _aliases(self, name: str) -> dict[str, str]:
        """A dictionary of names; entries that are not names are left out."""
        return safe_pickle.mapping(self.files[self.release.dictionary(name)], str, strict=False)


def check_config(path: Path, name: ModelName) -> None:
    """Raise FlagError unless ``config.json`` states what the release ``name`` has.

    A file whose weights have the right shapes may still name other heads or another activation. The
    model is built from ``RELEASES``, never from the file.
    """
    found = read_object(path, f"the hub's {REPO}")
    for key, value in RELEASES[name].config().items():
        if found.get(key) != value:
            raise FlagError(
                f"{path}: {key} is {found.get(key)!r}, but {value!r} in {name}",
                remedy=f"get {name}/config.json again, or set params.name to the model it is of",
            )


def check_tokens(tokens: Mapping[str, int], release: Release, name: str) -> None:
    """Raise FlagError unless ``tokens`` numbers the release's vocabulary, special tokens first."""
    file = release.dictionary("token_dictionary")
    remedy = f"put the {release.corpus} dictionaries beside {name}"
    if sorted(tokens.values()) != list(range(release.vocabulary)):
        raise FlagError(
            f"{file} has {len(tokens)} tokens; {name} numbers {release.vocabulary} of them from 0, "
            "each once",
            remedy=remedy,
        )
    if [tokens.get(token) for token in release.special_tokens] != [
        *range(len(release.special_tokens))
    ]:
        begin = ", ".join(release.special_tokens)
        raise FlagError(f"{file} does not begin with {begin}", remedy=remedy)


def check_medians(
    medians: Mapping[str, float], tokens: Mapping[str, int], release: Release, name: str
) -> None:
    """Raise FlagError unless every gene with a token has a median, and nothing else is in there.

    A gene without a median would be left out of all sequences, without a word.
    """
    file = release.dictionary("gene_median_dictionary")
    remedy = f"put the {release.corpus} dictionaries beside {name}"
    strange = [token for token in SPECIAL if token in medians]
    if strange:
        raise FlagError(f"{file} has a median of {strange[0]}, which is no gene", remedy=remedy)
    genes = [gene for gene in tokens if gene not in release.special_tokens]
    lacking = [gene for gene in genes if not 0 < medians.get(gene, 0) < math.inf]
    if lacking:
        raise FlagError(
            f"{file} has no positive median of {len(lacking)} of the {len(genes)} genes with a "
            f"token, such as {lacking[0]}",
            remedy=remedy,
        )
