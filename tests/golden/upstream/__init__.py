"""One module per repository of a method's authors, each with ``REPOSITORY``, ``COMMIT`` and ``make``.

``make`` builds our network from ``golden.fill``, gives the authors' network the same weights, runs
it, and returns a ``golden.Golden``. None of the authors' code is copied here.
"""

import re
from collections.abc import Callable, Mapping

from torch import Tensor, nn


def renaming(*pairs: tuple[str, str | Callable[[re.Match], str]]) -> Callable[[str], str]:
    """From the authors' names of modules and parameters to ours, by regular expressions in turn."""

    def rename(name: str) -> str:
        for pattern, ours in pairs:
            name = re.sub(pattern, ours, name)
        return name

    return rename


def give(theirs: nn.Module, state: Mapping[str, Tensor], rename: Callable[[str], str]) -> None:
    """Load our weights ``state`` into the authors' network.

    Raises:
        KeyError: we have no such parameter.
        ValueError: the authors' network lacks some of ours.
    """
    names = {name: rename(name) for name in theirs.state_dict()}
    theirs.load_state_dict({name: state[ours] for name, ours in names.items()})
    if left := state.keys() - set(names.values()):
        raise ValueError(f"the authors' network lacks {', '.join(sorted(left))}")


def descending(weight: Tensor) -> Tensor:
    """The first layer of a time embedding whose frequencies fall, as the authors', for ours, which
    rise; cosines come first, then sines. (width, features)"""
    return weight.unflatten(1, (2, -1)).flip(2).flatten(1)
