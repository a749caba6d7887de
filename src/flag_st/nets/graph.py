"""Spot graphs as tensors: edge attributes, and batches of graphs with padding."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from flag_st.data.slide import Slide, pixel_of
from flag_st.data.spatial import around, pitch
from flag_st.data.tiling import Seen

#: Which edges a graph has (paper Table 14).
Edges = Literal["both", "distance", "histology", "none"]

#: Edge attributes by the name of a choice (paper Table 14), in the order in which they are stacked.
EDGES: dict[str, tuple[str, ...]] = {
    "both": ("rbf", "log_distance", "hop", "similarity"),
    "distance": ("rbf", "log_distance", "hop"),
    "histology": ("similarity",),
    "none": (),
}

#: The edge attributes of the paper: the distance kernel and the similarity (Eq. 58-60).
PAPER_EDGES: dict[str, tuple[str, ...]] = {
    "both": ("rbf", "similarity"),
    "distance": ("rbf",),
    "histology": ("similarity",),
    "none": (),
}


@dataclass(frozen=True)
class Kernel:
    """The width σ of the distance kernel exp(−d² / 2 σ²) of an edge (paper Eq. 58).

    Attributes:
        sigma_um: σ in µm. The paper's 224 px are 154 µm on HER2ST.
        sigma_px: σ in pixels of level 0, whatever size these have (paper: 224); if it is given,
            ``sigma_um`` is ignored.
    """

    sigma_um: float = 154.0
    sigma_px: float | None = None

    def width(self, slide: Slide) -> float:
        """σ in µm on one slide.

        Raises:
            FlagError: σ is given in pixels and the slide's pixel size is unknown.
        """
        return self.sigma_um if self.sigma_px is None else self.sigma_px * pixel_of(slide)


@dataclass(frozen=True)
class Graph(Kernel):
    """Which spots are joined and what their edges know; the ``graph`` argument of methods.

    Attributes:
        edges: ``both``, ``distance``, ``histology`` or ``none`` (paper Table 14; ``none`` is the
            network without a graph of Table 2).
        neighbours: how many nearest spots each spot sees; null lets all spots of a tile see each
            other.
        far: how many spots beyond these each spot sees (``flag_st.data.spatial.around``). The cost
            of attention is linear in the spots unless ``neighbours`` is null.
    """

    edges: Edges = "both"
    neighbours: int | None = 16
    far: int = 12


@dataclass(frozen=True)
class GraphBuilder:
    """Builds the spot graphs of one method, from indices of spots to batches of tiles.

    Attributes:
        kernel: the width of the distance kernel.
        channels: names of the edge attributes.
        neighbours, far: as in ``Graph``.
        loops: whether a spot has an edge with itself; the paper's edges join different spots only.
    """

    kernel: Kernel
    channels: tuple[str, ...]
    neighbours: int | None = None
    far: int = 0
    loops: bool = True

    def graph(self, seen: Seen, index: np.ndarray) -> "SpotGraph":
        """The graph of those spots of a slide that are a tile, by their indices (n,)."""
        return spot_graph(
            seen.slide.position[index],
            seen.u[index],
            None if seen.y is None else seen.y[index],
            self.neighbours,
            self.far,
            self.kernel.width(seen.slide),
        )

    def tiles(self, parts: Sequence[tuple[Seen, np.ndarray]]) -> "Tiles":
        """One batch: each part is a slide and the indices (n,) of those spots that are a tile."""
        return collate([self.graph(*part) for part in parts], self.channels, self.loops)


@dataclass(frozen=True)
class SpotGraph:
    """One tile, or a whole slide.

    Attributes:
        x: (N, D) features. pos: (N, 2) µm. y: (N, G) normalised expression, or None.
        near: (N, K) spots that each spot sees, itself first, or None if it sees all.
        scale: pitch of the spots in µm. sigma: width of the distance kernel in µm.
    """

    x: Tensor
    pos: Tensor
    scale: float
    sigma: float
    near: Tensor | None = None
    y: Tensor | None = None


def spot_graph(
    position: np.ndarray,
    features: np.ndarray,
    y: np.ndarray | None = None,
    neighbours: int | None = None,
    far: int = 0,
    sigma_um: float = 154.0,
) -> SpotGraph:
    """The graph of a tile (or slide).

    Args:
        position: (N, 2) µm. features: (N, D). y: (N, G) normalised expression, if known.
        neighbours, far: each spot sees itself and the spots that ``around`` gives for these numbers
            (K = 1 + neighbours + far, filled with its own index where the tile is smaller); None
            lets all spots see each other.
        sigma_um: width of the distance kernel, which may differ between slides.
    """
    near = None
    if neighbours is not None:
        own = np.arange(len(position))[:, None]
        threads = torch.get_num_threads()
        near = np.concatenate([own, around(position, neighbours, far, workers=threads)], 1)
        missing = 1 + neighbours + far - near.shape[1]
        near = np.concatenate([near, np.repeat(own, missing, 1)], 1)  # (N, 1 + near + far)
    return SpotGraph(
        x=torch.as_tensor(features, dtype=torch.float32),
        pos=torch.as_tensor(position, dtype=torch.float32),
        scale=max(pitch(position), 1e-3),
        sigma=float(sigma_um),
        near=None if near is None else torch.as_tensor(near),
        y=None if y is None else torch.as_tensor(y, dtype=torch.float32),
    )


@dataclass(frozen=True)
class Tiles:
    """B graphs padded to the same N, in which each spot sees K spots.

    Attributes:
        x: (B, N, D) features. y: (B, N, G) or None. mask: (B, N), True where a spot is real.
        near: (B, N, K) which spots of its tile each spot sees, or None for all (then K = N).
        seen: (B, N, K), False for padding and for repetitions of the spot itself.
        edges: (B, N, K, C) attributes, 0 where not ``seen``.
    """

    x: Tensor
    mask: Tensor
    seen: Tensor
    edges: Tensor
    near: Tensor | None = None
    y: Tensor | None = None

    @property
    def truth(self) -> Tensor:
        """``y``, which must be known."""
        assert self.y is not None
        return self.y

    def to(self, device: str) -> "Tiles":
        held = {field.name: getattr(self, field.name) for field in fields(self)}
        return Tiles(**{k: v.to(device) for k, v in held.items() if v is not None})


def collate(graphs: Sequence[SpotGraph], channels: Sequence[str], loops: bool = True) -> Tiles:
    """Batch graphs of different sizes.

    Args:
        channels: names of the edge attributes.
        loops: whether a spot has an edge with itself; the paper's edges join different spots only.
    """

    def padded(name: str) -> Tensor | None:
        values = [value for graph in graphs if (value := getattr(graph, name)) is not None]
        if not values:
            return None
        # A whole slide is not copied.
        return values[0].unsqueeze(0) if len(graphs) == 1 else pad_sequence(values, True)

    x, pos, near, y = (padded(name) for name in ("x", "pos", "near", "y"))
    assert x is not None
    assert pos is not None  # (B, N, D), (B, N, 2), (B, N, K), (B, N, G)
    sizes = torch.tensor([len(graph.x) for graph in graphs])  # (B,)
    mask = torch.arange(x.shape[1]) < sizes.unsqueeze(1)  # (B, N)
    if near is not None:
        own = torch.arange(mask.shape[1]).view(1, -1, 1)  # (1, N, 1)
        # Padded spots would see spot 0. They see themselves instead, so that no softmax is empty.
        near = torch.where(mask.unsqueeze(-1), near, own)  # (B, N, K)
        itself = near == own  # (B, N, K)
        first = torch.arange(near.shape[-1]) == 0  # (K,): the spot itself, once
        seen = first | ~itself  # (B, N, K)
    else:
        itself = torch.eye(mask.shape[1], dtype=torch.bool)  # (N, N)
        seen = mask.unsqueeze(1) & mask.unsqueeze(2) | itself  # (B, N, N)
    scale = torch.tensor([graph.scale for graph in graphs])  # (B,)
    sigma = torch.tensor([graph.sigma for graph in graphs])  # (B,)
    edges = edge_attributes(pos, x, near, seen, scale, sigma, channels)  # (B, N, K, C)
    known = seen if loops else seen & ~itself  # (B, N, K)
    return Tiles(x, mask, seen, edges * known.unsqueeze(-1), near, y)


def gather(values: Tensor, near: Tensor) -> Tensor:
    """values (B, N, d) of the spots near (B, N, K) → (B, N, K, d)."""
    b, n, d = values.shape
    offset = n * torch.arange(b, device=near.device).view(-1, 1, 1)  # (B, 1, 1)
    picked = values.reshape(b * n, d).index_select(0, (near + offset).flatten())  # (B N K, d)
    return picked.view(b, n, -1, d)


def edge_attributes(
    pos: Tensor,
    x: Tensor,
    near: Tensor | None,
    seen: Tensor,
    scale: Tensor,
    sigma: Tensor,
    channels: Sequence[str],
) -> Tensor:
    """Static topology (paper Eq. 58-60): attributes of the pairs (i, near i), or of all pairs.

    Args:
        pos: (B, N, 2) µm. x: (B, N, D). near: (B, N, K) or None. seen: (B, N, K).
        scale: (B,) spot pitch in µm, the unit of hops. sigma: (B,) width of the kernel in µm.

    Returns:
        (B, N, K, C), K = N without ``near``.
    """
    if near is None:
        d = torch.cdist(pos, pos, compute_mode="donot_use_mm_for_euclid_dist")  # (B, N, N)
    else:
        d = (gather(pos, near) - pos.unsqueeze(2)).norm(dim=-1)  # (B, N, K)
    alike = partial(similarity, x, near, seen)
    return attributes(channels, d, scale.view(-1, 1, 1), sigma.view(-1, 1, 1), alike)


def attributes(
    channels: Sequence[str],
    d: Tensor,
    scale: Tensor | float,
    sigma: Tensor | float,
    alike: Callable[[], Tensor],
) -> Tensor:
    """What the edges of length ``d`` know, by the names of ``EDGES``.

    Args:
        d: µm, of any shape. scale, sigma: µm, as in ``SpotGraph``; they broadcast with ``d``.
        alike: gives the cosine of the two spots' features, of the shape of ``d``. It is called only
            if an edge knows it.

    Returns:
        the shape of ``d``, and one column per channel.
    """
    hops = d / scale  # like d
    made = {
        "rbf": lambda: torch.exp(-(d**2) / (2 * sigma**2)),
        "log_distance": lambda: torch.log1p(hops),
        "hop": lambda: ((hops > 0) & (hops < 1.5)).float(),
        "similarity": alike,
    }
    if not channels:
        return d.new_zeros(*d.shape, 0)  # (..., 0)
    return torch.stack([made[c]() for c in channels], dim=-1)  # (..., C)


def similarity(x: Tensor, near: Tensor | None, seen: Tensor) -> Tensor:
    """Cosine of the features x (B, N, D) of all pairs, or of the seen (i, near i) → (B, N, K)."""
    unit = F.normalize(x, dim=-1)  # (B, N, D)
    if near is None:
        return unit @ unit.transpose(1, 2)  # (B, N, N)
    b, n, k = near.shape
    place = near + n * torch.arange(b).view(-1, 1, 1)  # (B, N, K)
    columns, order = place.masked_fill(~seen, b * n).view(b * n, k).sort(dim=1)  # 2 × (B N, K)
    kept = columns < b * n  # (B N, K)
    found = products(unit.flatten(0, 1), kept.sum(1), columns[kept])  # (M,)
    ordered = unit.new_zeros(b * n, k).masked_scatter_(kept, found)  # (B N, K)
    return torch.empty_like(ordered).scatter_(1, order, ordered).view(b, n, k)


def products(rows: Tensor, counts: Tensor, columns: Tensor) -> Tensor:
    """Inner products of rows (N, D) with each other → (M,), without a copy of M × D features.

    Args:
        counts: (N,) with how many rows each row is multiplied; their sum is M.
        columns: (M,) with which, row after row and ascending within a row.
    """
    ends = F.pad(counts.cumsum(0), (1, 0))  # (N + 1,)
    nothing = rows.new_zeros(len(columns))
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Sparse (CSR|invariant)"
        )  # torch calls them a beta feature
        # Products at given places of a sparse matrix.
        places = torch.sparse_csr_tensor(ends, columns, nothing, (len(rows), len(rows)))
        return torch.sparse.sampled_addmm(places, rows, rows.T, beta=0.0).values()  # (M,)
