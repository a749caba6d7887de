"""From a raw network to the one contract in the middle: noisy x and σ in, clean x out."""

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Scales:
    """Clean x = skip · x + out · F(into · x, noise) for a network F.

    Attributes:
        skip, out, into: tensors that broadcast to x.
        noise: what the network is told of σ.
    """

    skip: Tensor | float
    out: Tensor
    into: Tensor | float
    noise: Tensor

    def clean(self, x: Tensor, raw: Tensor) -> Tensor:
        """(..., G) denoised values from the network's raw output."""
        return self.skip * x + self.out * raw


def edm(sigma: Tensor, sigma_data: float = 1.0) -> Scales:
    """EDM preconditioning (Karras et al. 2022, Eq. 7 and Table 1).

    Input and target of the network have unit variance at every σ, so that it neither has to
    emit values from 0.1 to 100 nor to reproduce its own input.
    """
    total = sigma**2 + sigma_data**2
    root = total.sqrt()
    return Scales(sigma_data**2 / total, sigma * sigma_data / root, 1 / root, sigma.log() / 4)


def raw_score(sigma: Tensor, low: float, high: float) -> Scales:
    """The paper's form: the network emits the score itself and sees t ∈ [0, 1] of the VE-SDE.

    Tweedie: E[x0 | x] = x + σ² s(x, t), with σ(t) = low (high / low)^t.
    """
    return Scales(1.0, sigma**2, 1.0, (sigma / low).log() / math.log(high / low))
