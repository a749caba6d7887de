"""What a person sees while a run and its jobs go on."""

import io
import logging
from types import SimpleNamespace

import pytest
from snakemake_interface_logger_plugins.common import LogEvent
from stages import Named

from flag_st.core import job
from flag_st.planning.progress import ProgressLines, print_lines

#: What Snakemake logs of one job that runs and finishes, the 7th of 12.
EVENTS = (
    {"event": LogEvent.JOB_STARTED, "jobs": [3]},
    {"event": LogEvent.JOB_INFO, "jobid": 3, "rule_name": "retrieve", "wildcards": {"slide": "A"}},
    {"event": LogEvent.JOB_FINISHED, "job_id": 3},
    {"event": LogEvent.PROGRESS, "done": 7, "total": 12},
)


def test_a_finished_job_is_one_line_in_place_of_the_scheduler_s():
    logger, own, screen = logging.Logger("test"), io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(screen)
    handler.name = "DefaultStreamHandler"
    logger.addHandler(handler)
    print_lines(logger)
    (lines,) = (h for h in logger.handlers if isinstance(h, ProgressLines))
    lines.stream = own
    logger.info("Building DAG of jobs...")
    logger.info("Select jobs to execute...")
    for event in EVENTS:
        logger.info("", extra=event)
    logger.info("", extra={"event": LogEvent.PROGRESS, "done": 12, "total": 12})
    assert own.getvalue() == " 7 of 12  retrieve A  0 s\n"
    assert screen.getvalue().split() == ["Building", "DAG", "of", "jobs..."]


@pytest.fixture
def second(monkeypatch):
    """A clock that goes on by a second per look."""
    monkeypatch.setattr(job.time, "monotonic", iter(range(10**6)).__next__)


def test_a_job_says_how_far_it_is_and_how_long_it_will_take(second, caplog):
    caplog.set_level(logging.INFO, "flag_st")
    bar = job.Progress(range(40, 100), total=100, desc="train flag 0 epochs", initial=40)
    for item in bar:
        bar.note(loss=f"{item / 10}")
    assert [record.message for record in caplog.records] == [
        "train flag 0 epochs: 69 of 100, about 0:00:32 left, loss 6.8",
        "train flag 0 epochs: 99 of 100, about 0:00:01 left, loss 9.8",
    ]


def test_progress_is_on_screen_and_in_the_log_and_names_its_job(
    second, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # the job sets its own

    def main(job):
        assert list(job.progress(range(31), desc="patches")) == list(range(31))

    log = tmp_path / "job.log"
    empty, wildcards = Named({}), Named({"slide": "A1"})
    given = {"input": empty, "output": empty, "params": empty, "wildcards": wildcards}
    more = {"rule": "prepare_slide", "threads": 1, "resources": {}, "log": [str(log)]}
    job.run(main, SimpleNamespace(**given, **more))
    said = "prepare_slide A1 patches: 29 of 31, about 0:00:02 left"
    assert said in capsys.readouterr().err
    assert said in log.read_text()
