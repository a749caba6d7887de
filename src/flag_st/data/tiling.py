"""Which spots of a slide a network sees together, in training and in prediction: tiles."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch

from flag_st.core.errors import FlagError
from flag_st.data.slide import Slide, pixel_of
from flag_st.data.spatial import compact_tiles, grid_tiles


class Seen(NamedTuple):
    """A slide as a network sees it: features u (N, D), and expression y (N, G) where known."""

    slide: Slide
    u: np.ndarray
    y: np.ndarray | None = None


@dataclass(frozen=True)
class Tiling:
    """How slides are cut into tiles; the ``tiling`` argument of methods with a spot graph.

    Attributes:
        shape: ``nearest``: training takes a random spot and the spots nearest to it, and prediction
            takes the whole slide as one tile. ``compact``: the same in training, but prediction
            cuts the slide into compact tiles of at most ``spots`` spots. ``grid``: fixed squares
            in both, which do not see each other (paper).
        spots: spots per tile, for ``nearest`` and ``compact``.
        edge_px: edge of a square of ``grid`` in pixels of level 0 (paper: 2048).
        per_step: tiles per batch; the smaller ones are padded to the largest.

    Raises:
        FlagError: a size is not positive.
    """

    shape: Literal["nearest", "compact", "grid"] = "nearest"
    spots: int = 256
    edge_px: float = 2048.0
    per_step: int = 4

    def __post_init__(self) -> None:
        for name in ("spots", "edge_px", "per_step"):
            if getattr(self, name) <= 0:
                raise FlagError(f"tiling: {name} must be positive, not {getattr(self, name)}")

    def cut(self, slide: Slide) -> list[np.ndarray]:
        """The tiles that prediction sees: indices of their spots, each spot in one tile.

        Raises:
            FlagError: the shape is ``grid`` and the slide's pixel size is unknown.
        """
        if self.shape == "grid":
            return grid_tiles(slide.position, self.edge_px * pixel_of(slide))
        if self.shape == "compact":
            return compact_tiles(slide.position, self.spots)
        return [np.arange(len(slide))]

    def batches(
        self, slides: Sequence[Slide], generator: torch.Generator
    ) -> Iterator[list[tuple[int, np.ndarray]]]:
        """One epoch of training, in random order; each spot is seen about once.

        Yields:
            up to ``per_step`` tiles, each as the number of its slide and the indices of its spots.
        """
        tiles = [(i, tile) for i, slide in enumerate(slides) for tile in self._epoch(slide)]
        order = torch.randperm(len(tiles), generator=generator)
        for step in order.split(self.per_step):
            batch = []
            for i, tile in (tiles[k] for k in step.tolist()):
                if tile is None:
                    tile = random_tile(slides[i].position, self.spots, generator)
                batch.append((i, tile))
            yield batch

    def _epoch(self, slide: Slide) -> Sequence[np.ndarray | None]:
        """One epoch's tiles of a slide; None stands for a tile that is still to be drawn."""
        if self.shape == "grid":
            return self.cut(slide)
        return [None] * max(1, round(len(slide) / self.spots))


def random_tile(position: np.ndarray, spots: int, generator: torch.Generator) -> np.ndarray:
    """Indices of a random spot and its nearest spots, ``spots`` in all, in ascending order.

    Training thus sees the tissue at every offset, and no place always lies at a tile's border.
    """
    if len(position) <= spots:
        return np.arange(len(position))
    centre = int(torch.randint(len(position), (1,), generator=generator))
    distance = np.linalg.norm(position - position[centre], axis=1)
    return np.sort(np.argsort(distance, kind="stable")[:spots])
