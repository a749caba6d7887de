"""Stem: size, the diffusion's mathematics against closed forms, and draws around the truth."""

import math

import numpy as np
import pytest
import torch
import toy
from toy_slides import correlation, fitted, predict, reloaded, toy_cohort, toy_slide

from flag_st.commands.describe import count_parameters
from flag_st.core.errors import FlagError
from flag_st.data.slide import Cohort
from flag_st.data.spatial import nearest
from flag_st.diffusion.ddpm import Ddpm, pixel_nll
from flag_st.methods.base import Run
from flag_st.methods.stem import Stem

USE = "flag_st.methods.stem.Stem"
SMALL = {"width": 32, "depth": 2, "heads": 4, "chain": 50, "steps": 10, "point_draws": 4}
BRIEF = {**SMALL, "training": {"epochs": 2, "validate_every": 1}}
LEARN = {
    **SMALL,
    "standardise": True,
    "training": {"epochs": 300, "lr": 4e-3, "ema": 0.98, "validate_every": 100, "patience": 0},
}


@pytest.mark.parametrize(("features", "count"), [(1024, 34_131_202), (1536, 35_639_042)])
def test_published_sizes(features, count):
    """34.13 M on UNI, 35.64 M on UNI and CONCH; 31.92 M of them in the blocks, 384 a gene."""
    assert (
        count_parameters(
            toy.made(
                Stem,
            ),
            200,
            features,
            0,
        )[0]
        == count
    )
    assert (
        count_parameters(
            toy.made(
                Stem,
            ),
            201,
            features,
            0,
        )[0]
        == count + 384
    )
    with torch.device("meta"):
        blocks = (
            toy.made(
                Stem,
            )
            .build(200, features)
            .tokens.blocks
        )
    assert sum(p.numel() for p in blocks.parameters()) / 1e6 == pytest.approx(31.92, abs=0.005)


def test_chain_of_the_release():
    chain = Ddpm.linear()
    assert len(chain) == 1000
    assert chain.betas[[0, -1]].tolist() == pytest.approx([1e-4, 0.02])
    assert chain.kept[-1].item() == pytest.approx(4.0e-5, rel=0.02)


def test_noised_and_its_posterior_are_one_gaussian():
    """q(x_t | x_0), and Bayes' rule for q(x_{t-1} | x_t, x_0), both from single steps."""
    chain, t = Ddpm.linear(100), 40
    beta, before = chain.betas[t].item(), chain.kept[t - 1].item()
    clean, x = (
        torch.tensor([[1.7]], dtype=torch.float64),
        torch.tensor([[0.4]], dtype=torch.float64),
    )
    at = torch.tensor([t])
    noise = torch.tensor([[-0.3]], dtype=torch.float64)
    scale, spread = math.sqrt((1 - beta) * before), math.sqrt(1 - (1 - beta) * before)
    assert chain.noised(clean, at, noise).item() == pytest.approx(scale * 1.7 - 0.3 * spread)
    # x_{t-1} ~ N(√ᾱ' x_0, 1 - ᾱ'), x_t | x_{t-1} ~ N(√(1 - β) x_{t-1}, β): product of Gaussians.
    precision = 1 / (1 - before) + (1 - beta) / beta
    mean = (math.sqrt(before) * 1.7 / (1 - before) + math.sqrt(1 - beta) * 0.4 / beta) / precision
    found, log_variance = chain.posterior(clean, x, at)
    assert found.item() == pytest.approx(mean)
    assert log_variance.exp().item() == pytest.approx(1 / precision)


def optimal_noise(chain, x, t, spread):
    """E[noise | x_t] for data from N(0, spread²)."""
    kept = chain.kept[t].to(x.dtype).unsqueeze(-1)
    return x * (1 - kept).sqrt() / (kept * spread**2 + 1 - kept)


