"""Finished jobs of which Snakemake has no records, so that it cannot see that their settings have changed."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.common import LogEvent

#: How Snakemake's message begins if no job is to run.
NOTHING = "Nothing to be done"
#: The most files that are named; where there are more, their rules are to be run for all their jobs.
NAMED = 20


class RecordsMissing(logging.Handler):
    """Warns, once the jobs are known, of those that were made with other settings unnoticed.

    Snakemake keeps its records in the working directory, in ``.snakemake``. Where that was deleted, or
    results were copied from elsewhere, it takes every finished job for unchanged. The project's own
    records are beside the logs, in the results folder.

    Args:
        dag: returns Snakemake's, which does not exist yet.
        tell: prints a warning.
    """

    def __init__(self, dag: Callable[[], Any], tell: Callable[[str], None]) -> None:
        super().__init__()
        self.dag, self.tell = dag, tell
        self.done = False

    def emit(self, record: logging.LogRecord) -> None:
        known = vars(record).get("event") == LogEvent.RUN_INFO
        if self.done or not (known or record.getMessage().startswith(NOTHING)):
            return
        self.done = True
        if text := warning(self.dag()):
            self.tell(text)


def warning(dag: Any) -> str:
    """What to tell about the finished jobs without Snakemake's records; empty if nothing has changed."""
    finished = [job for job in dag.jobs if not dag.needrun(job) and dag.reason(job).no_metadata]
    changed = [job for job in finished if _is_changed(job)]
    if not changed:
        return ""
    rules = sorted({job.rule.name for job in changed})
    files = sorted(str(job.output[0]) for job in changed)
    return (
        f"{len(changed)} finished jobs were made with other settings, other code or other files, by the records in "
        "the results folder, and Snakemake does not make them again: its own records of them are not in .snakemake "
        f"of this directory. Their rules: {', '.join(rules)}. Remedy: run in the directory in which the results were "
        f"made, or add to this command: --forcerun {' '.join(files if len(files) <= NAMED else rules)}"
    )


def _is_changed(job: Any) -> bool:
    """Whether a job's parameters or inputs are not those in its record, or there is no record."""
    if not job.log:
        return False  # a target
    try:
        path = Path(os.path.splitext(str(job.log[0]))[0] + ".json")
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return True
    params = json.loads(json.dumps(dict(job.params.items()), default=str))
    return facts.get("params") != params or set(facts.get("inputs", ())) != set(map(str, job.input))
