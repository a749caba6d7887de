"""Features of a slide's patches, by several processes if the encoder takes each patch by itself."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import Any

import numpy as np

from flag_st.encoders.base import Encoder

#: Patches that one process encodes at a time.
BLOCK = 32
#: With fewer patches, starting processes takes longer than they save.
FEW = 512


def encode(
    encoder: Encoder,
    patches: Any,
    processes: int = 1,
    progress: Callable[..., Iterable] = lambda items, **_: items,
) -> np.ndarray:
    """The features of ``patches``, the same whatever the number of processes.

    Args:
        encoder: it is open.
        patches: (N, 224, 224, 3) uint8, to be read in slices. They are read here, block by block.
        processes: how many encode beside this one, if there are enough patches and the encoder
            is ``apart``; with one, this process encodes alone.

    Returns:
        (N, D).
    """
    if processes < 2 or not encoder.apart or len(patches) < FEW:
        return encoder.encode(patches, progress=progress)
    starts = progress(range(0, len(patches), BLOCK), desc="patches")
    found: list[np.ndarray] = []
    with _pool(processes) as pool:
        waiting: deque[Future] = deque()
        for start in starts:
            block = patches[start : min(start + BLOCK, len(patches))]
            waiting.append(pool.submit(encoder.encode, block))
            # So many blocks are in memory at once, however large the slide is.
            if len(waiting) > 2 * processes:
                found.append(waiting.popleft().result())
        found += [future.result() for future in waiting]
    return np.concatenate(found)  # (N, D)


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Copies of this process. Fresh ones would run the script that is ``__main__``, which may be a job."""
    pool = ProcessPoolExecutor(processes, get_context("fork"), _start)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start() -> None:
    """Prepare a process: one thread for numbers, and an end when the process that started it ends."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A parent that is killed cannot stop its children, and they would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
