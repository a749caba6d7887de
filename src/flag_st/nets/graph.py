"""Spot graphs: neighbourhoods, tiles, edge attributes, and batches with padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.utils import to_dense_batch

#: Edge channels, in the order in which ``edge_attributes`` stacks them.
CHANNELS = ("rbf", "log_distance", "hop", "similarity")
EDGES = {
    "both": ("rbf", "log_distance", "hop", "similarity"),
    "distance": ("rbf", "log_distance", "hop"),
    "histology": ("similarity",),
    "none": (),
}


def nearest(position: np.ndarray, k: int) -> np.ndarray:
    """(N, min(k, N − 1)) indices of each spot's nearest other spots; ties by index."""
    k = min(k, len(position) - 1)
    # The spot itself is dropped by index, since duplicate coordinates are neighbours; the few
    # candidates beyond k let ties of a square or hexagonal array be broken by index too.
    candidates = min(k + 9, len(position))
    distance, index = cKDTree(position).query(position, k=candidates)
    own = index == np.arange(len(position))[:, None]
    distance = np.where(own, np.inf, distance)
    order = np.lexsort((index, np.round(distance, 6)), axis=1)[:, :k]
    return np.take_along_axis(index, order, axis=1)


def pitch(position: np.ndarray) -> float:
    """Median distance to the nearest other spot, in µm."""
    if len(position) < 2:
        return 1.0
    return float(np.median(cKDTree(position).query(position, k=2)[0][:, 1]))


def spot_graph(
    position: np.ndarray, features: np.ndarray, y: np.ndarray | None = None, **more
) -> Data:
    """One tile (or slide) as a torch-geometric graph.

    Args:
        position: (N, 2) µm. features: (N, D). y: (N, G) normalised expression, if known.
    """
    data = Data(
        x=torch.as_tensor(features, dtype=torch.float32),
        pos=torch.as_tensor(position, dtype=torch.float32),
        scale=torch.tensor([max(pitch(position), 1e-3)]),
        **more,
    )
    if y is not None:
        data.y = torch.as_tensor(y, dtype=torch.float32)
    return data


@dataclass(frozen=True)
class Tiles:
    """B graphs padded to the same N.

    Attributes:
        x: (B, N, D) features. y: (B, N, G) or None. mask: (B, N), True where a spot is real.
        edges: (B, N, N, C) attributes of all pairs, zero where either spot is padding.
    """

    x: Tensor
    edges: Tensor
    mask: Tensor
    y: Tensor | None = None

    def to(self, device: str) -> "Tiles":
        return Tiles(
            *(None if t is None else t.to(device) for t in (self.x, self.edges, self.mask, self.y))
        )


def collate(graphs: Sequence[Data], channels: Sequence[str], sigma_um: float) -> Tiles:
    """Batch graphs of different size; ``channels`` as in ``EDGES``, RBF width in µm."""
    batch = Batch.from_data_list(list(graphs))
    x, mask = to_dense_batch(batch.x, batch.batch)  # (B, N, D), (B, N)
    pos, _ = to_dense_batch(batch.pos, batch.batch)  # (B, N, 2)
    y = None
    if "y" in batch:
        y, _ = to_dense_batch(batch.y, batch.batch)  # (B, N, G)
    edges = edge_attributes(pos, x, batch.scale, channels, sigma_um)  # (B, N, N, C)
    real = mask.unsqueeze(1) & mask.unsqueeze(2)  # (B, N, N)
    return Tiles(x, edges * real.unsqueeze(-1), mask, y)


def edge_attributes(
    pos: Tensor, x: Tensor, scale: Tensor, channels: Sequence[str], sigma_um: float
) -> Tensor:
    """Static topology of all pairs of a tile (paper Eq. 58-60), distances in µm.

    Args:
        pos: (B, N, 2). x: (B, N, D). scale: (B,) spot pitch, the unit of hops.

    Returns:
        (B, N, N, C).
    """
    d = torch.cdist(pos, pos, compute_mode="donot_use_mm_for_euclid_dist")  # (B, N, N)
    hops = d / scale.view(-1, 1, 1)  # (B, N, N)
    unit = F.normalize(x, dim=-1)  # (B, N, D)
    made = {
        "rbf": lambda: torch.exp(-(d**2) / (2 * sigma_um**2)),
        "log_distance": lambda: torch.log1p(hops),
        "hop": lambda: ((hops > 0) & (hops < 1.5)).float(),
        "similarity": lambda: unit @ unit.transpose(1, 2),
    }
    if not channels:
        return pos.new_zeros(*d.shape, 0)  # (B, N, N, 0)
    return torch.stack([made[c]() for c in channels], dim=-1)  # (B, N, N, C)
