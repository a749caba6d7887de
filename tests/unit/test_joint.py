"""Joint and node-only diffusion: edge targets, edge noise, consistency, learning, and files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toy

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.core.seeds import Draws, torch_generator
from flag_st.data.spatial import compact_tiles
from flag_st.diffusion.schedules import log_uniform
from flag_st.methods.base import Run, load
from flag_st.methods.joint import Joint
from flag_st.methods.joint.options import Losses
from flag_st.methods.joint.sampling import draw, open_slide
from flag_st.methods.joint.task import JointTask
from flag_st.nets.joint import average, constant, pairs_of, pearson, symmetric_noise
from flag_st.planning import config

SIZE = dict(
    width=32,
    depth=2,
    heads=4,
    dropout=0.0,
    tiling={"spots": 20, "per_step": 4},
    sde={"steps": 12},
)
RELEASED = dict(
    edges="constant",
    as_released=True,
    centre="none",
    scaling="log2",
    losses={"stop_gradient": True},
)
#: The kinds of entries: what is diffused, and behind which head.
KINDS = {
    "node_only": dict(edges="none"),
    "joint": dict(edges="pearson"),
    "joint_released": RELEASED,
    "node_only_edm": dict(edges="none", head="edm"),
    "joint_edm": dict(edges="pearson", head="edm", own_range=True),
    "oracle": dict(edges="pearson", head="edm", oracle=True),
}


def trained(tmp_path: Path, epochs: int = 2, **more) -> tuple[Joint, list[dict]]:
    training = {
        "epochs": epochs,
        "lr": 4e-3,
        "accumulate": 1,
        "warmup": 5,
        "schedule": "cosine",
        "ema": 0.98,
        "validate_every": max(1, epochs // 2),
    }
    rows: list[dict] = []
    method = toy.made(Joint, **{**SIZE, **more}, training=training)
    run = Run(0, "cpu", tmp_path / "checkpoint", rows.append)
    method.fit(toy.cohort("a", "b", "c", "d"), toy.cohort("v"), run)
    return method, rows


def ready(**more) -> tuple[Joint, JointTask]:
    """Statistics and an untrained network, without a step of training."""
    method, cohort = toy.made(Joint, **{**SIZE, **more}), toy.cohort("a", "b")
    method._statistics(cohort)
    method.device = "cpu"
    torch.manual_seed(0)
    method.net = method.build(toy.GENES, toy.WIDTH)
    method.start()
    return method, method.task(cohort, toy.cohort("v"), Run())


def with_truth(method: Joint, slide) -> list:
    return open_slide(method.seen(slide, truth=True), method.tiling, method.builder, "cpu")


def log_counts(genes: int, spots: int = 30) -> torch.Tensor:
    """(1, N, G) log1p of Poisson counts whose rates differ between genes."""
    rng = np.random.default_rng(genes)
    counts = rng.poisson(np.exp(rng.normal(1.0, 0.8, genes)), (spots, genes))
    return torch.as_tensor(np.log1p(counts))[None]


def correlation(prediction: np.ndarray, truth: np.ndarray) -> float:
    pairs = zip(prediction.T, truth.T, strict=True)
    return float(np.mean([np.corrcoef(p, t)[0, 1] for p, t in pairs]))


def test_parameter_count_of_the_release():
    with torch.device("meta"):
        net = toy.made(Joint, **RELEASED).build(200, 1024)
    assert sum(p.numel() for p in net.parameters()) == 44_773_089


# --- edges -----------------------------------------------------------------------------------------


def test_edge_target_is_the_correlation_of_numpy():
    y = log_counts(50)
    assert np.allclose(pearson(y)[0], np.corrcoef(y[0]), atol=1e-12)
    method, _ = ready(edges="pearson")
    slide = toy.slide("a")
    (index, tiles), *_ = with_truth(method, slide)
    wanted = np.corrcoef(slide.expression[index[: tiles.mask[0].sum()]])
    np.fill_diagonal(wanted, 0.0)
    assert np.allclose(method.net.split(method.net.clean(tiles))[1][0], wanted, atol=1e-5)


def test_edges_of_z_scored_genes_are_still_those_of_log_counts():
    plain, scaled = ready(edges="pearson")[0], ready(edges="pearson", head="edm")[0]
    edges = [
        m.net.split(m.net.clean(with_truth(m, toy.slide("a"))[0][1]))[1] for m in (plain, scaled)
    ]
    assert torch.allclose(*edges, atol=1e-5)


def test_the_released_edge_target_is_constant_up_to_the_square_of_genes():
    """1 − e ~ 1/G², while correlations keep their spread."""
    gaps = {}
    for genes in (50, 200, 800):
        y = log_counts(genes)
        real = pairs_of(torch.ones(1, 30, dtype=torch.bool))
        gaps[genes] = (1 - constant(y)[real]).mean().item()
        assert 0 < gaps[genes] < 1 / genes**2 * 2
        assert constant(y)[real].std() < 0.02 * pearson(y)[real].std()
    slope = np.polyfit(np.log(list(gaps)), np.log(list(gaps.values())), 1)[0]
    assert -2.2 < slope < -1.8


def test_edge_noise_is_symmetric_and_of_unit_variance():
    noise = symmetric_noise(40, 30, torch_generator(0))
    assert torch.equal(noise, noise.transpose(1, 2))
    assert not noise.diagonal(dim1=1, dim2=2).any()
    values = noise[:, *torch.triu_indices(30, 30, 1)]  # (40, 435)
    assert abs(values.mean()) < 0.03
    assert abs(values.var() - 1) < 0.03
    assert abs(torch.corrcoef(values[:, :20].T).triu(1).sum() / 190) < 0.05


def test_released_edge_noise_leaves_half_unpredictable_and_starts_too_small():
    method, _ = ready(**RELEASED)
    mask, net = torch.ones(40, 30, dtype=torch.bool), method.net
    noise = net.split(net.noise(mask, torch_generator(0)))[1]
    # A symmetric estimate can at best be the symmetric part: L_e ≥ 1/2.
    rest = (noise - noise.transpose(1, 2))[pairs_of(mask)] / 2
    assert abs(rest.var() - 0.5) < 0.02
    start = net.split(net.noise(mask, torch_generator(0), start=True))[1]
    assert torch.equal(start, start.transpose(1, 2))
    assert abs(start[pairs_of(mask)].var() - 0.5) < 0.02


def test_own_range_standardises_edges():
    method, _ = ready(edges="pearson", own_range=True)
    values = []
    for name in ("a", "b"):
        for _, tiles in with_truth(method, toy.slide(name)):
            values.append(method.net.split(method.net.clean(tiles))[1][pairs_of(tiles.mask)])
    values = torch.cat(values)
    assert abs(values.mean()) < 1e-4
    assert abs(values.std() - 1) < 1e-3


# --- loss --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["joint", "joint_edm", "joint_released"])
def test_consistency_of_the_truth_is_zero(kind):
    method, _ = ready(**KINDS[kind])
    (_, tiles), *_ = with_truth(method, toy.slide("a"))
    truth, real = method.net.clean(tiles), pairs_of(tiles.mask)
    assert average(method.net.disagreement(truth, True), real) < 1e-5
    x, e = method.net.split(truth)
    off = torch.cat([x, e + 0.5], -1)
    wanted = 0.5 * method.net.edge_scale
    assert torch.isclose(average(method.net.disagreement(off, True), real), wanted, atol=1e-5)


@pytest.mark.parametrize("stop", [True, False])
def test_consistency_moves_the_nodes_without_stop_gradient_alone(stop):
    method, _ = ready(edges="pearson")
    (_, tiles), *_ = with_truth(method, toy.slide("a"))
    z = (method.net.clean(tiles) + 0.3).requires_grad_()
    average(method.net.disagreement(z, stop), pairs_of(tiles.mask)).backward()
    nodes, edges = method.net.split(z.grad)
    assert edges.any()
    assert bool(nodes.any()) is not stop


@pytest.mark.parametrize("kind", ["joint", "joint_edm", "joint_released"])
def test_consistency_has_one_weight_at_all_noise_levels(kind):
    """The paper's mean over levels, of |edges - correlations of the nodes| over pairs."""
    method, task = ready(**KINDS[kind])
    net, (_, tiles) = method.net, with_truth(method, toy.slide("a"))[0]
    for seed in range(3):
        found = task.loss(tiles, torch_generator(seed))[1]["consistency"]
        generator, sde = torch_generator(seed), method.sde
        sigma = log_uniform((len(tiles.x), 1, 1), sde.sigma_low, sde.sigma_max, generator)
        z = net.clean(tiles) + sigma * net.noise(tiles.mask, generator)
        gap = net.disagreement(net(z, sigma, tiles), True)
        wanted = average(gap, pairs_of(tiles.mask)).item()
        assert found == pytest.approx(wanted, rel=1e-5), sigma


