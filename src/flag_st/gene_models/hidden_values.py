"""How well hidden values of a held-out section are told from visible ones, beside two anchors.

A network that does not beat the normal distribution has learned no more than a mean and a covariance.
"""

import logging
from collections.abc import Callable, Sequence

import numpy as np

from flag_st.gene_models.moments import Moments

log = logging.getLogger(__name__)

#: Shares of the panel that are hidden.
SHARES = (0.2, 0.5, 0.9)
#: What tells the hidden values, in the order of the columns of the report.
TELLERS = ("network", "normal distribution", "gene means")


def explained(
    network: Callable[[np.ndarray, np.ndarray], np.ndarray],
    anchor: Moments,
    values: Sequence[np.ndarray],
    known: Sequence[np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """R² of hidden values of held-out sections, against the section's own gene means.

    The anchors may fall below 0, as the corpus has other gene means than the section.

    Args:
        network: values (N, G) and which are hidden (N, G) → all of them, (N, G).
        anchor: of the sections that the network was trained on.
        values: (N, G) per held-out section, 0 where unknown; ``known`` (G,) says where.

    Returns:
        (shares, tellers), the mean over sections; the same is in the log.
    """
    found = np.zeros((len(values), len(SHARES), len(TELLERS)))
    for place, (x, there) in enumerate(zip(values, known, strict=True)):
        for row, share in zip(found[place], SHARES, strict=True):
            hidden = rng.random(x.shape) < share  # (N, G)
            asked, hide = hidden & there, hidden | ~there
            spread = np.square(x - x.mean(0))[asked].sum()
            told = (
                network(x, hide),
                anchor.conditional(x, hide),
                np.broadcast_to(anchor.mean, x.shape),
            )
            row[:] = [1 - np.square(t - x)[asked].sum() / max(spread, 1e-12) for t in told]
    table = found.mean(0)  # (shares, tellers)
    for share, row in zip(SHARES, table, strict=True):
        parts = ", ".join(f"{name} {value:.3f}" for name, value in zip(TELLERS, row, strict=True))
        log.info("R² of held-out sections with %d %% of the panel hidden: %s", 100 * share, parts)
    return table
