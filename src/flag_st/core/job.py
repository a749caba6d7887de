"""What the scripts of all rules share: log, progress, device, and errors in one line."""

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sized
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flag_st.core.errors import FlagError
from flag_st.core.inputs import check_inputs
from flag_st.core.provenance import Record
from flag_st.core.streams import keep_messages

log = logging.getLogger("flag_st")


def run(main: Callable[[Any], None], snakemake: Any) -> None:
    """Call ``main(job)`` as the body of a rule.

    A FlagError ends the job with its message alone; anything else leaves a traceback in the log.
    """
    # Before anything heavy is imported: numeric libraries read these once. The number comes from
    # the configuration where it decides bytes, since Snakemake lowers `threads` to its cores.
    threads = str(getattr(snakemake.params, "threads", None) or snakemake.threads)
    for name in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        os.environ[f"{name}_NUM_THREADS"] = threads
    # Threads sleep while they wait: on a shared machine, a spinning one starves the one it waits for.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_messages()
    path = snakemake.log[0] if snakemake.log else None
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if path:
        handlers.append(logging.FileHandler(path, mode="w", encoding="utf-8"))
    # Only warnings and progress go to the screen; the rest is in the log.
    handlers[0].addFilter(lambda r: r.levelno >= logging.WARNING or hasattr(r, "screen"))
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        handlers=handlers,
        force=True,
    )
    job = SimpleNamespace(
        input=snakemake.input,
        output=snakemake.output,
        params=snakemake.params,
        wildcards=snakemake.wildcards,
        threads=snakemake.threads,
        gpu=int(snakemake.resources.get("gpu", 0) or 0),
        progress=partial(_progress, snakemake),
        log=path,
    )
    try:
        check_inputs(snakemake.input)
        wildcards, params = (dict(v.items()) for v in (snakemake.wildcards, snakemake.params))
        job.record = Record(snakemake.rule, wildcards, params, snakemake.input)
        main(job)
        if path:
            job.record.write(Path(path).with_suffix(".json"), snakemake.output)
    except FlagError as error:
        log.error("%s: %s", snakemake.rule, error)
        raise SystemExit(1) from None
    except Exception:
        log.error("%s failed\n%s", snakemake.rule, traceback.format_exc())
        raise SystemExit(1) from None


def _progress(snakemake: Any, items: Iterable, desc: str = "", **more: Any) -> "Progress":
    """Progress whose lines name the job."""
    return Progress(items, desc=" ".join([snakemake.rule, *snakemake.wildcards, desc]), **more)


class Progress:
    """Goes through ``items`` and reports now and then, in one line on screen and in the log, how far it is.

    Several jobs share a screen, where bars that redraw themselves would overwrite each other.

    Args:
        items: the items.
        total: their number, if ``items`` does not know it.
        desc: what they are, in a word.
        initial: how many were done before, by a run that was killed.
    """

    #: Seconds between two lines.
    INTERVAL = 30.0

    def __init__(
        self, items: Iterable, total: int | None = None, desc: str = "", initial: int = 0
    ) -> None:
        self.items, self.desc, self.initial = items, desc, initial
        self.total = len(items) if total is None and isinstance(items, Sized) else total
        self.facts: dict[str, str] = {}

    def __iter__(self) -> Iterator:
        start = said = time.monotonic()
        for done, item in enumerate(self.items):
            now = time.monotonic()
            if now - said >= self.INTERVAL:
                said = now
                self._say(done, now - start)
            yield item

    def note(self, **facts: str) -> None:
        """Facts for the next line to report, such as the loss."""
        self.facts = facts

    def _say(self, done: int, seconds: float) -> None:
        at = self.initial + done
        line = f"{self.desc}: {at}" + (f" of {self.total}" if self.total else "")
        if self.total and done:
            left = timedelta(seconds=round(seconds / done * (self.total - at)))
            line += f", about {left} left"
        line += "".join(f", {name} {value}" for name, value in self.facts.items())
        log.info("%s", line, extra={"screen": True})


def device(gpu: int) -> str:
    """``cuda`` if the rule was given a GPU and there is one, else ``cpu``, which the log mentions."""
    if gpu < 1:
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    log.info("no CUDA device here: running on the CPU")
    return "cpu"
