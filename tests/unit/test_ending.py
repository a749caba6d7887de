"""The summary at the end of a run."""

import logging

from running import TINY, snakemake
from snakemake.logging import DefaultFilter
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.common import LogEvent

from flag_st.planning import config
from flag_st.planning.ending import JobEvents, ending
from flag_st.planning.jobs import list_jobs


def job_info(job: int, rule: str) -> dict:
    return {"event": LogEvent.JOB_INFO, "jobid": job, "rule_name": rule}


def job_error(job: int, rule: str, *log: str) -> dict:
    return {"event": LogEvent.JOB_ERROR, "jobid": job, "rule_name": rule, "log": list(log)}


def finished(job: int) -> dict:
    return {"event": LogEvent.JOB_FINISHED, "job_id": job}


#: One training fails for good; one prediction fails and finishes at its second try.
RUN = (
    job_info(12, "retrieve"),
    finished(12),
    job_info(14, "train"),
    job_info(15, "predict"),
    job_error(14, "train", "results/logs/train/a.log", "slurm/14.log"),
    job_error(15, "predict", "results/logs/predict/b.log"),
    job_info(15, "predict"),
    finished(15),
    job_info(0, "all"),
    finished(0),
)


def events(*sent: dict) -> JobEvents:
    """What is left of events that go through a logger which prints nothing, as under `--quiet all`."""
    logger = logging.Logger("test")
    screen = logging.NullHandler()
    screen.addFilter(DefaultFilter({Quietness.ALL}, False, False, False, False))
    seen = JobEvents()
    logger.addHandler(screen)
    logger.addHandler(seen)
    logger.info("Building DAG of jobs...")
    for one in sent:
        logger.info("", extra=one)
    return seen


def test_what_failed_and_finished_later_has_finished():
    seen = events(*RUN)
    assert seen.ran == ["retrieve", "predict"]
    assert seen.failed == [("train", "results/logs/train/a.log")]
    assert events(job_error(3, "table")).failed == [("table", "no log")]


def test_it_says_what_ran_what_is_there_and_what_is_next(tmp_path):
    known = config.load({"results": str(tmp_path / "r")}, [TINY])
    told = ending(events(*RUN), known)
    assert "2 jobs ran (retrieve 1, predict 1)" in told
    assert "1 job failed:\n  train: results/logs/train/a.log" in told
    jobs = list_jobs(known)
    assert f"0 of the {len(jobs)} jobs of this configuration" in told
    assert "the same command" in told
    for job in jobs:
        for path in job.files(known["results"]):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
    told = ending(events(*RUN[:2]), known)
    assert f"{len(jobs)} of the {len(jobs)} jobs" in told
    assert told.endswith("report/index.html")
    assert "`--quiet progress`" in ending(events(), known)


def test_a_run_of_new_slides_leads_to_them_and_not_to_the_papers_jobs(tmp_path):
    known = config.load({"results": str(tmp_path)}, [TINY])
    rules = ("predict_slide", "join_slides", "predict_slides")
    sent = [e for job, rule in enumerate(rules) for e in (job_info(job, rule), finished(job))]
    told = ending(events(*sent), known)
    assert told == (
        "2 jobs ran (predict_slide 1, join_slides 1)\n"
        f"next: open {tmp_path}/new_slides/explorer.html"
    )
    # With the report, as in the demo, the new slides are a part of a larger run.
    assert "jobs of this configuration" in ending(events(*sent, *_made("report")), known)
    failed = ending(events(*sent, job_error(9, "predict_slide", "a.log")), known)
    assert "read these logs" in failed


def _made(rule: str) -> tuple[dict, dict]:
    return job_info(99, rule), finished(99)


def test_files_that_are_gone_are_named_before_a_page_is_offered(tmp_path):
    known = config.load({"results": str(tmp_path)}, [TINY])
    told = ending(events(*RUN[:2]), known, [f"{k}.json" for k in range(12)])
    assert "12 files of this run no longer there:\n  0.json\n" in told
    assert "10.json" not in told
    assert "next: find out what removed them" in told


def test_many_failures_are_counted(tmp_path):
    known = config.load({"results": str(tmp_path)}, [TINY])
    told = ending(events(*(job_error(job, "train", f"{job}.log") for job in range(14))), known)
    assert "14 jobs failed" in told
    assert "train: 9.log\n  and 4 more\n" in told


def test_a_run_that_prints_nothing_sums_up_its_jobs(tmp_path):
    targets = ["results/tiny/tiny/split.json", "results/tiny/data/sources/P1S1.json"]
    done = snakemake(tmp_path, *targets, "--configfile", str(TINY), "--quiet", "all")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Finished jobid" not in done.stdout + done.stderr
    told = done.stdout.splitlines()
    assert told[0] in (
        "2 jobs ran (make_split 1, retrieve 1)",
        "2 jobs ran (retrieve 1, make_split 1)",
    )
    assert told[1].startswith("2 of the ")
