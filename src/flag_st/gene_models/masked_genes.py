"""Pre-training of a BERT by masked genes, as Geneformer was trained (and BERT before it)."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flag_st.core.seeds import entropy, numpy_generator
from flag_st.gene_models.token_states import by_length, pad

if TYPE_CHECKING:
    from transformers import BertConfig, BertModel

log = logging.getLogger(__name__)

MASK_TOKEN, SHARE = 1, 0.15
WARM_UP = 0.1
IGNORED = -100  # cross entropy ignores this label


def pretrain(
    config: "BertConfig",
    sequences: Sequence[np.ndarray],
    special: int,
    epochs: int,
    learning_rate: float,
    batch_tokens: int,
    seed: int,
    device: str,
) -> tuple["BertModel", list[float]]:
    """Train a BERT to name masked genes.

    Args:
        sequences: token sequences; those below ``special`` are special tokens, never masked.

    Returns:
        The encoder, and the mean loss of each epoch (nats per masked gene).
    """
    import torch
    from transformers import BertForMaskedLM

    from flag_st.nets.optimizer import AdamW

    # Layers are initialised from torch's global generator; afterwards its state is restored.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(entropy(seed, "geneformer_mini", "weights"))
        model = BertForMaskedLM(config)
    model = model.to(device).train()  # type: ignore[arg-type]  # its wrapper hides self
    rng = numpy_generator(seed, "geneformer_mini", "batches")
    optimizer = AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    steps = [batch for _ in range(epochs) for batch in shuffled(sequences, batch_tokens, rng)]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: ramp(i, len(steps)))
    losses, padding = [], config.pad_token_id
    assert padding is not None, "batches are padded"
    for batch in steps:
        tokens, present = pad([sequences[i] for i in batch], padding)
        inputs, labels = mask(tokens, special, config.vocab_size, rng)
        loss = model(
            input_ids=torch.from_numpy(inputs).to(device),
            attention_mask=torch.from_numpy(present.astype(np.int64)).to(device),
            labels=torch.from_numpy(labels).to(device),
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()
        losses.append(loss.item())
    history = [float(np.mean(part)) for part in np.array_split(losses, epochs)]
    log.info("geneformer_mini: masked-gene loss by epoch %s", [round(h, 3) for h in history])
    return model.bert.eval().requires_grad_(False), history


def ramp(step: int, steps: int) -> float:
    """Factor of the learning rate: linear warm-up, then linear decay to zero."""
    rise = max(1, round(WARM_UP * steps))
    return min((step + 1) / rise, (steps - step) / max(1, steps - rise))


def shuffled(
    sequences: Sequence[np.ndarray], tokens: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """Batches of roughly equal length whose members and order change every epoch."""
    lengths = np.array([len(s) for s in sequences])
    batches = list(by_length(lengths + rng.integers(0, 32, len(lengths)), tokens))
    return [batches[i] for i in rng.permutation(len(batches))]


def mask(
    tokens: np.ndarray, special: int, vocabulary: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Hide 15 % of the genes: 80 % of these become ``<mask>``, 10 % another gene, and 10 % stay.

    Returns:
        Inputs and labels, both (B, L) like ``tokens``; labels of other genes are ``IGNORED``.
    """
    chosen = (rng.random(tokens.shape) < SHARE) & (tokens >= special)
    if not chosen.any():  # a batch of very short sequences: hide one gene, so that it has a loss
        row, column = np.argwhere(tokens >= special)[0]
        chosen[row, column] = True
    fate = rng.random(tokens.shape)
    inputs = np.where(chosen & (fate < 0.8), MASK_TOKEN, tokens)
    other = rng.integers(special, vocabulary, tokens.shape)
    inputs = np.where(chosen & (fate >= 0.9), other, inputs)
    return inputs, np.where(chosen, tokens, IGNORED)
