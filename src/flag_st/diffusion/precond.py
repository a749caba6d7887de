"""From a raw network to the one contract of denoisers: noisy x and σ in, clean x out."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flag_st.diffusion.losses import edm_loss, score_matching_loss


@dataclass(frozen=True)
class Scales:
    """Clean x = skip · x + out · F(into · x, noise) for a network F.

    Attributes:
        skip, out, into: tensors that broadcast to x.
        noise: what the network sees of σ.
    """

    skip: Tensor | float
    out: Tensor
    into: Tensor | float
    noise: Tensor

    def scaled(self, x: Tensor) -> Tensor:
        """(..., G) input of the network."""
        return self.into * x

    def clean(self, x: Tensor, raw: Tensor) -> Tensor:
        """(..., G) denoised values from the network's raw output."""
        return self.skip * x + self.out * raw


def edm(sigma: Tensor, variance: Tensor | float = 1.0) -> Scales:
    """EDM preconditioning (Karras et al. 2022, Eq. 7 and Table 1).

    Input and target of the network have unit variance at every σ, so that it has neither to emit
    values from 0.1 to 100 nor to reproduce its own input.

    Args:
        sigma: broadcastable to x. variance: of clean x, σ_data².
    """
    total = sigma**2 + variance
    out = sigma * (variance / total) ** 0.5
    return Scales(variance / total, out, total**-0.5, sigma.log() / 4)


def raw_score(sigma: Tensor, low: float, high: float) -> Scales:
    """The paper's form: the network emits the score itself and sees t ∈ [0, 1] of the VE-SDE.

    Tweedie: E[x0 | x] = x + σ² s(x, t), with σ(t) = low (high / low)^t.
    """
    return Scales(1.0, sigma**2, 1.0, (sigma / low).log() / math.log(high / low))


class RawScore(nn.Module):
    """The paper's form behind the same contract: the network emits the score, unscaled.

    Args:
        low, high: σ of the VE-SDE at t = 0 and t = 1.
    """

    def __init__(self, low: float, high: float):
        super().__init__()
        self.low, self.high = low, high

    def noise(self, sigma: Tensor) -> Tensor:
        """What the network sees of σ: the time t of the SDE."""
        return raw_score(sigma, self.low, self.high).noise

    def scaled(self, x: Tensor, sigma: Tensor) -> Tensor:
        """(..., G) input of the network: x itself, whose size grows with σ."""
        return x

    def clean(self, x: Tensor, raw: Tensor, sigma: Tensor) -> Tensor:
        """(..., G) denoised values from the network's score (Tweedie)."""
        return raw_score(sigma, self.low, self.high).clean(x, raw)

    def loss(self, denoised: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
        """(..., G) squared errors of the noise (paper Eq. 6)."""
        return score_matching_loss(denoised, clean, sigma)


class CovarianceEdm(nn.Module):
    """EDM preconditioning along the principal components of the genes, each with its variance.

    Genes are correlated: what they share (depth above all) has many times the variance of the rest
    and outlives far more noise, so that no single σ_data fits. Here the skip is the Wiener filter
    Σ (Σ + σ²)⁻¹ of the training covariance Σ. A network that returns 0 thus already samples
    profiles with the right gene–gene covariance, and learns what image and neighbours add to them.

    Args:
        genes: G. The basis starts as the identity with unit variances, which is plain EDM.
        floor: smallest variance of a component, in the unit of z-scored genes.
    """

    basis: Tensor
    variance: Tensor

    def __init__(self, genes: int, floor: float = 0.01):
        super().__init__()
        self.floor = floor
        self.register_buffer("basis", torch.eye(genes))
        self.register_buffer("variance", torch.ones(genes))

    @torch.no_grad()
    def fit(self, values: Tensor) -> None:
        """Learn the components from z-scored training spots (M, G)."""
        covariance = torch.cov(values.double().T)  # (G, G)
        variance, basis = torch.linalg.eigh(covariance)
        self.basis.copy_(basis)
        self.variance.copy_(variance.clamp(min=self.floor))

    def noise(self, sigma: Tensor) -> Tensor:
        """What the network sees of σ."""
        return sigma.log() / 4

    def scaled(self, x: Tensor, sigma: Tensor) -> Tensor:
        """(..., G) input of the network: unit variance in every component at every σ."""
        return self._along(x, edm(sigma, self.variance).into)  # (..., G)

    def clean(self, x: Tensor, raw: Tensor, sigma: Tensor) -> Tensor:
        """(..., G) denoised values from the network's raw output."""
        scales = edm(sigma, self.variance)
        return self._along(x, scales.skip) + self._along(raw, scales.out)  # (..., G)

    def loss(self, denoised: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
        """(..., G) squared errors, weighted as for unit variance."""
        return edm_loss(denoised, clean, sigma)

    def _along(self, x: Tensor, factor: Tensor | float) -> Tensor:
        return (x @ self.basis * factor) @ self.basis.T  # (..., G)
