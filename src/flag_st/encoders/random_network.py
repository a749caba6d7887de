"""An untrained network: the control that every trained encoder has to beat."""

import hashlib
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from flag_st.core.errors import FlagError
from flag_st.core.seeds import numpy_generator
from flag_st.core.torchvision_guard import ensure_torchvision
from flag_st.encoders.network import NetworkEncoder, Precision

#: Stages of a ResNet50, and the number of features of each.
STAGES = {1: 256, 2: 512, 3: 1024, 4: 2048}


class RandomNetwork(NetworkEncoder):
    """The first stages of a ResNet50 whose weights are drawn, never trained; D = 256 after one stage.

    The weights are drawn by numpy (He et al. 2015, normal, by the inputs of each kernel), so that they are
    the same bytes with every version of torch. Each normalisation lets its input pass unchanged; timm
    itself begins with zeros in the last one of each block, which would leave nothing of the blocks.

    Args:
        stage: the stage whose mean over the patch is the feature, from 1 to 4.
        seed: decides the weights; it is a part of the digest through them.
        precision, batch: as in ``NetworkEncoder``.

    Raises:
        FlagError: there is no such stage.
    """

    def __init__(
        self, stage: int = 1, seed: int = 0, precision: Precision = "fp32", batch: int = 64
    ):
        super().__init__(precision, batch)
        if stage not in STAGES:
            raise FlagError(f"ResNet50 has no stage {stage}", choices=[str(s) for s in STAGES])
        self.stage, self.seed = stage, seed
        self.pooling = f"mean of stage {stage}"

    def build(self) -> nn.Module:
        """The stages with empty weights."""
        ensure_torchvision()
        import timm

        return timm.create_model("resnet50", features_only=True, out_indices=(self.stage,))

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """The drawn weights by name; the name of a kernel decides its stream."""
        with torch.device("meta"):
            wanted = self.build().state_dict()
        return {name: drawn(name, tensor, self.seed) for name, tensor in wanted.items()}

    @cached_property
    def weights_digest(self) -> str:
        found = hashlib.sha256()
        for name, tensor in sorted(self.state.items()):
            found.update(name.encode() + tensor.numpy().tobytes())
        return found.hexdigest()

    def open(self, device: str) -> None:
        with torch.device("meta"):
            net = self.build()
        net.load_state_dict(self.state, strict=True, assign=True)
        self.device = torch.device(device)
        self.net = net.eval().requires_grad_(False).to(self.device)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)[-1].mean((2, 3))  # (B, D)


def drawn(name: str, wanted: Tensor, seed: int) -> Tensor:
    """The tensor ``name`` in the shape of ``wanted``: a random kernel, or a normalisation that does nothing."""
    shape = tuple(wanted.shape)
    if wanted.ndim == 4:
        deviation = np.sqrt(2 / np.prod(shape[1:]))
        values = numpy_generator(seed, "random_network", name).normal(0, deviation, shape)
        return torch.from_numpy(values.astype(np.float32))  # (out, in, height, width)
    one = name.endswith((".weight", ".running_var"))
    return torch.full(shape, int(one), dtype=wanted.dtype)  # (channels,) or ()
