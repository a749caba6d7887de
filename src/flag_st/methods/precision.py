"""How a GPU computes: the precision of matrix products, and whether sums keep their order."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Literal

import torch

# cuBLAS reads it when it is first used; without it, its results may differ from run to run.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

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


@contextlib.contextmanager
def repeatable(device: str, wanted: bool) -> Iterator[None]:
    """Inside the block, the same inputs give the same bytes on a GPU, too, if that is ``wanted``.

    The backward passes of gathers and of attention otherwise sum up in whatever order threads arrive.
    A CPU needs nothing of the kind. An operation that has no ordered form is used all the same and
    leaves a warning in the job's log.
    """
    if not (wanted and device.startswith("cuda")):
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    # Nothing here reads memory that was not written, so filling it would only cost time.
    memory: Any = torch.utils.deterministic
    filled, memory.fill_uninitialized_memory = memory.fill_uninitialized_memory, False
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
        memory.fill_uninitialized_memory = filled
