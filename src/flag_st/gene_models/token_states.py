"""From token sequences of unequal length to one state per panel gene."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

#: Numbers in one block of output (n, G, K), which are 256 MiB.
BLOCK = 1 << 26


def blocks(spots: int, genes: int, width: int) -> list[slice]:
    """Consecutive rows whose (n, genes, width) floats stay below ``BLOCK``."""
    size = max(1, min(512, BLOCK // max(1, genes * width)))
    return [slice(start, min(start + size, spots)) for start in range(0, spots, size)]


def by_length(lengths: Sequence[int] | np.ndarray, tokens: int) -> Iterator[np.ndarray]:
    """Indices in batches of similar length, longest first, with at most ``tokens`` padded tokens.

    Empty sequences are in no batch; a sequence longer than ``tokens`` is a batch of its own.
    """
    sizes = np.asarray(lengths)
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 0]
    start = 0
    while start < len(order):
        size = max(1, tokens // int(sizes[order[start]]))
        yield order[start : start + size]
        start += size


def pad(sequences: Sequence[np.ndarray], value: float) -> tuple[np.ndarray, np.ndarray]:
    """Sequences padded on the right to (B, L), and which positions hold a token."""
    lengths = np.array([len(s) for s in sequences])
    present = np.arange(lengths.max()) < lengths[:, None]  # (B, L)
    padded = np.full(present.shape, value, dtype=sequences[0].dtype)
    padded[present] = np.concatenate(sequences)
    return padded, present


def gather(
    tokens: np.ndarray, states: np.ndarray, panel: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The states of the tokens of the panel, wherever in a sequence they are.

    Args:
        tokens: (B, L); states: (B, L, K) at the same places.
        panel: (G,) tokens to look for; -1 for genes without one. A token may occur twice.

    Returns:
        (B, G, K) with zeros where a gene is not in the sequence, and the (B, G) mask of those
        that are.
    """
    wanted, back = np.unique(panel, return_inverse=True)  # (U,), (G,)
    place = np.searchsorted(wanted, tokens).clip(max=len(wanted) - 1)  # (B, L)
    hit = (wanted[place] == tokens) & (tokens >= 0)  # (B, L)
    row, position = np.nonzero(hit)
    found = np.zeros((len(tokens), len(wanted), states.shape[-1]), dtype=np.float32)
    mask = np.zeros(found.shape[:2], dtype=bool)
    found[row, place[row, position]] = states[row, position]
    mask[row, place[row, position]] = True
    return found[:, back], mask[:, back]


def contextual(
    sequences: Sequence[np.ndarray],
    panel: np.ndarray,
    width: int,
    states: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    batch_tokens: int,
    padding: int,
    progress: Callable[..., Iterable],
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Blocks (rows, (n, G, K), (n, G)) of the panel's states in all sequences, in spot order.

    Sequences are batched by length inside a block, so that block and batch bound the memory and
    little is padded. ``states`` takes tokens (B, L), the mask of those that are not padding, and
    the rows (B,) of the batch; it returns (B, L, K).
    """
    for rows in progress(blocks(len(sequences), len(panel), width), desc="embed"):
        members = np.arange(rows.start, rows.stop)
        # A sequence without a gene of the panel has nothing to read out.
        lengths = [len(sequences[i]) if np.isin(sequences[i], panel).any() else 0 for i in members]
        out = np.zeros((len(members), len(panel), width), dtype=np.float32)
        mask = np.zeros(out.shape[:2], dtype=bool)
        for batch in by_length(lengths, batch_tokens):
            tokens, present = pad([sequences[i] for i in members[batch]], padding)
            found = states(tokens, present, members[batch])
            tokens = np.where(present, tokens, -2)  # padding is never a gene
            out[batch], mask[batch] = gather(tokens, found, panel)
        yield rows, out, mask
