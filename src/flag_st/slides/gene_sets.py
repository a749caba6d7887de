"""Gene sets on a panel: how much of each set the panel holds, and scores of the sets that can be scored.

The score of a spot is the mean of the set's genes minus the mean of all other genes of the panel. It is
that of ``scanpy.tl.score_genes`` (Tirosh et al., Science 352, 2016) with one bin of expression. Several
bins, scanpy's default, choose the genes of comparison anew on every slide: on a panel of 200 genes a bin
holds eight, and the zero of the score would differ between the slides of a cohort.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flag_st.core.errors import Faults, FlagError

#: Genes of a set that the panel must hold; the mean of fewer is a gene rather than a set.
FEWEST = 5


@dataclass(frozen=True)
class GeneSets:
    """Gene sets on a panel of G genes.

    Attributes:
        names: of all K sets of the file, in its order.
        sizes: (K,) how many genes each set has.
        members: (G, K) bool, the panel's genes in each set.
    """

    names: Sequence[str]
    sizes: np.ndarray
    members: np.ndarray

    @classmethod
    def of(cls, sets: Mapping[str, Sequence[str]], genes: Sequence[str]) -> "GeneSets":
        """The sets on the panel ``genes``, whose symbols must be spelt alike.

        Raises:
            FlagError: no set can be scored.
        """
        place = {gene: row for row, gene in enumerate(genes)}
        members = np.zeros((len(genes), len(sets)), dtype=bool)
        for column, wanted in enumerate(sets.values()):
            members[[place[gene] for gene in wanted if gene in place], column] = True
        made = cls(list(sets), np.array([len(wanted) for wanted in sets.values()]), members)
        if not made.scored.any():
            best = int(made.found.argmax())
            raise FlagError(
                f"no gene set has {FEWEST} genes among the {len(genes)} of the model and leaves others "
                f"to compare with; the best, {made.names[best]}, has {made.found[best]} of "
                f"{made.sizes[best]}",
                remedy="compare the symbols with those of flag-st show (MKI67 and Mki67 differ), or use "
                "a model of more genes",
            )
        return made

    @property
    def found(self) -> np.ndarray:
        """(K,) how many genes of each set the panel holds."""
        return self.members.sum(0)

    @property
    def scored(self) -> np.ndarray:
        """(K,) bool, the sets of which the panel holds enough, but not all of the panel."""
        return (self.found >= FEWEST) & (self.found < len(self.members))

    def score(self, values: np.ndarray) -> np.ndarray:
        """Scores of the L scored sets, in the order of ``names``.

        Args:
            values: (..., G) in the unit of the panel.

        Returns:
            (..., L) float64 in the same unit.
        """
        inside = self.members[:, self.scored].astype(np.float64)  # (G, L)
        outside = 1 - inside
        weights = inside / inside.sum(0) - outside / outside.sum(0)  # (G, L)
        return np.asarray(values, dtype=np.float64) @ weights

    @property
    def scored_names(self) -> list[str]:
        return [name for name, yes in zip(self.names, self.scored, strict=True) if yes]


def read_gmt(path: str | Path) -> dict[str, list[str]]:
    """Name → genes, from a file in MSigDB's format GMT: name, description and genes, between tabs.

    Raises:
        FlagError: the file cannot be read, a line is none of this format, or a name is there twice.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FlagError(f"cannot read the gene sets {path} ({error})") from None
    faults, sets = Faults(), {}
    for number, line in enumerate(lines, 1):
        name, *rest = (part.strip() for part in line.split("\t"))
        genes = list(dict.fromkeys(filter(None, rest[1:])))
        if not line.strip():
            continue
        if not name or not genes:
            faults.add(f"line {number} is no gene set: it needs a name, a description and genes")
        elif name in sets:
            faults.add(f"line {number}: the set {name} is there twice")
        sets[name] = genes
    if not sets:
        faults.add("it has no gene sets")
    faults.raise_if_any(
        f"the gene sets {path}, which must be a GMT file as MSigDB offers it, with tabs between the parts"
    )
    return sets


def read_gene_sets(path: str | Path, genes: Sequence[str]) -> GeneSets:
    """The sets of a GMT file on a panel.

    Raises:
        FlagError: as ``read_gmt`` and ``GeneSets.of``, with the name of the file.
    """
    sets = read_gmt(path)
    try:
        return GeneSets.of(sets, genes)
    except FlagError as error:
        raise FlagError(f"the gene sets {path}: {error}") from None
