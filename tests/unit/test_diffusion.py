"""Diffusion mathematics against a Gaussian, for which everything has a closed form."""

import math

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flag_st.diffusion import losses, precond, samplers, schedules
from flag_st.diffusion.ema import Ema

MEAN, STD = 1.7, 0.6


def ideal(x, sigma):
    """E[x0 | x] for x0 ~ N(MEAN, STD²)."""
    return (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)


def exact_flow(x, start, end):
    """The probability-flow ODE of a Gaussian scales the distance from the mean."""
    return MEAN + (x - MEAN) * math.sqrt((STD**2 + end**2) / (STD**2 + start**2))


@pytest.mark.parametrize(("name", "steps"), [("heun", 40), ("dpmpp_2m", 160)])
def test_samplers_follow_the_exact_flow(name, steps):
    x = torch.tensor([-20.0, -3.0, 0.0, 4.0, 25.0], dtype=torch.float64)
    end = samplers.SAMPLERS[name](ideal, x, schedules.karras(steps, 0.002, 20.0))
    assert torch.allclose(end, exact_flow(x, 20.0, 0.0), atol=5e-3)


def test_heun_is_second_order():
    x = torch.tensor([6.0], dtype=torch.float64)
    errors = []
    for steps in (20, 40):
        grid = schedules.karras(steps, 0.5, 10.0)[:-1]  # no last jump to zero
        end = samplers.heun(ideal, x, grid)
        errors.append((end - exact_flow(x, 10.0, 0.5)).abs().item())
    assert errors[0] / errors[1] > 3.4  # halving the step quarters the error


def test_sample_moments_match_the_gaussian():
    generator = torch.Generator().manual_seed(0)
    x = MEAN + 20.0 * torch.randn(40000, dtype=torch.float64, generator=generator)
    end = samplers.heun(ideal, x, schedules.karras(30, 0.002, 20.0))
    assert end.mean().item() == pytest.approx(MEAN, abs=0.02)
    assert end.std().item() == pytest.approx(STD, rel=0.02)


def test_edm_scales_give_unit_variance_input_and_target():
    generator = torch.Generator().manual_seed(1)
    for sigma in (0.02, 0.5, 1.0, 7.0, 40.0):
        clean = torch.randn(200000, dtype=torch.float64, generator=generator)
        noise = torch.randn(200000, dtype=torch.float64, generator=generator)
        x = clean + sigma * noise
        scales = precond.edm(torch.tensor(sigma, dtype=torch.float64))
        assert scales.scaled(x).std().item() == pytest.approx(1, abs=0.01)
        target = (clean - scales.skip * x) / scales.out
        assert target.std().item() == pytest.approx(1, abs=0.01)
        assert torch.allclose(scales.clean(x, target), clean)


def test_edm_loss_is_one_at_every_level_for_a_zero_network():
    generator = torch.Generator().manual_seed(2)
    for sigma in (0.05, 1.0, 20.0):
        level = torch.tensor(sigma)
        clean = torch.randn(100000, generator=generator)
        x = clean + level * torch.randn(100000, generator=generator)
        denoised = precond.edm(level).clean(x, torch.zeros_like(x))
        assert losses.edm_loss(denoised, clean, level).mean().item() == pytest.approx(1, abs=0.02)


def test_raw_score_with_the_true_score_is_tweedie():
    x, sigma = torch.linspace(-3, 5, 9), torch.tensor(0.8)
    score = (MEAN - x) / (STD**2 + sigma**2)
    clean = precond.raw_score(sigma, 0.01, 10.0).clean(x, score)
    assert torch.allclose(clean, ideal(x, sigma), atol=1e-6)


def test_raw_score_sees_time_of_the_ve_sde():
    sigma = 0.01 * 1000 ** torch.tensor([0.0, 0.25, 1.0])
    noise = precond.raw_score(sigma, 0.01, 10.0).noise
    assert torch.allclose(noise, torch.tensor([0.0, 0.25, 1.0]), atol=1e-6)


def test_score_matching_loss_is_the_error_of_the_noise():
    clean, noise, sigma = torch.zeros(5), torch.ones(5), torch.tensor(3.0)
    x = clean + sigma * noise
    assert torch.allclose(losses.score_matching_loss(x, clean, sigma), noise**2)


def test_grids_have_their_ends_and_fall():
    for grid in (schedules.karras(10, 0.02, 20.0), schedules.geometric(10, 0.02, 20.0)):
        assert grid[0].item() == pytest.approx(20.0)
        assert grid[-2].item() == pytest.approx(0.02)
        assert grid[-1] == 0
        assert (grid[1:] < grid[:-1]).all()


def test_karras_grid_of_the_reference():
    """First levels of the published 18-step grid from 80 to 0.002."""
    grid = schedules.karras(18, 0.002, 80.0)
    assert grid[:3].tolist() == pytest.approx([80.0, 57.586, 40.786], abs=1e-3)


