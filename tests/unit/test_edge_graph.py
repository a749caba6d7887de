"""The edge-modulated graph transformer: sizes, padding, symmetry, and what each switch lets in."""

import pytest
import torch

from flag_st.nets.edge_graph import EdgeGraph, HeadAttention

G, D, C, N = 5, 7, 2, 6
SMALL = dict(width=16, depth=2, heads=4)
FORMS = ["head", "channel"]


def tile(spots: int = N, batch: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    """One random tile a batch entry, with symmetric edges and edge state."""
    made = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(batch, *shape, generator=made)

    edges, state = normal(spots, spots, C), normal(spots, spots, 1)
    return {
        "x": normal(spots, G),
        "u": normal(spots, D),
        "edges": edges + edges.transpose(1, 2),
        "mask": torch.ones(batch, spots, dtype=torch.bool),
        "time": torch.rand(batch, generator=made),
        "state": state + state.transpose(1, 2),
    }


def net(logits: str, **more) -> EdgeGraph:
    """In evaluation, with every zero start undone, so that no path is shut by chance."""
    torch.manual_seed(0)
    made = EdgeGraph(G, D, channels=C, logits=logits, **{**SMALL, **more}).eval()
    for parameter in made.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.2)
    return made


def count(**more) -> int:
    with torch.device("meta"):
        made = EdgeGraph(**{"genes": 200, "features": 1024, "logits": "channel", **more})
    return sum(p.numel() for p in made.parameters())


def test_parameter_counts_of_the_release():
    assert count(context=False, edges_used=False) == 34_128_609
    assert count() == 44_773_089
    assert count(genes=50) == 44_657_739
    assert count(genes=400) == 44_926_889


def test_as_many_parameters_idle_as_in_the_release():
    """Without context and edges, and with the edge output unused: 5,135,757 less its label MLP."""
    graph = EdgeGraph(200, 1024, logits="channel", context=False, edges_used=False)
    x, u = torch.randn(1, 3, 200), torch.randn(1, 3, 1024)
    mask = torch.ones(1, 3, dtype=torch.bool)
    graph(x, u, torch.zeros(1, 3, 3, 2), mask)[0].square().sum().backward()
    idle = sum(p.numel() for p in graph.parameters() if p.grad is None or not p.grad.any())
    # α and γ of the six blocks are scalars of their own there; here they share a vector with β, δ.
    assert idle + 12 == 5_135_757 - 1_443_200


@pytest.mark.parametrize("logits", FORMS)
def test_padding_changes_no_real_spot(logits):
    graph, small, large = net(logits), tile(N), tile(N + 3, seed=1)
    for name in ("x", "u"):
        large[name][:, :N] = small[name]
    for name in ("edges", "state"):
        large[name][:, :N, :N] = small[name]
    large["time"] = small["time"]
    large["mask"][:, N:] = False
    nodes, edges = graph(**small)
    padded, padded_edges = graph(**large)
    assert torch.allclose(padded[:, :N], nodes, atol=1e-5)
    assert torch.allclose(padded_edges[:, :N, :N], edges, atol=1e-5)
    assert not padded[:, N:].any()
    assert not padded_edges[:, N:].any()
    assert not padded_edges[:, :, N:].any()


@pytest.mark.parametrize("logits", FORMS)
def test_tiles_of_a_batch_do_not_meet(logits):
    graph, both = net(logits), tile()
    alone = graph(**{k: v[1:] for k, v in both.items()})[0]
    assert torch.allclose(graph(**both)[0][1:], alone, atol=1e-5)


@pytest.mark.parametrize("logits", FORMS)
def test_permuted_spots_give_permuted_values(logits):
    graph, given = net(logits), tile()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = {k: v[:, order] if k in ("x", "u", "mask") else v for k, v in given.items()}
    for name in ("edges", "state"):
        moved[name] = given[name][:, order][:, :, order]
    nodes, edges = graph(**given)
    nodes_moved, edges_moved = graph(**moved)
    assert torch.allclose(nodes_moved, nodes[:, order], atol=1e-5)
    assert torch.allclose(edges_moved, edges[:, order][:, :, order], atol=1e-5)


@pytest.mark.parametrize("logits", FORMS)
def test_edges_are_symmetric_with_zero_diagonal(logits):
    edges = net(logits)(**tile())[1]
    assert edges.abs().max() > 0
    assert torch.equal(edges, edges.transpose(1, 2))
    assert not edges.squeeze(-1).diagonal(dim1=1, dim2=2).any()


