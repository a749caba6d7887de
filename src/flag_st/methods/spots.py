"""What methods share that look at spots one by one: their images, and squared error on random spots."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from flag_st.data.slide import Cohort, Slide
from flag_st.methods.network import Centre, Inputs, NetworkMethod
from flag_st.methods.training import Task, Training
from flag_st.methods.validation import regression_scores
from flag_st.nets.pixels import Patches, dihedral, normalise


class SpotMethod(NetworkMethod):
    """A method whose network sees the image of a spot: features, or pixels that it learns to read.

    Args:
        inputs: ``features`` or ``patches``.
        network, weights: timm's name of the image network and a file of its pretrained weights,
            without which it starts at random. Features need neither.
        batch: spots that are seen at once.
        centre, training: as in ``NetworkMethod``.
    """

    def __init__(
        self,
        inputs: Inputs,
        network: str,
        weights: str | None,
        batch: int,
        centre: Centre,
        training: Training,
    ):
        super().__init__(centre, training)
        self.choose_inputs(inputs)
        self.network = network if inputs == "patches" else None
        self.weights, self.batch = weights, batch

    def open_images(self, slides: Sequence[Slide]) -> Patches | np.ndarray:
        """The images of all spots of ``slides``, which can be indexed by spot."""
        if self.network:
            return Patches(slides)
        return np.concatenate([self.features_of(s) for s in slides])  # (M, D)

    def images(self, opened, index, generator: torch.Generator | None = None) -> Tensor:
        """The network's inputs for the spots ``index``; pixels are turned at random by a generator.

        Returns:
            (B, D) features or (B, 3, H, W) pixels.
        """
        block = opened[index]
        if not self.network:
            return torch.as_tensor(block, device=self.device)  # (B, D)
        x = self.pixels(block)  # (B, 3, H, W)
        return x if generator is None else dihedral(x, generator)  # (B, 3, H, W)

    def pixels(self, block: np.ndarray) -> Tensor:
        """(B, H, W, 3) uint8 → (B, 3, H, W) as the network sees it."""
        return normalise(block, self.device)  # (B, 3, H, W)

    def by_blocks(self, see: Callable[[Tensor], Tensor], opened) -> Tensor:
        """What ``see`` makes of all spots, (N, …), in blocks that fit if a training batch did."""
        rows = range(0, len(opened), self.batch)
        return torch.cat([see(self.images(opened, slice(i, i + self.batch))) for i in rows])


class SpotTask(Task[nn.Module]):
    """Squared error on random spots of all training slides.

    Args:
        method: reads the images and scales the expression.
        module: (B, …) images → (B, G).
        in_order: batches are consecutive spots, whose pixels are not turned.
    """

    def __init__(
        self,
        method: SpotMethod,
        module: nn.Module,
        train: Cohort,
        valid: Cohort,
        in_order: bool = False,
    ):
        self.method, self.module, self.in_order = method, module, in_order
        self.opened = method.open_images(train)
        self.y = torch.as_tensor(np.concatenate([method.expression_of(s) for s in train]))  # (M, G)
        self.valid = [
            (method.open_images([s]), torch.as_tensor(method.expression_of(s))) for s in valid
        ]

    def batches(self, generator: torch.Generator) -> Iterator[Tensor]:
        order = torch.arange(len(self.y))
        if not self.in_order:
            order = torch.randperm(len(self.y), generator=generator)
        yield from order.split(self.method.batch)

    def loss(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        turns = None if self.in_order else generator
        images = self.method.images(self.opened, batch.numpy(), turns)  # (B, ...)
        y = self.y[batch].to(self.method.device)  # (B, G)
        return (self.module(images) - y).square().mean(), {}

    def validate(self, module: nn.Module) -> dict[str, float]:
        found = [self.method.by_blocks(module, opened) for opened, _ in self.valid]
        truth = [y.to(self.method.device) for _, y in self.valid]
        return regression_scores(list(zip(found, truth, strict=True)))
