"""Which failed jobs the default profile repeats."""

import os

import yaml
from running import TINY, snakemake

PLUGIN = '''
from pathlib import Path

from flag_st.core.errors import FlagError
from flag_st.sources.synthetic import Synthetic


class Flaky(Synthetic):
    """Fails at the first tries of one slide, as a hub may; then brings it without metadata."""

    def __init__(self, tries: str, failures: int):
        super().__init__(patients=3, sections=1, spots=[5, 5], genes=120)
        self.tries, self.failures = Path(tries), failures

    def fetch(self, slide, directory):
        if slide != "P1S1":
            return super().fetch(slide, directory)
        done = self.tries.read_text() if self.tries.exists() else ""
        self.tries.write_text(done + "x")
        if len(done) < self.failures:
            raise FlagError("the hub answered 503")
        files = super().fetch(slide, directory)
        files.metadata.write_text("{}")
        return files
'''


def test_downloads_are_tried_three_times_and_nothing_else_is(tmp_path):
    (tmp_path / "flaky.py").write_text(PLUGIN)
    overlay, count = tmp_path / "flaky.yaml", tmp_path / "tries"
    params = {"tries": str(count), "failures": 2}
    cohort = {"use": "flaky.Flaky", "params": params}
    overlay.write_text(
        yaml.safe_dump({"cohorts": {"flaky": cohort}, "defaults": {"cohorts": ["flaky"]}})
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    target = "results/flaky/data/checked.json"
    files = "--configfile", str(TINY), str(overlay)
    done = snakemake(tmp_path, target, *files, PYTHONPATH=path)
    assert done.returncode != 0
    assert count.read_text() == "xxx"
    assert done.stderr.count("Trying to restart") == 2
    assert done.stderr.count("Error in rule check_cohort") == 1
    # The summary of the run: what finished at a later try has finished.
    assert "3 jobs ran (retrieve 3)" in done.stdout
    assert "1 job failed:\n  check_cohort: results/logs/check_cohort/flaky.log" in done.stdout
