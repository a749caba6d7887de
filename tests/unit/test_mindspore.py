"""MindSpore's checkpoints, against files written here in the same wire format."""

import numpy as np
import pytest
from published import TYPES, field, value, varint

from flag_st.core.errors import FlagError
from flag_st.transfer.mindspore import read_mindspore


def slices(tag: str, array: np.ndarray, parts: int) -> bytes:
    """One tensor in several values, each with the whole tensor's shape."""
    whole = value(tag, array)
    pieces = []
    for piece in np.array_split(array.ravel(), parts):
        shape = b"".join(varint(8) + varint(n) for n in array.shape)
        tensor = shape + field(2, TYPES[array.dtype.str].encode()) + field(3, piece.tobytes())
        pieces.append(field(1, field(1, tag.encode()) + field(2, tensor)))
    assert len(whole) < sum(map(len, pieces)) + 1
    return b"".join(pieces)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "gene_emb": rng.normal(size=(300, 8)).astype("<f4"),
        "encoder.0.attn.q_proj.weight": rng.normal(size=(8, 8)).astype("<f2"),
        "step": np.array(7, "<i8"),
    }


@pytest.fixture
def file(arrays, tmp_path):
    content = slices("gene_emb", arrays["gene_emb"], 3)
    content += value(
        "encoder.0.attn.q_proj.weight", arrays["encoder.0.attn.q_proj.weight"], packed=True
    )
    content += value("step", arrays["step"])
    content += value("moment1.gene_emb", arrays["gene_emb"]) + value(
        "learning_rate", arrays["step"]
    )
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    return path


def test_tensors_are_joined_and_the_optimiser_is_left_out(file, arrays):
    found = read_mindspore(file)
    assert set(found) == set(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        np.testing.assert_array_equal(found[name], array)


def test_only_what_is_wanted_is_read(file):
    assert set(read_mindspore(file, lambda tag: tag.startswith("encoder"))) == {
        "encoder.0.attn.q_proj.weight"
    }


@pytest.mark.parametrize("share", [0.001, 0.3, 0.7, 0.999])
def test_a_truncated_file_is_refused(file, share):
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share) + 1])
    with pytest.raises(FlagError, match="no whole MindSpore checkpoint"):
        read_mindspore(file)


def test_foreign_files_are_refused(tmp_path, arrays):
    path = tmp_path / "x.ckpt"
    array = arrays["gene_emb"]
    foreign = {
        b"": "no whole",
        b"PK\x03\x04 a zip file, as torch writes it": "no whole",
        bytes(range(256)): "no whole",
        value("a", array, kind="Float8"): "unknown type 'Float8'",
        value("a", array)[:-4].replace(varint(300), varint(301)): "no whole",
        field(2, b"x"): "field 2",
    }
    for content, message in foreign.items():
        path.write_bytes(content)
        with pytest.raises(FlagError, match=message):
            read_mindspore(path)
    with pytest.raises(FlagError, match="No such file"):
        read_mindspore(tmp_path / "absent.ckpt")


def test_a_shape_that_does_not_fit_its_content_is_refused(tmp_path):
    path = tmp_path / "x.ckpt"
    part = np.zeros(6, "<f4")
    tensor = varint(8) + varint(7) + field(2, b"Float32") + field(3, part.tobytes())
    path.write_bytes(field(1, field(1, b"a") + field(2, tensor)))
    with pytest.raises(FlagError, match=r"a has 24 bytes, which do not fit its shape \[7\]"):
        read_mindspore(path)
