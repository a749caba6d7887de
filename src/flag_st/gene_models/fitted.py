"""What gene models that learn from the training slides share."""

import hashlib
from collections.abc import Iterable, Mapping

import numpy as np

from flag_st.errors import FlagError


def unfitted(name: str) -> FlagError:
    return FlagError(f"{name} has learned nothing yet", remedy="call fit or load first")


def require(arrays: Mapping[str, np.ndarray], names: Iterable[str], model: str) -> None:
    """Refuse what another model saved.

    Raises:
        FlagError: naming the first array that ``model`` needs and does not find.
    """
    missing = [name for name in names if name not in arrays]
    if missing:
        raise FlagError(
            f"the fitted {model} lacks {missing[0]}",
            remedy="delete its model.safetensors and run the same command again",
        )


def digest_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """sha256 of names and values."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        sha.update(name.encode() + b"\0" + np.ascontiguousarray(arrays[name]).tobytes())
    return sha.hexdigest()
