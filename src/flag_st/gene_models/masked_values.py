"""Pre-training of a CellFM by hidden values: it learns what a gene's count is from those of others."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from flag_st.core.seeds import entropy, numpy_generator
from flag_st.gene_models.masked_genes import ramp

if TYPE_CHECKING:
    from flag_st.nets.cellfm import CellFm, CellFmSizes

log = logging.getLogger(__name__)

#: ``cellfm``: as CellFM was trained: detected genes of each spot, drawn with weight log(1 + count), and
#: a fifth of them hidden. ``matched``: what HINGE asks of it: the panel in every sequence, undetected
#: genes included, and any share of them hidden.
Regime = Literal["matched", "cellfm"]
HIDDEN = 0.2


@dataclass(frozen=True)
class Pretraining:
    """Settings of the pre-training.

    Attributes:
        regime: which genes a sequence has, and how many are hidden.
        context: genes in a sequence.
        epochs: passes over the spots.
        learning_rate: peak of AdamW, between a warm-up and a linear decay.
        batch: spots per step.
        held_out: sections of the corpus, drawn by the seed, that are kept out of the training to report how
            well their hidden values are told (``hidden_values``).
    """

    regime: Regime = "matched"
    context: int = 256
    epochs: int = 10
    learning_rate: float = 1e-3
    batch: int = 32
    held_out: int = 0


def pretrain(
    sizes: "CellFmSizes",
    values: np.ndarray,
    known: np.ndarray,
    panel: int,
    settings: Pretraining,
    seed: int,
    device: str,
) -> tuple["CellFm", list[float]]:
    """Train a CellFM to say what hidden values are.

    Args:
        values: (N, V) log counts; column j belongs to row j + 1 of the gene table.
        known: (N, V) whether the value was measured. One that was not is hidden and never asked for.
        panel: the first so many columns are the panel.

    Returns:
        The network, frozen, and the mean squared error of each epoch.
    """
    import torch

    from flag_st.nets.cellfm import CellFm
    from flag_st.nets.optimizer import AdamW

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(entropy(seed, "cellfm_mini", "weights"))
        net = CellFm(sizes, range(1, panel + 1))
        net.reset()
    net = net.to(device).train()
    rng = numpy_generator(seed, "cellfm_mini", "batches")
    optimizer = AdamW(net.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95))
    steps = settings.epochs * -(-len(values) // settings.batch)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: ramp(i, steps))
    own, losses = net.genes, []
    for rows, columns, hidden in _sequences(values, known, panel, settings, rng):
        wanted = torch.from_numpy(values[rows[:, None], columns]).float().to(device)  # (B, L)
        net.genes = torch.from_numpy(columns + 1).to(device)  # (B, L)
        there = known[rows[:, None], columns]  # (B, L)
        hide, ask = (torch.from_numpy(x).to(device) for x in (hidden | ~there, hidden & there))
        error = (net(wanted, hide) - wanted).square()  # (B, L)
        loss = (error * ask).sum() / ask.sum().clamp(min=1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        rates.step()
        losses.append(loss.item())
    net.genes = own
    history = [float(np.mean(part)) for part in np.array_split(losses, settings.epochs)]
    log.info("cellfm_mini: error of hidden values by epoch %s", [round(h, 3) for h in history])
    return net.eval().requires_grad_(False), history


def _sequences(
    values: np.ndarray,
    known: np.ndarray,
    panel: int,
    settings: Pretraining,
    rng: np.random.Generator,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows (B,), columns (B, L) and which are hidden (B, L), batch by batch."""
    count, length = values.shape[1], min(settings.context, values.shape[1])
    for _ in range(settings.epochs):
        order = rng.permutation(len(values))
        for start in range(0, len(order), settings.batch):
            rows = order[start : start + settings.batch]
            if settings.regime == "cellfm":
                # Drawing without replacement by weight: the largest of u^(1/w).
                weight = np.where(known[rows], values[rows] + 1e-6, 1e-9)
                key = np.log(rng.random((len(rows), count))) / weight
                columns = np.argsort(-key, axis=1)[:, :length]
                hidden = rng.random(columns.shape) < HIDDEN
            else:
                more = rng.permuted(np.tile(np.arange(panel, count), (len(rows), 1)), axis=1)
                own = np.tile(np.arange(panel), (len(rows), 1))
                columns = np.concatenate([own, more], 1)[:, : max(panel, length)]
                hidden = rng.random(columns.shape) < rng.random((len(rows), 1))
            yield rows, columns, hidden