def test_drawn_levels_follow_their_law():
    generator = torch.Generator().manual_seed(3)
    logs = schedules.log_normal((50000,), -0.4, 1.2, generator).log()
    assert logs.mean().item() == pytest.approx(-0.4, abs=0.02)
    assert logs.std().item() == pytest.approx(1.2, abs=0.02)
    levels = schedules.log_uniform((50000,), 0.01, 10.0, generator)
    assert levels.min() >= 0.01
    assert levels.max() <= 10.0
    assert levels.log().mean().item() == pytest.approx(math.log(0.01 * 10) / 2, abs=0.03)


def test_ema_warms_up_and_converges():
    layer = torch.nn.Linear(1, 1)
    average = Ema(layer, decay=0.9)
    with torch.no_grad():
        layer.weight.fill_(5.0)
    average.update(layer)
    assert average.module.weight.item() > 3.0  # the random start is forgotten at once
    for _ in range(200):
        average.update(layer)
    assert average.module.weight.item() == pytest.approx(5.0, abs=1e-4)


def test_ema_without_a_warm_up_keeps_the_random_start():
    layer = torch.nn.Linear(1, 1)
    start, average = layer.weight.item(), Ema(layer, decay=0.9, warmup=False)
    with torch.no_grad():
        layer.weight.fill_(5.0)
    for step in range(1, 4):
        average.update(layer)
        wanted = 0.9**step * start + (1 - 0.9**step) * 5
        assert average.module.weight.item() == pytest.approx(wanted, rel=1e-5)


def test_ema_after_its_warm_up_is_torchs():
    """At this decay, the warm-up is over before the first step."""
    layer, generator = torch.nn.Linear(3, 2), torch.Generator().manual_seed(1)
    ours = Ema(layer, decay=0.1)
    theirs = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.1))
    theirs.update_parameters(layer)  # its first call takes the weights as they are
    for _ in range(5):
        with torch.no_grad():
            layer.weight.normal_(generator=generator)
        ours.update(layer)
        theirs.update_parameters(layer)
    torch.testing.assert_close(ours.module.weight, theirs.module.weight)


def covariance_edm():
    """A preconditioner fitted on 6 correlated genes, and their covariance."""
    generator = torch.Generator().manual_seed(4)
    factor = torch.randn(6, 6, dtype=torch.float64, generator=generator)
    values = torch.randn(20000, 6, dtype=torch.float64, generator=generator) @ factor.T
    module = precond.CovarianceEdm(6, floor=1e-4).double()
    module.fit(values)
    return module, torch.cov(values.T), generator


def test_covariance_skip_is_the_wiener_filter():
    module, covariance, generator = covariance_edm()
    x = torch.randn(50, 6, dtype=torch.float64, generator=generator)
    for sigma in (0.1, 1.0, 10.0):
        level = torch.tensor(sigma, dtype=torch.float64)
        gain = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(6))
        assert torch.allclose(module.clean(x, torch.zeros_like(x), level), x @ gain.T, atol=1e-8)


def test_a_silent_network_samples_the_training_covariance():
    module, covariance, generator = covariance_edm()
    start = 80.0 * torch.randn(30000, 6, dtype=torch.float64, generator=generator)

    def denoise(x, sigma):
        return module.clean(x, torch.zeros_like(x), sigma)

    samples = samplers.heun(denoise, start, schedules.karras(60, 0.01, 80.0))
    assert torch.allclose(torch.cov(samples.T), covariance, atol=0.03 * covariance.abs().max())


def test_covariance_input_and_target_have_unit_variance_in_every_component():
    module, covariance, generator = covariance_edm()
    root = torch.linalg.cholesky(covariance)
    clean = torch.randn(100000, 6, dtype=torch.float64, generator=generator) @ root.T
    for sigma in (0.05, 1.0, 20.0):
        level = torch.tensor(sigma, dtype=torch.float64)
        x = clean + level * torch.randn(clean.shape, dtype=torch.float64, generator=generator)
        assert torch.allclose(
            torch.cov(module.scaled(x, level).T), torch.eye(6).double(), atol=0.03
        )
        # The target of the network is what makes the cleaned value exact.
        rest = clean - module.clean(x, torch.zeros_like(x), level)
        out = precond.edm(level, module.variance).out
        target = rest @ module.basis / out
        assert torch.allclose(torch.cov(target.T), torch.eye(6).double(), atol=0.03)


def test_covariance_with_unit_variances_is_plain_edm():
    module, level = precond.CovarianceEdm(4), torch.tensor(0.7)
    x, raw = torch.randn(3, 4), torch.randn(3, 4)
    plain = precond.edm(level)
    assert torch.allclose(module.scaled(x, level), plain.scaled(x), atol=1e-6)
    assert torch.allclose(module.clean(x, raw, level), plain.clean(x, raw), atol=1e-6)
