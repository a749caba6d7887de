"""Plug-ins by dotted path: a configuration entry names a class and gives its arguments.

What a class accepts is read from its signature alone. An argument annotated with a dataclass is a
*group*: the configuration gives it as a nested mapping, whose values replace those of the argument's
default one by one. An argument annotated with ``Literal`` accepts only the values listed there.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from flag_st.core.errors import FlagError

#: How messages name the types that are checked; values of any other type are checked by the class.
PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
#: Default of an argument that must be given.
REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True)
class Argument:
    """One argument of a class: its annotation, and its default (``REQUIRED`` if it has none)."""

    annotation: Any
    default: Any

    @property
    def kinds(self) -> tuple[Any, ...]:
        """The alternatives of a union; a plain annotation is its only alternative."""
        # ``Literal[...] | None`` is a ``Union``, ``int | None`` a ``UnionType``.
        union = get_origin(self.annotation) in (Union, UnionType)
        return get_args(self.annotation) if union else (self.annotation,)

    @property
    def group(self) -> type | None:
        """The dataclass that a nested mapping stands for, if the annotation names one."""
        return next((k for k in self.kinds if inspect.isclass(k) and is_dataclass(k)), None)


def load(use: str) -> type[Any]:
    """Import the class that ``use`` names, such as ``flag_st.methods.ridge.Ridge``.

    Raises:
        FlagError: the module or the class does not exist (the message lists what the folder
            offers), or the module cannot be imported.
    """
    module_name, _, name = use.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        # A dependency that is missing *inside* a plug-in must not look like a missing plug-in.
        inside = getattr(error, "name", None)
        if isinstance(error, ModuleNotFoundError) and inside and module_name.startswith(inside):
            raise FlagError(
                f"no plug-in module {module_name!r} (use: {use})", choices=siblings(module_name)
            ) from None
        raise FlagError(f"{use} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        classes = [n for n, v in vars(module).items() if inspect.isclass(v) and n[0] != "_"]
        raise FlagError(f"no class {name!r} in {module_name}", choices=sorted(classes))
    return getattr(module, name)


def build(use: str, params: Mapping[str, Any] | None = None) -> Any:
    """Construct the class that ``use`` names with the arguments ``params``.

    Raises:
        FlagError: the class is abstract, an argument is unknown or missing, or a value has the
            wrong type or is not among the choices; all wrong values are named at once.
    """
    cls = load(use)
    if lacking := sorted(getattr(cls, "__abstractmethods__", ())):
        raise FlagError(f"{use} lacks {', '.join(lacking)}, which its base class asks for")
    return cls(**fill(use, arguments(cls), params or {}))


def resolve(use: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Every argument of a class with the value that it will have, ready for JSON.

    Groups become nested mappings. An argument that itself names a plug-in (``{use, params}``) is
    resolved in the same way.

    Raises:
        FlagError: as ``build``.
    """
    asked = arguments(load(use))
    given = fill(use, asked, params or {})
    values = {name: given.get(name, argument.default) for name, argument in asked.items()}
    return {name: _jsonable(value) for name, value in values.items()}


