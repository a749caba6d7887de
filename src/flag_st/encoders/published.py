"""Frozen networks whose weights their authors publish."""

from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flag_st.encoders.network import NetworkEncoder, Precision
from flag_st.transfer.weights import Checkpoint, fill, read_state


class Published(NetworkEncoder):
    """A network that is built empty and filled from one file.

    Args:
        repo, file, revision: where the authors publish the weights.
        weights: a local copy (the file or its folder), with which the hub is not asked.
        sha256: digest that the file must have; None accepts any file.
        precision, batch: as in ``NetworkEncoder``.
        sizes: overrides of the architecture, such as ``depth``, for small test models only.

    Class attributes:
        ignore: prefixes of keys in the file that the network does not use.
    """

    ignore: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        repo: str,
        file: str = "pytorch_model.bin",
        revision: str = "main",
        weights: str | None = None,
        sha256: str | None = None,
        precision: Precision = "fp32",
        batch: int = 32,
        sizes: dict[str, Any] | None = None,
    ):
        super().__init__(precision, batch)
        self.checkpoint = Checkpoint(repo, file, revision, sha256, weights)
        self.sizes = dict(sizes or {})

    @abstractmethod
    def build(self) -> nn.Module:
        """The network with empty weights; called on the meta device."""

    def adapt(self, state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
        """The file's tensors under the names and shapes of ``net``."""
        return state

    @cached_property
    def path(self) -> Path:
        return self.checkpoint.locate()

    @cached_property
    def weights_digest(self) -> str:
        return self.checkpoint.verify(self.path)

    def open(self, device: str) -> None:
        _ = self.weights_digest  # a wrong file is refused before it is read
        with torch.device("meta"):
            net = self.build()
        expected = f"{self.checkpoint.file} of {self.checkpoint.page}"
        fill(net, self.adapt(read_state(self.path), net), self.path, expected, self.ignore)
        self.device = torch.device(device)
        self.net = net.float().eval().requires_grad_(False).to(self.device)
