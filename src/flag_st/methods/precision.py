"""The precision of matrix products, in training and in prediction."""

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

Precision = Literal["fp32", "tf32", "bf16"]


@contextlib.contextmanager
def precise(device: str, precision: Precision) -> Iterator[None]:
    """Inside the block, matrix products run in ``fp32``, ``tf32`` (GPU) or ``bf16`` (autocast)."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
    kind = device.split(":")[0]
    try:
        with torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