def _jsonable(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        if isinstance(value.get("use"), str):
            return {**value, "params": resolve(value["use"], value.get("params"))}
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [_jsonable(item) for item in value]
    return value


def arguments(cls: type) -> dict[str, Argument]:
    """What a class accepts by name, in order.

    ``**more`` in a constructor stands for the arguments of the next class that it hands them to.
    """
    if is_dataclass(cls):
        return {f.name: Argument(f.type, _default(f)) for f in fields(cls) if f.init}
    found: dict[str, Argument] = {}
    for owner in cls.__mro__:
        if "__init__" not in vars(owner) or owner is object:
            continue
        parameters = list(inspect.signature(vars(owner)["__init__"]).parameters.values())[1:]
        for p in parameters:
            if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
                found.setdefault(p.name, Argument(p.annotation, p.default))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return found


def _default(field: Any) -> Any:
    if field.default is not MISSING:
        return field.default
    return REQUIRED if field.default_factory is MISSING else field.default_factory()


def fill(what: str, asked: Mapping[str, Argument], values: Mapping[str, Any]) -> dict[str, Any]:
    """The given ``values`` with every nested mapping turned into its group.

    Args:
        what: whose arguments these are, for messages.
        asked: the accepted arguments.
        values: what the configuration gives; arguments that it leaves out stay left out.

    Raises:
        FlagError: as ``build``.
    """
    if unknown := sorted(set(values) - set(asked)):
        raise FlagError(
            f"{what} takes no argument {', '.join(unknown)}",
            choices=asked,
            remedy=_moved(unknown, asked, values),
        )
    missing = [n for n, a in asked.items() if a.default is REQUIRED and n not in values]
    if missing:
        raise FlagError(f"{what} needs the argument {', '.join(missing)}")
    filled = {name: _grouped(f"{what}: {name}", asked[name], v) for name, v in values.items()}
    _check_values(what, asked, filled)
    return filled


def _moved(
    unknown: Iterable[str], asked: Mapping[str, Argument], values: Mapping[str, Any]
) -> str | None:
    """How to write the unknown arguments that belong in a group."""
    owners = {
        name: owner
        for owner, argument in asked.items()
        if argument.group is not None and owner != "training"
        for name in arguments(argument.group)
    }
    found = [f"{owners[n]}: {{{n}: {values[n]}}}" for n in unknown if n in owners]
    return f"write {', '.join(found)}" if found else None


def _grouped(what: str, argument: Argument, value: Any) -> Any:
    """``value``, or the group that it describes if it is a mapping and the argument is a group."""
    group = argument.group
    if group is None or not isinstance(value, Mapping):
        return value
    base, asked = {}, arguments(group)
    if isinstance(argument.default, group):
        base = {name: getattr(argument.default, name) for name in asked}
        asked = {name: Argument(a.annotation, base[name]) for name, a in asked.items()}
    return group(**{**base, **fill(what, asked, value)})


def _check_values(what: str, asked: Mapping[str, Argument], values: Mapping[str, Any]) -> None:
    """Refuse text for a number and the like before it fails deep inside a job."""
    faults, exponent = [], False
    for name, value in values.items():
        kinds = asked[name].kinds
        if not any(_fits(value, kind) for kind in kinds):
            faults.append(f"{name} is {' or '.join(_names(kinds))}, not {value!r}")
            exponent |= float in kinds and isinstance(value, str) and "e" in value.lower()
    if faults:
        remedy = "write 1.0e-4, with a point: YAML reads 1e-4 as text" if exponent else None
        raise FlagError(f"{what}: {'; '.join(faults)}", remedy=remedy)


def _names(kinds: Iterable[Any]) -> list[str]:
    """How a message names the alternatives of an annotation."""
    names = []
    for kind in kinds:
        if get_origin(kind) is Literal:
            names.append("one of " + ", ".join(map(str, get_args(kind))))
        elif inspect.isclass(kind) and is_dataclass(kind):
            names.append(f"a mapping of {', '.join(arguments(kind))}")
        else:
            names.append("null" if kind is NoneType else PLAIN[kind])
    return names


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(kind))
    if inspect.isclass(kind) and is_dataclass(kind):
        return isinstance(value, kind)
    if isinstance(value, bool):  # Python counts it among the whole numbers
        return kind is bool or kind not in (*PLAIN, NoneType)
    plain: dict[Any, Any] = {int: Integral, float: Real, bool: (), str: str, NoneType: NoneType}
    return isinstance(value, plain.get(kind, object))


def defaults(use: str) -> dict[str, Any]:
    """The arguments of ``use`` that have defaults, with their values."""
    found = arguments(load(use))
    return {name: a.default for name, a in found.items() if a.default is not REQUIRED}


def siblings(module_name: str) -> list[str]:
    """Plug-in modules beside ``module_name`` (the folder that a user probably meant)."""
    package, _, _ = module_name.rpartition(".")
    try:
        path = importlib.import_module(package).__path__
    except (ImportError, AttributeError, ValueError):
        return []
    return [f"{package}.{m.name}" for m in pkgutil.iter_modules(path) if m.name != "base"]
