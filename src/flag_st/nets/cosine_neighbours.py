"""Nearest neighbours by cosine similarity, without the matrix of all pairs."""

import torch
import torch.nn.functional as F
from torch import Tensor


def top_k(
    queries: Tensor, keys: Tensor, k: int, query_block: int = 2048, key_block: int = 8192
) -> tuple[Tensor, Tensor]:
    """The ``k`` keys most similar to each query.

    No more than ``query_block`` × (``key_block`` + k) similarities are held at a time, so that
    60,000 queries among 60,000 keys need some 70 MB.

    Args:
        queries: (Q, d). keys: (M, d); neither need be normalised.

    Returns:
        (Q, min(k, M)) similarities in descending order, and the indices of their keys.
    """
    k = min(k, len(keys))
    found = [
        _top_k(F.normalize(block, dim=-1), keys, k, key_block)
        for block in queries.split(query_block)
    ]
    similarity, index = zip(*found, strict=True)
    return torch.cat(similarity), torch.cat(index)


def _top_k(queries: Tensor, keys: Tensor, k: int, key_block: int) -> tuple[Tensor, Tensor]:
    """The same for one block of normalised queries: each block of keys competes with the best so
    far."""
    best = queries.new_empty(len(queries), 0)
    where = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    for start in range(0, len(keys), key_block):
        block = F.normalize(keys[start : start + key_block], dim=-1)  # (m, d)
        similarity, index = (queries @ block.T).topk(min(k, len(block)))  # 2 × (q, ≤ k)
        best = torch.cat([best, similarity], dim=1)  # (q, ≤ 2 k)
        where = torch.cat([where, index + start], dim=1)  # (q, ≤ 2 k)
        best, order = best.topk(min(k, best.shape[1]))  # 2 × (q, ≤ k)
        where = where.gather(1, order)  # (q, ≤ k)
    return best, where


def mean_of_nearest(queries: Tensor, keys: Tensor, values: Tensor, k: int, **blocks) -> Tensor:
    """Mean of the ``values`` (M, G) of each query's ``k`` nearest keys → (Q, G)."""
    _, index = top_k(queries, keys, k, **blocks)  # (Q, k)
    return F.embedding_bag(index, values, mode="mean")  # (Q, G), without a (Q, k, G)
