"""The official packages of gene models, with which the pipeline can compute instead of its own code."""

import importlib
from types import ModuleType
from typing import Literal

from flag_st.core.errors import FlagError

#: ``own`` is this project's code, which runs in its ordinary environment; ``package`` is the
#: authors' package, which needs an environment of its own.
Backend = Literal["own", "package"]


def official(module: str) -> ModuleType:
    """A module of an official package; its environment has the name of the package in lower case.

    Raises:
        FlagError: it cannot be imported, here or at all; names the environment and the command.
    """
    from flag_st.core.torchvision_guard import ensure_torchvision

    ensure_torchvision()
    package = module.partition(".")[0]
    env = package.lower()
    try:
        return importlib.import_module(module)
    except Exception as error:  # a package beside libraries that it does not fit fails in many ways
        raise FlagError(
            f"backend: package computes with {package}, which cannot be imported here "
            f"({type(error).__name__}: {error})",
            remedy=f"give the entry `env: {env}` and run `snakemake --sdm conda`, which makes the "
            f"environment envs/{env}.yaml; or set params.backend to own",
        ) from None
