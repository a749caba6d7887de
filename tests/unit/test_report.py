"""The page: whole, self-contained, and with nothing in it that a name could break."""

import re
from dataclasses import replace

import pytest
from paper_example import EVIL, Study, write_report
from toy_predicted import toy_predicted

from flag_st.core.errors import FlagError
from flag_st.outputs.folder import FILES, write_files
from flag_st.outputs.together import write_explorer
from flag_st.report.build import amount, data_address


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def page(study, tmp_path_factory):
    root = tmp_path_factory.mktemp("page")
    return write_report(study, root, title=EVIL, caption=EVIL), root


def test_page_asks_for_nothing_outside_itself(page):
    text = page[0]
    sources = re.findall(r'(?:src|srcset|poster|data)="([^"]*)"', text)
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert not re.search(r"@import|url\(|<link|<iframe|https?://", text)
    assert "default-src 'none'" in text


def test_page_escapes_what_users_write(page):
    assert EVIL not in page[0]
    assert page[0].count("<script>") == 1
    assert "alert(&#34;x&#34;)" in page[0]


def test_links_lead_to_files_beside_the_page(page):
    text, root = page
    links = re.findall(r'href="([^"#][^"]*)"', text)
    assert len(links) >= 8
    for link in links:
        assert (root / "report" / link).resolve().is_file(), link


def test_nothing_missing_is_not_spoken_of(page):
    assert "What was not run" not in page[0]


def test_page_holds_the_table_the_figure_and_every_run(page, study):
    text = page[0]
    assert "0.6835" in text
    assert text.count("data:image/png;base64,") == 2  # first screen, and its own place
    assert text.count('<th scope="row" class="name">flag</th>') == 1 + 2  # table, two seeds


def test_what_was_not_run_is_said_with_its_reason(study, tmp_path):
    missing = [{"cohort": "PRAD", "method": "flag", "reason": "no <access>"}]
    text = write_report(study, tmp_path, missing=missing)
    assert "What was not run</h2>" in text
    assert '<td class="words">no &lt;access&gt;</td>' in text


def test_a_slide_without_counts_is_shown_with_its_verdict(study, tmp_path):
    folder = tmp_path / "new_slides" / "New"
    folder.mkdir(parents=True)
    trust = replace(toy_predicted().trust, verdict="unlike training", reasons=["it is <blurred>"])
    origin = {"name": "New", "model": "model.flag"}
    write_files(toy_predicted(trust=trust), folder, FILES, origin)
    write_explorer([folder], tmp_path / "new_slides/explorer.html")
    text = write_report(study, tmp_path, new_slides=[folder])
    assert "<h3>New: unlike training</h3>" in text
    assert "It is &lt;blurred&gt;." in text
    assert text.count("data:image/png;base64,") == 2 + 1
    (link,) = set(re.findall(r'href="([^"]*summary.html)"', text))
    assert (tmp_path / "report" / link).resolve() == (folder / "summary.html").resolve()
    assert 'href="../new_slides/explorer.html"' in text


def test_no_new_slides_are_not_spoken_of(page):
    assert "New slides" not in page[0]


def test_no_warning_where_the_setting_is_the_papers(page):
    assert "Not a reproduction" not in page[0]


def test_a_stand_in_is_said_at_the_top(study, tmp_path):
    text = write_report(study, tmp_path, lambda runs: runs.assign(encoder="texture"))
    assert text.index("Not a reproduction") < text.index("<h2>What was run")
    assert "encoder texture, the paper&#39;s is uni" in text
    assert "Stand-in: encoder texture" in text  # also beside the figure


def test_a_picture_that_is_none_is_refused(tmp_path):
    (tmp_path / "x.png").write_bytes(b"<svg onload=alert(1)>")
    with pytest.raises(FlagError, match=r"x\.png is no PNG"):
        data_address(tmp_path / "x.png")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (12, "12 s"), (200, "3 min"), (9000, "2.5 h"), (float("nan"), "–")],
)
def test_amounts_of_time(seconds, text):
    assert amount(seconds) == text
