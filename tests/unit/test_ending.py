"""The last lines of a run."""

from flag_st.planning import config
from flag_st.planning.cost import list_jobs
from flag_st.planning.ending import ending, read
from flag_st.planning.rules import paths, read_rules

LOG = """
Finished jobid: 12 (Rule: retrieve)
[Thu Nov 26 11:17:24 2026]
Error in rule train:
    message: None
    jobid: 14
    input: a.h5ad
    output: model.safetensors
    log: results/logs/train/a.log (check log file(s) for error details)
    Error in rule predict:
        message: None
        jobid: 15
        log: results/logs/predict/b.log (check log file(s) for error details)
Finished jobid: 15 (Rule: predict)
Finished jobid: 0 (Rule: all)
"""


def test_what_failed_and_finished_later_has_finished():
    ran, failed = read(LOG)
    assert ran == {"12": "retrieve", "15": "predict"}
    assert failed == {"14": ("train", "results/logs/train/a.log")}


def test_it_tells_what_ran_what_is_there_and_what_is_next(tmp_path, root):
    overlay = root / "tests/workflow/tiny.yaml"
    known = config.load({"results": str(tmp_path / "r")}, [overlay])
    log = tmp_path / "log"
    log.write_text(LOG)
    told = ending([str(log)], known)
    assert "2 jobs ran (retrieve 1, predict 1)" in told
    assert "1 job failed:\n  train: results/logs/train/a.log" in told
    jobs, rules = list_jobs(known), read_rules()
    assert f"0 of the {len(jobs)} jobs of this configuration" in told
    assert "the same command" in told
    for job in jobs:
        for path in paths(rules[job.rule].outputs, known["results"], job.wildcards):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
    log.write_text("Finished jobid: 12 (Rule: retrieve)\n")
    told = ending([str(log)], known)
    assert f"{len(jobs)} of the {len(jobs)} jobs" in told
    assert told.endswith("report/index.html")
    log.write_text("")
    assert "`--quiet all`" in ending([str(log)], known)
