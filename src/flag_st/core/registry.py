"""Plug-ins by dotted path: a configuration entry names its class and its arguments."""

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, get_args

from flag_st.core.errors import FlagError

#: How a configuration writes the types that are looked at; others are their class's own affair.
PLAIN = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def load(use: str) -> type[Any]:
    """Import the class that ``use`` names, such as ``flag_st.methods.ridge.Ridge``.

    Raises:
        FlagError: the module or the class does not exist (lists what the folder offers), or the
            module cannot be imported.
    """
    module_name, _, name = use.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        # A missing dependency *inside* an existing plug-in must not read as a missing plug-in.
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


def build(use: str, params: dict[str, Any] | None = None, **given) -> Any:
    """Construct ``use`` with ``params``; unknown arguments are refused by name."""
    cls, params = load(use), {**(params or {}), **given}
    if lacking := sorted(getattr(cls, "__abstractmethods__", ())):
        raise FlagError(f"{use} lacks {', '.join(lacking)}, which its base class asks for")
    accepted = inspect.signature(cls).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    unknown = [] if takes_any else sorted(set(params) - set(accepted))
    if unknown:
        raise FlagError(f"{use} takes no argument {', '.join(unknown)}", choices=accepted)
    check_types(use, {name: p.annotation for name, p in accepted.items()}, params)
    try:
        return cls(**params)
    except TypeError as error:  # a class that hands arguments on learns late which are wrong
        if "argument" in str(error):
            raise FlagError(f"{use}: {error}", choices=accepted) from error
        raise


def check_types(what: str, asked: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Refuse a text for a number and the like before it fails deep inside a job.

    Args:
        what: whose arguments these are, for the message.
        asked: annotations by name; a name without one, or with one that is not plain, passes.
        values: what the configuration gives.
    """
    faults, exponent = [], False
    for name, value in values.items():
        annotation = asked.get(name)
        kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
        if not any(_fits(value, kind) for kind in kinds):
            wanted = " or ".join("null" if k is NoneType else PLAIN[k] for k in kinds)
            faults.append(f"{name} is {wanted}, not {value!r}")
            exponent |= float in kinds and isinstance(value, str) and "e" in value.lower()
    if faults:
        remedy = "write 1.0e-4, with a point: YAML takes 1e-4 for text" if exponent else None
        raise FlagError(f"{what}: {'; '.join(faults)}", remedy=remedy)


def _fits(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):  # which Python counts among the whole numbers
        return kind is bool or kind not in (*PLAIN, NoneType)
    plain: dict[Any, Any] = {int: Integral, float: Real, bool: (), str: str, NoneType: NoneType}
    return isinstance(value, plain.get(kind, object))


def defaults(use: str) -> dict[str, Any]:
    """The arguments of ``use`` that have defaults, with their values."""
    parameters = inspect.signature(load(use)).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def siblings(module_name: str) -> list[str]:
    """Plug-in modules beside ``module_name`` (the folder a user probably meant)."""
    package, _, _ = module_name.rpartition(".")
    try:
        path = importlib.import_module(package).__path__
    except (ImportError, AttributeError, ValueError):
        return []
    return [f"{package}.{m.name}" for m in pkgutil.iter_modules(path) if m.name != "base"]
