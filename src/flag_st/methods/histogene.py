"""HisToGene (Pang, Su & Li 2021): a transformer over all spots of a slide regresses expression.

Each spot is one token: its image plus learned embeddings of its two array coordinates. Every spot
attends to every other spot of the slide, and there is no graph.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flag_st.core.errors import FlagError
from flag_st.core.seeds import Draws
from flag_st.data.lattice import lattice
from flag_st.data.slide import Cohort, Slide
from flag_st.methods.base import Prediction, Run
from flag_st.methods.network import PLAIN, Centre, Inputs, NetworkMethod
from flag_st.methods.training import Task, Training
from flag_st.methods.validation import regression_scores
from flag_st.nets.pixels import Patches
from flag_st.nets.transformer import Layer

#: How many patches are read and shrunk at a time.
BLOCK = 256


class HisToGeneNet(nn.Module):
    """tokens (B, N, F) and array coordinates (B, N, 2) → expression (B, N, G)."""

    def __init__(
        self,
        genes: int,
        inputs: int,
        width: int,
        depth: int,
        heads: int,
        ratio: float,
        positions: int,
        dropout: float,
    ):
        super().__init__()
        self.embed = nn.Linear(inputs, width)
        self.first, self.second = nn.Embedding(positions, width), nn.Embedding(positions, width)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(width, heads, ratio, dropout) for _ in range(depth))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, genes))

    def forward(self, tokens: Tensor, cells: Tensor) -> Tensor:
        h = self.embed(tokens)  # (B, N, d)
        h = h + self.first(cells[..., 0]) + self.second(cells[..., 1])  # (B, N, d)
        h = self.dropout(h)  # (B, N, d)
        for layer in self.layers:
            h = layer(h)  # (B, N, d)
        return self.head(h)  # (B, N, G)


class HisToGeneTask(Task):
    """Each slide is one batch."""

    def __init__(self, method: "HisToGene", train: Cohort, valid: Cohort, run: Run):
        self.method, self.module, self.device = method, method.net, run.device
        self.train, self.valid = ([self._opened(s) for s in part] for part in (train, valid))

    def _opened(self, slide: Slide) -> tuple[np.ndarray, Tensor, Tensor]:
        m = self.method
        return m.tokens(slide), m.cells(slide), torch.as_tensor(m.expression_of(slide))

    def _predict(self, module: nn.Module, slide) -> tuple[Tensor, Tensor]:
        tokens, cells, y = slide
        return self.method.forward(module, tokens, cells), y.to(self.device)  # 2 × (N, G)

    def batches(self, generator: torch.Generator) -> Iterator[int]:
        yield from torch.randperm(len(self.train), generator=generator).tolist()

    def loss(self, batch: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        predicted, y = self._predict(self.module, self.train[batch])  # 2 × (N, G)
        return (predicted - y).square().mean(), {}

    def validate(self, module: nn.Module) -> dict[str, float]:
        return regression_scores([self._predict(module, slide) for slide in self.valid])


#: The settings of training that its authors state, and ours where they state none.
TRAINING = replace(PLAIN, epochs=300, lr=1e-4, validate_every=2, patience=25)


class HisToGene(NetworkMethod):
    """Whole-slide transformer regression.

    The array coordinates are found from the positions of the spots, so that a slide needs no
    convention for barcodes. The authors state 100 epochs at a learning rate of 1e-5 and keep the
    last weights. On some 25 slides these are 2,500 small steps, so the recipe here has ten times
    that rate and stops early by the validation slides.

    Args:
        inputs: ``patches``, whose pixels pass one linear map as in the paper, or ``features``.
        pixels: side in pixels that patches are shrunk to. The authors take 112 px of the full
            image, which are 74 to 106 µm on their data; patches of 112 µm shrunk to 112 px come
            nearest.
        width, depth, heads, ratio, dropout: of the transformer (4 and 8 layers are published).
        positions: how many array rows and columns can be embedded (64 in the release, which are
            too few for Visium).
        as_released: pixels run from 0 to 255 instead of 0 to 1. Tokens then start about a hundred
            times larger than the position embeddings, which then hardly count. For patches only.
        centre, training: as in ``flag_st.methods.network.NetworkMethod``.
    """

    def __init__(
        self,
        inputs: Inputs = "features",
        pixels: int = 112,
        width: int = 1024,
        depth: int = 8,
        heads: int = 16,
        ratio: float = 2.0,
        dropout: float = 0.1,
        positions: int = 128,
        as_released: bool = False,
        centre: Centre = "training",
        training: Training = TRAINING,
    ):
        super().__init__(centre, training)
        self.choose_inputs(inputs)
        self.pixels, self.positions, self.as_released = pixels, positions, as_released
        self.size: dict[str, Any] = {
            "width": width,
            "depth": depth,
            "heads": heads,
            "ratio": ratio,
            "dropout": dropout,
        }

    def network_of(self, genes: int, inputs: int) -> nn.Module:
        inputs = 3 * self.pixels**2 if self.inputs == "patches" else inputs
        return HisToGeneNet(genes, inputs, positions=self.positions, **self.size)

    def task(self, train: Cohort, valid: Cohort, run: Run) -> Task:
        return HisToGeneTask(self, train, valid, run)

    def tokens(self, slide: Slide) -> np.ndarray:
        """(N, D) float32 features, or (N, 3 × pixels²) uint8, which are kept in memory."""
        if self.inputs == "features":
            return self.features_of(slide)
        patches, p = Patches([slide]), self.pixels
        blocks = (patches[i : i + BLOCK] for i in range(0, len(slide), BLOCK))
        return np.concatenate([shrink(block, p).reshape(len(block), -1) for block in blocks])

    def cells(self, slide: Slide) -> Tensor:
        """(N, 2) int64 array coordinates.

        Raises:
            FlagError: more rows or columns than the network embeds.
        """
        cells = lattice(slide.position)  # (N, 2)
        if cells.max() >= self.positions:
            raise FlagError(
                f"slide {slide.id} spans {cells.max() + 1} array positions, "
                f"the network embeds {self.positions}",
                remedy=f"set params.positions to {cells.max() + 1} or more and train again",
            )
        return torch.as_tensor(cells)

    def forward(self, net: nn.Module, tokens: np.ndarray, cells: Tensor) -> Tensor:
        """(N, G) of one slide."""
        x = torch.as_tensor(tokens, device=self.device).float()  # (N, F)
        if self.inputs == "patches" and not self.as_released:
            x = x / 255  # (N, F)
        return net(x[None], cells[None].to(self.device))[0]  # (N, G)

    @torch.inference_mode()
    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        predicted = self.forward(self.net, self.tokens(slide), self.cells(slide))  # (N, G)
        return Prediction(self.in_unit(predicted)[None])  # (1, N, G)


def shrink(block: np.ndarray, side: int) -> np.ndarray:
    """(B, H, W, 3) uint8 → (B, side, side, 3) uint8, means of equal squares.

    Raises:
        FlagError: ``side`` does not divide the patch.
    """
    b, height = block.shape[:2]
    if height % side:
        raise FlagError(f"params.pixels {side} does not divide patches of {height} px")
    f = height // side
    squares = block.reshape(b, side, f, side, f, 3)
    return np.rint(squares.mean((2, 4), dtype=np.float32)).astype(np.uint8)
