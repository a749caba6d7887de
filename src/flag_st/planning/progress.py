"""What ``snakemake --quiet rules`` prints while a run goes on: one line per finished job."""

import logging
import sys
import time
from typing import TextIO

from snakemake_interface_logger_plugins.common import LogEvent


class ProgressLines(logging.Handler):
    """Prints a line per finished job: how many of how many, which job it was and its seconds.

    Snakemake's own progress takes five lines per job.
    """

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        super().__init__()
        self.stream = stream
        self.started: dict[int, tuple[str, float]] = {}
        self.finished: list[tuple[str, float]] = []

    def emit(self, record: logging.LogRecord) -> None:
        known = vars(record)
        event = known.get("event")
        if event == LogEvent.JOB_INFO:
            name = " ".join([known["rule_name"], *map(str, known["wildcards"].values())])
            self.started[known["jobid"]] = (name, time.monotonic())
        elif event == LogEvent.JOB_FINISHED and known["job_id"] in self.started:
            self.finished.append(self.started.pop(known["job_id"]))
        elif event == LogEvent.PROGRESS:  # it follows a finished job, or the jobs of a group
            for name, start in self.finished:
                count = f"{known['done']:{len(str(known['total']))}} of {known['total']}"
                print(f"{count}  {name}  {time.monotonic() - start:.0f} s", file=self.stream)
            self.finished.clear()


#: What Snakemake itself says of the same: rounds of its scheduler, and two lines per finished job.
REPLACED = (LogEvent.JOB_STARTED, LogEvent.JOB_FINISHED, LogEvent.PROGRESS)


def is_kept(record: logging.LogRecord) -> bool:
    """Whether a handler of Snakemake's shall still write a record."""
    replaced = vars(record).get("event") in REPLACED
    return not replaced and record.getMessage() != "Select jobs to execute..."


def print_lines(logger: logging.Logger) -> None:
    """Print a line per job in place of what Snakemake says of its progress on screen."""
    for handler in logger.handlers:
        if handler.name == "DefaultStreamHandler":
            handler.addFilter(is_kept)
    logger.addHandler(ProgressLines())
