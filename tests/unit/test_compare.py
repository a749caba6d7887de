"""Two runs compared: which numbers differ, by how much, and by what the runs differ before them."""

import json

import pytest
import toy_results

from flag_st.commands import cli
from flag_st.commands.compare import NOTHING, compare
from flag_st.crate.factors import FACTORS
from flag_st.crate.write import write_crate

VALUES = {"ridge": 0.25, "flag": 0.5625}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return toy_results.make(tmp_path_factory.mktemp("compare") / "first")


def told(*words, capsys) -> str:
    """The text of a comparison that finds other numbers."""
    assert cli.main(["compare", *map(str, words)]) == 1
    return capsys.readouterr().out


def test_the_same_run_has_the_same_numbers(first, tmp_path, capsys):
    """In a folder, in a crate, and made a second time elsewhere."""
    write_crate(first, tmp_path / "a.zip")
    again = toy_results.make(tmp_path / "again")
    for other in (tmp_path / "a.zip", again):
        assert cli.main(["compare", str(first), str(other)]) == 0
        assert "the numbers are the same: all 6 that" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("factor", "changed", "said"),
    [
        ("data", {"raw": "more"}, "st of A1: "),
        ("split", {"slides": {"train": ["A2"], "test": ["A1"]}}, 'split.train of make_split: ["A0"] in A, ["A2"] in B'),
        ("panel", {"panel": {"size": 3}}, "panel.size of select_panel: 2 in A, 3 in B"),
        ("unit", {"panel": {"size": 2, "transform": "log2p1"}}, 'panel.transform of select_panel: – in A, "log2p1" in B'),
        ("seeds", {"seed": 1}, "seed: 0 in A, 1 in B"),
        ("settings", {"of_flag": {"width": 32}}, "method.width of train: 16 in A, 32 in B"),
        ("code", {"code": {"ridge": "c0de00", "flag": "c0de02"}}, "code of train: c0de01 in A, c0de02 in B"),
        ("environment", {"torch": "2.14.0"}, "torch: 2.13.0 in A, 2.14.0 in B"),
        ("device", {"device": "cuda (H200)"}, "device of train: cpu in A, cuda (H200) in B"),
    ],
)  # fmt: skip
def test_each_factor_is_named_and_no_other(factor, changed, said, first, tmp_path, capsys):
    other = toy_results.make(tmp_path / "second", values=VALUES, **changed)
    text = told(first, other, capsys=capsys)
    rows = [line.split() for line in text.splitlines() if line.startswith("table_1")]
    assert [row[2:4] for row in rows] == [["flag", "pcc"], ["flag", "ssc"]]
    assert "3 of 6 numbers differ" in text
    # Single genes differ, too, and the mean is over slides only.
    assert rows[0][4:] == ["point", "2", "of", "2", "0.5", "0.5625", "0.09375"]
    assert text.count("what differs before the numbers of") == 1
    assert "what differs before the numbers of table_1 toy flag\n" in text
    assert said in text
    named = {line.split()[0] for line in text.splitlines() if line.startswith("  ")}
    assert named == {factor}
    assert factor in FACTORS


def test_a_factor_of_one_method_is_not_told_of_another(first, tmp_path):
    """Both methods differ; other settings are upstream of one of them only."""
    values = {"ridge": 0.26, "flag": 0.6}
    other = toy_results.make(tmp_path / "r", values=values, of_flag={"width": 32}, raw="more")
    found = compare(str(first), str(other)).factors
    named = {place[2]: {change.factor for change in known} for place, known in found.items()}
    assert named == {"ridge": {"data"}, "flag": {"data", "settings"}}


def test_a_method_of_one_run_only_is_said_in_one_line(first, tmp_path, capsys):
    other = toy_results.make(tmp_path / "r", values={"flag": 0.5})
    text = told(first, other, capsys=capsys)
    assert "table_1 toy ridge: only in A" in text
    assert "3 of 6 numbers differ" in text
    assert "what differs before" not in text


def test_small_distances_are_no_difference_if_so_asked(first, tmp_path, capsys):
    other = toy_results.make(tmp_path / "r", values={"ridge": 0.25, "flag": 0.5 + 1e-9})
    words = ["compare", str(first), str(other)]
    assert cli.main(words) == 1
    assert cli.main([*words, "--tolerance", "1e-8"]) == 0
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        cli.main([*words, "--tolerance", "-1"])
    assert end.value.code == 2


def test_undefined_values_are_equal_to_each_other_alone(first, tmp_path):
    nan = float("nan")
    one, two = (
        toy_results.make(tmp_path / name, values={"ridge": 0.25, "flag": nan}) for name in "ab"
    )
    assert compare(str(one), str(two)).same
    assert compare(str(one), str(first)).numbers.differing == 3


def test_nothing_that_is_recorded_differs(first, tmp_path, capsys):
    other = toy_results.make(tmp_path / "r", values=VALUES)
    assert NOTHING in told(first, other, capsys=capsys)


def test_a_verdict_is_a_result_too(first, tmp_path, capsys):
    other = toy_results.make(tmp_path / "r", verdict="does not hold")
    text = told(first, other, capsys=capsys)
    assert "best: holds in A, does not hold in B" in text
    assert "0 of 6 numbers differ" in text


def test_json_has_the_same(first, tmp_path, capsys):
    other = toy_results.make(tmp_path / "r", values=VALUES, seed=1)
    found = json.loads(told(first, other, "--json", capsys=capsys))
    assert found["same"] is False
    assert {d["method"] for d in found["differences"]} == {"flag"}
    (place,) = found["factors"]
    assert place["method"] == "flag"
    assert place["changes"] == [{"factor": "seeds", "what": "seed", "a": "0", "b": "1"}]
