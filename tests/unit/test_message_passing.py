"""FLAG's attention to neighbours is what torch-geometric computes by passing messages."""

import copy

import pytest
import torch
from torch_geometric.data import Batch
from torch_geometric.nn import TransformerConv
from toy_slides import toy_graphs

from flag_st.nets import graph
from flag_st.nets.graph_transformer import EdgeBias, SpotAttention
from flag_st.nets.message_passing import MessageAttention
from flag_st.nets.spot_data import spot_data

WIDTH, HEADS, BOTH = 24, 4, graph.EDGES["both"]


def attention():
    torch.manual_seed(0)
    found = SpotAttention(WIDTH, HEADS).double(), EdgeBias(len(BOTH), HEADS).double()
    torch.nn.init.normal_(found[1].mlp[-1].weight)
    return found


def sides(sizes, neighbours, far):
    """The same graphs padded and as one ``Batch``, with doubles throughout."""
    graphs = toy_graphs(sizes, neighbours, far, WIDTH)
    tiles = graph.collate(graphs, BOTH)
    batch = Batch.from_data_list([spot_data(one, BOTH) for one in graphs])
    return tiles, batch, batch.x.double().requires_grad_()


def padded(net, bias, tiles, x):
    """FLAG's attention of the real spots (N, d), as ``GraphTransformer`` computes it."""
    dense = torch.zeros(*tiles.mask.shape, WIDTH, dtype=x.dtype).masked_scatter(
        tiles.mask.unsqueeze(-1), x
    )
    # Rows of padding hold junk, which must not reach real spots.
    dense = torch.where(tiles.mask.unsqueeze(-1), dense, 50.0)
    seen = tiles.seen.unsqueeze(1)
    logit = bias(tiles.edges.double()).masked_fill(~seen, -1e300) if bias else seen
    return net(dense, logit, tiles.near)[tiles.mask]


def gradients(found, inputs):
    weight = torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view_as(found)
    return torch.autograd.grad((found * weight).sum(), inputs)


@pytest.mark.parametrize(("neighbours", "far"), [(6, 2), (40, 3), (None, 0)])
def test_message_passing_computes_the_same_attention_and_gradients(neighbours, far):
    net, bias = attention()
    tiles, batch, x = sides([9, 31, 17], neighbours, far)
    inputs = [x, *net.parameters(), *bias.parameters()]
    ours = padded(net, bias, tiles, x)
    theirs = MessageAttention(net, bias)(x, batch.edge_index, batch.edge_attr.double())
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)
    for a, b in zip(gradients(ours, inputs), gradients(theirs, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_transformer_conv_is_the_attention_without_edges():
    """The library's layer with the same weights, where edges add nothing to the logits."""
    net, _ = attention()
    tiles, batch, x = sides([9, 31], 6, 2)
    conv = TransformerConv(WIDTH, WIDTH // HEADS, HEADS, root_weight=False).double()
    parts = zip(net.qkv.weight.split(WIDTH), net.qkv.bias.split(WIDTH), strict=True)
    layers = (conv.lin_query, conv.lin_key, conv.lin_value)
    for layer, (weight, shift) in zip(layers, parts, strict=True):
        layer.load_state_dict({"weight": weight, "bias": shift})
    ours = padded(net, None, tiles, x)
    theirs = net.out(conv(x, batch.edge_index))
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    (a,), (b,) = gradients(ours, [x]), gradients(theirs, [x])
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_a_change_of_the_attention_is_noticed():
    net, bias = attention()
    tiles, batch, x = sides([9, 31], 6, 2)
    other = copy.deepcopy(bias)
    other.mlp[-1].weight.data += 1e-3
    theirs = MessageAttention(net, other)(x, batch.edge_index, batch.edge_attr.double())
    assert (padded(net, bias, tiles, x) - theirs).abs().max() > 1e-6
