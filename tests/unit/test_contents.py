"""What files from outside hold, as a parameter of the job that reads them."""

import json
import os

import pytest

from flag_st.core import io
from flag_st.planning.contents import contents, named_files

OLD = (1.6e9, 1.6e9)


@pytest.fixture
def read(tmp_path):
    """Two files that a job has read: their paths, its record, and what was known of them then."""
    files = [str(tmp_path / name) for name in ("b.txt", "a.txt")]
    for name in files:
        (tmp_path / name).write_text("as it was read")
    record = tmp_path / "job.json"
    known = contents(files, record)
    ran(files, record, known)
    return files, record, known


def ran(files, record, known):
    """The record of a run of the job."""
    inputs = {file: io.digest(file) for file in files}
    record.write_text(json.dumps({"params": {"contents": known}, "inputs": inputs}))


def test_the_same_bytes_are_the_same_whatever_their_date(read):
    files, record, known = read
    os.utime(files[0], OLD)
    assert contents(files, record) == contents(files[::-1], record) == known
    assert contents(files, record, verify=True) == known


@pytest.mark.parametrize("text", ["of this size: ", "of another size"])
def test_other_bytes_are_noticed_whatever_their_date(read, tmp_path, text):
    files, record, known = read
    (tmp_path / "b.txt").write_text(text)
    os.utime(files[0], OLD)
    new = contents(files, record)
    assert new[0] == known[0]  # a.txt, in the order of paths
    assert new[1] != known[1]
    assert contents(files, record) == new  # until the job has run, and
    ran(files, record, new)
    assert contents(files, record) == contents(files, record, verify=True) == new  # after it has
    os.utime(files[0])
    assert contents(files, record) == new


def test_other_bytes_of_one_size_and_date_need_to_be_asked_for(read, tmp_path):
    files, record, known = read
    state = os.stat(files[0])
    (tmp_path / "b.txt").write_text("as it was mead")
    os.utime(files[0], ns=(state.st_atime_ns, state.st_mtime_ns))
    assert contents(files, record) == known
    new = contents(files, record, verify=True)
    assert new[1] != known[1]
    ran(files, record, new)
    assert contents(files, record) == contents(files, record, verify=True) == new


def test_without_a_record_nothing_is_read(read, tmp_path, monkeypatch):
    files, record, known = read
    monkeypatch.setattr("flag_st.planning.contents.digest", None)
    assert contents(files, record) == known  # neither is it where size and date are the same
    assert contents(files, tmp_path / "none.json") == known
    for text in ("", "[]", '{"params": {}}'):
        record.write_text(text)
        assert contents(files, record) == known
    assert contents([*files, str(tmp_path / "absent")], record) == known
    assert contents(files[:1], record) == known[1:]


def test_files_that_params_name_are_found_at_any_depth(tmp_path):
    for name in ("a.bin", "models/b.bin", "models/more/c.txt", "aliases.tsv", "results.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    a, models, aliases = (str(tmp_path / name) for name in ("a.bin", "models", "aliases.tsv"))
    params = {
        "weights": None,
        "aliases": aliases,
        "depth": 3,
        "parts": [{"use": "x.Y", "params": {"weights": a}}, {"params": {"weights": models}}],
        "network": "resnet18",
        "folder": str(tmp_path),
    }
    inside = [f"{models}/b.bin", f"{models}/more/c.txt"]
    assert named_files(params) == sorted([a, aliases, *inside])
    assert named_files({"weights": models, "file": "b.bin"}) == inside[:1]
    assert named_files({"weights": models, "file": "none.bin"}) == []
    assert named_files({"weights": "x" * 5000}) == []
