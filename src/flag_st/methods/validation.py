"""Scores of validation slides, by which training chooses its best epoch."""

import numpy as np
from torch import Tensor


def mean_correlation(prediction: Tensor, truth: Tensor) -> float:
    """Mean over genes of Pearson's r across spots, (N, G) each; a constant gene counts as 0."""
    p, t = prediction - prediction.mean(0), truth - truth.mean(0)  # 2 × (N, G)
    r = (p * t).sum(0) / (p.norm(dim=0) * t.norm(dim=0)).clamp(min=1e-8)  # (G,)
    return r.mean().item()


def regression_scores(pairs: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Squared error (``loss``) and correlation of the genes (``pcc``), averaged over slides.

    Args:
        pairs: prediction and truth of each slide, (N, G) each.
    """
    errors = [(p.float() - y).square().mean().item() for p, y in pairs]
    correlations = [mean_correlation(p.float(), y) for p, y in pairs]
    return {"loss": float(np.mean(errors)), "pcc": float(np.mean(correlations))}
