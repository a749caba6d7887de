"""Plug-ins by dotted path: a configuration entry names its class and its arguments."""

import importlib
import inspect
import pkgutil
from typing import Any

from flag_st.errors import FlagError


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
    try:
        return cls(**params)
    except TypeError as error:  # a class that hands arguments on learns late which are wrong
        if "argument" in str(error):
            raise FlagError(f"{use}: {error}", choices=accepted) from error
        raise


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
