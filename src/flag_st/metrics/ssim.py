"""Structural similarity of gene maps (Wang et al. 2004) on the array of spots."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.ndimage import uniform_filter
from scipy.sparse import csr_array

from flag_st.data.spatial import pitch
from flag_st.metrics import policy
from flag_st.metrics.base import Case, Metric

WINDOW, K1, K2 = 7, 0.01, 0.03
#: Fewest spots, and the share of a window that must be exceeded by measured cells.
MIN_SPOTS, MIN_MEASURED = WINDOW**2, 0.5


def cells(position: np.ndarray | None, grid: np.ndarray | None = None) -> np.ndarray:
    """(N, 2) cell of each spot as non-negative integers.

    Args:
        position: (N, 2); used if array coordinates are unknown, with cells as wide as the pitch
            of the spots.
        grid: (N, 2) row and column on the array. Visium numbers the columns of a row in steps of
            two; here they are consecutive.
    """
    if grid is None:
        assert position is not None, "one of the two is given"
        distinct = np.unique(position, axis=0)
        grid = np.rint((position - position.min(axis=0)) / pitch(distinct)).astype(np.int64)
    else:
        grid = np.asarray(grid).astype(np.int64)
        parity = grid.sum(axis=1) % 2
        if (parity == parity[0]).all():
            grid = np.stack([grid[:, 0], grid[:, 1] // 2], axis=1)
    return grid - grid.min(axis=0)


@dataclass(frozen=True)
class Raster:
    """The array of spots, and which windows on it have enough measured cells.

    Attributes:
        average: (H * W, N) matrix from values of spots to values of cells, which are means where
            several spots share a cell.
        share: (H, W) share of measured cells in the window around each cell.
        valid: (H, W) bool, True for the V measured cells with more than half of their window
            measured.
    """

    average: csr_array
    share: np.ndarray
    valid: np.ndarray

    @classmethod
    def of(cls, cell: np.ndarray) -> "Raster":
        shape = tuple(int(side) for side in cell.max(axis=0) + 1)
        flat, spots = np.ravel_multi_index(tuple(cell.T), shape), np.arange(len(cell))
        count = np.bincount(flat, minlength=shape[0] * shape[1])
        average = csr_array((1 / count[flat], (flat, spots)), shape=(count.size, len(cell)))
        mask = (count > 0).reshape(shape)
        share = _box(mask.astype(np.float64))
        return cls(average, share, mask & (share > MIN_MEASURED))

    def mean(self, image: np.ndarray) -> np.ndarray:
        """(V, G) means over the measured cells of each window of an (H, W, G) image, which is 0
        where it is unmeasured."""
        return _box(image)[self.valid] / self.share[self.valid][:, None]


def _box(image: np.ndarray) -> np.ndarray:
    return uniform_filter(image, WINDOW, mode="constant", axes=(0, 1))


@dataclass(frozen=True)
class Map:
    """Gene maps and their moments in each window.

    Attributes:
        level: (G,) mean over spots.
        deviation: (H, W, G) difference from ``level``, 0 where unmeasured.
        mean, variance: (V, G) moments of the deviation, which lose no digits to a high level.
    """

    level: np.ndarray
    deviation: np.ndarray
    mean: np.ndarray
    variance: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, raster: Raster) -> "Map":
        level = values.mean(axis=0)
        deviation = (raster.average @ (values - level)).reshape(*raster.valid.shape, -1)
        mean = raster.mean(deviation)
        return cls(level, deviation, mean, raster.mean(deviation**2) - mean**2)


def local_ssim(truth: Map, prediction: Map, raster: Raster, span: np.ndarray) -> np.ndarray:
    """(V, G) SSIM of each window; ``span`` (G,) is the data range of both maps."""
    y, p = truth.mean + truth.level, prediction.mean + prediction.level
    covariance = raster.mean(truth.deviation * prediction.deviation) - truth.mean * prediction.mean
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    luminance = (2 * y * p + c1) / (y**2 + p**2 + c1)
    return luminance * (2 * covariance + c2) / (truth.variance + prediction.variance + c2)


class Ssim(Metric):
    """Mean over windows and genes of the local SSIM; the data range is that of each gene's truth.

    Windows have 7 by 7 cells, of which the centre and more than half must be measured. Unmeasured
    cells are left out, because a background that is the same in both maps would count as perfect.
    """

    columns: ClassVar = {"ssim": ("SSIM", 1), "ssim_gene": ("SSIM", 1)}
    pooled = False

    def __call__(self, case: Case) -> dict[str, float | np.ndarray]:
        truth, prediction = policy.checked(case)
        genes, by_gene = policy.usable(case), np.full(len(case.genes), np.nan)
        nothing: dict[str, float | np.ndarray] = {"ssim": float("nan"), "ssim_gene": by_gene}
        if len(truth) < MIN_SPOTS or not genes.any():
            return nothing
        raster = policy.of_truth(
            case,
            "raster",
            lambda: Raster.of(cells(case.position, case.cache.get("grid"))),
        )
        if not raster.valid.any():
            return nothing
        y = policy.of_truth(case, "map", lambda: Map.of(truth[:, genes], raster))
        p = Map.of(prediction[:, genes], raster)
        by_gene[genes] = local_ssim(y, p, raster, np.ptp(truth[:, genes], axis=0)).mean(axis=0)
        return {"ssim": float(by_gene[genes].mean()), "ssim_gene": by_gene}
