"""The highest GSC and SSC that are attainable: the truth compared with a second look at itself.

The truth is a noisy measurement, so even a perfect prediction does not correlate with it
perfectly. Two halves of the truth are compared as if one were a prediction; the Spearman-Brown
formula turns the agreement of two halves into that of two whole measurements.
"""

from collections.abc import Callable, Iterator

import numpy as np

from flag_st.core.seeds import numpy_generator
from flag_st.data.slide import TRANSFORMS
from flag_st.metrics.depth import log_depth, residuals
from flag_st.metrics.gsc import correlations
from flag_st.metrics.policy import MIN_GENES, MIN_SPOTS_STRUCTURE, centred, pearson
from flag_st.metrics.ssc import morans_i, neighbour_graph

#: One look at a slide: expression (N, G) and spot centres (N, 2).
Look = tuple[np.ndarray, np.ndarray]


def spearman_brown(r: float) -> float:
    """Agreement of two whole measurements, from that of two halves."""
    return 2 * r / (1 + r)


def split_spots(
    truth: np.ndarray,
    position: np.ndarray,
    slide: str,
    repeats: int = 10,
    k: int = 8,
    depth: str | None = None,
) -> dict[str, float]:
    """Ceilings from random halves of the spots.

    Neighbours within a half are farther apart than on the slide, so this SSC is a lower bound;
    ``thin_counts`` keeps all spots in place.

    Args:
        truth: (N, G) in the panel's unit; ``position`` (N, 2).
        slide: name, for the random stream.
        depth: the unit of ``truth``, to compare residuals on log depth as the metric Depth does.

    Returns:
        ``gsc_half``, ``ssc_half`` (mean over repeats) and ``gsc``, ``ssc`` (Spearman-Brown); NaN
        where the metric is undefined.
    """
    half = len(truth) // 2

    def halves() -> Iterator[tuple[Look, Look]]:
        for repeat in range(repeats):
            order = numpy_generator("split spots", slide, repeat).permutation(len(truth))
            one, two = np.sort(order[:half]), np.sort(order[half : 2 * half])
            yield (truth[one], position[one]), (truth[two], position[two])

    return _ceilings(halves(), k, depth)


def thin_counts(
    counts: np.ndarray,
    position: np.ndarray,
    slide: str,
    transform: str = "log1p",
    total: np.ndarray | None = None,
    repeats: int = 10,
    k: int = 8,
    depth: bool = False,
) -> dict[str, float]:
    """Ceilings from splitting every count at random in two (binomial thinning).

    Args:
        counts: (N, G) raw integer counts; ``position`` (N, 2).
        slide: name, for the random stream.
        transform: unit that is scored, a key of ``flag_st.data.slide.TRANSFORMS``.
        total: (N, 1) depth of each spot over all genes, which ``log1p_cp10k`` divides by; by
            default the depth over the panel.
        depth: compare residuals on log depth, as the metric Depth does.

    Returns:
        As ``split_spots``.
    """
    counts = np.asarray(counts).astype(np.int64)
    total = counts.sum(axis=1, keepdims=True) if total is None else np.reshape(total, (-1, 1))
    change: Callable = TRANSFORMS[transform]

    def halves() -> Iterator[tuple[Look, Look]]:
        for repeat in range(repeats):
            one = numpy_generator("thin counts", slide, repeat).binomial(counts, 0.5)
            yield (change(one, total / 2), position), (change(counts - one, total / 2), position)

    return _ceilings(halves(), k, transform if depth else None)


def _ceilings(halves: Iterator[tuple[Look, Look]], k: int, depth: str | None) -> dict[str, float]:
    agreements = np.array([_agreement(one, two, k, depth) for one, two in halves])  # (repeats, 2)
    gsc, ssc = (float(v) for v in agreements.mean(axis=0))
    corrected = {"gsc": spearman_brown(gsc), "ssc": spearman_brown(ssc)}
    return {"gsc_half": gsc, "ssc_half": ssc, **corrected}


def _agreement(one: Look, two: Look, k: int, depth: str | None) -> tuple[float, float]:
    if depth is not None:
        one, two = ((residuals(v, log_depth(v, depth)), place) for v, place in (one, two))
    a, b = centred(one[0]), centred(two[0])
    genes = a.varies & b.varies
    if len(one[0]) < MIN_SPOTS_STRUCTURE or genes.sum() < MIN_GENES:
        return float("nan"), float("nan")
    moran_a = morans_i(a, neighbour_graph(one[1], k), genes)[genes]
    moran_b = morans_i(b, neighbour_graph(two[1], k), genes)[genes]
    gsc = pearson(correlations(a, genes), correlations(b, genes))
    return gsc, pearson(moran_a, moran_b)
