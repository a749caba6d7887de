"""Spot graphs for torch-geometric are those that FLAG reads, or of edges from elsewhere."""

import subprocess
import sys

import pytest
import torch
from torch_geometric.utils import add_self_loops, coalesce, to_undirected
from toy_slides import toy_graphs

from flag_st.nets import graph
from flag_st.nets.spot_data import spot_data

BOTH = graph.EDGES["both"]


def pairs_of_tiles(tiles, one):
    """(seen, seeing) → attributes, as the padded form has them."""
    seeing, slot = tiles.seen[one].nonzero().T
    near = slot if tiles.near is None else tiles.near[one][seeing, slot]
    values = tiles.edges[one][seeing, slot]
    return dict(zip(zip(near.tolist(), seeing.tolist(), strict=True), values, strict=True))


@pytest.mark.parametrize(("neighbours", "far"), [(6, 2), (0, 0), (None, 0), (40, 3)])
@pytest.mark.parametrize("channels", list(graph.EDGES.values())[:3])
def test_edges_and_their_attributes_are_those_of_the_padded_form(neighbours, far, channels):
    graphs = toy_graphs([9, 31], neighbours, far)
    tiles = graph.collate(graphs, channels)
    for i, one in enumerate(graphs):
        data = spot_data(one, channels)
        data.validate()
        expected = pairs_of_tiles(tiles, i)
        expected = {pair: v for pair, v in expected.items() if max(pair) < len(one.x)}
        found = list(map(tuple, data.edge_index.T.tolist()))
        assert len(set(found)) == len(found)
        assert set(found) == set(expected)
        values = torch.stack([expected[pair] for pair in found])
        torch.testing.assert_close(data.edge_attr, values)
        assert data.is_sorted(sort_by_row=False)
        torch.testing.assert_close(data.y, one.y)


def test_an_edge_without_attributes_has_none():
    assert spot_data(toy_graphs([9])[0]).edge_attr is None


def test_edges_may_come_from_elsewhere():
    """A hierarchy of spots, such as stars around centres, is a list of edges in any order."""
    (one,) = toy_graphs([12])
    star = torch.stack([torch.arange(12), torch.full((12,), 5)])
    edges, _ = add_self_loops(to_undirected(star))
    shuffled = edges[:, torch.randperm(edges.shape[1], generator=torch.Generator().manual_seed(0))]
    data = spot_data(one, BOTH, torch.cat([shuffled, star], 1))
    torch.testing.assert_close(data.edge_index, coalesce(edges, sort_by_row=False))
    assert data.is_undirected()
    assert data.edge_index.shape[1] == 12 + 2 * 11
    again = spot_data(one, BOTH, shuffled)
    assert torch.equal(data.edge_attr, again.edge_attr)
    distance = (one.pos[data.edge_index[0]] - one.pos[data.edge_index[1]]).norm(dim=1)
    torch.testing.assert_close(data.edge_attr[:, 1], torch.log1p(distance / one.scale))


# --- what a job pays --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module",
    [
        "methods.graph_regressor",
        "methods.merge",
        "methods.flag.method",
        "commands.describe",
        "commands.cli",
    ],
)
def test_the_library_is_imported_where_it_is_needed_alone(module):
    """Its import takes seconds of every job."""
    code = f"import sys, flag_st.{module}; sys.exit('torch_geometric' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
