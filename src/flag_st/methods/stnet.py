"""ST-Net (He et al. 2020): a DenseNet looks at the patch of a spot and regresses its expression."""

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from flag_st.core.seeds import Draws, torch_generator
from flag_st.data.slide import Cohort, Slide
from flag_st.methods.base import Prediction, Run
from flag_st.methods.network import PLAIN, Centre, Inputs
from flag_st.methods.spots import SpotMethod, SpotTask
from flag_st.methods.training import Task, Training
from flag_st.nets.pixels import (
    MEAN,
    STD,
    ImageNetwork,
    Patches,
    channels,
    load_weights,
    normalise,
    symmetry,
)

#: Spots whose pixels give the statistics of the channels: twelve batches of 32, as the authors take.
MEASURED = 12 * 32


class StNetNet(nn.Module):
    """Images → expression; at the start zero, which is the training mean, for whatever image."""

    def __init__(self, genes: int, inputs: int, width: int, network: str | None):
        super().__init__()
        self.image: nn.Module
        if network:
            self.image = ImageNetwork(network, pooled=True)
            width = self.image.channels
        else:
            self.image = nn.Sequential(nn.Linear(inputs, width), nn.ReLU())
        self.head = nn.Linear(width, genes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) pixels or (B, D) features."""
        return self.head(self.image(x))  # (B, G)


#: The settings of training that its authors state. Their loss is summed over a batch of 32, at a rate of
#: 1e-6; ours is its mean.
TRAINING = replace(
    PLAIN, optimiser="sgd", momentum=0.9, lr=3.2e-5, epochs=50, validate_every=1, patience=10
)


class StNet(SpotMethod):
    """Regression of each spot's expression from its patch, or from its features.

    The head starts at zero and the expression is centred, so that the training mean is predicted
    before the first step, as the authors' biases do it. The DenseNet-121 is timm's: it has the parameters
    of torchvision's and computes the same, and the project already reads weights of timm's networks,
    from safetensors or through the restricted reader (``flag_st.transfer.weights``).

    The authors cut 224 px at whatever resolution the slide has; patches here are 112 µm of every slide.
    They choose the number of epochs by cross-validation within the training patients; here, as in all
    methods, the validation slides choose it.

    Args:
        inputs: ``patches`` as published, or ``features``, which then pass one hidden layer.
        network, weights: timm's name of the image network and a file of its pretrained weights, without
            which it starts at random; the authors start from ImageNet's.
        width: of the hidden layer on features.
        views: a prediction is the mean over the 8 flips and quarter turns of the patch, or that of
            the patch as it is. Validation sees the patch as it is. Features have one view.
        normalise: the mean and deviation of the pixels' channels are those of the ``training`` slides,
            or ``imagenet``'s.
        batch: spots per step, from all slides.
        centre, training: as in ``flag_st.methods.network.NetworkMethod``.
    """

    net: StNetNet

    def __init__(
        self,
        inputs: Inputs = "features",
        network: str = "densenet121",
        weights: str | None = None,
        width: int = 256,
        views: Literal[8, 1] = 8,
        normalise: Literal["training", "imagenet"] = "training",
        batch: int = 32,
        centre: Centre = "training",
        training: Training = TRAINING,
    ):
        super().__init__(inputs, network, weights, batch, centre, training)
        self.width, self.normalise = width, normalise
        self.views = range(views if inputs == "patches" else 1)
        self.channels = np.array([MEAN, STD])  # (2, 3)

    def network_of(self, genes: int, inputs: int) -> nn.Module:
        return StNetNet(genes, inputs, self.width, self.network)

    def start(self) -> None:
        if isinstance(self.net.image, ImageNetwork):
            load_weights(self.net.image, self.weights)

    def _statistics(self, train: Cohort) -> None:
        super()._statistics(train)
        if self.network and self.normalise == "training":
            found = channels(Patches(train), MEASURED, torch_generator("channels"))
            self.channels = np.stack(found)  # (2, 3)

    def task(self, train: Cohort, valid: Cohort, run: Run) -> Task:
        return SpotTask(self, self.net, train, valid)

    def pixels(self, block: np.ndarray) -> Tensor:
        return normalise(block, self.device, mean=self.channels[0], std=self.channels[1])

    @torch.inference_mode()
    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        def mean_of_views(x: Tensor) -> Tensor:
            seen = [self.net(symmetry(x, view) if view else x) for view in self.views]
            return torch.stack(seen).mean(0)  # (B, G)

        y = self.by_blocks(mean_of_views, self.open_images([slide]))  # (N, G)
        return Prediction(self.in_unit(y)[None])  # (1, N, G)

    def arrays(self) -> dict[str, np.ndarray]:
        return {**super().arrays(), **({"channels": self.channels} if self.network else {})}

    def restore(self, arrays: dict[str, np.ndarray], device: str) -> None:
        super().restore(arrays, device)
        self.channels = arrays.get("channels", self.channels)
