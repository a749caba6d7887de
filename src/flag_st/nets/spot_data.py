"""Spot graphs as torch-geometric's ``Data``: the spots of a tile and a list of edges.

``flag_st.nets.graph.collate`` pads the same graphs for FLAG's own attention. The library is imported
inside functions, because that alone takes seconds and most jobs do without it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from flag_st.nets.graph import SpotGraph, attributes, products

if TYPE_CHECKING:
    from torch_geometric.data import Data


def spot_data(
    graph: SpotGraph, channels: Sequence[str] = (), edges: Tensor | None = None
) -> "Data":
    """One spot graph for the layers, the batches and the loader of torch-geometric.

    Args:
        graph: the spots, their features and their neighbours.
        channels: names of the edge attributes (``flag_st.nets.graph.EDGES``).
        edges: (2, E) pairs of the spot that is seen and the spot that sees it, in any order and
            possibly repeated; by default, what each spot of ``graph`` sees, itself included.

    Returns:
        x (N, D), pos (N, 2) µm, y (N, G) where known, and each edge once: edge_index (2, E), in the
        order of the spots that see, and edge_attr (E, C) if there are ``channels``.
    """
    from torch_geometric.data import Data
    from torch_geometric.utils import coalesce

    asked = neighbour_edges(graph) if edges is None else edges  # (2, E)
    # In the order of the spots that see, all sums of a spot are of one run of edges.
    edge_index = coalesce(asked, num_nodes=len(graph.x), sort_by_row=False)  # (2, E)
    known = edge_values(graph, edge_index, channels) if channels else None  # (E, C)
    return Data(graph.x, edge_index, known, graph.y, graph.pos)


def neighbour_edges(graph: SpotGraph) -> Tensor:
    """(2, E): which spot is seen by which, itself included; repetitions are kept."""
    n = len(graph.x)
    near = torch.arange(n).expand(n, n) if graph.near is None else graph.near  # (N, K)
    own = torch.arange(n).unsqueeze(1).expand_as(near)  # (N, K)
    return torch.stack([near.flatten(), own.flatten()])  # (2, N K)


def edge_values(graph: SpotGraph, edge_index: Tensor, channels: Sequence[str]) -> Tensor:
    """(E, C) attributes of edges in the order of the spots that see."""
    seen, seeing = edge_index
    d = (graph.pos[seen] - graph.pos[seeing]).norm(dim=-1)  # (E,)

    def alike() -> Tensor:
        counts = torch.bincount(seeing, minlength=len(graph.x))  # (N,)
        return products(F.normalize(graph.x, dim=-1), counts, seen)  # (E,)

    return attributes(channels, d, graph.scale, graph.sigma, alike)  # (E, C)
