"""STFlow: sizes, invariances, padding, the flow, and draws around the truth."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import toy
from toy_slides import correlation, fitted, predict, reloaded, toy_cohort, toy_slide

from flag_st.commands.describe import count_parameters
from flag_st.core.errors import FlagError
from flag_st.data.spatial import nearest
from flag_st.methods.base import Run
from flag_st.methods.stflow import StFlow, prior_noise
from flag_st.nets.stflow import LocalAttention, collate, gather, geometry

USE = "flag_st.methods.stflow.StFlow"
SMALL = {"width": 32, "depth": 2, "heads": 4, "dropout": 0.0}
BRIEF = {**SMALL, "training": {"epochs": 2}}
LEARN = {**SMALL, "training": {"epochs": 30, "lr": 4e-3, "validate_every": 10, "patience": 0}}


@pytest.mark.parametrize(("genes", "count"), [(50, 1_147_724), (200, 1_301_924)])
def test_published_sizes(genes, count):
    total, parts = count_parameters(
        toy.made(
            StFlow,
        ),
        genes,
        1024,
        0,
    )
    assert total == count
    assert {n: round(p / 1e3) for n, p in parts.items() if n != "blocks"} == {
        "features": 131,
        "time": 49,
    }
    assert genes != 50 or round(parts["blocks"] / 1e3) == 967


def part(spots=40, features=6, genes=5, seed=0, array=False):
    rng = np.random.default_rng(seed)
    position = rng.uniform(0, 3000, (spots, 2))
    if array:
        position = np.stack(np.divmod(np.arange(spots), 8), -1) * 200.0
    return position, rng.normal(size=(spots, features)), rng.normal(size=(spots, genes))


def network(genes=5, features=6, released=False):
    torch.manual_seed(0)
    method = toy.made(StFlow, **SMALL, as_released=released)
    return method.build(genes, features).eval()


def estimate(parts, net=None, released=False, seed=0):
    """The network's estimate (B, N, G) of batched regions at a fixed noisy expression."""
    batch = collate(parts, 8, released)
    x = torch.randn(batch.y.shape, generator=torch.Generator().manual_seed(seed))
    x = torch.where(batch.mask.unsqueeze(-1), x, 0.0)
    with torch.no_grad():
        return (net or network(released=released))(x, torch.full((len(parts),), 0.4), batch)


def test_attention_logits_are_one_mlp_of_the_joined_inputs():
    torch.manual_seed(0)
    module = LocalAttention(genes=5, width=16, heads=2, dropout=0.0)
    q, k = torch.randn(2, 1, 9, 2, 8)
    e, z = torch.randn(1, 9, 4, 2, 8), torch.randn(1, 9, 5)
    index = torch.randint(9, (1, 9, 4))
    apart = (gather(z, index) - z.unsqueeze(2)).unsqueeze(3).expand(1, 9, 4, 2, 5)
    query = q.unsqueeze(2).expand(1, 9, 4, 2, 8)
    joined = torch.cat([query, gather(k, index), e, apart], dim=-1)
    expected = module.logit(joined).squeeze(-1)
    torch.testing.assert_close(module._logits(q, k, e, z, index), expected, atol=1e-5, rtol=1e-5)


def test_padding_never_changes_real_spots():
    small, large = part(30), part(50, seed=1)
    net = network()
    batch = collate([small, large], 8)
    assert batch.mask.sum(1).tolist() == [30, 50]
    x = torch.randn(batch.y.shape)
    t = torch.tensor([0.3, 0.3])
    with torch.no_grad():
        both = net(x, t, batch)
        alone = net(x[:1, :30], t[:1], collate([small], 8))
    torch.testing.assert_close(both[0, :30], alone[0], atol=1e-5, rtol=1e-5)