def test_bound_equals_its_closed_form_on_a_gaussian():
    """For Gaussian data and the best noise estimate, the expected KL is known.

    Given x_t, the posterior's mean spreads with x_0 by c₀ sd(x_0 | x_t); two values of x_0 at
    ± one such deviation carry its second moment exactly.
    """
    chain, spread, part = Ddpm.linear(100), 1.6, 0.3
    t = torch.arange(1, 100)
    x = torch.linspace(-2, 2, 99, dtype=torch.float64).unsqueeze(-1)
    kept = chain.kept[t].unsqueeze(-1)
    total = kept * spread**2 + 1 - kept
    mean, deviation = x * kept.sqrt() * spread**2 / total, (spread**2 * (1 - kept) / total).sqrt()
    out = torch.stack(
        [optimal_noise(chain, x, t, spread), torch.full_like(x, 2 * part - 1)], dim=-1
    )
    found = sum(chain.bound(out, mean + s * deviation, x, t) for s in (1, -1)) / 2
    low, high = (v[t].unsqueeze(-1) for v in (chain.log_low, chain.log_high))
    variance = (part * high + (1 - part) * low).exp()
    moved = (chain.from_clean[t].unsqueeze(-1) * deviation) ** 2
    expected = 0.5 * ((variance / low.exp()).log() + (low.exp() + moved) / variance - 1)
    torch.testing.assert_close(found, expected / math.log(2))
    assert (found > 0).all()


def test_bound_ends_with_a_likelihood_in_bits():
    chain, first = Ddpm.linear(100), torch.tensor([0])
    x, clean = (
        torch.tensor([[2.1]], dtype=torch.float64),
        torch.tensor([[2.0]], dtype=torch.float64),
    )
    out = torch.tensor([[[0.4, -1.0]]], dtype=torch.float64)
    mean, log_variance = chain.reverse(out, x, first)
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = -normal.log_prob(clean) / math.log(2)
    torch.testing.assert_close(chain.bound(out, clean, x, first), expected)
    # As released: everything above 0.999 is one open bin.
    released = chain.bound(out, clean, x, first, bins=True)
    upper = 1 - normal.cdf(clean - 1 / 255)
    torch.testing.assert_close(released, -upper.clamp(min=1e-12).log() / math.log(2))


def test_pixel_bins_sum_to_one():
    values = torch.linspace(-1, 1, 256, dtype=torch.float64).unsqueeze(-1)
    mass = (-pixel_nll(values, torch.tensor([[0.2]]), torch.tensor([[-1.0]]))).exp()
    assert mass.sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("steps", [1000, 100, 25])
def test_sampling_returns_the_gaussian_it_was_told(steps):
    chain, spread, rows = Ddpm.linear(), 1.5, 4000
    chain = chain if steps == 1000 else chain.strided(steps)
    full = Ddpm.linear()

    def net(x, times):
        return torch.stack([optimal_noise(full, x, times, spread), torch.ones_like(x)], dim=-1)

    x = chain.sample(net, (rows, 1), torch.Generator().manual_seed(0), "cpu")
    assert x.mean().item() == pytest.approx(0, abs=0.1)
    assert x.std().item() == pytest.approx(spread, rel=0.06)


def test_stride_keeps_the_ends_and_the_noise():
    chain = Ddpm.linear()
    short = chain.strided(20)
    assert short.times[[0, -1]].tolist() == [0, 999]
    torch.testing.assert_close(short.kept, chain.kept[short.times])
    torch.testing.assert_close(chain.strided(1000).betas, chain.betas)
    for steps in (1, 1001):
        with pytest.raises(FlagError, match="give 2 to 1000"):
            chain.strided(steps)


def test_bound_trains_the_variance_alone(tmp_path):
    cohort = toy_cohort()
    method = fitted(toy.made(Stem, **BRIEF), cohort, tmp_path)
    task = method.task(cohort, cohort, Run(directory=tmp_path))
    out = torch.zeros(40, 12, 2, requires_grad=True)
    _, bound = task._errors(lambda *_: out, task.u, task.y, torch.Generator().manual_seed(0))
    bound.mean().backward()
    assert out.grad[..., 0].abs().max() == 0
    assert out.grad[..., 1].abs().min() > 0


