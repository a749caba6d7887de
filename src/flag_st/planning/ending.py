"""What stands at the end of a run: what ran, what was there already, what failed, what to do next."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from flag_st.planning.cost import list_jobs
from flag_st.planning.rules import paths, read_rules

FINISHED = re.compile(r"^Finished jobid: (\d+) \(Rule: (\w+)\)$")
FAILED = re.compile(r"^\s*Error in rule (\w+):$")
#: Snakemake writes no job into its log under `--quiet all`, and says so nowhere.
SILENT = "no job finished, or `--quiet all` kept the log silent: `--quiet rules` tells"
#: Failed jobs that are named; of more, their number is enough.
NAMED = 10


def ending(logs: list[str], config: dict[str, Any]) -> str:
    """Lines for a person.

    Args:
        logs: of Snakemake, one run.
        config: resolved, as the workflow has it.
    """
    text = "\n".join(Path(log).read_text(encoding="utf-8", errors="replace") for log in logs)
    ran, failed = read(text)
    rules, jobs = read_rules(), list_jobs(config)
    there = sum(
        all(Path(p).exists() for p in paths(rules[j.rule].outputs, config["results"], j.wildcards))
        for j in jobs
    )
    told = ", ".join(f"{name} {number}" for name, number in Counter(ran.values()).items())
    lines = [f"{_jobs(len(ran))} ran ({told})" if ran else SILENT]
    lines += [f"{_jobs(len(failed))} failed:"] * bool(failed)
    lines += [f"  {rule}: {log}" for rule, log in list(failed.values())[:NAMED]]
    lines += [f"  and {len(failed) - NAMED} more"] * (len(failed) > NAMED)
    lines.append(f"{there} of the {_jobs(len(jobs))} of this configuration have their outputs")
    page = Path(config["results"]) / "report" / "index.html"
    if failed:
        lines.append(
            "next: read these logs, then give the same command, which goes on where this one stopped. "
            "What cannot be run here is left out with its reason by the key `missing` (config/README.md)"
        )
    elif there == len(jobs) and page.exists():
        lines.append(f"next: open {page}")
    else:
        lines.append("next: the same command without a target makes what is left")
    return "\n".join(lines)


def read(text: str) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
    """Of a run's log: job → rule of those that finished; job → (rule, log) of those that failed.

    A job that failed and finished at a later try has finished.
    """
    ran: dict[str, str] = {}
    failed: dict[str, tuple[str, str]] = {}
    rule = job = ""
    for line in text.splitlines():
        if found := FINISHED.match(line):
            if found[2] != "all":  # the target is no job
                ran[found[1]] = found[2]
        elif found := FAILED.match(line):
            rule, job = found[1], ""
        elif rule and (found := re.match(r"^\s+jobid: (\d+)$", line)):
            job = found[1]
            failed[job] = (rule, "no log")
        elif job and (found := re.match(r"^\s+log: (\S+)", line)):
            failed[job], rule, job = (rule, found[1]), "", ""
    return ran, {job: found for job, found in failed.items() if job not in ran}


def _jobs(number: int) -> str:
    return f"{number} job" + "s" * (number != 1)
