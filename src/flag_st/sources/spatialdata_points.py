"""Transcripts as points of a SpatialData store, counted in square bins of the image.

What counts is as 10x Genomics defines it for the matrices of Xenium: a quality of Q20 at least, and genes
alone; control probes and codewords that belong to no gene are left out (Xenium Onboard Analysis,
"Understanding Xenium Outputs").
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from flag_st.core.errors import Faults, FlagError
from flag_st.sources.section import Section, count_faults
from flag_st.sources.spatialdata_image import Asked, StoredImage, applied

QUALITY = "qv"
#: Columns of the gene's name, for points whose metadata name none.
GENES = ("feature_name", "gene", "target")
#: Beginnings of the names that Xenium gives to what is no gene.
CONTROLS = (
    *("NegControlProbe_", "NegControlCodeword_", "antisense_", "BLANK_", "UnassignedCodeword_"),
    *("DeprecatedCodeword_", "Intergenic_Region_", "GenomicControl"),
)
#: The values of ``codeword_category`` that are genes.
GENE_CATEGORIES = ("predesigned_gene", "custom_gene")
#: Why transcripts are left out that no bin holds.
BESIDE = "transcripts beside the image, or in bins that its edge cuts"
#: A gene's number takes so many bits of a key; the bin has the others.
GENE_BITS = 24


def gene_column(points: Any, where: str) -> str:
    """The column that holds the genes of points.

    Raises:
        FlagError: none is known.
    """
    stated = points.attrs.get("spatialdata_attrs", {}).get("feature_key")
    for name in (stated, *GENES):
        if name in points.columns:
            return name
    raise FlagError(
        f"{where}: which column holds the genes is not stated; there are {', '.join(points.columns)}",
        remedy="write the points again with PointsModel.parse(…, feature_key=COLUMN)",
    )


def is_xenium(points: Any) -> bool:
    """Whether points are Xenium's transcripts, whose own coordinates are in µm."""
    return {"feature_name", QUALITY} <= set(points.columns)


@dataclass
class Bins:
    """Counts of transcripts in square bins, which begin at the image's top left corner.

    Args:
        size: width and height of the image in pixels.
        bin_px: edge of a bin in pixels.
        onto: (3, 3) map of the points to pixels of the image.
        min_qv: lowest quality that counts; None counts all.

    Attributes:
        told: how many transcripts were left out, by reason.
    """

    size: tuple[int, int]
    bin_px: float
    onto: np.ndarray
    min_qv: float | None
    told: dict[str, int] = field(default_factory=dict)
    genes: dict[str, int] = field(default_factory=dict)
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    numbers: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def whole(self) -> tuple[int, int]:
        """Numbers of the columns and rows of bins that lie in the image as a whole."""
        width, height = self.size
        return int(width / self.bin_px), int(height / self.bin_px)

    def add(self, points: pd.DataFrame, gene: str) -> None:
        """Count a part of the points; ``gene`` is the column of their genes."""
        kinds = points[gene].astype("category").cat
        names = [n.decode() if isinstance(n, bytes) else str(n) for n in kinds.categories]
        code = kinds.codes.to_numpy()  # (n,) -1 where there is no gene
        keep = self._told("control transcripts", _is_gene(points, names, code))
        known = np.full(len(names), -1, np.int64)
        for i in np.unique(code[keep]):
            known[i] = self.genes.setdefault(names[i], len(self.genes))
        if self.min_qv is not None and QUALITY in points:
            good = points[QUALITY].to_numpy() >= self.min_qv
            keep[keep] = self._told(f"transcripts of a quality below Q{self.min_qv:g}", good[keep])
        place = applied(self.onto, points[["x", "y"]].to_numpy(np.float64)[keep])  # (n, 2) pixels
        cell = np.floor(place / self.bin_px)  # (n, 2) column and row
        inside = self._told(BESIDE, np.all((cell >= 0) & (cell < self.whole), axis=1))
        column, row = cell[inside].astype(np.int64).T
        place_of = row * self.whole[0] + column
        self._count(place_of << GENE_BITS | known[code[keep][inside]])

    def _told(self, what: str, keep: np.ndarray) -> np.ndarray:
        if dropped := int((~keep).sum()):
            self.told[what] = self.told.get(what, 0) + dropped
        return keep

    def _count(self, keys: np.ndarray) -> None:
        new, numbers = np.unique(keys, return_counts=True)
        self.keys, place = np.unique(np.concatenate([self.keys, new]), return_inverse=True)
        total = np.concatenate([self.numbers, numbers])
        self.numbers = np.zeros(len(self.keys), np.int64)
        np.add.at(self.numbers, place, total)

    def result(self) -> tuple[csr_matrix, np.ndarray, list[str]]:
        """Counts (N, G) of the N bins that hold any, their rows and columns (N, 2), and the G genes."""
        names = sorted(self.genes)
        order = np.empty(len(names), np.int64)
        order[[self.genes[name] for name in names]] = np.arange(len(names))
        cells, row = np.unique(self.keys >> GENE_BITS, return_inverse=True)
        gene = order[self.keys & ((1 << GENE_BITS) - 1)]
        shape = (len(cells), len(names))
        counts = csr_matrix((self.numbers.astype(np.float64), (row, gene)), shape=shape)
        return counts, np.stack(np.divmod(cells, max(1, self.whole[0])), 1), names


