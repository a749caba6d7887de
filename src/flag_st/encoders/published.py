"""Frozen networks whose weights their authors publish."""

from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flag_st.core.errors import FlagError
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


class Transformer(Published):
    """A published vision transformer, of which a block in the middle can be read as well.

    On open HER2ST sections, a middle block of a network of natural images served a linear model better
    than its last one.

    Args:
        repo: as for ``Published``.
        block: None for the pooling of the authors; k for the mean of the patch tokens as block k
            leaves them, without the last norm. Blocks count from 0, as in the names of the weights.

    Class attributes:
        blocks: name of the blocks within the network.
    """

    blocks: ClassVar[str] = "blocks"

    def __init__(self, repo: str, block: int | None = None, **more):
        super().__init__(repo, **more)
        self.block = block
        if block is not None:
            self.pooling = f"mean patch token of block {block}"

    @abstractmethod
    def last(self, images: Tensor) -> Tensor:
        """(B, 3, crop, crop) normalised → (B, D), pooled as the authors do."""

    @abstractmethod
    def tokens(self, images: Tensor, block: int) -> Tensor:
        """(B, 3, crop, crop) normalised → (B, N, d), the patch tokens after ``block``."""

    def open(self, device: str) -> None:
        """As for every published network.

        Raises:
            FlagError: also if the network does not have the block, before the weights are looked for.
        """
        if self.block is not None:
            self._check_block(self.block)
        super().open(device)

    def _check_block(self, block: int) -> None:
        with torch.device("meta"):
            blocks = len(list(self.build().get_submodule(self.blocks).children()))
        if not 0 <= block < blocks:
            raise FlagError(
                f"{type(self).__name__} has no block {block}; it has {blocks}",
                remedy=f"set params.block to a number from 0 to {blocks - 1}, or to null",
            )

    def forward(self, images: Tensor) -> Tensor:
        if self.block is None:
            return self.last(images)  # (B, D)
        return self.tokens(images, self.block).mean(1)  # (B, d)


def blocks_of_timm(net: Any, images: Tensor, block: int) -> Tensor:
    """The patch tokens (B, N, d) after ``block`` of a transformer of timm; later blocks do not run."""
    found = net.forward_intermediates(
        images, indices=[block], stop_early=True, output_fmt="NLC", intermediates_only=True
    )
    return found[0]  # (B, N, d)


def positions_like(state: dict[str, Tensor], key: str, net: Any) -> dict[str, Tensor]:
    """``state`` with the positions ``key`` of another grid resampled to the grid of timm's ``net``."""
    from timm.layers import resample_abs_pos_embed

    if key in state and state[key].shape != net.pos_embed.shape:
        grid = list(net.patch_embed.grid_size)
        resampled = resample_abs_pos_embed(state[key], grid, num_prefix_tokens=1)
        return state | {key: resampled}
    return state
