"""Training objectives of a denoiser."""

from torch import Tensor


def edm_loss(denoised: Tensor, clean: Tensor, sigma: Tensor, sigma_data: float = 1.0) -> Tensor:
    """Squared error, weighted so that the loss of the raw network is 1 at every σ at the start.

    Karras et al. 2022, Eq. 2 with λ(σ) of Table 1. Shapes: (..., G), σ broadcastable.

    Returns:
        (..., G) weighted squared errors; the caller averages them over real spots.
    """
    weight = (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2
    return weight * (denoised - clean) ** 2


def score_matching_loss(denoised: Tensor, clean: Tensor, sigma: Tensor) -> Tensor:
    """Denoising score matching with weight σ², i.e. the error of ε̂ (paper Eq. 6)."""
    return (denoised - clean) ** 2 / sigma**2