def test_padding_leaks_as_released():
    small, large = part(30), part(50, seed=1)
    for released in (True, False):
        net = network(released=released)
        batches = [collate(parts, 8, released) for parts in ([small, large], [small])]
        t, x = torch.zeros(2), torch.zeros(2, 50, 5)
        with torch.no_grad():
            both, alone = net(x, t, batches[0])[0, :30], net(x[:1, :30], t[:1], batches[1])[0]
        changed = ((both - alone).abs().amax(1) > 1e-4).sum()
        assert bool(changed > 5) is released


def moved(position, degrees, mirror):
    a = np.deg2rad(degrees)
    turned = position @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    return turned * [1, -1 if mirror else 1] + [900, -4000]


@pytest.mark.parametrize("mirror", [False, True])
def test_turning_a_section_changes_nothing(mirror):
    position, u, y = part()
    found = [estimate([(p, u, y)]) for p in (position, moved(position, 33, mirror))]
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("released", [False, True])
def test_frames_of_a_regular_array(released):
    """Round neighbourhoods have no axes: only as released do they get some, by rounding."""
    position, *_ = part(array=True)
    rng = np.random.default_rng(0)
    inner = [i for i in range(40) if 0 < i // 8 < 4 and 0 < i % 8 < 7]  # their neighbours are clear
    found = []
    for degrees in (0, 33):
        jittered = moved(position, degrees, False) / 200 + rng.normal(0, 1e-3, position.shape)
        frames = geometry(jittered, nearest(jittered, 8), released)[inner]
        found.append(np.sort(np.abs(frames), axis=1))
    assert (np.abs(found[0] - found[1]).max() < 0.01) == (not released)


def test_network_ignores_a_constant_of_the_noisy_expression():
    """It sees differences between neighbours alone, which is why the flow matters so little."""
    batch, net = collate([part()], 8), network()
    x, t = torch.randn(1, 40, 5), torch.tensor([0.4])
    with torch.no_grad():
        first, shifted = net(x, t, batch), net(x + torch.randn(5), t, batch)
        torch.testing.assert_close(first, shifted, atol=1e-5, rtol=1e-5)
        assert (first - net(x + torch.randn(1, 40, 5), t, batch)).abs().max() > 1e-4


def test_permutation_of_spots():
    position, u, y = part()
    order = np.random.default_rng(3).permutation(40)
    net, t = network(), torch.tensor([0.4])
    x = torch.randn(1, 40, 5)
    with torch.no_grad():
        first = net(x, t, collate([(position, u, y)], 8))
        other = net(x[:, order], t, collate([(position[order], u[order], y[order])], 8))
    torch.testing.assert_close(other, first[:, order], atol=1e-5, rtol=1e-5)


def test_few_spots_have_few_neighbours():
    """Places of neighbours that are not there weigh nothing."""
    one, net = part(5), network()
    x, t = torch.randn(1, 5, 5), torch.tensor([0.4])
    with torch.no_grad():
        four, eight = (net(x, t, collate([one], k)) for k in (4, 8))
    torch.testing.assert_close(eight, four, atol=1e-5, rtol=1e-5)
    assert estimate([part(2), one]).isfinite().all()


def test_prior_is_a_zero_inflated_negative_binomial():
    x = prior_noise("zinb", (200_000,), torch.Generator().manual_seed(0))
    counts = torch.expm1(x).round()
    p = 1 / (1 + np.exp(-0.1))
    for k in range(4):
        expected = 0.5 * (1 - p) * p**k + (0.5 if k == 0 else 0)
        assert (counts == k).float().mean().item() == pytest.approx(expected, abs=5e-3)
    assert counts.mean().item() == pytest.approx(0.5 * np.exp(0.1), abs=0.02)
    assert prior_noise("zero", (3,), torch.Generator()).tolist() == [0, 0, 0]
    assert prior_noise("gaussian", (9999,), torch.Generator()).std().item() == pytest.approx(
        1, abs=0.03
    )


def test_flow_of_five_points_calls_the_network_four_times(tmp_path):
    """Times as published, Euler steps between, and the last estimate is the draw."""
    method = fitted(toy.made(StFlow, **BRIEF), toy_cohort(), tmp_path)
    r, seen = method.open(toy_slide()), []

    def net(x, t, _):
        seen.append((t.item(), x))
        return torch.full_like(x, float(len(seen)))

    drawn = method.flow(net, r, torch.Generator().manual_seed(0))
    times = [t for t, _ in seen]
    assert times == pytest.approx([0.01, 0.2575, 0.505, 0.7525])
    torch.testing.assert_close(drawn, torch.full_like(drawn, 4.0))
    for (t, x), (after, nxt) in pairwise(seen):
        velocity = (1.0 + times.index(t) - x) / (1 - t)
        torch.testing.assert_close(nxt, x + (after - t) * velocity, atol=1e-5, rtol=1e-5)


def test_training_regions_are_shuffled_and_of_all_sizes(tmp_path):
    cohort = toy_cohort(3)
    method = fitted(toy.made(StFlow, **BRIEF, regions=20), cohort, tmp_path)
    task = method.task(cohort, cohort, Run(directory=tmp_path))
    sizes = [n for b in task.batches(torch.Generator().manual_seed(0)) for n in b.mask.sum(1)]
    assert len(sizes) == 60
    assert min(sizes) >= 2
    assert min(sizes) < 10
    assert max(sizes) > 30


def test_loss_leaves_padding_out(tmp_path):
    cohort = toy_cohort()
    method = fitted(toy.made(StFlow, **BRIEF), cohort, tmp_path)
    task = method.task(cohort, cohort, Run(directory=tmp_path))
    position, u, y = task.train[0]
    batch = method.collate([(position, u, y), (position[:9], u[:9], y[:9])])
    method.clean = lambda net, x, t, r: torch.where(r.mask.unsqueeze(-1), r.y + 1, 1e6)
    loss, _ = task.loss(batch, torch.Generator().manual_seed(0))
    assert loss.item() == pytest.approx(1)


def test_draws_surround_the_truth(tmp_path):
    cohort = toy_cohort()
    method = fitted(toy.made(StFlow, **LEARN), cohort, tmp_path)
    found, truth = predict(method, cohort[0], 4), cohort[0].expression
    assert correlation(found.samples[0], truth) > 0.9
    assert correlation(found.point, truth) > 0.9


def test_reload_and_draws(tmp_path):
    cohort = toy_cohort(2)
    method, slide = fitted(toy.made(StFlow, **BRIEF), cohort, tmp_path), toy_slide("B1", 30)
    three = predict(method, slide, 3).samples
    np.testing.assert_array_equal(
        predict(reloaded(method, USE, BRIEF, tmp_path), slide, 3).samples, three
    )
    np.testing.assert_array_equal(predict(method, slide, 1).samples[0], three[0])
    assert np.abs(three[0] - three[1]).max() > 0


def test_control_without_the_noisy_expression(tmp_path):
    """All draws are one prediction, which follows a permutation of the spots."""
    params = {**LEARN, "see_x": False}
    cohort = toy_cohort()
    method = fitted(toy.made(StFlow, **params), cohort, tmp_path)
    assert method.stochastic is False
    assert toy.made(StFlow, **LEARN).stochastic is True
    found = predict(method, cohort[0], 2).samples
    np.testing.assert_allclose(found[0], found[1], atol=1e-5)
    assert correlation(found[0], cohort[0].expression) > 0.9
    order = np.random.default_rng(0).permutation(40)
    moved_ = predict(method, cohort[0].subset(order)).samples
    np.testing.assert_allclose(moved_[0], found[0][order], atol=1e-4)


def test_output_dropout_only_as_released():
    for released, expected in ((False, 0.0), (True, 0.2)):
        net = toy.made(StFlow, as_released=released, width=32).build(5, 6)
        assert [block.head[-1].p for block in net.blocks] == [expected] * 4


def test_unknown_prior_and_too_few_steps_are_refused():
    with pytest.raises(FlagError, match="zinb, gaussian, zero, not 'poisson'"):
        toy.made(StFlow, prior="poisson")
    with pytest.raises(FlagError, match="steps 1"):
        toy.made(StFlow, steps=1)
