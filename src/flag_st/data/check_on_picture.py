"""Whether the positions of a slide's spots agree with its picture: with the tissue, and with its colours."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flag_st.core.errors import Faults, FlagError
from flag_st.data.check_places import FEW, told_places
from flag_st.data.check_table import Table
from flag_st.data.spatial import pitch
from flag_st.slides.mask import Mask, find_tissue
from flag_st.slides.reader import Reader

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

#: Longest side of the picture on which tissue and colours are looked up, in pixels.
PICTURE_PX = 600
#: A smaller share of spots on tissue is a fault. On sound sections it is 0.77 to 0.98.
LEAST_ON_TISSUE = 0.3
#: Places that hold this much more of the spots on tissue, or explain this much more of the variance of
#: expression, are the right ones. On sound sections no other places are better by more than 0.05.
BETTER = 0.1
#: Genes, and principal components of theirs, whose variance the colours are to explain.
GENES, COMPONENTS, PARTS = 200, 8, 5


def check_on_picture(table: Table, image: Reader, um: float, faults: Faults) -> None:
    """Whether spots lie on tissue, and whether no turned or mirrored places suit the picture better.

    Places suit better if more of them are on tissue, or if the colours at them explain more of the
    variance of expression, which shows an exchange of x and y even where tissue fills the picture.

    Args:
        table: of the spots under tissue, with positions.
        image: the slide image.
        um: µm per pixel of level 0.
        faults: faults are added to it.
    """
    assert table.position is not None
    if len(table.position) < FEW:
        return
    small = image.thumbnail(PICTURE_PX)
    scale = small.shape[1] / image.size[0]
    try:
        mask = Mask(find_tissue(small, um / scale, image.path), um / scale)
    except FlagError as error:
        faults.messages.append(str(error))
        return
    size = np.asarray(image.size)
    own = table.position
    radius = 0.3 * pitch(own)
    on_tissue = _on_tissue(mask, own, radius, um)
    if on_tissue < LEAST_ON_TISSUE:
        faults.add(
            f"{table.path}: {on_tissue:.0%} of the spots lie on tissue of {image.path}",
            remedy="give obsm['spatial'] in pixels of its level 0, x first, and check that counts and picture "
            "are of the same section",
        )
        return
    explained = Explained(_counts(table), small)
    # Colours that explain nothing have an R² below 0, by chance; other places do not suit better by that alone.
    best = max(explained(own * scale, radius * scale), 0.0)
    told = told_places(table)
    for what, places in _other_places(own, size).items():
        if (places < 0).any() or (places >= size).any():
            continue
        tissue = _on_tissue(mask, places, radius, um)
        variance = explained(places * scale, radius * scale)
        # A table whose own columns contradict it has to be clearly right, not only not clearly wrong.
        contradicted = told is not None and np.abs(places - told).max() < radius
        needed = -BETTER if contradicted and np.abs(own - told).max() > radius else BETTER
        if tissue > on_tissue + BETTER or (
            tissue >= on_tissue - BETTER / 2 and variance > best + needed
        ):
            _wrong_way(table.path, what, (on_tissue, tissue), (best, variance), needed < 0, faults)
            return


def _wrong_way(
    path: Path,
    what: str,
    tissue: tuple[float, float],
    variance: tuple[float, float],
    contradicted: bool,
    faults: Faults,
) -> None:
    told = (
        ", and so the columns pxl_col_in_fullres and pxl_row_in_fullres have them"
        if contradicted
        else ""
    )
    faults.add(
        f"{path}: obsm['spatial'] seems to have {what}: {tissue[0]:.0%} of the spots lie on tissue, and "
        f"{tissue[1]:.0%} of them otherwise; the colours at the spots explain {variance[0]:.0%} of "
        f"the variance of expression, and {max(variance[1], 0):.0%} otherwise{told}",
        remedy="give x (to the right) before y (downwards), in pixels of level 0; if obsm['spatial'] is right "
        "and the columns of pixels are exchanged, rename them; if all of this is right, set "
        "check_places: false under prepare",
    )


def _other_places(own: np.ndarray, size: np.ndarray) -> dict[str, np.ndarray]:
    """What may have happened to positions (N, 2) → the places that are right in that case."""
    return {
        "x and y exchanged": own[:, ::-1],
        "x counted from the right": np.column_stack([size[0] - 1 - own[:, 0], own[:, 1]]),
        "y counted from below": np.column_stack([own[:, 0], size[1] - 1 - own[:, 1]]),
        "the picture turned by 180°": size - 1 - own,
    }


def _on_tissue(mask: Mask, position: np.ndarray, radius: float, um: float) -> float:
    """The share of spots that are on tissue with more than half of their disc."""
    return float((mask.inside(position * um, 2 * radius * um) > 0.5).mean())


def _counts(table: Table) -> "csr_matrix":
    """(N, G) counts of the spots of a table."""
    import anndata
    from scipy.sparse import csr_matrix

    found = anndata.read_h5ad(table.path)
    return csr_matrix(found[table.obs.index].X, dtype=np.float64)


class Explained:
    """How much of the variance of expression the colours at places explain.

    Args:
        counts: (N, G) counts.
        small: (h, w, 3) uint8 of the picture.
    """

    def __init__(self, counts: "csr_matrix", small: np.ndarray):
        depth = np.asarray(counts.sum(1)).ravel()  # (N,)
        counts = counts[:, np.argsort(-np.asarray(counts.sum(0)).ravel(), kind="stable")[:2000]]
        values = np.log1p(1e4 * counts.toarray() / np.maximum(depth, 1)[:, None])  # (N, ≤ 2000)
        values = values[:, np.argsort(-values.var(0), kind="stable")[:GENES]]
        left, size, _ = np.linalg.svd(values - values.mean(0), full_matrices=False)
        self.target = left[:, :COMPONENTS] * size[:COMPONENTS]  # (N, C)
        self.part = np.random.default_rng(0).permutation(len(values)) % PARTS  # (N,)
        image = small.astype(np.float64)
        # Sums from the top left corner, by which the mean of a square is four look-ups.
        both = np.concatenate([image, image**2], axis=2)
        self.sums = np.pad(both, ((1, 0), (1, 0), (0, 0))).cumsum(0).cumsum(1)  # (h + 1, w + 1, 6)

    def __call__(self, places: np.ndarray, radius: float) -> float:
        """R² of left-out spots by ridge regression on colours; at most 1, and 0 or less by chance.

        Args:
            places: (N, 2) x and y in pixels of the picture.
            radius: half the edge of the squares whose colours are taken, in pixels.
        """
        colour = self._colours(places, radius)  # (N, 6)
        colour = (colour - colour.mean(0)) / (colour.std(0) + 1e-6)
        design = np.column_stack([colour, colour**2, np.ones(len(colour))])  # (N, 13)
        found = np.zeros_like(self.target)
        for k in range(PARTS):
            rest = design[self.part != k]
            square = rest.T @ rest + np.eye(design.shape[1])
            weights = np.linalg.solve(square, rest.T @ self.target[self.part != k])
            found[self.part == k] = design[self.part == k] @ weights
        total = (self.target**2).sum()
        return float(1 - ((self.target - found) ** 2).sum() / total) if total > 0 else 0.0

    def _colours(self, places: np.ndarray, radius: float) -> np.ndarray:
        """(N, 6) mean and deviation of red, green and blue in squares."""
        limit = np.array(self.sums.shape[1::-1]) - 1  # width, height
        low = np.clip(np.floor(places - radius), 0, limit - 1).astype(int)
        high = np.clip(np.ceil(places + radius) + 1, low + 1, limit).astype(int)
        (left, top), (right, bottom) = low.T, high.T
        total = self.sums[bottom, right] - self.sums[top, right]
        total += self.sums[top, left] - self.sums[bottom, left]
        mean = total / ((right - left) * (bottom - top))[:, None]  # (N, 6)
        deviation = np.sqrt(np.maximum(mean[:, 3:] - mean[:, :3] ** 2, 0))
        return np.column_stack([mean[:, :3], deviation])
