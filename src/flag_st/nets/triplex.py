"""Network of TRIPLEX: a spot's patch, its neighbourhood and its slide, fused by cross-attention."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flag_st.nets.pixels import ImageNetwork
from flag_st.nets.transformer import Layer

#: Side of the neighbourhood in spots.
SIDE = 5


@dataclass(frozen=True)
class Branch:
    """Sizes of one of the three transformers; ``ratio`` and ``dropout`` as in ``Layer``."""

    depth: int
    heads: int
    ratio: float
    dropout: float

    def layers(self, width: int, attention_dropout: float = 0.0) -> nn.ModuleList:
        sizes = (width, self.heads, self.ratio, self.dropout, attention_dropout)
        return nn.ModuleList(Layer(*sizes) for _ in range(self.depth))


class PositionGenerator(nn.Module):
    """Depthwise 3 × 3 convolution on the array (APEG), at the cells that hold a spot.

    It gathers nine neighbours instead of making a picture of the array, so that only spots take
    memory and no size of the array is assumed.
    """

    def __init__(self, width: int, residual: bool):
        super().__init__()
        self.weight, self.bias = (
            nn.Parameter(torch.empty(9, width)),
            nn.Parameter(torch.empty(width)),
        )
        self.residual = residual
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -1 / 3, 1 / 3)  # as a convolution with 9 inputs

    def forward(self, x: Tensor, around: Tensor) -> Tensor:
        """x (N, d); around (N, 9) indices, -1 where no spot is."""
        padded = torch.cat([x, torch.zeros_like(x[:1])])  # (N + 1, d), index -1 is the zero row
        out = torch.einsum("nkd,kd->nd", padded[around], self.weight) + self.bias  # (N, d)
        return x + out if self.residual else out  # (N, d)


class GlobalEncoder(nn.Module):
    """All spots of a slide attend to each other; positions come in after the first layer.

    Of the three transformers this one alone also drops weights of its attention.
    """

    def __init__(self, features: int, width: int, sizes: Branch, as_released: bool):
        super().__init__()
        self.input = nn.Linear(features, width) if features != width else nn.Identity()
        self.layers = sizes.layers(width, attention_dropout=sizes.dropout)
        self.position = PositionGenerator(width, residual=not as_released)
        self.norm, self.as_released = nn.LayerNorm(width), as_released

    def train(self, mode: bool = True) -> "GlobalEncoder":
        super().train(mode)
        if self.as_released:  # the release's attention never leaves training mode
            for layer in self.layers:
                for name in ("drop", "drop_weights"):
                    layer.get_submodule(name).train()
        return self

    def forward(self, u: Tensor, around: Tensor) -> Tensor:
        """u (N, D), around (N, 9) → (N, d)."""
        x = self.layers[0](self.input(u)[None])  # (1, N, d)
        x = self.position(x[0], around)[None]  # (1, N, d)
        for layer in self.layers[1:]:
            x = layer(x)  # (1, N, d)
        return self.norm(x)[0]  # (N, d)


class NeighbourEncoder(nn.Module):
    """The spots of the 5 × 5 window attend to each other, with a bias by |Δrow| and |Δcolumn|."""

    apart: Tensor

    def __init__(self, features: int, width: int, sizes: Branch):
        super().__init__()
        self.input = nn.Linear(features, width) if features != width else nn.Identity()
        self.layers = sizes.layers(width)
        self.biases = nn.ParameterList(
            torch.zeros(SIDE * SIDE, sizes.heads) for _ in range(sizes.depth)
        )
        self.norm = nn.LayerNorm(width)
        cell = torch.cartesian_prod(torch.arange(SIDE), torch.arange(SIDE))  # (25, 2)
        apart = (cell[:, None] - cell).abs()  # (25, 25, 2)
        self.register_buffer("apart", apart[..., 0] * SIDE + apart[..., 1], persistent=False)

    def forward(self, u: Tensor, mask: Tensor) -> Tensor:
        """u (B, 25, D), mask (B, 25), False where no spot is → (B, 25, d)."""
        x = self.input(u)  # (B, 25, d)
        for layer, table in zip(self.layers, self.biases, strict=True):
            bias = table[self.apart].permute(2, 0, 1)[None]  # (1, H, 25, 25)
            x = layer(x, bias=shut_out(bias, mask))  # (B, 25, d)
        return self.norm(x)  # (B, 25, d)


class Fusion(nn.Module):
    """The global token attends to the tokens of the target and, with the same weights, to those of
    the neighbours."""

    def __init__(self, width: int, sizes: Branch):
        super().__init__()
        self.layers, self.norm = sizes.layers(width), nn.LayerNorm(width)

    def _ask(self, query: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            query = layer(query, context, bias)  # (B, 1, d)
        return query  # (B, 1, d)

    def forward(self, spot: Tensor, target: Tensor, neighbours: Tensor, mask: Tensor) -> Tensor:
        """spot (B, d), target (B, T, d), neighbours (B, 25, d), mask (B, 25) → (B, d)."""
        query = spot.unsqueeze(1)  # (B, 1, d)
        bias = shut_out(query.new_zeros(1, 1, 1, 1), mask)  # (B, 1, 1, 25)
        x = self._ask(query, target) + self._ask(query, neighbours, bias)  # (B, 1, d)
        return self.norm(x).squeeze(1)  # (B, d)


def shut_out(bias: Tensor, mask: Tensor) -> Tensor:
    """Logits (1 or B, H, T, S) with the keys left out where mask (B, S) is False."""
    return bias.masked_fill(~mask[:, None, None, :], torch.finfo(bias.dtype).min)  # (B, H, T, S)


class TriplexNet(nn.Module):
    """Four heads: one for the fusion, which is the prediction, and one for each branch.

    Args:
        features: D of neighbours and slide, and also of the target if there is no ``network``.
        network: timm's name of the target's image network, or None for features.
        as_released: see ``flag_st.methods.triplex.Triplex``.
    """

    #: Order of the predictions.
    HEADS = ("fusion", "target", "neighbour", "slide")

    def __init__(
        self,
        genes: int,
        features: int,
        width: int,
        fusion: Branch,
        slide: Branch,
        neighbour: Branch,
        network: str | None,
        as_released: bool,
    ):
        super().__init__()
        self.image = ImageNetwork(network, pooled=False) if network else None
        self.target = nn.Linear(features if self.image is None else self.image.channels, width)
        self.slide = GlobalEncoder(features, width, slide, as_released)
        self.neighbour = NeighbourEncoder(features, width, neighbour)
        self.fusion = Fusion(width, fusion)
        self.heads = nn.ModuleDict({name: nn.Linear(width, genes) for name in self.HEADS})
        self.as_released = as_released

    def forward(self, spot: Tensor, target: Tensor, neighbours: Tensor, mask: Tensor) -> Tensor:
        """Predictions of B spots of one slide.

        Args:
            spot: (B, d), rows of the output of ``slide`` for the whole slide.
            target: (B, 1, D) features or (B, 3, H, W) pixels.
            neighbours: (B, 25, D). mask: (B, 25).

        Returns:
            (4, B, G), in the order ``HEADS``.
        """
        tokens = self.target(target if self.image is None else self.image(target))  # (B, T, d)
        around = self.neighbour(neighbours, mask)  # (B, 25, d)
        fused = self.fusion(spot, tokens, around, mask)  # (B, d)
        # The release averages the missing neighbours as well.
        weight = torch.ones_like(mask) if self.as_released else mask  # (B, 25)
        weight = (weight / weight.sum(1, keepdim=True)).unsqueeze(-1)  # (B, 25, 1)
        states = (fused, tokens.mean(1), (around * weight).sum(1), spot)  # 4 × (B, d)
        pairs = zip(self.heads.values(), states, strict=True)
        return torch.stack([head(state) for head, state in pairs])  # (4, B, G)
