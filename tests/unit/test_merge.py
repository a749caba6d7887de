"""MERGE: sizes, graph attention by its formula, the graph, its two stages, and what the release does."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toy
from safetensors.torch import save_file
from toy_slides import correlation, fitted, predict, reloaded, toy_cohort, toy_slide, with_patches

from flag_st.commands.describe import count_parameters
from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.core.torchvision_guard import ensure_torchvision
from flag_st.data.slide import Cohort
from flag_st.methods.base import Run
from flag_st.methods.merge import Merge
from flag_st.methods.merge.graph import Hierarchy, hierarchy
from flag_st.methods.merge.task import SlideTask
from flag_st.methods.spots import SpotTask
from flag_st.nets.merge import SlideNet, SpotNet, start_from
from flag_st.nets.pixels import ImageNetwork
from flag_st.planning import config

USE = "flag_st.methods.merge.Merge"
SMALL = {"widths": [8, 8, 8], "heads": 2, "graph": {"space": 2, "features": 2}}
BRIEF = {**SMALL, "first": {"epochs": 2}, "training": {"epochs": 2, "validate_every": 1}}
LEARN = {
    **SMALL,
    "widths": [32, 32, 32],
    "dropped_edges": 0.0,
    "first": {"epochs": 40, "lr": 3e-3, "milestones": (), "patience": 0, "validate_every": 20},
    "training": {"epochs": 100, "lr": 3e-3, "warmup": 5, "patience": 0, "validate_every": 20},
}


def edges_of(pairs) -> set[tuple[int, int]]:
    return set(map(tuple, np.asarray(pairs).T.tolist()))


# --- sizes and start ----------------------------------------------------------------------------------


def test_published_sizes():
    total, parts = count_parameters(toy.made(Merge, "patches"), 200, 1024, 0)
    assert parts == {"spots": 11_612_296, "slides": 18_672_728}
    assert count_parameters(toy.made(Merge), 200, 1024, 0)[1]["spots"] == 707_528
    assert total == sum(parts.values())


def authors_names(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A first stage of torchvision's parts, under the names of the authors' weight file."""
    children = list(net.resnet.children())[:-1]
    sequence = torch.nn.Sequential(*children).state_dict()
    named = {f"module.features.{k}": v for k, v in sequence.items()}
    for name in ("l1", "l2"):
        named |= {f"module.{name}.{k}": v for k, v in getattr(net, name).state_dict().items()}
    return named


class Authors(torch.nn.Module):
    """ResNet-18 with instance norms, and two linear maps with a ReLU between them."""

    def __init__(self):
        super().__init__()
        ensure_torchvision()
        from torchvision.models import resnet18

        self.resnet = resnet18(weights=None, norm_layer=torch.nn.InstanceNorm2d)
        self.l1, self.l2 = torch.nn.Linear(512, 512), torch.nn.Linear(512, 256)

    def forward(self, x):
        h = torch.nn.Sequential(*list(self.resnet.children())[:-1])(x).flatten(1)
        return self.l2(F.relu(self.l1(h)))


def test_the_authors_file_gives_what_their_network_computes(tmp_path):
    torch.manual_seed(0)
    theirs = Authors().eval()
    save_file(authors_names(theirs), tmp_path / "low.safetensors")
    ours = SpotNet(5, 0, ImageNetwork("resnet18", True, "instance")).eval()
    start_from(ours, str(tmp_path / "low.safetensors"))
    x = 255 * torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.described(x), theirs(x), atol=1e-5, rtol=1e-4)


def test_weights_of_imagenet_need_the_norms_they_were_trained_with(tmp_path):
    state = ImageNetwork("test_resnet", True).net.state_dict()
    save_file(state, tmp_path / "net.safetensors")
    path = str(tmp_path / "net.safetensors")
    batch = SpotNet(5, 0, ImageNetwork("test_resnet", True, "batch"))
    start_from(batch, path)
    for name, value in batch.image.net.state_dict().items():
        assert torch.equal(value, state[name])
    with pytest.raises(FlagError, match="unknown key bn1"):
        start_from(SpotNet(5, 0, ImageNetwork("test_resnet", True, "instance")), path)
    with pytest.raises(FlagError, match="does not exist"):
        start_from(batch, str(tmp_path / "nowhere.pth"))


