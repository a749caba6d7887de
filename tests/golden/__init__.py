"""Golden files: what the code of a method's authors computes, to hold our networks against.

``make.py`` runs the authors' code once and writes a file of ``data/``; the tests beside it run ours.
A file holds inputs, noise and outputs, but neither weights nor dropout masks. Both are drawn by
numpy, so that no version of torch changes them, and depend on names alone:

* ``fill`` gives a network its weights, by the names of its parameters. The script fills our
  network and copies the weights into the authors'.
* ``dropping`` replaces the masks of every active dropout, by the name of the place. The script
  renames the places of the authors' network to ours and records them, so that a test which replays
  them also compares how many dropouts there are, where, and with which probability.
"""

import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

DATA = Path(__file__).parent / "data"
#: The largest size of a golden file in bytes.
LARGEST = 100_000
PARTS = ("inputs", "outputs")
Net = TypeVar("Net", bound=nn.Module)


def stream(*key: int | str) -> np.random.Generator:
    """A generator of its own for each key. If numpy ever changes its streams, a test of this module
    says so, and all files have to be made again."""
    return np.random.default_rng([zlib.crc32(k.encode()) if isinstance(k, str) else k for k in key])


def normal(*shape: int, name: str) -> Tensor:
    """Standard normal values (float32) that depend on shape and name, as inputs and noise."""
    return torch.from_numpy(stream(name).standard_normal(shape).astype(np.float32))


@torch.no_grad()
def fill(net: Net, seed: int = 0) -> Net:
    """Set all parameters, and the running statistics of batch norms, by their names.

    Matrices keep the size of what passes through them; gains lie around 1, and biases around 0. No
    parameter is left at zero, so that no path through the network is closed.
    """
    buffers = ((k, v) for k, v in net.named_buffers() if "running_" in k)
    for name, tensor in (*net.named_parameters(), *buffers):
        z = stream(seed, name).standard_normal(tensor.shape)
        if tensor.ndim > 1:
            z /= np.sqrt(np.prod(tensor.shape[1:]))
        else:
            z = 0.1 * z + name.endswith(("weight", "running_var"))
        tensor.copy_(torch.from_numpy(z))
    return net


# --- dropout --------------------------------------------------------------------------------------


class Drop(NamedTuple):
    """An active dropout: the module that it is in, its probability, the shape that it falls on."""

    place: str
    p: float
    shape: tuple[int, ...]


def mask_of(drop: Drop, use: int) -> Tensor:
    """0 or 1 / (1 - p), for the ``use``-th time that the place is passed."""
    kept = stream(drop.place, use).random(drop.shape) >= drop.p
    return torch.from_numpy(kept / (1 - drop.p)).float()  # of the shape of ``drop``


@contextmanager
def dropping(
    net: nn.Module,
    rename: Callable[[str], str] = str,
    like: Sequence[Drop] | None = None,
    layout: Callable[[str, Tensor], Tensor] = lambda place, mask: mask,
) -> Iterator[list[Drop]]:
    """Draw the masks of all active dropouts of ``net`` from ``stream``, and list them.

    Modules, ``F.dropout`` and the dropout of ``F.scaled_dot_product_attention`` are replaced. A
    place has the name of its module; dropout within the fused attention has that of the module that
    calls it, with ``.attention`` at its end.

    Args:
        rename: from names of this network's modules to those of ours.
        like: the dropouts that the authors' network has. Masks then have the shapes there.
        layout: brings a mask of the shape in ``like`` into our order of axes, where that differs;
            it is reshaped afterwards.

    Raises:
        AssertionError: the network has other dropouts than ``like``.
    """
    masks = _Masks(rename, like, layout)
    with (
        _tracing(net, masks.inside),
        patch.object(F, "dropout", masks.dropout),
        patch.object(F, "scaled_dot_product_attention", masks.attend),
    ):
        yield masks.found
    if like is not None:
        missing = Counter(d.place for d in like) - Counter(d.place for d in masks.found)
        assert not missing, f"dropouts of the authors' code that are missing: {dict(missing)}"


class _Masks:
    """What ``dropping`` puts in place of torch's functions.

    Attributes:
        inside: the names of the modules that are being run, the innermost last.
        found: the dropouts that were passed, in order.
    """

    def __init__(self, rename, like: Sequence[Drop] | None, layout):
        self.rename, self.layout = rename, layout
        self.wanted = None if like is None else {(d.place, n): d for d, n in _numbered(like)}
        self.inside, self.found, self.uses = [""], list[Drop](), Counter[str]()
        self.fused = F.scaled_dot_product_attention

    def dropout(self, x, p=0.5, training=True, inplace=False, place=None):
        if not training or p == 0:
            return x
        place = self.rename(self.inside[-1] if place is None else place)
        use = self.uses[place]
        self.uses[place] += 1
        drop = Drop(place, p, tuple(x.shape))
        if self.wanted is not None:
            drop = self._of_authors(drop, use)
        self.found.append(drop)
        return x * self.layout(place, mask_of(drop, use)).reshape(x.shape).to(x)

    def _of_authors(self, drop: Drop, use: int) -> Drop:
        place = drop.place
        assert (place, use) in self.wanted, f"the authors' code has no dropout {use + 1} at {place}"
        theirs = self.wanted[place, use]
        assert theirs.p == drop.p, f"{drop.p} here, {theirs.p} in the authors' code, at {place}"
        return theirs

    def attend(self, query, key, value, attn_mask=None, dropout_p=0.0, *flags, **options):
        if dropout_p == 0:
            return self.fused(query, key, value, attn_mask, 0.0, *flags, **options)
        assert not any((*flags, *options.values())), "only plain attention is written out here"
        logits = query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        if attn_mask is not None:
            closed = attn_mask.dtype == torch.bool
            logits = logits.masked_fill(~attn_mask, -torch.inf) if closed else logits + attn_mask
        place = f"{self.inside[-1]}.attention"
        return self.dropout(logits.softmax(-1), dropout_p, place=place) @ value