def test_spots_without_counts_are_left_out_of_training(tmp_path):
    slide = toy_slide()
    slide.expression[[3, 7]] = 0
    cohort = Cohort([slide], [f"g{i}" for i in range(12)])
    method = fitted(toy.made(Stem, **BRIEF), cohort, tmp_path)
    assert len(method.task(cohort, cohort, Run(directory=tmp_path)).y) == 38


def test_draws_surround_the_truth(tmp_path):
    cohort = toy_cohort()
    method = fitted(toy.made(Stem, **LEARN), cohort, tmp_path)
    found, truth = predict(method, cohort[0], 8), cohort[0].expression
    assert correlation(found.point, truth) > 0.9
    assert correlation(found.samples[0], truth) > 0.8
    spread = found.samples.std(0).mean()
    assert 0 < spread < 0.5 * truth.std(0).mean()
    task = method.task(cohort, cohort, Run(directory=tmp_path))
    scores = [task.validate(method.net) for _ in range(2)]
    assert scores[0] == scores[1]
    assert 0.85 < scores[0]["pcc"] < 1


def test_reload_and_draws(tmp_path):
    cohort = toy_cohort()
    method, slide = fitted(toy.made(Stem, **BRIEF), cohort, tmp_path), toy_slide("B1", 30)
    three = predict(method, slide, 3)
    again = predict(reloaded(method, USE, BRIEF, tmp_path), slide, 3)
    np.testing.assert_array_equal(again.samples, three.samples)
    np.testing.assert_array_equal(again.point, three.point)
    # A draw belongs to its number, the point estimate to as many draws as it is the mean of.
    np.testing.assert_array_equal(predict(method, slide, 1).samples[0], three.samples[0])
    np.testing.assert_array_equal(predict(method, slide, 1).point, three.point)
    assert np.abs(three.samples[0] - three.samples[1]).max() > 0.1
    np.testing.assert_allclose(predict(method, slide, 4).samples.mean(0), three.point, atol=1e-4)


def test_blocks_of_spots_do_not_matter(tmp_path):
    method, slide = fitted(toy.made(Stem, **BRIEF), toy_cohort(), tmp_path), toy_slide("B1", 30)
    whole = predict(method, slide).samples
    method.sample_batch = 7
    np.testing.assert_allclose(predict(method, slide).samples, whole, atol=1e-3)


def test_neighbours_are_pooled(tmp_path):
    cohort = toy_cohort()
    method = fitted(toy.made(Stem, **BRIEF, neighbours=4), cohort, tmp_path)
    u = method.condition(cohort)
    own = method.features_of(cohort[0])
    around = nearest(cohort[0].position, 4)
    assert u.shape == (40, 32)
    np.testing.assert_array_equal(u[:, :16], own)
    np.testing.assert_allclose(u[5, 16:], own[around[5]].mean(0), rtol=1e-5)
    assert method.net.label[0].in_features == 32


def test_scale_of_what_is_diffused(tmp_path):
    cohort = toy_cohort()
    plain = fitted(toy.made(Stem, **BRIEF), cohort, tmp_path / "plain")
    np.testing.assert_array_equal(plain.expression_of(cohort[0]), cohort[0].expression)
    standard = fitted(toy.made(Stem, **BRIEF, standardise=True), cohort, tmp_path / "standard")
    z = standard.expression_of(cohort[0])
    np.testing.assert_allclose(z.std(0), 1, rtol=1e-3)
    np.testing.assert_allclose(standard.in_unit(torch.tensor(z)), cohort[0].expression, atol=1e-5)


def test_time_is_embedded_by_the_usual_frequencies():
    net = toy.made(Stem, **SMALL).build(2, 3)
    frequencies = net.time.frequencies.sort(descending=True).values
    expected = torch.exp(-math.log(1e4) * torch.arange(128) / 128)
    torch.testing.assert_close(frequencies, expected)
    out = net(torch.randn(4, 2), torch.arange(4), torch.randn(4, 3))
    assert out.shape == (4, 2, 2)
    assert out.abs().max() == 0  # the head starts at zero
