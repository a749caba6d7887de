"""What a linear model learns from the counts of a corpus: gene means and principal components.

It sees the same counts as a pre-trained backbone on the same corpus, so that a method that builds on it
shows how much of that backbone's help takes no more than a mean and a covariance.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.fitted import digest_arrays, require, unfitted
from flag_st.core.io import pack_names, unpack_names
from flag_st.gene_models.columns import positions
from flag_st.gene_models.corpus import CorpusModel, Section
from flag_st.gene_models.moments import moments

NAME, ARRAYS = "linear_prior", ("mean", "components", "patient_means")


class LinearPrior(CorpusModel):
    """Means and principal components of the panel's expression over the spots of a corpus.

    Attributes:
        mean: (G,) in the panel's unit, over all spots.
        components: (G, K) orthonormal columns, K at most ``width``.
        patients: donors with a section in the corpus.
        patient_means: (P, G) over the spots of each; NaN where none of the sections knows the gene.

    Args:
        width: how many components are kept.
    """

    kind: str = "static"
    backs: bool = True

    def __init__(self, width: int = 50):
        if width < 1:
            raise FlagError(f"{NAME}: width is {width}", remedy="set width to 1 or more")
        self.width = width
        self.panel: list[str] = []
        self.patients: list[str] = []
        self.mean = self.components = self.patient_means = np.zeros(0)

    def fit_sections(
        self,
        sections: Sequence[Section],
        genes: Sequence[str],
        panel: Sequence[str],
        unit: str,
        seed: int,
    ) -> None:
        """Take the moments of the panel's expression in ``unit``; nothing depends on the seed.

        Raises:
            FlagError: panel genes that the slides lack.
        """
        columns = positions(genes, panel, "the training slides' counts")  # (G,)
        values = [s.expression(columns, unit) for s in sections]
        known = [s.known[columns] for s in sections]
        found = moments(values, known)
        spectrum, vectors = np.linalg.eigh(found.covariance)  # ascending
        keep = min(self.width, int((spectrum > 1e-10 * max(spectrum[-1], 1e-300)).sum()))
        vectors = vectors[:, ::-1][:, :keep]  # (G, K)
        signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(keep)])
        self.panel, self.mean, self.components = list(panel), found.mean, vectors * signs
        self.patients = sorted({s.patient for s in sections} - {""})
        parts = list(zip(values, known, sections, strict=True))
        means = [_mean([(x, k) for x, k, s in parts if s.patient == p]) for p in self.patients]
        self.patient_means = np.reshape(means, (-1, len(panel)))

    def embed(
        self,
        counts,
        genes: Sequence[str],
        ensembl: Sequence[str],
        panel: Sequence[str],
        progress: Callable[..., Iterable] = lambda items, **_: items,
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray | None]]:
        """Yield the genes' rows of the components, (G, K), the same for every slide."""
        if not self.panel:
            raise unfitted(NAME)
        rows = positions(self.panel, panel, f"the panel that {NAME} was fitted on")
        yield slice(0, 0), self.components[rows].astype(np.float32), None

    def digest(self) -> str:
        return digest_arrays(self.arrays())

    def arrays(self) -> dict[str, np.ndarray]:
        if not self.panel:
            raise unfitted(NAME)
        names = {"panel": pack_names(self.panel), "patients": pack_names(self.patients)}
        return {name: getattr(self, name) for name in ARRAYS} | names

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        require(arrays, (*ARRAYS, "panel", "patients"), NAME)
        for name in ARRAYS:
            setattr(self, name, arrays[name])
        self.panel, self.patients = (unpack_names(arrays[name]) for name in ("panel", "patients"))


def _mean(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """(G,) over the spots of sections (values, known genes); NaN where no section knows the gene."""
    spots = np.sum([there * len(x) for x, there in parts], axis=0)  # (G,)
    total = np.sum([x.sum(0, dtype=np.float64) for x, _ in parts], axis=0)  # 0 where unknown
    return np.divide(total, spots, out=np.full(len(spots), np.nan), where=spots > 0)
