"""The page that shows the method runs as it stands, and stays a page."""

import re
import runpy

import pytest
import torch

from flag_st.core.code import ROOT

PAGE = ROOT / "examples" / "flag_in_one_page.py"


@pytest.fixture
def threads():
    """The page takes one thread for itself, and the next test gets back what it had."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_page_trains_draws_scores_and_paints(tmp_path, monkeypatch, capsys, threads):
    picture = tmp_path / "page.png"
    monkeypatch.setattr("sys.argv", [str(PAGE), str(picture)])
    runpy.run_path(str(PAGE))
    assert picture.stat().st_size > 10_000
    printed = capsys.readouterr().out
    losses = [float(value) for value in re.findall(r"loss ([\d.]+)", printed)]
    assert losses[-1] < losses[0] / 1.5
    numbers = r"(PCC|GSC|SSC) (-?[\d.]+)"
    scores = {
        name: {metric: float(value) for metric, value in re.findall(numbers, line)}
        for name, line in re.findall(r"^(measured|point estimate|one draw) +(.*)$", printed, re.M)
    }
    assert set(scores["measured"].values()) == {1.0}
    assert scores["point estimate"]["PCC"] > 0.3
    # What single draws are for: the point estimate is more accurate and has less gene structure.
    assert scores["point estimate"]["PCC"] > scores["one draw"]["PCC"] > 0.1
    assert scores["one draw"]["GSC"] > scores["point estimate"]["GSC"] > 0.2


def test_the_page_is_one_page():
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) < 100