def test_consistency_moves_the_nodes_as_written_and_not_as_released():
    entries = config.load()["methods"]
    for name, stop in (("joint", False), ("joint_stop_gradient", True), ("joint_released", True)):
        made = registry.build(entries[name]["use"], entries[name]["params"])
        assert made.losses == Losses(edges=1.0, consistency=0.1, stop_gradient=stop)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_padding_enters_neither_estimate_nor_loss(kind):
    method, task = ready(**KINDS[kind])
    slide = toy.slide("a")
    seen = method.seen(slide, truth=True)
    both = method.builder.tiles([(seen, np.arange(12)), (seen, np.arange(12, 31))])
    alone = method.builder.tiles([(seen, np.arange(12))])
    sigma, net = torch.full((2, 1, 1), 0.7), method.net.eval()
    noise = net.noise(both.mask, torch_generator(0))
    few = [*range(12), *range(toy.GENES, toy.GENES + 12)] if net.joint else [*range(12)]
    found = net(net.clean(both) + 0.7 * noise, sigma, both)[:1, :12][..., few]
    wanted = net(net.clean(alone) + 0.7 * noise[:1, :12][..., few], sigma[:1], alone)
    assert torch.allclose(found, wanted, atol=1e-4)
    wild = replace(both, y=both.y.masked_fill(~both.mask.unsqueeze(-1), 1e3))
    losses = [task.loss(tiles, torch_generator(1))[1] for tiles in (both, wild)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# --- tiles -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spots", [1, 7, 20, 97, 500])
def test_compact_tiles_hold_each_spot_once_and_are_even(spots):
    position = toy.slide("a", spots=97).position
    tiles = compact_tiles(position, spots)
    assert sorted(np.concatenate(tiles)) == list(range(97))
    sizes = [len(t) for t in tiles]
    assert len(tiles) == -(-97 // spots)
    assert max(sizes) <= spots
    assert max(sizes) - min(sizes) <= 2


@pytest.mark.parametrize("shape", ["compact", "grid"])
def test_a_draw_fills_each_spot_from_its_own_tile(shape):
    """From a network that knows the truth, every spot gets its own."""
    method, _ = ready(
        edges="none", tiling={"shape": shape, "spots": 20, "edge_px": 2500.0, "per_step": 2}
    )
    opened = with_truth(method, toy.slide("a"))
    assert sum(len(tile.x) for _, tile in opened) > 1

    class Known(torch.nn.Module):
        split, noise = method.net.split, method.net.noise

        def forward(self, z, sigma, tile):
            return tile.y

    drawn = draw(Known(), opened, method.sde, torch_generator(0))
    assert torch.allclose(drawn, torch.as_tensor(toy.slide("a").expression), atol=1e-5)


# --- learning and prediction -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "least"), [("node_only_edm", 0.6), ("joint_edm", 0.5), ("oracle", 0.6)]
)
def test_learns_nodes_and_edges(kind, least, tmp_path):
    method, rows = trained(tmp_path, epochs=40, **KINDS[kind])
    test = toy.slide("t")
    seen = test if "truth" in method.needs else test.without_truth()
    prediction = method.predict(seen, 4, Draws(0, "t"))
    assert correlation(prediction.point, test.expression) > least
    assert (prediction.samples >= 0).all()
    assert np.allclose(prediction.point, prediction.samples.mean(0), atol=1e-6)
    last = rows[-1]
    assert last["valid_nodes_10"] < 0.02
    assert last["valid_nodes_1"] < 0.5
    if kind == "joint_edm":
        assert last["valid_edges_10"] < 0.02
        assert last["valid_edges_1"] < 0.5


def test_the_raw_head_learns_if_it_is_wide_for_its_genes(tmp_path):
    """Twelve genes through 64 channels, and through 12: no edges are about."""
    pcc = {}
    for width in (12, 64):
        method, _ = trained(tmp_path / str(width), epochs=120, edges="none", width=width)
        test = toy.slide("t")
        point = method.predict(test.without_truth(), 4, Draws(0, "t")).point
        pcc[width] = correlation(point, test.expression)
    assert pcc[64] > 0.5
    assert pcc[12] < 0.3


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_truth_changes_the_prediction_of_oracles_alone(kind, tmp_path):
    method, _ = trained(tmp_path, **KINDS[kind])
    slide = toy.slide("t")
    other = replace(slide, expression=slide.expression[:, ::-1] ** 2)
    seen = [method.predict(s, 2, Draws(0, "t")).samples for s in (slide, other)]
    assert np.array_equal(*seen) == (kind != "oracle")
    if kind != "oracle":
        unseen = method.predict(slide.without_truth(), 2, Draws(0, "t"))
        assert np.array_equal(unseen.samples, seen[0])


@pytest.mark.parametrize("kind", ["joint", "joint_released", "oracle"])
def test_draws_keep_to_their_seeds_and_survive_a_file(kind, tmp_path):
    method, _ = trained(tmp_path, **KINDS[kind])
    slide = toy.slide("t")
    first = method.predict(slide, 3, Draws(0, "t")).samples
    assert np.array_equal(method.predict(slide, 1, Draws(0, "t")).samples[0], first[0])
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(method.predict(slide, 1, Draws(1, "t")).samples[0], first[0])
    path = tmp_path / "model.safetensors"
    method.save(path, use="flag_st.methods.joint.Joint", params={**SIZE, **KINDS[kind]})
    assert np.array_equal(load(path)[0].predict(slide, 3, Draws(0, "t")).samples, first)


def test_validation_is_of_every_slide_with_fixed_noise(tmp_path):
    method, task = ready(edges="pearson")
    first, again = task.validate(method.net.eval()), task.validate(method.net)
    assert first == again
    assert {"loss", "pcc", "nodes_0.03", "edges_10"} <= set(first)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"head": "score"}, "edm"),
        ({"edges": "cosine"}, "pearson"),
        ({"scaling": "log10"}, "log2"),
        ({"tiling": {"shape": "random"}}, "grid"),
        ({"sde": {"sigma_min": 20.0}}, "sigma_min < sigma_max"),
        ({"steps": 4}, r"sde: \{steps: 4\}"),
        ({"centre": "median"}, "slide"),
        ({"edges": "none", "oracle": True}, "pearson"),
        ({"training": {"rate": 1}}, "weight_decay"),
    ],
)
def test_wrong_arguments_name_the_choices(arguments, word):
    with pytest.raises(FlagError, match=word):
        toy.made(Joint, **arguments)
