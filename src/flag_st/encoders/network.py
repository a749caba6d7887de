"""What all encoders with a network share: batches of pixels in, features out."""

import hashlib
import json
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flag_st.core.errors import FlagError
from flag_st.data.field import SIZE, UM_PER_PX
from flag_st.encoders.base import Encoder

Precision = Literal["fp32", "bf16", "fp16"]
#: The type that matrix products run in; the weights stay float32.
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class NetworkEncoder(Encoder):
    """A network over normalised pixels; a subclass provides ``net`` and ``weights_digest``.

    Args:
        precision: ``fp32``, ``bf16`` or ``fp16`` (by autocast).
        batch: patches per forward pass; it is halved automatically when GPU memory runs out.

    Attributes:
        mean, std: the network's normalisation of RGB in [0, 1].
        resize, crop: patches are resized to ``resize`` px, then cropped to ``crop`` in the centre.
        interpolation: how patches are resized.
        pooling: how tokens become one vector, in words; it is a part of the digest.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)  # ImageNet
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resize: int = 224
    crop: int = 224
    interpolation: str = "bicubic"
    pooling: str = "class token"
    net: nn.Module

    @property
    @abstractmethod
    def weights_digest(self) -> str:
        """sha256 of the weights."""

    def __init__(self, precision: Precision = "fp32", batch: int = 32):
        if batch < 1:
            raise FlagError(f"batch must be at least 1, not {batch}")
        self.precision, self.batch, self.chunk = precision, batch, batch
        self.device = torch.device("cpu")

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, crop, crop) normalised → (B, D)."""
        return self.net(images)  # (B, D)

    def digest(self) -> str:
        """sha256 of the weights' digest, the patch, its transform, the pooling and precision.

        The patch is the standard one, whatever the field of view that the entry states.
        """
        facts = {
            "weights": self.weights_digest,
            "patch": [UM_PER_PX, SIZE],
            "transform": [self.resize, self.crop, self.interpolation, self.mean, self.std],
            "pooling": self.pooling,
            "precision": self.precision,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def encode(
        self,
        patches: np.ndarray,
        progress: Callable[..., Iterable] = lambda items, **_: items,
    ) -> np.ndarray:
        """(N, 224, 224, 3) uint8 array or HDF5 dataset, read in batches → (N, D) float32.

        The features of a patch depend on its batch only by rounding (1e-5 in fp32).
        """
        starts = progress(range(0, len(patches), self.batch), desc=type(self).__name__)
        blocks = [self.embed(patches[i : i + self.batch]) for i in starts]
        return np.concatenate(blocks)  # (N, D)

    def embed(self, block: np.ndarray) -> np.ndarray:
        """One batch, in smaller and smaller pieces until they fit the GPU's memory."""
        done: list[np.ndarray] = []
        start = 0
        while start < len(block):
            try:
                done.append(self._pass(block[start : start + self.chunk]))
                start += self.chunk
                continue
            except torch.cuda.OutOfMemoryError:
                if self.chunk == 1:
                    raise FlagError(
                        f"{type(self).__name__}: one patch does not fit the GPU's free memory",
                        remedy="free the GPU, set params.precision to bf16, or set gpu: 0",
                    ) from None
            # Outside the handler, whose traceback would keep the tensors of the failed pass alive.
            self.chunk //= 2
            torch.cuda.empty_cache()
        return np.concatenate(done)  # (B, D)

    @torch.inference_mode()
    def _pass(self, block: np.ndarray) -> np.ndarray:
        kind, low = self.device.type, self.precision != "fp32"
        # cuDNN would round float32 convolutions to TF32 unless told not to.
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with exact, torch.autocast(kind, PRECISIONS[self.precision] if low else None, enabled=low):
            features = self.forward(self.images(block))
        return features.float().cpu().numpy()  # (B, D)

    def images(self, block: np.ndarray) -> Tensor:
        """(B, H, W, 3) uint8 → (B, 3, crop, crop) normalised, as torchvision's transforms do."""
        return self.normalised(self.pixels(block) / 255)  # (B, 3, crop, crop)

    def pixels(self, block: np.ndarray) -> Tensor:
        """(B, H, W, 3) uint8 → (B, 3, crop, crop) whole numbers up to 255."""
        x = torch.from_numpy(block.copy()).to(self.device)  # (B, H, W, 3)
        x = x.permute(0, 3, 1, 2).float()  # (B, 3, H, W)
        if x.shape[-2:] != (self.resize, self.resize):
            x = self._resized(x)  # (B, 3, r, r)
        edge = (self.resize - self.crop) // 2
        return x[..., edge : edge + self.crop, edge : edge + self.crop]  # (B, 3, crop, crop)

    def normalised(self, x: Tensor) -> Tensor:
        """(B, 3, h, w) in [0, 1] → the same, z-scored with mean and deviation of the network."""
        mean, std = (torch.tensor(v, device=x.device).view(3, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std  # (B, 3, h, w)

    def _resized(self, x: Tensor) -> Tensor:
        """Resize as Pillow does for 8-bit images: first rows, then columns, each time rounded."""
        for side in ((x.shape[-2], self.resize), (self.resize, self.resize)):
            x = F.interpolate(x, side, mode=self.interpolation, antialias=True)  # (B, 3, *side)
            x = (x + 0.5).floor().clamp(0, 255)  # (B, 3, *side)
        return x  # (B, 3, r, r)
