"""The summary at the end of a run: what ran, what failed, what is there, and what to do next."""

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.common import LogEvent

from flag_st.planning.jobs import list_jobs
from flag_st.planning.rules import RULES

#: Snakemake sends no event for a finished job under `--quiet progress`.
SILENT = "no job finished, or `--quiet progress` kept Snakemake from saying so: use `--quiet rules`"
#: The most failed jobs that are named; of any more, only the number is given.
NAMED = 10
#: Rules that make nothing themselves.
TARGETS = ("all", "predict_slides")


class JobEvents(logging.Handler):
    """Follows a run through the structured events of Snakemake's logger.

    Snakemake filters what it prints in its own handlers, so that this one sees the events under
    ``--quiet rules`` and ``--quiet all``, too.

    Attributes:
        rules: job id → rule of every job that was started.
        finished: ids of the jobs that finished.
        logs: job id → log of every job that failed at some try.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rules: dict[int, str] = {}
        self.finished: dict[int, None] = {}
        self.logs: dict[int, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        known = vars(record)
        event = known.get("event")
        if event == LogEvent.JOB_INFO:
            self.rules[known["jobid"]] = known["rule_name"]
        elif event == LogEvent.JOB_FINISHED:
            self.finished[known["job_id"]] = None
        elif event == LogEvent.JOB_ERROR:
            self.rules[known["jobid"]] = known["rule_name"]
            self.logs[known["jobid"]] = next(iter(known["log"]), "no log")

    @property
    def ran(self) -> list[str]:
        """The rule of every job that finished, in the order of time; a target is no job."""
        rules = (self.rules.get(job, "unknown rule") for job in self.finished)
        return [rule for rule in rules if rule not in TARGETS]

    @property
    def failed(self) -> list[tuple[str, str]]:
        """(rule, log) of every job that failed and did not finish at a later try."""
        return [(self.rules[j], log) for j, log in self.logs.items() if j not in self.finished]


def lost_files(dag: Any) -> list[str]:
    """What was asked of a run or made by it and is not there at its end.

    Args:
        dag: Snakemake's, of a run in which no job failed.
    """
    made = {file for job in dag.needrun_jobs(exclude_finished=False) for file in job.output}
    asked = {file for job in dag.targetjobs for file in job.output}
    # A target without outputs, such as `all`, asks for what other jobs make for it.
    for job in dag.targetjobs:
        asked.update(*(() if job.output else dag.dependencies[job].values()))
    return sorted(str(file) for file in made | asked if not Path(file).exists())


def ending(events: JobEvents, config: dict[str, Any], lost: Sequence[str] = ()) -> str:
    """The summary, as lines for a person.

    Args:
        events: the run's.
        config: resolved, as the workflow has it.
        lost: as ``lost_files`` returns it.
    """
    ran, failed, jobs = events.ran, events.failed, list_jobs(config)
    there = sum(all(Path(file).exists() for file in job.files(config["results"])) for job in jobs)
    told = ", ".join(f"{name} {number}" for name, number in Counter(ran).items())
    lines = [f"{_number(len(ran), 'job')} ran ({told})" if ran else SILENT]
    lines += [f"{_number(len(failed), 'job')} failed:"] * bool(failed)
    lines += [f"  {rule}: {log}" for rule, log in failed[:NAMED]]
    lines += [f"  and {len(failed) - NAMED} more"] * (len(failed) > NAMED)
    lines += [f"{_number(len(lost), 'file')} of this run no longer there:"] * bool(lost)
    lines += [f"  {file}" for file in lost[:NAMED]]
    # A run of the target `predict_slides`, to which the experiments of the configuration are nothing.
    slides = "join_slides" in ran and "report" not in ran and not failed and not lost
    if not slides:
        lines.append(
            f"{there} of the {_number(len(jobs), 'job')} of this configuration have their outputs"
        )
    page, explorer = (
        Path(config["results"]) / RULES[rule].outputs[output]
        for rule, output in (("report", "page"), ("join_slides", "explorer"))
    )
    if slides:
        lines.append(f"next: open {explorer}")
    elif failed:
        lines.append(
            "next: read these logs, then give the same command again: it continues where this run "
            "stopped. What cannot be run here can be left out, with a reason, by the key `missing` "
            "(config/README.md)"
        )
    elif lost:
        lines.append(
            "next: find out what removed them, perhaps another run in this folder or a clean-up; then "
            "give the same command again"
        )
    elif there == len(jobs) and page.exists():
        lines.append(f"next: open {page}")
    else:
        lines.append("next: the same command without a target makes what is left")
    return "\n".join(lines)


def _number(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)
