"""What every script of a rule shares: log, progress, device, and errors said in one line."""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flag_st.core.errors import FlagError
from flag_st.core.inputs import check_inputs
from flag_st.core.provenance import Record

log = logging.getLogger("flag_st")


def run(main: Callable[[Any], None], snakemake: Any) -> None:
    """Call ``main(job)`` as the body of a rule.

    A FlagError ends the job with its message alone; anything else leaves a traceback in the log.
    """
    # Before anything heavy is imported: numeric libraries read these once. The number comes from
    # the configuration where it decides bytes, since Snakemake lowers `threads` to its cores.
    threads = str(getattr(snakemake.params, "threads", None) or snakemake.threads)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = threads
    # Waiting threads sleep: on a shared machine a spinning one starves the one it waits for.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    path = snakemake.log[0] if snakemake.log else None
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if path:
        handlers.append(logging.FileHandler(path, mode="w"))
    handlers[0].setLevel(logging.WARNING)
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
        progress=progress,
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


def progress(items: Iterable, total: int | None = None, desc: str = "", **more) -> Iterable:
    """A progress bar with ETA: live on a terminal, one line in a while elsewhere."""
    from tqdm import tqdm

    interval = 0.2 if sys.stderr.isatty() else 30.0
    return tqdm(items, total=total, desc=desc, mininterval=interval, dynamic_ncols=True, **more)


def device(gpu: int) -> str:
    """``cuda`` if the rule was given a GPU and one is there, else ``cpu`` (said in the log)."""
    if gpu < 1:
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    log.info("no CUDA device here: running on the CPU")
    return "cpu"
