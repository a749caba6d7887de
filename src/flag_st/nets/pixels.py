"""Patches of slides as pixels, and the image networks that baselines train on them."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from flag_st.core.errors import FlagError
from flag_st.core.torchvision_guard import ensure_torchvision
from flag_st.data.slide import Slide
from flag_st.transfer.weights import fill, read_state

log = logging.getLogger("flag_st")

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet


class Patches:
    """The patches of the spots of some slides, read from disk in any order.

    Raises:
        FlagError: a slide has no patch file, or a file lacks one of its spots.
    """

    def __init__(self, slides: Sequence[Slide]):
        self.paths = [_patch_file(slide) for slide in slides]
        self.rows = [_rows(path, slide) for path, slide in zip(self.paths, slides, strict=True)]
        self.ends = np.cumsum([len(slide) for slide in slides])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index) -> np.ndarray:
        """Spots ``index``, counted through all slides → (n, 224, 224, 3) uint8."""
        import h5py

        if isinstance(index, slice):
            index = np.arange(len(self))[index]
        index = np.asarray(index)
        which = np.searchsorted(self.ends, index, side="right")  # (n,)
        found: np.ndarray | None = None
        for s in np.unique(which):
            place = np.flatnonzero(which == s)
            rows = self.rows[s][index[place] - self.ends[s] + len(self.rows[s])]
            # HDF5 wants rows sorted and unique.
            unique, inverse = np.unique(rows, return_inverse=True)
            with h5py.File(self.paths[s], "r") as file:
                block = file["img"][unique][inverse]
            if found is None:
                found = np.empty((len(index), *block.shape[1:]), dtype=np.uint8)
            found[place] = block
        assert found is not None, "at least one spot is asked for"
        return found


def _patch_file(slide: Slide) -> Path:
    if slide.patches is None:
        raise FlagError(
            f"slide {slide.id} comes without patches, which this method is trained on",
            remedy="set needs_patches: true in the method's entry, or params.inputs: features",
        )
    return slide.patches


def _rows(path: Path, slide: Slide) -> np.ndarray:
    """Row of each spot of ``slide`` in its patch file."""
    import h5py

    with h5py.File(path, "r") as file:
        where = {name: i for i, name in enumerate(file["barcode"].asstr()[:])}
    missing = [str(s) for s in slide.spots if s not in where]
    if missing:
        raise FlagError(
            f"{path} lacks {len(missing)} spots, such as {', '.join(missing[:3])}",
            remedy="delete the file and run prepare_slide again",
        )
    return np.array([where[s] for s in slide.spots], dtype=np.int64)


def normalise(
    block: np.ndarray,
    device: str | torch.device,
    as_released: bool = False,
    mean: Sequence[float] = MEAN,
    std: Sequence[float] = STD,
) -> Tensor:
    """(B, H, W, 3) uint8 RGB → (B, 3, H, W) by the mean and deviation of the channels in [0, 1].

    ``as_released`` leaves 0-255 in the order blue, green, red, as some releases did.
    """
    x = torch.as_tensor(block, device=device).permute(0, 3, 1, 2).float()  # (B, 3, H, W)
    if as_released:
        return x.flip(1)  # (B, 3, H, W)
    centre, scale = (
        torch.as_tensor(v, dtype=torch.float32, device=device).view(1, 3, 1, 1) for v in (mean, std)
    )
    return (x / 255 - centre) / scale  # (B, 3, H, W)


def channels(patches: Patches, count: int, generator: torch.Generator) -> tuple[np.ndarray, ...]:
    """Mean and deviation (3,) of the channels in [0, 1] over the pixels of ``count`` random spots."""
    order = torch.randperm(len(patches), generator=generator)[:count].numpy()
    total, squares, pixels = np.zeros(3), np.zeros(3), 0
    for part in np.array_split(order, -(-len(order) // 32)):
        block = patches[part].reshape(-1, 3) / 255.0  # (P, 3)
        total, squares = total + block.sum(0), squares + (block**2).sum(0)  # 2 × (3,)
        pixels += len(block)
    mean = total / pixels  # (3,)
    return mean, np.sqrt(np.maximum(squares / pixels - mean**2, 1e-6))


def symmetry(x: Tensor, view: int) -> Tensor:
    """(B, C, H, W) in one of the 8 flips and quarter turns of a square; 0 leaves it as it is."""
    turned = torch.rot90(x, view % 4, (2, 3))  # (B, C, H, W)
    return turned.flip(3) if view >= 4 else turned


def dihedral(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image in one of the 8 flips and quarter turns, which are equally likely."""
    view = torch.randint(8, (len(x),), generator=generator).to(x.device)  # (B,)
    out = torch.empty_like(x)  # (B, C, H, W)
    for v in range(8):
        out[view == v] = symmetry(x[view == v], v)
    return out


class ImageNetwork(nn.Module):
    """A convolutional network of timm without its classifier.

    Args:
        network: timm's name.
        pooled: average the last map into one vector, or keep its cells as tokens.
        norm: ``batch``, or ``instance`` for norms of each map of each image alone, which have no
            parameters; ResNets have both.

    Raises:
        FlagError: timm has no such network.
    """

    def __init__(self, network: str, pooled: bool, norm: Literal["batch", "instance"] = "batch"):
        super().__init__()
        ensure_torchvision()
        import timm

        pooling = "avg" if pooled else ""
        more: dict[str, Any] = {"norm_layer": nn.InstanceNorm2d} if norm == "instance" else {}
        try:
            net: Any = timm.create_model(
                network, pretrained=False, num_classes=0, global_pool=pooling, **more
            )
        except RuntimeError as error:
            known = timm.list_models(["resnet*", "densenet*"])
            raise FlagError(f"params.network: {error}", choices=known) from None
        self.net, self.pooled = net, pooled
        self.channels: int = net.num_features

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) → (B, C), or (B, T, C) if not pooled."""
        x = self.net(x)  # (B, C) or (B, C, h, w)
        return x if self.pooled else x.flatten(2).transpose(1, 2)  # (B, C) or (B, T, C)


def load_weights(image: ImageNetwork, path: str | None) -> None:
    """Start ``image`` from the weight file ``path`` (timm's and torchvision's names).

    Raises:
        FlagError: there is no such file, or it is not of this network.
    """
    if path is None:
        log.warning("the image network starts at random: params.weights names no file")
        return
    file = Path(path).expanduser()
    if not file.is_file():
        raise FlagError(
            f"{file} does not exist (params.weights)",
            remedy="give a state dict by timm or torchvision, or null for a random start",
        )
    # Cloned, because tensors read from disk can be views of the file, and these will be trained.
    # torchvision's file of a DenseNet says norm.1 where its network, and timm's, say norm1.
    state = {
        re.sub(r"\b(norm|conv)\.(\d)", r"\1\2", name): tensor.clone()
        for name, tensor in read_state(file).items()
    }
    fill(image.net, state, file, "weights of params.network", ignore=("fc.", "classifier."))
