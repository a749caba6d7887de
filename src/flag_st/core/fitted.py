"""What the plug-ins that learn from the training slides (gene models, image encoders) have in common.

Whatever they learn is a set of named arrays, which are saved, restored and identified in one way.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.io import load_arrays, save_arrays

if TYPE_CHECKING:
    from torch import nn

AGAIN = "delete its model.safetensors and run the same command again"


class Learned:
    """Something that learns named arrays and writes them to one file."""

    def arrays(self) -> dict[str, np.ndarray]:
        """All that was learned, by name; this is what ``save`` writes."""
        return {}

    def save(self, path: str | Path, **facts: Any) -> None:
        """Write a self-describing safetensors file; ``facts`` (use, params, genes …) go with it.

        Equal models give equal bytes.
        """
        save_arrays(path, self.arrays(), facts or {"model": type(self).__name__})


class Fitted(Learned):
    """A plug-in that may learn. The subclass decides what it is fitted to.

    Class attributes:
        fits: True if ``fit`` must see the training slides. What the plug-in makes then belongs to
            one split. The entry in the configuration says the same.
    """

    fits: bool = False

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """The inverse of ``arrays``."""

    def load(self, path: str | Path) -> None:
        """The inverse of ``save``.

        Raises:
            FlagError: the file is damaged, or of another model or other params.
        """
        self.restore(load_arrays(path)[0])


def unfitted(name: str) -> FlagError:
    return FlagError(
        f"{name} has learned nothing yet",
        remedy="its entry must say `fits: true`; from Python, call fit or load first",
    )


def require(arrays: Mapping[str, np.ndarray], names: Iterable[str], model: str) -> None:
    """Refuse arrays that another model saved.

    Raises:
        FlagError: naming the first array that ``model`` needs and does not find.
    """
    missing = [name for name in names if name not in arrays]
    if missing:
        raise FlagError(f"the fitted {model} lacks {missing[0]}", remedy=AGAIN)


def refill(net: "nn.Module", arrays: Mapping[str, np.ndarray], model: str) -> None:
    """Load the saved tensors into ``net``, which is best built on the meta device.

    Raises:
        FlagError: naming the first one that is missing or has another shape.
    """
    import torch

    wanted = net.state_dict()
    require(arrays, wanted, model)
    for key, tensor in wanted.items():
        if arrays[key].shape != tuple(tensor.shape):
            shapes = f"{arrays[key].shape}, not {tuple(tensor.shape)}"
            raise FlagError(f"the fitted {model} has {key} of shape {shapes}", remedy=AGAIN)
    net.load_state_dict({key: torch.from_numpy(arrays[key]) for key in wanted}, assign=True)


def nested(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``arrays`` of a model inside another, under names that cannot clash with the outer model's."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def inside(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of ``nested``: the arrays that belong to the inner model."""
    start = f"{prefix}."
    return {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}


def digest_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 of names and values."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        sha.update(name.encode() + b"\0" + np.ascontiguousarray(arrays[name]).tobytes())
    return sha.hexdigest()
