"""Packages that are installed only if a part of the project is asked for."""

import importlib
from types import ModuleType

from flag_st.core.errors import FlagError


def extra(module: str, part: str) -> ModuleType:
    """A module of a package that the optional part ``part`` of this project brings.

    Raises:
        FlagError: it cannot be imported; names the command that installs it.
    """
    try:
        found = importlib.import_module(module)
        if found.__file__ is None:  # Python takes any folder of this name for a package
            raise ImportError(f"{next(iter(found.__path__))} is a folder and no package")
        return found
    except ImportError as error:
        raise FlagError(
            f"{module.partition('.')[0]} is needed here and cannot be imported ({error})",
            remedy=f"install it with: .venv/bin/pip install -e '.[{part}]'",
        ) from None