@contextmanager
def _tracing(net: nn.Module, inside: list[str]) -> Iterator[None]:
    """Keep the names of the modules that are being run in ``inside``, the innermost last."""

    def leave(*_: Any) -> None:
        inside.pop()

    hooks = []
    for name, module in net.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda *_, name=name: inside.append(name)))
        hooks.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _numbered(drops: Sequence[Drop]) -> Iterator[tuple[Drop, int]]:
    """Each dropout and how often its place was passed before."""
    uses = Counter[str]()
    for drop in drops:
        yield drop, uses[drop.place]
        uses[drop.place] += 1


# --- other random numbers -------------------------------------------------------------------------


@contextmanager
def drawing(**values: Sequence[Tensor]) -> Iterator[None]:
    """Let functions of torch, such as ``randn``, return these values one after the other.

    Raises:
        AssertionError: a value of another shape is drawn, or another number of values.
    """
    queues = {name: list(queue) for name, queue in values.items()}

    def draw(name: str, first: Any, *rest: Any, **_: Any) -> Tensor:
        assert queues[name], f"more values are drawn by {name} than expected"
        value = queues[name].pop(0)
        if name == "randint":
            shape = rest[-1]
        elif name.endswith("_like"):
            shape = first.shape
        else:
            shape = first if isinstance(first, Sequence) else (first, *rest)
        assert tuple(shape) == tuple(value.shape), f"{name} of {tuple(shape)} is drawn"
        return value.clone()

    with ExitStack() as stack:
        for name in queues:
            stack.enter_context(patch.object(torch, name, partial(draw, name)))
        yield
    left = {name: len(queue) for name, queue in queues.items() if queue}
    assert not left, f"these values were not drawn: {left}"


# --- files ----------------------------------------------------------------------------------------


@dataclass
class Golden:
    """One file.

    Attributes:
        repository, commit: the authors' code, as ``owner/name`` and full digest.
        settings: what our network is built from.
        inputs, outputs: named tensors.
        drops: the dropouts of each pass, under the names of our modules.
    """

    repository: str
    commit: str
    settings: dict[str, Any]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    drops: dict[str, list[Drop]] = field(default_factory=dict)

    def save(self, name: str) -> Path:
        """Write ``data/NAME.safetensors``.

        Raises:
            ValueError: the file is larger than ``LARGEST``.
        """
        tensors = {
            f"{part}.{k}": tensor.detach().clone().contiguous()
            for part in PARTS
            for k, tensor in getattr(self, part).items()
        }
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in PARTS}
        path = DATA / f"{name}.safetensors"
        path.parent.mkdir(exist_ok=True)
        save_file(tensors, path, {"golden": json.dumps(rest)})
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path} has {path.stat().st_size} bytes: choose smaller sizes")
        return path

    @classmethod
    def load(cls, name: str) -> "Golden":
        parts: dict[str, dict[str, Tensor]] = {part: {} for part in PARTS}
        with safe_open(DATA / f"{name}.safetensors", "pt") as file:
            rest = json.loads(file.metadata()["golden"])
            for key in file.keys():  # noqa: SIM118 (the file is no dictionary)
                part, _, name = key.partition(".")
                parts[part][name] = file.get_tensor(key)
        drops = {k: [Drop(d[0], d[1], tuple(d[2])) for d in v] for k, v in rest["drops"].items()}
        return cls(**{**rest, **parts, "drops": drops})

    def compare(
        self,
        found: Mapping[str, Tensor],
        rtol: float = 1e-4,
        atol: float = 1e-5,
        loose: Mapping[str, float] | None = None,
    ) -> None:
        """Hold what our code computes against all outputs.

        Args:
            rtol, atol: a value may differ by ``atol + rtol * |value|``.
            loose: other values of ``atol`` for some outputs.

        Raises:
            AssertionError: a value differs by more, or an output is missing or not in the file.
        """
        assert found.keys() == self.outputs.keys()
        apart = {}
        for name, value in found.items():
            one, other = value.detach(), self.outputs[name]
            assert one.shape == other.shape, f"{name}: {one.shape} here, {other.shape} in the file"
            near = (loose or {}).get(name, atol)
            if not torch.allclose(one, other, rtol=rtol, atol=near):
                apart[name] = (one - other).abs().max().item()
        assert not apart, f"largest differences from the authors' code: {apart}"
