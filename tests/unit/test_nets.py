"""Networks: masks, permutations, edges, time and initial values."""

import dataclasses

import numpy as np
import pytest
import torch

from flag_st.nets import graph
from flag_st.nets.dit import GeneDiT
from flag_st.nets.graph_transformer import GraphTransformer, alignment_loss

G, D = 6, 5


def tiles(sizes, seed=0, channels="both", neighbours=None):
    rng = np.random.default_rng(seed)
    graphs = [
        graph.spot_graph(
            rng.uniform(0, 1500, (n, 2)),
            rng.normal(size=(n, D)),
            rng.normal(size=(n, G)),
            neighbours,
        )
        for n in sizes
    ]
    return graph.collate(graphs, graph.EDGES[channels])


def backbone(channels="both", **more):
    torch.manual_seed(0)
    net = GraphTransformer(
        G, D, width=16, depth=2, heads=4, channels=len(graph.EDGES[channels]), dropout=0.0, **more
    ).eval()
    for p in net.parameters():  # leave the zero start, or nothing would reach the output
        torch.nn.init.normal_(p, std=0.2)
    return net


def run(net, batch, x=None, noise=None):
    x = torch.randn(batch.y.shape, generator=torch.Generator().manual_seed(5)) if x is None else x
    noise = torch.full((len(batch.x),), 0.3) if noise is None else noise
    return net(batch, x, noise)[0]


@pytest.mark.parametrize("neighbours", [None, 4, 11])
def test_padding_never_changes_real_spots(neighbours):
    alone, padded = tiles([9], neighbours=neighbours), tiles([9, 14], neighbours=neighbours)
    x = torch.randn(2, 14, G, generator=torch.Generator().manual_seed(1))
    net = backbone()
    a = run(net, alone, x[:1, :9])
    b = run(net, padded, x)
    assert torch.allclose(a[0], b[0, :9], atol=1e-6)
    junk = x.clone()
    junk[0, 9:] = 1e3
    assert torch.allclose(run(net, padded, junk)[0, :9], b[0, :9], atol=1e-6)


def test_seeing_all_neighbours_equals_dense_attention():
    """k = N − 1 neighbours and no restriction are the same network, in every tile of a batch."""
    dense, sparse, net = tiles([9, 14]), tiles([9, 14], neighbours=13), backbone()
    a, b = run(net, dense), run(net, sparse)
    assert torch.allclose(a[dense.mask], b[sparse.mask], atol=1e-5)


def test_few_neighbours_reach_as_far_as_the_network_is_deep():
    """What spot 0 reads after two blocks is what its neighbours' neighbours carry."""
    line = np.stack([np.arange(12) * 100.0, np.zeros(12)], 1)
    rng = np.random.default_rng(3)
    one = graph.spot_graph(line, rng.normal(size=(12, D)), rng.normal(size=(12, G)), 2)
    batch, net = graph.collate([one], graph.EDGES["both"]), backbone()
    x = torch.randn(1, 12, G)
    changed = x.clone()
    changed[0, 0] += 5
    moved = (run(net, batch, x) - run(net, batch, changed)).abs().amax(-1)[0]
    assert moved[:3].min() > 1e-4
    assert moved[5:].max() == 0


@pytest.mark.parametrize("neighbours", [None, 4])
def test_spots_permute(neighbours):
    rng = np.random.default_rng(2)
    position, u, y = (
        rng.uniform(0, 900, (11, 2)),
        rng.normal(size=(11, D)),
        rng.normal(size=(11, G)),
    )
    order = rng.permutation(11)
    make = lambda o: graph.collate(  # noqa: E731
        [graph.spot_graph(position[o], u[o], y[o], neighbours)], graph.EDGES["both"]
    )
    net, x = backbone(), torch.randn(1, 11, G)
    straight = run(net, make(np.arange(11)), x)
    permuted = run(net, make(order), x[:, order])
    assert torch.allclose(straight[:, order], permuted, atol=1e-5)


@pytest.mark.parametrize("channels", ["both", "distance", "histology"])
def test_edges_change_the_output(channels):
    batch, net = tiles([8], channels=channels), backbone(channels)
    other = dataclasses.replace(batch, edges=batch.edges * 0.5)
    assert (run(net, batch) - run(net, other)).abs().max() > 1e-3


def test_without_graph_spots_do_not_see_each_other():
    batch, net = tiles([8], channels="none", neighbours=0), backbone("none")
    x = torch.randn(1, 8, G)
    changed = x.clone()
    changed[0, 3] += 5
    moved = (run(net, batch, x) - run(net, batch, changed)).abs().amax(-1)[0]
    assert moved[3] > 1e-3
    assert moved[torch.arange(8) != 3].max() == 0


