"""BLEEP (Xie et al. 2023): expression is looked up in a space that it shares with images.

A contrastive loss pulls a spot's image and its expression together. The prediction for an image is
then the mean expression of the training spots whose *expression* embeddings are nearest to it.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flag_st.core.seeds import Draws
from flag_st.data.slide import Cohort, Slide
from flag_st.methods.base import Prediction, Run
from flag_st.methods.network import PLAIN, Centre, Inputs
from flag_st.methods.spots import SpotMethod
from flag_st.methods.training import Task, Training
from flag_st.methods.validation import regression_scores
from flag_st.nets.cosine_neighbours import mean_of_nearest
from flag_st.nets.pixels import ImageNetwork, load_weights, normalise


class Projection(nn.Module):
    """A linear map and a residual layer with a norm at the end."""

    def __init__(self, inputs: int, width: int, dropout: float):
        super().__init__()
        self.project = nn.Linear(inputs, width)
        self.refine, self.dropout = nn.Linear(width, width), nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        p = self.project(x)  # (B, d)
        return self.norm(p + self.dropout(self.refine(F.gelu(p))))  # (B, d)


class BleepNet(nn.Module):
    """Two encoders into one space; there is an image network only if the inputs are patches."""

    def __init__(self, genes: int, features: int, width: int, dropout: float, network: str | None):
        super().__init__()
        self.image = ImageNetwork(network, pooled=True) if network else None
        inputs = features if self.image is None else self.image.channels
        self.image_head = Projection(inputs, width, dropout)
        self.expression_head = Projection(genes, width, dropout)

    def embed_image(self, x: Tensor) -> Tensor:
        """(B, D) features or (B, 3, H, W) pixels."""
        x = x if self.image is None else self.image(x)  # (B, D)
        return self.image_head(x)  # (B, d)

    def embed_expression(self, y: Tensor) -> Tensor:
        return self.expression_head(y)  # (B, d)


def contrastive_loss(image: Tensor, expression: Tensor, temperature: float) -> Tensor:
    """Cross-entropy with soft targets, which come from the similarities within each modality.

    Args:
        image, expression: (B, d) of the same spots. Gradients also flow through the targets.
    """
    logits = expression @ image.T / temperature  # (B, B)
    own = (image @ image.T + expression @ expression.T) / 2  # (B, B)
    target = (own / temperature).softmax(-1)  # (B, B)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target.T)) / 2


class BleepTask(Task[BleepNet]):
    """Contrast sets of random spots of all training slides."""

    def __init__(self, method: "Bleep", train: Cohort, valid: Cohort, run: Run):
        self.method, self.module, self.device = method, method.net, run.device
        self.y = torch.as_tensor(np.concatenate([method.expression_of(s) for s in train]))
        self.images = method.open_images(train)
        self.valid = [
            (method.open_images([s]), torch.as_tensor(method.expression_of(s))) for s in valid
        ]

    def batches(self, generator: torch.Generator) -> Iterator[Tensor]:
        order, size = torch.randperm(len(self.y), generator=generator), self.method.batch
        # A shorter contrast set would be an easier task than the others.
        sets = max(1, len(order) // size)
        yield from order[: sets * size].split(size)

    def loss(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        images = self.method.images(self.images, batch.numpy(), generator)  # (B, ...)
        y = self.y[batch].to(self.device)  # (B, G)
        return self.method.contrast(
            self.module.embed_image(images), self.module.embed_expression(y)
        ), {}

    def validate(self, module: BleepNet) -> dict[str, float]:
        """Contrastive loss and retrieval from the training spots; the two can disagree."""
        m, losses, pairs = self.method, [], []
        bank = self.y.to(self.device)  # (M, G)
        keys = m.embed_bank(module, bank)  # (M, d)
        for opened, y in self.valid:
            y = y.to(self.device)  # (N, G)
            z, e = m.embed_slide(module, opened), m.embed_bank(module, y)  # 2 × (N, d)
            # Every n-th spot, because a set of neighbours would be a set of lookalikes.
            n = -(-len(y) // m.batch)
            losses += [m.contrast(z[i::n], e[i::n]).item() for i in range(n)]
            pairs.append((mean_of_nearest(z, keys, bank, m.neighbours), y))
        scores = regression_scores(pairs)
        scores["mse"], scores["contrast"] = scores["loss"], float(np.mean(losses))
        return scores | {"loss": scores["contrast" if m.select == "contrastive" else "mse"]}


#: The settings of training that its authors state, and ours where they state none.
TRAINING = replace(
    PLAIN, epochs=150, lr=1e-3, weight_decay=1e-3, accumulate=4, validate_every=1, patience=25
)


class Bleep(SpotMethod):
    """Contrastive embedding and retrieval.

    Args:
        inputs: ``patches``, as the authors take them (a ResNet is trained too), or ``features``.
        network, weights: timm's name of the ResNet and a file of its pretrained weights, without
            which it starts at random; the authors take ``resnet50`` trained on ImageNet.
        width, dropout: of the shared space and its heads.
        neighbours: how many training spots a prediction is the mean of.
        batch: spots per contrast set. Its size is part of the loss: with 512 instead of 128, users
            could not reproduce the paper.
        temperature: what similarities are divided by in the loss.
        normalise: compare unit vectors in the loss, as retrieval does. The authors compare plain
            dot products, whose soft targets are almost one-hot. Set a temperature near 0.1 with it.
        select: what chooses the epoch on the validation slides: ``contrastive``, as the authors
            do, or ``retrieval`` (squared error of the prediction).
        as_released: pixels from 0 to 255 in the order blue, green, red go to a network that was
            pretrained on normalised RGB, as in the authors' code. For patches only.
        centre, training: as in ``flag_st.methods.network.NetworkMethod``.
    """

    net: BleepNet

    def __init__(
        self,
        inputs: Inputs = "features",
        network: str = "resnet50",
        weights: str | None = None,
        width: int = 256,
        dropout: float = 0.1,
        neighbours: int = 50,
        batch: int = 128,
        temperature: float = 1.0,
        normalise: bool = False,
        select: Literal["contrastive", "retrieval"] = "contrastive",
        as_released: bool = False,
        centre: Centre = "training",
        training: Training = TRAINING,
    ):
        super().__init__(inputs, network, weights, batch, centre, training)
        self.width, self.dropout = width, dropout
        self.neighbours, self.temperature = neighbours, temperature
        self.normalise, self.select, self.as_released = normalise, select, as_released

    def network_of(self, genes: int, inputs: int) -> BleepNet:
        return BleepNet(genes, inputs, self.width, self.dropout, self.network)

    def start(self) -> None:
        if self.net.image is not None:
            load_weights(self.net.image, self.weights)

    def fit(self, train: Cohort, valid: Cohort, run: Run) -> None:
        self.bank = train.expression  # (M, G)
        super().fit(train, valid, run)

    def task(self, train: Cohort, valid: Cohort, run: Run) -> Task:
        return BleepTask(self, train, valid, run)

    def contrast(self, image: Tensor, expression: Tensor) -> Tensor:
        if self.normalise:
            image, expression = F.normalize(image, dim=-1), F.normalize(expression, dim=-1)
        return contrastive_loss(image, expression, self.temperature)

    # --- images and embeddings ---------------------------------------------------------------

    def pixels(self, block: np.ndarray) -> Tensor:
        return normalise(block, self.device, self.as_released)  # (B, 3, H, W)

    def embed_slide(self, net: BleepNet, opened) -> Tensor:
        """(N, d) image embeddings."""
        return self.by_blocks(net.embed_image, opened)  # (N, d)

    @staticmethod
    def embed_bank(net: BleepNet, y: Tensor) -> Tensor:
        return torch.cat([net.embed_expression(block) for block in y.split(8192)])  # (M, d)

    # --- the contract --------------------------------------------------------------------------

    @torch.inference_mode()
    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        scaled = ((self.bank - self.mean) / self.scale).astype(np.float32)  # (M, G)
        bank = torch.as_tensor(scaled, device=self.device)
        keys = self.embed_bank(self.net, bank)  # (M, d)
        queries = self.embed_slide(self.net, self.open_images([slide]))  # (N, d)
        values = torch.as_tensor(self.bank, device=self.device)  # (M, G)
        found = mean_of_nearest(queries, keys, values, self.neighbours)  # (N, G)
        return Prediction(found.cpu().numpy()[None])  # (1, N, G)

    def arrays(self) -> dict[str, np.ndarray]:
        return {**super().arrays(), "bank": self.bank}

    def restore(self, arrays: dict[str, np.ndarray], device: str) -> None:
        super().restore(arrays, device)
        self.bank = arrays["bank"]
