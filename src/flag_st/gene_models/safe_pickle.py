"""Dictionaries that others publish as pickles, read without running anything.

A pickle is a program. ``load`` interprets the few instructions that plain data needs and refuses
all others by name. Nothing is imported, constructed or called, whatever the file says.
"""

import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flag_st.core.errors import FlagError

#: The dictionaries of Geneformer have 0.4 to 4 MB.
MAX_BYTES = 64 << 20
MAX_DEPTH = 32

#: All names in a pickled numpy scalar; a few lines below do their work, and none is imported.
NUMPY = {
    ("numpy", "dtype"): "dtype",
    ("numpy.core.multiarray", "scalar"): "scalar",
    ("numpy._core.multiarray", "scalar"): "scalar",
    ("_codecs", "encode"): "encode",
}
SCALARS = {f"{kind}{size}" for kind in "fiu" for size in (2, 4, 8)} | {"i1", "u1"}

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_PLAIN = (dict, list, tuple, str, int, float, bool, type(None))


class _Name:
    """A global that a pickle of numpy scalars mentions, or the dtype that it asked for."""

    def __init__(self, kind: str, code: str = "", order: str = "<"):
        self.kind, self.code, self.order = kind, code, order


_MARK = _Name("mark")


def load(path: str | Path) -> Any:
    """Read dicts, lists, tuples, str, int, float, bool, None and numpy scalars (as numbers).

    Raises:
        FlagError: the file is no pickle, damaged, too large, nested too deep, or holds anything
            else; the message names the instruction or the global.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise _refused(path, f"its {size} bytes (at most {MAX_BYTES} are read)")
        data = path.read_bytes()
    except OSError as error:
        raise FlagError(f"cannot read {path} ({error})") from None
    try:
        value = _Machine(path).run(data)
    except FlagError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise FlagError(
            f"{path} is not a readable pickle ({type(error).__name__}: {error})",
            remedy="fetch the file again; of a git clone, run `git lfs pull`",
        ) from None
    _check_plain(value, path)
    return value


def mapping(path: str | Path, kind: type, strict: bool = True) -> dict[str, Any]:
    """A pickled flat dictionary from str to ``kind`` (``float`` takes integers too).

    Args:
        strict: refuse a key or value of another type; otherwise leave it out.

    Raises:
        FlagError: as ``load``; or it is no dictionary, or (``strict``) an entry does not fit.
    """
    value = load(path)
    if not isinstance(value, dict):
        raise FlagError(f"{path} holds a {type(value).__name__} instead of a dictionary")
    kinds = (int, float) if kind is float else (kind,)
    fits = {k: isinstance(k, str) and type(v) in kinds for k, v in value.items()}
    bad = [key for key, fit in fits.items() if not fit]
    if strict and bad:
        found = type(value[bad[0]]).__name__
        raise FlagError(
            f"{path}: entry {bad[0]!r} is {found} instead of {kind.__name__}",
            remedy="check that this is the dictionary that its name says",
        )
    return {key: kind(entry) for key, entry in value.items() if fits[key]}


def _refused(path: Path, what: str) -> FlagError:
    return FlagError(
        f"{path}: refused for {what}; only plain data is read from a pickle",
        remedy="fetch the file again from its official address and compare its sha256",
    )


class _Machine:
    """A stack, a memo and one method per kind of instruction."""

    def __init__(self, path: Path):
        self.path = path
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name in _VALUES:
                self.stack.append(argument)
            elif handler := getattr(self, f"op_{name.lower()}", None):
                handler(argument)
            else:
                raise _refused(self.path, f"its instruction {name}")
        (value,) = self.stack
        return value

    def since_mark(self) -> list[Any]:
        start = len(self.stack) - 1
        while self.stack[start] is not _MARK:
            start -= 1
            if start < 0:
                raise ValueError("no mark on the stack")
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items

    def target(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise TypeError(f"{type(self.stack[-1]).__name__} is not a {kind.__name__}")
        return self.stack[-1]

    def op_proto(self, version: int) -> None:
        """Every version is read, because the instructions decide."""

    op_frame = op_stop = op_proto

    def op_mark(self, _) -> None:
        self.stack.append(_MARK)

    def op_put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    op_binput = op_long_binput = op_put

    def op_memoize(self, _) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def op_get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    op_binget = op_long_binget = op_get

    def pairs(self, items: list[Any]) -> dict:
        """Keys are plain scalars, because hashing tuples of tuples could take forever."""
        for key in items[::2]:
            if not isinstance(key, (str, int, float, type(None))):
                raise _refused(self.path, f"a key of type {type(key).__name__}")
        return dict(zip(items[::2], items[1::2], strict=True))

    def op_setitem(self, _) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.target(dict).update(self.pairs([key, value]))

    def op_setitems(self, _) -> None:
        pairs = self.pairs(self.since_mark())
        self.target(dict).update(pairs)

    def op_dict(self, _) -> None:
        self.stack.append(self.pairs(self.since_mark()))

    def op_append(self, _) -> None:
        value = self.stack.pop()
        self.target(list).append(value)

    def op_appends(self, _) -> None:
        items = self.since_mark()
        self.target(list).extend(items)

    def op_list(self, _) -> None:
        self.stack.append(self.since_mark())

    def op_tuple(self, _) -> None:
        self.stack.append(tuple(self.since_mark()))

    def op_tuple1(self, _) -> None:
        self.stack.append((self.stack.pop(),))

    def op_tuple2(self, _) -> None:
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def op_tuple3(self, _) -> None:
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def op_global(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        if (module, name) not in NUMPY:
            raise _refused(self.path, f"naming {module}.{name}")
        self.stack.append(_Name(NUMPY[module, name]))

    def op_stack_global(self, _) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.op_global(f"{module} {name}")

    def op_reduce(self, _) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise _refused(self.path, "calling what is no numpy scalar")
        self.stack.append(_numpy(self.path, function.kind, arguments))

    def op_build(self, _) -> None:
        """The state of a dtype, of which scalars only need the byte order."""
        state, dtype = self.stack.pop(), self.stack[-1]
        if not isinstance(dtype, _Name) or not dtype.code or not isinstance(state, tuple):
            raise _refused(self.path, "its instruction BUILD")
        dtype.order = str(state[1])


def _numpy(path: Path, function: str, arguments: tuple) -> Any:
    """The three calls of which a pickled numpy scalar consists."""
    import numpy as np

    if function == "dtype" and arguments and arguments[0] in SCALARS:
        return _Name("made", arguments[0])
    if function == "encode" and len(arguments) == 2 and arguments[1] == "latin1":
        return arguments[0].encode("latin1")
    if function == "scalar" and isinstance(arguments[0], _Name) and arguments[0].code:
        order = ">" if arguments[0].order == ">" else "<"
        dtype = np.dtype(order + arguments[0].code)
        if isinstance(arguments[1], bytes) and len(arguments[1]) == dtype.itemsize:
            return np.frombuffer(arguments[1], dtype)[0].item()
    raise _refused(path, f"calling {function} for what is no number")


def _check_plain(value: Any, path: Path) -> None:
    """Walk level by level; nothing is walked twice, so that cycles end."""
    level, seen = [value], set()
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            if type(item) not in _PLAIN:
                raise _refused(path, f"holding {type(item).__name__}")
            if isinstance(item, (dict, list, tuple)) and id(item) not in seen:
                seen.add(id(item))
                below += [*item, *item.values()] if isinstance(item, dict) else item
        if not below:
            return
        level = below
    raise _refused(path, f"nesting deeper than {MAX_DEPTH}")
