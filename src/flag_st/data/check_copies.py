"""Whether two slides of a cohort are one section under two names, which a split could put on both its sides."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flag_st.core.errors import Faults
from flag_st.data.barcodes import plain
from flag_st.data.slide_files import SlideFiles
from flag_st.slides.files import open_reader

#: Two slides are one section if this share of the spots of the smaller one is in the other, too.
SHARE = 0.5
#: Where more than one spot in ten has the counts of another spot of its own section, spots of other
#: sections may have them as well.
DISTINCT = 0.9
#: At how many common places pictures are compared, and the edge of what is compared there, in pixels.
PLACES, EDGE = 5, 64


class Marks(NamedTuple):
    """By what a section is recognised, whatever the order of its spots and genes.

    Attributes:
        counts: one number for the counts of each spot, sorted; empty where they tell too little.
        places: (x, y) in whole pixels of level 0 → the spot there; empty without an image.
    """

    counts: np.ndarray
    places: dict[tuple[int, int], str]


def check_copies(
    files: Mapping[str, SlideFiles],
    genes: Mapping[str, Sequence[str]],
    further: Mapping[str, Path] | None = None,
) -> Faults:
    """Name every two slides that are one section: by their counts, or by their picture and positions.

    Adjacent sections of one patient share neither: two spots of tissue hardly ever have the same count
    of every gene. A section counts as the same one, too, if some of its spots or genes were left out.

    Args:
        files: the files of each slide, which have no fault of their own.
        genes: the names of the genes of each slide.
        further: counts of sections without an image, which gene models learn from.
    """
    faults = Faults()
    further = further or {}
    named = [set(names) for names in genes.values()] + [
        set(gene_names(p)) for p in further.values()
    ]
    common = set.intersection(*named) if named else set()
    marks = {slide: _marks(own.st, common) for slide, own in files.items()}
    marks |= {name: _marks(path, common, placed=False) for name, path in further.items()}
    copies: set[str] = set()
    for one, other in combinations(marks, 2):
        if copies & {one, other}:
            continue  # of one section under three names, the first is named with each of the others
        why = _same_counts(marks[one], marks[other])
        if not why and one in files and other in files:
            pair = [(files[name], marks[name].places) for name in (one, other)]
            why = _same_picture(*pair)
        if why:
            copies.add(other)
            faults.add(
                f"{one} and {other} are the same section under two names: {why}",
                remedy=f"keep one of them: take {other} out of the folder or the slide sheet, or list the slides to "
                "use under slides in the cohort's entry",
            )
    return faults


def gene_names(path: Path) -> list[str]:
    """The names of the genes of a table of counts; repeated ones are numbered, as ``prepare`` does."""
    import anndata

    table = anndata.read_h5ad(path, backed="r")
    table.var_names_make_unique()
    names = [str(name) for name in table.var_names]
    table.file.close()
    return names


def _marks(path: Path, genes: set[str], placed: bool = True) -> Marks:
    """The marks of a table of counts, by the counts of ``genes``."""
    import anndata
    from scipy.sparse import csr_matrix

    table = anndata.read_h5ad(path)
    # A sum of one random number per count, which the order of genes does not matter to.
    weights = np.array([_number(g) if g in genes else 0 for g in table.var_names], dtype=np.uint64)
    sums = csr_matrix(table.X).astype(np.uint64) @ weights  # (N,), modulo 2^64
    sums = sums[sums != 0]
    distinct = np.unique(sums)
    counts = distinct if len(distinct) >= DISTINCT * len(sums) else distinct[:0]
    whole = np.rint(np.asarray(table.obsm["spatial"], float)).astype(int) if placed else np.empty(0)
    return Marks(counts, dict(zip(map(tuple, whole.tolist()), table.obs_names, strict=False)))


@cache
def _number(gene: str) -> int:
    return int.from_bytes(hashlib.blake2b(gene.encode(), digest_size=8).digest(), "little")


def _same_counts(one: Marks, other: Marks) -> str:
    """What says that two sections are the same, or an empty text."""
    smaller = min(len(one.counts), len(other.counts))
    shared = len(np.intersect1d(one.counts, other.counts, assume_unique=True))
    if not shared or shared < SHARE * smaller:
        return ""
    return f"{shared} of the {smaller} spots of the smaller one have the same counts as a spot of the other"


def _same_picture(*pair: tuple[SlideFiles, Mapping[tuple[int, int], str]]) -> str:
    """As ``_same_counts``, by the files and the places of two slides.

    One picture may show several sections, which then have other places on it.
    """
    (one, places), (other, others) = pair
    common, smaller = places.keys() & others.keys(), min(len(places), len(others))
    if not common or len(common) < SHARE * smaller:
        return ""
    # The same places for all pairs of slides on one grid, so that each picture is looked at once.
    chosen = sorted(common, key=lambda place: _number(str(place)))[:PLACES]
    if one.wsi is not None and other.wsi is not None:
        looks = [_on_image(files.wsi, tuple(chosen)) for files, _ in pair if files.wsi]
    elif one.patches is not None and other.patches is not None:
        looks = [
            _patches(files.patches, [at[p] for p in chosen]) for files, at in pair if files.patches
        ]
    else:
        return ""
    same = looks[0].shape == looks[1].shape and looks[0].size and (looks[0] == looks[1]).all()
    if not same or np.ptp(looks[0]) == 0:
        return ""
    return f"{len(common)} of the {smaller} spots of the smaller one lie at the same pixels of the same picture"


@lru_cache(maxsize=1024)
def _on_image(path: Path, places: tuple[tuple[int, int], ...]) -> np.ndarray:
    """(n, EDGE, EDGE, 3) uint8: what a picture shows around some places."""
    with open_reader(path) as image:
        corners = [(x - EDGE // 2, y - EDGE // 2) for x, y in places]
        return np.array([image.square(corner, 1.0, EDGE) for corner in corners])


def _patches(path: Path, spots: Sequence[str]) -> np.ndarray:
    """(n, size, size, 3) uint8: the patches of those of some spots that have one."""
    import h5py

    with h5py.File(path, "r") as file:
        rows = {b: i for i, b in enumerate(plain(file["barcode"].asstr()[:].ravel()))}
        return np.array([file["img"][rows[spot]] for spot in plain(spots) if spot in rows])
