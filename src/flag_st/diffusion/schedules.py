"""Noise levels that training draws and sampling steps through. σ is the noise's deviation."""

import math

import torch
from torch import Tensor


def log_normal(
    shape: tuple[int, ...], mean: float, std: float, generator: torch.Generator
) -> Tensor:
    """ln σ ~ N(mean, std²) (Karras et al. 2022, §5)."""
    return torch.exp(mean + std * torch.randn(shape, generator=generator))


def log_uniform(
    shape: tuple[int, ...], low: float, high: float, generator: torch.Generator
) -> Tensor:
    """σ(t) = low (high/low)^t with t uniform: the VE-SDE of the paper (App. D)."""
    t = torch.rand(shape, generator=generator)
    return low * (high / low) ** t


def karras(steps: int, low: float, high: float, rho: float = 7.0) -> Tensor:
    """``steps`` levels from ``high`` to ``low``, then 0 (Karras et al. 2022, Eq. 5)."""
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    a, b = high ** (1 / rho), low ** (1 / rho)
    return torch.cat([(a + ramp * (b - a)) ** rho, torch.zeros(1, dtype=torch.float64)])


def geometric(steps: int, low: float, high: float) -> Tensor:
    """``steps`` intervals, evenly spaced in ln σ from ``high`` to ``low``, then 0 (paper)."""
    ramp = torch.linspace(math.log(high), math.log(low), steps + 1, dtype=torch.float64)
    return torch.cat([ramp.exp(), torch.zeros(1, dtype=torch.float64)])
