"""The reader of pickled dictionaries takes plain data and runs nothing."""

import os
import pickle
import struct
import time

import numpy as np
import pytest

from flag_st.core.errors import FlagError
from flag_st.gene_models import safe_pickle

PLAIN = {
    "ENSG00000000003": 4,
    "minus": -70_000,
    "long": 2**70,
    "float": 1.25,
    "text": "ä\nb",
    "list": [1, [2.5, None], (), (True,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    "none": None,
    7: {"nested": False},
}


def write(tmp_path, data: bytes):
    path = tmp_path / "dictionary.pkl"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_of_every_protocol_is_read_as_pickle_reads_it(tmp_path, protocol):
    found = safe_pickle.load(write(tmp_path, pickle.dumps(PLAIN, protocol)))
    assert found == PLAIN
    assert [type(v) for v in found["list"]] == [type(v) for v in PLAIN["list"]]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int64, np.uint8])
def test_numpy_scalars_become_numbers(tmp_path, protocol, kind):
    values = {f"g{i}": kind(i * 1.5) for i in range(5)}
    data = pickle.dumps(values, protocol)
    found = safe_pickle.load(write(tmp_path, data))
    assert found == {k: v.item() for k, v in values.items()}
    assert type(found["g1"]) in (int, float)
    # The same file as numpy 1 wrote it.
    if protocol < 4:
        old = data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        assert safe_pickle.load(write(tmp_path, old)) == found


def test_byte_order_is_minded(tmp_path):
    value = np.array([2.5], dtype=">f8")
    data = pickle.dumps({"g": np.float64(2.5)}, 3)
    swapped = data.replace(b"<", b">").replace(np.float64(2.5).tobytes(), value.tobytes())
    assert safe_pickle.load(write(tmp_path, swapped)) == {"g": 2.5}


class Reduces:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def evil(tmp_path):
    return {
        "posix.system|nt.system": Reduces(os.system, f"touch {tmp_path}/owned"),
        r"builtins?_*\.eval": Reduces(eval, f"open({str(tmp_path / 'owned')!r}, 'w')"),
        r"builtins?_*\.getattr": Reduces(getattr, "x", "__class__"),
        "numpy.*_reconstruct": np.arange(3),
        "collections.OrderedDict": __import__("collections").OrderedDict(a=1),
        "pathlib": tmp_path,
        "complex": 1j,
        "EMPTY_SET|set": {1, 2},
        "bytes": b"abc",
    }


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", list(evil(__import__("pathlib").Path())))
def test_everything_else_is_refused_by_name_and_nothing_runs(tmp_path, name, protocol):
    path = write(tmp_path, pickle.dumps({"a": [evil(tmp_path)[name]]}, protocol))
    with pytest.raises(FlagError, match=f"refused for .*({name})"):
        safe_pickle.load(path)
    assert not (tmp_path / "owned").exists()


def hand(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (hand(b"cos\nsystem\n", b"X\x04\0\0\0true", b"\x85R"), "os.system"),
        (hand(b"(X\x04\0\0\0trueios\nsystem\n"), "INST"),
        (hand(b"cnumpy\ndtype\n", b"X\x01\0\0\0O", b"\x85R"), "calling dtype"),
        (hand(b"cnumpy\ndtype\n"), "_Name"),
        (hand(b"cnumpy\ndtype\n}", b"b"), "BUILD"),
        (hand(b"cnumpy\ndtype\n)\x81"), "NEWOBJ"),
        (hand(b"X\x01\0\0\0a)R"), "calling what is no numpy scalar"),
        (hand(b"P1\n"), "PERSID"),
        (hand(b"\x82\x01"), "EXT1"),
        (hand(b"}](K\x01K\x02u"), "not a dict"),
        (hand(b"}K\x01\x85K\x02s"), "key of type tuple"),
        (hand(b"}(K\x01u"), "not a readable pickle"),
        (hand(b"K\x01K\x02"), "not a readable pickle"),
        (b"\x80\x02}q", "not a readable pickle"),
        (b"", "not a readable pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ],
)
def test_hand_made_attacks_and_damage(tmp_path, data, words):
    with pytest.raises(FlagError, match=words.replace("(", r"\(")):
        safe_pickle.load(write(tmp_path, data))


def test_deep_nesting_is_refused_quickly(tmp_path):
    for data in (b"]" * 200_000 + b"a" * 199_999, b")" + b"\x85" * 200_000):
        start = time.process_time()
        with pytest.raises(FlagError, match="nesting deeper"):
            safe_pickle.load(write(tmp_path, hand(data)))
        assert time.process_time() - start < 20


def test_shared_parts_do_not_explode(tmp_path):
    """Thirty lists, each holding the next twice, are a thousand million leaves if copied."""
    value = [1]
    for _ in range(28):
        value = [value, value]
    start = time.process_time()
    assert len(safe_pickle.load(write(tmp_path, pickle.dumps(value, 2)))) == 2
    assert time.process_time() - start < 5


def test_cycles_end(tmp_path):
    value: list = []
    value.append(value)
    found = safe_pickle.load(write(tmp_path, pickle.dumps(value, 2)))
    assert found[0] is found


def test_huge_memo_index_takes_no_memory(tmp_path):
    import tracemalloc

    data = hand(b"K\x05r" + struct.pack("<I", 2**32 - 1))
    path = write(tmp_path, data)
    tracemalloc.start()
    try:
        assert safe_pickle.load(path) == 5
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_promised_length_beyond_the_file_is_refused(tmp_path):
    with pytest.raises(FlagError, match="not a readable pickle"):
        safe_pickle.load(write(tmp_path, hand(b"X" + struct.pack("<I", 2**31), b"abc")))


def test_too_large_a_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(safe_pickle, "MAX_BYTES", 10)
    with pytest.raises(FlagError, match="at most 10"):
        safe_pickle.load(write(tmp_path, pickle.dumps(PLAIN)))


def test_mapping_checks_types_and_names_the_entry(tmp_path):
    path = write(tmp_path, pickle.dumps({"a": 1, "b": np.float64(2.5), "c": "x"}))
    with pytest.raises(FlagError, match="entry 'c' is str instead of float"):
        safe_pickle.mapping(path, float)
    assert safe_pickle.mapping(path, float, strict=False) == {"a": 1.0, "b": 2.5}
    assert safe_pickle.mapping(path, str, strict=False) == {"c": "x"}
    with pytest.raises(FlagError, match="entry 'a' is bool"):
        safe_pickle.mapping(write(tmp_path, pickle.dumps({"a": True})), int)
    with pytest.raises(FlagError, match="holds a list"):
        safe_pickle.mapping(write(tmp_path, pickle.dumps([1])), int)
    with pytest.raises(FlagError, match="entry 3 is int"):
        safe_pickle.mapping(write(tmp_path, pickle.dumps({3: 1})), int)


def test_missing_file_is_said(tmp_path):
    with pytest.raises(FlagError, match="cannot read"):
        safe_pickle.load(tmp_path / "none.pkl")
