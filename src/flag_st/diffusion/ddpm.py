"""Discrete-time diffusion with a learned variance (Ho et al. 2020; Nichol & Dhariwal 2021)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from flag_st.core.errors import FlagError

#: (noisy x (M, G), step t (M,)) → noise estimate and variance fraction, (M, G, 2).
Net = Callable[[Tensor, Tensor], Tensor]


class Ddpm:
    """A chain of T steps, t = 0 the least noisy.

    Args:
        betas: (T,) float64 variances of the steps.
        times: (T,) what the network sees of each step, by default its number.
    """

    def __init__(self, betas: Tensor, times: Tensor | None = None):
        self.betas = betas.double()
        self.times = torch.arange(len(betas)) if times is None else times
        self.kept = torch.cumprod(1 - self.betas, 0)  # ᾱ
        before = torch.cat([self.kept.new_ones(1), self.kept[:-1]])
        variance = self.betas * (1 - before) / (1 - self.kept)  # β̃ of q(x_{t-1} | x_t, x_0)
        # The first is 0; its logarithm is replaced by that of its neighbour.
        self.log_low = torch.cat([variance[1:2], variance[1:]]).log()
        self.log_high = self.betas.log()
        self.from_clean = self.betas * before.sqrt() / (1 - self.kept)
        self.from_noisy = (1 - before) * (1 - self.betas).sqrt() / (1 - self.kept)

    @classmethod
    def linear(cls, steps: int = 1000, low: float = 1e-4, high: float = 0.02) -> "Ddpm":
        """β from ``low`` to ``high``; fewer steps than 1000 keep the noise at the end."""
        scale = 1000 / steps
        return cls(torch.linspace(scale * low, scale * high, steps, dtype=torch.float64))

    def __len__(self) -> int:
        return len(self.betas)

    def strided(self, steps: int) -> "Ddpm":
        """The chain of ``steps`` evenly spaced steps of this one, with the same noise at each.

        Raises:
            FlagError: fewer than 2 steps, or more than there are.
        """
        if not 2 <= steps <= len(self):
            raise FlagError(
                f"sampling steps {steps} of a chain of {len(self)}: give 2 to {len(self)}"
            )
        used = torch.linspace(0, len(self) - 1, steps, dtype=torch.float64).round().long()
        before = torch.cat([self.kept.new_ones(1), self.kept[used][:-1]])
        return Ddpm(1 - self.kept[used] / before, self.times[used])

    def noised(self, clean: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """q(x_t | x_0): clean, noise (M, G), t (M,)."""
        return at(self.kept.sqrt(), t, clean) * clean + at((1 - self.kept).sqrt(), t, clean) * noise

    def posterior(self, clean: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(x_{t-1} | x_t, x_0)."""
        mean = at(self.from_clean, t, x) * clean + at(self.from_noisy, t, x) * x  # (M, G)
        return mean, at(self.log_low, t, x)

    def reverse(self, out: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the model's p(x_{t-1} | x_t).

        The second channel chooses the variance between β̃ (-1) and β (1), in logarithm.
        """
        noise, choice = out.unbind(-1)  # 2 × (M, G)
        clean = (x - at((1 - self.kept).sqrt(), t, x) * noise) / at(self.kept.sqrt(), t, x)
        part = (choice + 1) / 2  # (M, G)
        log_variance = part * at(self.log_high, t, x) + (1 - part) * at(self.log_low, t, x)
        return self.posterior(clean, x, t)[0], log_variance  # 2 × (M, G)

    def bound(self, out: Tensor, clean: Tensor, x: Tensor, t: Tensor, bins: bool = False) -> Tensor:
        """Terms of the variational bound, (M, G) in bits: KL divergences, likelihood at t = 0.

        Args:
            bins: the likelihood of 8-bit pixels in [-1, 1] instead of a Gaussian density.
        """
        wanted, log_wanted = self.posterior(clean, x, t)  # (M, G), (M, 1)
        mean, log_variance = self.reverse(out, x, t)  # 2 × (M, G)
        kl = 0.5 * (
            log_variance
            - log_wanted
            + torch.exp(log_wanted - log_variance)
            + (wanted - mean).square() * torch.exp(-log_variance)
            - 1
        )  # (M, G)
        likelihood = pixel_nll if bins else gaussian_nll
        first = likelihood(clean, mean, log_variance)  # (M, G)
        return torch.where((t == 0).unsqueeze(-1), first, kl) / math.log(2)  # (M, G)

    def sample(
        self, net: Net, shape: tuple[int, int], generator: torch.Generator, device
    ) -> Tensor:
        """Ancestral sampling of M independent rows from noise → (M, G)."""
        x = torch.randn(shape, generator=generator).to(device)  # (M, G)
        for step in reversed(range(len(self))):
            t = torch.full(shape[:1], step, device=device)  # (M,)
            out = net(x, self.times.to(device)[t])  # (M, G, 2)
            x, log_variance = self.reverse(out.float(), x, t)  # 2 × (M, G)
            if step:
                noise = torch.randn(shape, generator=generator).to(device)  # (M, G)
                x = x + torch.exp(0.5 * log_variance) * noise  # (M, G)
        return x


def at(values: Tensor, t: Tensor, like: Tensor) -> Tensor:
    """(T,) constants at the steps t (M,), as (M, 1) of the type of ``like``."""
    return values.to(like.device)[t].to(like.dtype).unsqueeze(-1)


def gaussian_nll(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    squared = (x - mean).square() * torch.exp(-log_variance)  # (M, G)
    return 0.5 * (math.log(2 * math.pi) + log_variance + squared)  # (M, G)


def pixel_nll(x: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Mass of the bin of width 2/255 around x; the outermost bins reach to infinity."""
    inverse = torch.exp(-0.5 * log_variance)  # (M, G)
    upper = torch.special.ndtr((x - mean + 1 / 255) * inverse)  # (M, G)
    lower = torch.special.ndtr((x - mean - 1 / 255) * inverse)  # (M, G)
    inner = torch.where(x > 0.999, 1 - lower, upper - lower)  # (M, G)
    mass = torch.where(x < -0.999, upper, inner)  # (M, G)
    return -mass.clamp(min=1e-12).log()  # (M, G)