def moves(graph: EdgeGraph, name: str) -> bool:
    """Whether another value of the input ``name`` changes the nodes."""
    given = tile()
    changed = {**given, name: given[name] + 0.37}
    return not torch.equal(graph(**given)[0], graph(**changed)[0])


@pytest.mark.parametrize("logits", FORMS)
@pytest.mark.parametrize("used", [True, False])
def test_edges_change_the_nodes_if_and_only_if_used(logits, used):
    assert moves(net(logits, edges_used=used), "edges") == used
    assert moves(net(logits, edges_used=used, context=False), "edges") == used


@pytest.mark.parametrize("logits", FORMS)
@pytest.mark.parametrize("context", [True, False])
def test_time_changes_the_nodes_if_and_only_if_there_is_a_context(logits, context):
    graph = net(logits, context=context)
    assert moves(graph, "time") == context
    if not context:
        graph(**{**tile(), "time": None})


@pytest.mark.parametrize("logits", FORMS)
@pytest.mark.parametrize("kept", [True, False])
def test_the_edge_state_changes_the_nodes_if_and_only_if_carried(logits, kept):
    graph = net(logits, edge_state=kept)
    assert moves(graph, "state") == kept
    assert (graph(**tile())[1] is not None) == kept


@pytest.mark.parametrize("logits", FORMS)
def test_a_state_between_a_spot_and_itself_is_not_read(logits):
    """Noise lies there in the training of the release, which sets it to zero as well."""
    graph, given = net(logits), tile()
    own = torch.eye(N, dtype=torch.bool).view(1, N, N, 1)
    wild = graph(**{**given, "state": given["state"].masked_fill(own, 7.0)})
    assert all(torch.equal(*pair) for pair in zip(graph(**given), wild, strict=True))


def test_logits_of_a_head_are_those_of_the_paper():
    """Eq. 26 by hand: static edges are weighed by α and γ, which are learned and start at 0.1."""
    torch.manual_seed(0)
    attention, given = HeadAttention(D, 16, 4, 16, C), tile()
    x, e, edges = torch.randn(2, N, 16), torch.randn(2, N, N, 16), given["edges"]
    assert attention.weights.tolist() == pytest.approx([0.1, 0.1])
    with torch.no_grad():
        attention.weights.copy_(torch.tensor([0.3, -0.7]))
    s = attention(x, e, given["u"], edges, torch.ones(2, N, N, dtype=torch.bool))[1]
    s.square().sum().backward()
    assert attention.weights.grad.abs().min() > 0
    b, i, j, h = 1, 2, 4, 3
    q, k = (m(x)[b, n, 4 * h : 4 * h + 4] for m, n in ((attention.q, i), (attention.k, j)))
    gate = 1 + attention.state.multiply(e)[b, i, j, h]
    gate = gate + 0.3 * attention.static.multiply(edges)[b, i, j, h]
    bias = attention.state.add(e)[b, i, j, h] - 0.7 * attention.static.add(edges)[b, i, j, h]
    assert s[b, i, j, h].item() == pytest.approx((gate * (q @ k) / 2 + bias).item(), abs=1e-5)


@pytest.mark.parametrize("logits", FORMS)
def test_adaptive_norms_read_the_context_through_silu_in_the_release_alone(logits):
    """SiLU is never below -0.279."""
    context = net(logits).blocks[0].context
    z = context(10 * torch.randn(50, 16), torch.randn(50, D), torch.randn(50, C))
    assert (z.min() > -0.279) == (logits == "channel")
    assert z.max() > 1


@pytest.mark.parametrize("logits", FORMS)
def test_image_features_reach_the_nodes_without_a_context(logits):
    assert moves(net(logits, context=False), "u")
    assert moves(net(logits), "u")


@pytest.mark.parametrize("logits", FORMS)
def test_no_state_is_the_zero_state(logits):
    graph, given = net(logits), tile()
    zero = graph(**{**given, "state": torch.zeros_like(given["state"])})
    assert torch.equal(graph(**{**given, "state": None})[0], zero[0])


def largest_kept(graph: EdgeGraph, given: dict) -> int:
    """Numbers in the largest tensor that is kept for the gradient."""
    sizes = []

    def pack(saved):
        sizes.append(saved.numel())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        graph(**given)
    return max(sizes)


def test_no_tensor_of_pairs_and_channels_without_an_edge_state():
    given, width = tile(spots=40, batch=1), 64
    pairs = 40 * 40 * width
    assert largest_kept(net("head", width=width, edge_state=False), given) < pairs
    assert largest_kept(net("head", width=width), given) >= pairs
    assert largest_kept(net("channel", width=width, edge_state=False), given) >= pairs