# --- graph attention ----------------------------------------------------------------------------------


def dense(layer, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """A layer of graph attention over all pairs; ``seen`` (N, N) says whether i sees j."""
    heads, width = layer.heads, layer.out_channels
    v = layer.lin(x).view(len(x), heads, width)  # (N, H, d)
    source, target = (v * layer.att_src).sum(-1), (v * layer.att_dst).sum(-1)  # 2 × (N, H)
    logit = F.leaky_relu(source[None] + target[:, None], 0.2)  # (N, N, H)
    weight = logit.masked_fill(~seen[..., None], -torch.inf).softmax(1)  # (N, N, H)
    return torch.einsum("ijh,jhd->ihd", weight, v).flatten(1) + layer.bias


def dense_net(net: SlideNet, x: torch.Tensor, seen: torch.Tensor, mode: str) -> torch.Tensor:
    for layer, norm in zip(net.layers, net.norms, strict=True):
        x = F.relu(dense(layer, x, seen))
        over = {"graph": (0, 1), "node": (1,)}[mode]
        x = x - x.mean(over, keepdim=True)
        if mode == "graph":  # 1e-5 is added to the deviation
            x = x / (x.square().mean(over, keepdim=True).sqrt() + 1e-5)
        else:
            x = x / (x.square().mean(over, keepdim=True) + 1e-5).sqrt()
        x = x * norm.weight + norm.bias
    return dense(net.head, x, seen)


def random_graph(n: int = 12) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """z (N, 256), edges (2, E) with loops, and the same as a matrix: i sees j."""
    generator = torch.Generator().manual_seed(0)
    seen = (torch.rand(n, n, generator=generator) < 0.3) | torch.eye(n, dtype=torch.bool)
    i, j = seen.nonzero().T
    return torch.randn(n, 256, generator=generator).double(), torch.stack([j, i]), seen


def small_net(norm: str = "graph", dropped: float = 0.0) -> SlideNet:
    torch.manual_seed(1)
    net = SlideNet(5, (8, 6, 4), 2, dropped, norm).double()
    for parameter in net.parameters():  # biases and norms start at numbers that show nothing
        torch.nn.init.normal_(parameter, 0.0, 0.5)
    return net


@pytest.mark.parametrize("norm", ["graph", "node"])
def test_graph_attention_is_a_softmax_over_what_a_spot_sees(norm):
    z, edges, seen = random_graph()
    net = small_net(norm).eval()
    torch.testing.assert_close(net(z, edges), dense_net(net, z, seen, norm))


def test_spots_in_another_order_get_the_same():
    z, edges, _ = random_graph()
    net, order = small_net().eval(), torch.randperm(12, generator=torch.Generator().manual_seed(3))
    place = torch.argsort(order)
    torch.testing.assert_close(net(z[order], place[edges]), net(z, edges)[order])


def test_spots_that_see_themselves_alone_pass_linear_maps():
    z, net = random_graph()[0], small_net("node").eval()
    own = torch.arange(12).expand(2, 12)
    x = z
    for layer, norm in zip(net.layers, net.norms, strict=True):
        x = F.relu(layer.lin(x) + layer.bias)
        x = F.layer_norm(x, x.shape[1:], norm.weight, norm.bias)
    torch.testing.assert_close(net(z, own), net.head.lin(x) + net.head.bias)


def test_edges_are_left_out_in_training_alone_and_are_the_same_for_all_layers():
    z, edges, seen = random_graph()
    net = small_net(dropped=0.5)
    torch.testing.assert_close(net.eval()(z, edges), dense_net(net, z, seen, "graph"))
    torch.manual_seed(5)
    found = net.train()(z, edges)
    torch.manual_seed(5)
    kept = torch.rand(edges.shape[1]) >= 0.5
    thinned = torch.eye(12, dtype=torch.bool)  # a spot sees itself in any case
    thinned[edges[1, kept], edges[0, kept]] = True
    assert thinned.sum() < seen.sum()
    torch.testing.assert_close(found, dense_net(net, z, thinned, "graph"))


# --- the graph of a slide -----------------------------------------------------------------------------

#: Two blocks of 2 × 4 spots with a gap between them, and two kinds of features in each block.
BLOCKS = np.array([[x, y] for x in (0.0, 1.0, 10.0, 11.0) for y in range(4)])
LOW = [0, 1, 4, 5, 8, 9, 12, 13]
Z = (
    np.where(np.isin(np.arange(16), LOW), 0.0, 5.0)[:, None]
    + 0.01 * np.arange(16)[:, None] ** 2 / 16
)
#: Members of the clusters that k-means cannot miss: the blocks, and the kinds.
IN_SPACE = [list(range(8)), list(range(8, 16))]
IN_FEATURES = [LOW, [i for i in range(16) if i not in LOW]]


def closest(position: np.ndarray, k: int) -> set[tuple[int, int]]:
    """Each spot and its nearest others, in both orders; of equally near ones, those of small y, then x."""
    found = set()
    for i, here in enumerate(position):
        key = [
            (round(float(((p - here) ** 2).sum()), 6), *p[::-1], j) for j, p in enumerate(position)
        ]
        found |= {(i, near[-1]) for near in sorted(k for k in key if k[-1] != i)[:k]}
    return found | {(j, i) for i, j in found}


def star(members: list[int], centre: int) -> set[tuple[int, int]]:
    return {(m, centre) for m in members} | {(centre, m) for m in members}


def middle(members: list[int]) -> int:
    """The place among ``members`` of the spot whose feature is nearest to their mean."""
    return int(np.abs(Z[members, 0] - Z[members, 0].mean()).argmin())


def test_the_graph_has_neighbours_stars_and_a_clique_of_centres():
    expected = {(i, i) for i in range(16)} | closest(BLOCKS, 3)
    centres = [m[middle(m)] for m in (*IN_SPACE, *IN_FEATURES)]
    for members, centre in zip((*IN_SPACE, *IN_FEATURES), centres, strict=True):
        expected |= star(members, centre)
    expected |= {(a, b) for a in centres for b in centres}
    assert edges_of(hierarchy(BLOCKS, Z, Hierarchy(3, 2, 2))) == expected


def test_the_released_graph_looks_along_columns_and_joins_the_wrong_spots():
    """Its neighbours have the same x; the clique joins places within clusters as if they were spots."""
    found = edges_of(hierarchy(BLOCKS, Z, Hierarchy(3, 2, 2), as_released=True))
    column = {(i, j) for i in range(16) for j in range(16) if BLOCKS[i, 0] == BLOCKS[j, 0]}
    order = np.lexsort(BLOCKS.T)  # the order in which spots are counted
    place = {int(spot): k for k, spot in enumerate(order)}
    expected = set(column)
    centres, wrong = [], [[], []]
    for round_, clusters in enumerate((IN_SPACE, IN_FEATURES)):
        for members in clusters:
            ordered = sorted(members, key=place.__getitem__)
            wrong[round_].append(int(order[middle(ordered)]))
            expected |= star(members, ordered[middle(ordered)])
            if round_ == 0:
                centres.append(ordered[middle(ordered)])
    expected |= {(a, b) for a in wrong[0] for b in wrong[0]}
    joined = [*wrong[1], *centres]
    expected |= {(a, b) for a in joined for b in joined}
    assert found == expected
    intended = edges_of(hierarchy(BLOCKS, Z, Hierarchy(3, 2, 2)))
    assert len(found & intended) < len(intended)


def test_the_number_of_edges_on_an_array_is_that_of_the_paper_s_sizes():
    """About 8.3 neighbours and 4 edges of stars per spot, and a clique of ten."""
    slide = toy_slide("A1", 400)
    z = np.random.default_rng(0).normal(size=(400, 6))
    found = edges_of(hierarchy(slide.position, z, Hierarchy()))
    own = {pair for pair in found if pair[0] == pair[1]}
    near = edges_of(hierarchy(slide.position, z, Hierarchy(8, 0, 0)))
    assert len(own) == 400
    assert 8.0 < len(near - own) / 400 < 8.8
    assert 3.5 < len(found - near) / 400 < 4.3


def test_a_graph_without_parts_is_of_loops_alone():
    own = {(i, i) for i in range(16)}
    assert edges_of(hierarchy(BLOCKS, Z, Hierarchy(0, 0, 0))) == own
    assert edges_of(hierarchy(BLOCKS, Z, Hierarchy(3, 0, 0))) == own | closest(BLOCKS, 3)


@pytest.mark.parametrize("as_released", [False, True])
def test_the_graph_is_always_the_same_and_follows_its_spots(as_released):
    slide = toy_slide("A1", 90)
    z = np.random.default_rng(0).normal(size=(90, 6))
    options = Hierarchy(8, 5, 5)
    first = edges_of(hierarchy(slide.position, z, options, as_released))
    np.random.seed(7)  # k-means would take its seed from here
    assert edges_of(hierarchy(slide.position, z, options, as_released)) == first
    order = np.random.default_rng(1).permutation(90)
    moved = hierarchy(slide.position[order], z[order], options, as_released)
    assert edges_of(order[moved]) == first


@pytest.mark.parametrize("spots", [1, 2, 4])
def test_a_slide_may_have_fewer_spots_than_clusters(spots):
    slide = toy_slide("A1", spots)
    found = edges_of(hierarchy(slide.position, np.zeros((spots, 3)), Hierarchy()))
    assert found == {(i, j) for i in range(spots) for j in range(spots)}


# --- two stages ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("neighbours", "reached"), [(4, 0.75), (0, 0.95)])
def test_learns_a_slide_by_heart_without_neighbours_and_less_with_them(
    neighbours, reached, tmp_path
):
    """Four means over neighbours without a residual leave little of what is a spot's own."""
    graph = {"neighbours": neighbours, "space": 0, "features": 0}
    cohort = toy_cohort()
    method = fitted(toy.made(Merge, **{**LEARN, "graph": graph}), cohort, tmp_path)
    found = correlation(predict(method, cohort[0]).point, cohort[0].expression)
    assert found > reached
    assert neighbours == 0 or found < 0.95


@pytest.mark.parametrize("more", [{}, {"graph": {"neighbours": 0, "space": 0, "features": 0}}])
def test_reload_permutation_and_what_a_spot_sees(more, tmp_path):
    cohort, slide = toy_cohort(2), toy_slide("B1", 30)
    params = {**BRIEF, "norm": "node", **more}
    method = fitted(toy.made(Merge, **params), cohort, tmp_path)
    first = predict(method, slide).samples
    again = reloaded(method, USE, params, tmp_path)
    np.testing.assert_array_equal(predict(again, slide).samples, first)
    order = np.random.default_rng(0).permutation(30)
    moved = predict(method, slide.subset(order)).samples
    np.testing.assert_allclose(moved, first[:, order], atol=1e-5)
    half = predict(method, slide.subset(np.arange(15))).samples
    assert np.allclose(half, first[:, :15], atol=1e-5) == bool(more)


def test_the_second_stage_leaves_the_first_as_it_is(tmp_path, monkeypatch):
    seen = []
    validate = SlideTask.validate

    def watched(task, module):
        seen.append({k: v.clone() for k, v in method.net.spots.state_dict().items()})
        return validate(task, module)

    monkeypatch.setattr(SlideTask, "validate", watched)
    method = toy.made(Merge, **BRIEF)
    fitted(method, toy_cohort(2), tmp_path)
    assert len(seen) == 2
    for name, value in method.net.spots.state_dict().items():
        assert torch.equal(seen[0][name], value)
    assert any(isinstance(m, torch.nn.Dropout) for m in method.net.spots.modules())
    assert not method.net.spots.training


LONG = {
    **SMALL,
    "first": {"epochs": 4, "checkpoint_seconds": 0.0},
    "training": {"epochs": 4, "validate_every": 1, "checkpoint_seconds": 0.0},
}


@pytest.mark.parametrize("killed", [SpotTask, SlideTask])
def test_a_run_killed_in_either_stage_goes_on_in_it_and_ends_the_same(
    killed, tmp_path, monkeypatch
):
    cohort = toy_cohort(2)
    whole = toy.made(Merge, **LONG)
    whole.fit(cohort, cohort, Run(directory=tmp_path / "whole"))
    begun: list[tuple[type, int]] = []

    def fit(stop: bool) -> Merge:
        begun.clear()
        for task in (SpotTask, SlideTask):
            batches = originals[task]

            def watched(self, generator, task=task, batches=batches):
                if stop and task is killed and self.epoch == 2:
                    raise KeyboardInterrupt
                begun.append((task, self.epoch))
                yield from batches(self, generator)

            monkeypatch.setattr(task, "batches", watched)
        method = toy.made(Merge, **LONG)
        method.fit(cohort, cohort, Run(directory=tmp_path / "killed"))
        return method

    originals = {task: task.batches for task in (SpotTask, SlideTask)}
    with pytest.raises(KeyboardInterrupt):
        fit(stop=True)
    again = fit(stop=False)
    # Of a first stage that was done, the last checkpoint is read.
    spots = range(2, 4) if killed is SpotTask else ()
    slides = range(4) if killed is SpotTask else range(2, 4)
    assert begun == [(SpotTask, e) for e in spots] + [(SlideTask, e) for e in slides]
    for name, value in whole.arrays().items():
        np.testing.assert_array_equal(again.arrays()[name], value)


@pytest.mark.parametrize("threads", [1, 2])
def test_trained_twice_it_is_the_same_bytes(threads, tmp_path):
    """Edges are left out at random and sums keep their order, whatever the number of threads is."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        cohort = toy_cohort(spots=200)
        params = {**BRIEF, "widths": [16, 16, 16], "batch": 100}
        first, second = (
            fitted(toy.made(Merge, **params), cohort, tmp_path / name).arrays() for name in "ab"
        )
    finally:
        torch.set_num_threads(before)
    for name, values in first.items():
        np.testing.assert_array_equal(second[name], values)


def test_the_history_tells_the_stages_apart(tmp_path):
    rows: list[dict[str, float]] = []
    method = toy.made(Merge, **BRIEF)
    method.fit(toy_cohort(2), toy_cohort(), Run(directory=tmp_path, log=rows.append))
    assert [row["epoch"] for row in rows] == [0, 1, 0, 1]
    assert [sorted(row) for row in rows[:2]] == [
        ["epoch", "first_loss", "first_valid_loss", "first_valid_pcc"]
    ] * 2
    assert [sorted(row) for row in rows[2:]] == [["epoch", "loss", "valid_loss", "valid_pcc"]] * 2


def test_in_the_release_spots_come_in_their_order_and_are_not_turned(tmp_path):
    slide = with_patches(toy_slide("A1", 20), tmp_path / "A1.h5", side=64)
    cohort = Cohort([slide], [f"g{i}" for i in range(12)])
    for released in (False, True):
        method = toy.made(Merge, "patches", "test_resnet", as_released=released, **BRIEF)
        method.device = "cpu"
        method._statistics(cohort)
        task = SpotTask(method, torch.nn.Flatten(), cohort, cohort, in_order=released)
        batches = list(task.batches(torch.Generator().manual_seed(0)))
        assert [len(b) for b in batches] == [8, 8, 4]
        assert (torch.cat(batches).tolist() == list(range(20))) == released
        task.module = Kept()
        task.loss(torch.arange(20), torch.Generator().manual_seed(0))
        straight = method.images(task.opened, np.arange(20))
        assert torch.equal(task.module.seen, straight) == released


class Kept(torch.nn.Module):
    def forward(self, x):
        self.seen = x
        return x.new_zeros(len(x), 12)


def test_norms_of_single_images_undo_the_release_s_range_of_pixels():
    """Why pixels from 0 to 255 are left out: the first map is centred and scaled by itself."""
    torch.manual_seed(0)
    net = ImageNetwork("resnet18", True, "instance").eval()
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(255 * x), net(x), atol=2e-2, rtol=2e-2)


def test_entries_train_as_their_authors_state():
    entries = config.load()["methods"]
    released, patches = (
        registry.build(entries[n]["use"], entries[n]["params"])
        for n in ("merge_released", "merge_patches")
    )
    for method in (released, patches):
        first = method.first
        assert (first.epochs, first.lr, first.factor, method.batch) == (15, 5e-5, 0.5, 8)
        assert first.milestones == (2, 4, 6, 8, 10, 12, 14)
        assert method.size == {
            "widths": (448, 384, 256), "heads": 8, "dropped_edges": 0.2, "norm": "graph",
        }  # fmt: skip
        assert method.graph == Hierarchy(8, 5, 5)
    training = released.training
    assert (training.epochs, training.lr, training.schedule) == (401, 1e-3, "stairs")
    # Neither stage of the release chooses among its epochs.
    assert (training.validate_from, released.first.validate_from) == (401, 15)
    assert released.as_released
    assert not patches.as_released
    assert released.smooth.alpha == 0.6
    assert patches.smooth.alpha == 0.0