def test_time_changes_the_encoder_only_when_it_sees_x():
    batch, early, late = tiles([7]), torch.tensor([-0.8]), torch.tensor([0.6])
    each, once = backbone(), backbone(see_x=False)
    assert (run(each, batch, noise=early) - run(each, batch, noise=late)).abs().max() > 1e-3
    assert torch.equal(run(once, batch, noise=early), run(once, batch, noise=late))


def test_edge_attributes_by_hand():
    position = np.array([[0.0, 0.0], [200.0, 0.0], [0.0, 400.0]])
    features = np.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    batch = graph.collate([graph.spot_graph(position, features)], graph.EDGES["both"])
    rbf, logd, hop, similarity = batch.edges[0].unbind(-1)
    assert rbf[0, 1].item() == pytest.approx(np.exp(-(200**2) / (2 * 154**2)), rel=1e-5)
    assert logd[0, 2].item() == pytest.approx(np.log1p(400 / 200), rel=1e-5)
    assert hop.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert similarity[0].tolist() == pytest.approx([1, 0, 1])


def test_edge_attributes_of_neighbours_are_those_of_all_pairs():
    dense, sparse = tiles([9]), tiles([9], neighbours=4)
    picked = dense.edges[0][torch.arange(9)[:, None], sparse.near[0]]
    assert torch.allclose(picked, sparse.edges[0], atol=1e-5)
    assert (sparse.near[0, :, 0] == torch.arange(9)).all()


@pytest.mark.parametrize("neighbours", [None, 4, 11])
def test_without_loops_no_spot_has_an_edge_with_itself(neighbours):
    rng = np.random.default_rng(8)
    one = graph.spot_graph(rng.uniform(0, 900, (7, 2)), rng.normal(size=(7, D)), None, neighbours)
    whole, loopless = (graph.collate([one], graph.EDGES["both"], loops=k) for k in (True, False))
    near = torch.arange(7).expand(1, 7, 7) if whole.near is None else whole.near
    itself = near == torch.arange(7).view(1, -1, 1)
    assert whole.edges[itself & whole.seen].abs().sum() > 0
    assert loopless.edges[itself].abs().sum() == 0
    assert torch.equal(whole.edges[~itself], loopless.edges[~itself])
    assert torch.equal(whole.seen, loopless.seen)


def test_gene_transformer_starts_at_zero_and_returns_the_asked_block():
    net = GeneDiT(genes=G, width=16, depth=3, heads=2, align_at=[1, 2])
    out, tokens = net(torch.randn(4, G, 2), torch.randn(4, 16))
    assert out.shape == (4, G)
    assert [t.shape for t in tokens] == [(4, G, 16)] * 2
    assert out.abs().max() == 0  # adaLN-Zero
    with pytest.raises(ValueError, match="3 blocks"):
        GeneDiT(genes=G, width=16, depth=3, heads=2, align_at=[4])


def test_alignment_counts_expressed_genes_only():
    target = torch.randn(1, G, 4)
    projected = target.repeat(3, 1, 1)
    mask = torch.ones(3, G, dtype=torch.bool)
    assert alignment_loss(projected, target, mask).item() == pytest.approx(0, abs=1e-6)
    projected[:, 0] *= -1
    mask[:, 0] = False
    assert alignment_loss(projected, target, mask).item() == pytest.approx(0, abs=1e-6)
    mask[:, 0] = True
    assert alignment_loss(projected, target, mask).item() == pytest.approx(2 / G, abs=1e-5)


def test_one_vector_per_spot_is_aligned_to_the_mean_of_its_tokens():
    """Tokens that are the spot's vector plus noise: the mean loses the noise, a token does not."""
    rng = torch.Generator().manual_seed(0)
    spot = torch.randn(40, 1, 512, generator=rng)
    tokens = spot + 3 * torch.randn(40, 50, 512, generator=rng)
    mask = torch.ones(40, 50, dtype=torch.bool)
    assert 1 - alignment_loss(tokens, spot, mask).item() == pytest.approx(0.92, abs=0.01)
    each = spot.expand_as(tokens)
    assert 1 - alignment_loss(tokens, each, mask).item() == pytest.approx(0.316, abs=0.01)
    # Which genes are expressed does not matter, as long as there is one.
    mask[:, 1:] = False
    assert 1 - alignment_loss(tokens, spot, mask).item() == pytest.approx(0.92, abs=0.01)
    mask[1:] = False
    alone = alignment_loss(tokens[:1], spot[:1], mask[:1])
    assert alignment_loss(tokens, spot, mask).item() == pytest.approx(alone.item())