def _is_gene(points: pd.DataFrame, names: list[str], code: np.ndarray) -> np.ndarray:
    """(n,) bool: whether each transcript is of a gene; ``names[code]`` are what they are of."""
    controls = np.array([name.startswith(CONTROLS) for name in [*names, CONTROLS[0]]])
    keep = ~controls[code]  # the last one stands for a transcript without a name
    if "is_gene" in points:
        keep &= points["is_gene"].fillna(False).to_numpy(bool)
    if "codeword_category" in points:
        keep &= points["codeword_category"].isin(GENE_CATEGORIES).to_numpy()
    return keep


def parts(points: Any, gene: str, where: str) -> Iterator[pd.DataFrame]:
    """The points, one partition of their file at a time, with the columns that counting needs.

    Raises:
        FlagError: a partition is damaged.
    """
    wanted = ["x", "y", gene, QUALITY, "is_gene", "codeword_category"]
    points = points[[name for name in dict.fromkeys(wanted) if name in points.columns]]
    for number, part in enumerate(points.partitions):
        try:
            yield part.compute(scheduler="synchronous")
        except Exception as error:  # readers raise whatever the damaged part happens to cause
            fault = f"{where} is damaged in partition {number} ({error})"
            raise FlagError(fault, remedy="write the store again") from None


def read_points(asked: Asked, made: Any, name: str, bin_um: float, min_qv: float | None) -> Section:
    """A section whose spots are the bins that hold transcripts.

    Args:
        asked: the image.
        made: the store with the image and the points.
        name: of the points.
        bin_um: edge of a bin in µm.
        min_qv: lowest quality that counts; None counts all.

    Raises:
        FlagError: it has faults; all that could be looked for are named.
    """
    points, where, faults = made.points[name], str(asked.store / "points" / name), Faults()
    image = faults.attempt(StoredImage, made.images[asked.image], asked.path)
    gene = faults.attempt(gene_column, points, where)
    over = faults.attempt(asked.over, made, points, f"points {name}")
    if over is not None and image is not None:
        onto, pixels, stated = over
        if is_xenium(points):
            stated["the transcripts of Xenium, which are in µm"] = 1 / pixels
        picture = faults.attempt(asked.picture, image, stated)
    faults.raise_if_any(str(asked.store))
    bins = Bins(image.size, bin_um / picture.pixel_um, onto, min_qv)
    for part in parts(points, gene, where):
        bins.add(part, gene)
    counts, cells, genes = bins.result()
    count_faults(counts.data, where).raise_if_any(str(asked.store))
    barcodes = pd.Index([f"{row}x{column}" for row, column in cells], dtype=object)
    return Section(
        counts=counts,
        spots=pd.DataFrame(cells, columns=["array_row", "array_col"], index=barcodes),
        genes=pd.DataFrame(index=pd.Index(genes, dtype=object)),
        position=(cells[:, ::-1] + 0.5) * bins.bin_px,
        picture=picture,
        technology="Xenium" if is_xenium(points) else "transcripts",
        pitch_um=bin_um,
        spot_um=bin_um,
        told=bins.told,
        paint=lambda path: asked.write(path, picture.pixel_um),
    )
