"""Weights in MindSpore's ``.ckpt`` files, read without MindSpore and without executing anything.

The file is a protocol buffer: ``Checkpoint {repeated Value value = 1}``, ``Value {string tag = 1; TensorProto
tensor = 2}``, ``TensorProto {repeated int64 dims = 1; string tensor_type = 2; bytes tensor_content = 3}``. A tensor
above 512 MB comes in several values of one tag, whose contents are to be joined in order. Contents are
little-endian and row-major. Scalars have the dimensions [0].
"""

import mmap
from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flag_st.core.errors import FlagError

TYPES = {"Float32": "<f4", "Float16": "<f2", "Float64": "<f8", "Int32": "<i4", "Int64": "<i8"}
TYPES |= {"UInt8": "|u1", "Int8": "|i1", "Bool": "|b1"}
#: What an optimiser leaves behind, which is no part of a network.
OPTIMISER: tuple[str, ...] = (
    "moment1.",
    "moment2.",
    "global_step",
    "learning_rate",
    "beta1_power",
    "beta2_power",
)
OPTIMISER += ("current_iterator_step", "last_overflow_iterator_step")
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class _Broken(ValueError):
    """The bytes are no protocol buffer, or they end too early."""


#: (dims, type, start and end of the content)
_Slice = tuple[list[int], str, tuple[int, int]]


class _Field(NamedTuple):
    """A field of a message: its number, or where its content starts and ends."""

    number: int
    kind: int
    value: int
    start: int
    end: int


def read_mindspore(
    path: str | Path, wanted: Callable[[str], bool] = lambda tag: True
) -> dict[str, np.ndarray]:
    """Named arrays of a checkpoint, without those of an optimiser.

    The file is mapped to find its tensors. The contents of those that are ``wanted`` are then read to
    where they stay, slice by slice, so that the peak of memory is what is returned.

    Raises:
        FlagError: the file cannot be read, is truncated or of another format, or holds a tensor of an
            unknown type or whose size does not fit its shape.
    """
    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            slices: dict[str, list[_Slice]] = {}
            for tag, part in _values(data):
                if not tag.startswith(OPTIMISER) and wanted(tag):
                    slices.setdefault(tag, []).append(part)
            return {tag: _joined(file, tag, parts) for tag, parts in slices.items()}
    except (OSError, ValueError) as error:
        raise FlagError(
            f"{path} is no whole MindSpore checkpoint ({error})",
            remedy="download it again, and compare its size and its sha256 with the published ones",
        ) from None


def _values(data: mmap.mmap) -> Iterator[tuple[str, _Slice]]:
    found = False
    for field in _fields(data, 0, len(data)):
        if (field.number, field.kind) != (1, BYTES):
            raise _Broken(f"field {field.number} of kind {field.kind} is not part of a checkpoint")
        found = True
        yield _value(data, field)
    if not found:
        raise _Broken("it holds no value")


def _value(data: mmap.mmap, value: _Field) -> tuple[str, _Slice]:
    tag, part = "", None
    for field in _fields(data, value.start, value.end):
        if (field.number, field.kind) == (1, BYTES):
            tag = data[field.start : field.end].decode()
        elif (field.number, field.kind) == (2, BYTES):
            part = _tensor(data, field)
    if not tag or part is None:
        raise _Broken("a value has no name or no tensor")
    return tag, part


def _tensor(data: mmap.mmap, value: _Field) -> _Slice:
    dims: list[int] = []
    name, content = "", (0, 0)
    for field in _fields(data, value.start, value.end):
        if (field.number, field.kind) == (1, VARINT):
            dims.append(field.value)
        elif (field.number, field.kind) == (1, BYTES):  # packed
            at = field.start
            while at < field.end:
                size, at = _varint(data, at, field.end)
                dims.append(size)
        elif (field.number, field.kind) == (2, BYTES):
            name = data[field.start : field.end].decode()
        elif (field.number, field.kind) == (3, BYTES):
            content = field.start, field.end
    return dims, name, content


def _joined(file: BufferedReader, tag: str, parts: list[_Slice]) -> np.ndarray:
    dims, name, _ = parts[0]
    if name not in TYPES:
        raise _Broken(f"{tag} is of the unknown type {name!r}")
    kind, shape = np.dtype(TYPES[name]), () if dims == [0] else tuple(dims)
    size = sum(end - start for _, _, (start, end) in parts)
    if size != kind.itemsize * int(np.prod(shape, dtype=np.int64)):
        raise _Broken(f"{tag} has {size} bytes, which do not fit its shape {dims}")
    joined = np.empty(size, np.uint8)
    at = 0
    for _, _, (start, end) in parts:
        file.seek(start)
        if file.readinto(joined.data[at : at + end - start]) != end - start:
            raise _Broken("it ends too early")
        at += end - start
    return joined.view(kind).reshape(shape)


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[_Field]:
    while at < end:
        key, at = _varint(data, at, end)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _varint(data, at, end)
            yield _Field(number, kind, value, at, at)
            continue
        if kind == BYTES:
            size, at = _varint(data, at, end)
        elif kind in (FIXED32, FIXED64):
            size = 4 if kind == FIXED32 else 8
        else:
            raise _Broken(f"wire type {kind} is not part of a checkpoint")
        if at + size > end:
            raise _Broken("it ends too early")
        yield _Field(number, kind, 0, at, at + size)
        at += size


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """A number of variable length at ``at``, and where the next field starts."""
    value = shift = 0
    while True:
        if at >= end or shift > 63:
            raise _Broken("it ends too early")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
