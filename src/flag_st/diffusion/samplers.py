"""Solvers of the probability-flow ODE dx/dσ = (x − D(x, σ)) / σ. All share one signature."""

from collections.abc import Callable

import torch
from torch import Tensor

#: The one contract of denoisers: (x, σ scalar) → clean x.
Denoiser = Callable[[Tensor, Tensor], Tensor]


def heun(denoise: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """Heun's second-order method (Karras et al. 2022, Algorithm 1); 2 n − 1 evaluations.

    Args:
        denoise: the preconditioned network.
        x: the start, which contains noise of the level ``sigmas[0]``.
        sigmas: n + 1 falling levels. The last may be 0; the last step is then one of Euler's.
    """
    for sigma, after in zip(sigmas[:-1].to(x.device), sigmas[1:].to(x.device), strict=True):
        slope = (x - denoise(x, sigma.to(x.dtype))) / sigma
        euler = (x + (after - sigma) * slope).to(x.dtype)
        if after > 0:
            slope_after = (euler - denoise(euler, after.to(x.dtype))) / after
            x = (x + (after - sigma) * (slope + slope_after) / 2).to(x.dtype)
        else:
            x = euler
    return x


def heun_log(denoise: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """Heun's method in ln σ, which is the time of the paper's VE-SDE; then one Tweedie step.

    dx/d ln σ = x − D(x, σ) is dx/dt = −½ g² s with σ(t) = low (high/low)^t, so equal steps of t
    are equal steps of ln σ; 2 n − 1 evaluations for n + 1 levels that end with 0.
    """
    for sigma, after in zip(sigmas[:-1].to(x.device), sigmas[1:].to(x.device), strict=True):
        clean = denoise(x, sigma.to(x.dtype))
        if after == 0:
            return clean
        step = torch.log(after / sigma)
        slope = x - clean
        euler = (x + step * slope).to(x.dtype)
        slope_after = euler - denoise(euler, after.to(x.dtype))
        x = (x + step * (slope + slope_after) / 2).to(x.dtype)
    return x


def dpmpp_2m(denoise: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2); n evaluations."""
    before: tuple[Tensor, Tensor] | None = None  # clean x and length of the last step
    for sigma, after in zip(sigmas[:-1].to(x.device), sigmas[1:].to(x.device), strict=True):
        clean = denoise(x, sigma.to(x.dtype))
        if after == 0:
            return clean
        step = torch.log(sigma / after)
        target = clean
        if before is not None:
            previous, step_before = before
            ratio = step_before / step
            target = (1 + 1 / (2 * ratio)) * clean - previous / (2 * ratio)
        x = ((after / sigma) * x - torch.expm1(-step) * target).to(x.dtype)
        before = clean, step
    return x


SAMPLERS = {"heun": heun, "heun_log": heun_log, "dpmpp_2m": dpmpp_2m}
