"""Networks of MERGE: one that describes spots one by one, and graph attention over those of a slide.

The layers are those of torch-geometric, which is imported inside functions, because that takes seconds.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from flag_st.nets.pixels import ImageNetwork, load_weights
from flag_st.transfer.weights import fill, read_state

#: Width of the hidden layer, and how many numbers describe a spot.
HIDDEN, DESCRIBED = 512, 256
#: What the authors' weight file calls the parts of the first stage, and what they are called here.
PARTS = {
    "features.0": "image.net.conv1",
    **{f"features.{i + 3}": f"image.net.layer{i}" for i in range(1, 5)},
    "l1": "describe.0",
    "l2": "describe.2",
}


class SpotNet(nn.Module):
    """The first stage: an image becomes 256 numbers, which regress expression while it is trained."""

    def __init__(self, genes: int, inputs: int, image: ImageNetwork | None):
        super().__init__()
        self.image = image
        inputs = inputs if image is None else image.channels
        self.describe = nn.Sequential(
            nn.Linear(inputs, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, DESCRIBED)
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Dropout(0.2), nn.Linear(DESCRIBED, genes))

    def described(self, x: Tensor) -> Tensor:
        """(B, D) features or (B, 3, H, W) pixels → (B, 256)."""
        return self.describe(x if self.image is None else self.image(x))  # (B, 256)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) features or (B, 3, H, W) pixels."""
        return self.head(self.described(x))  # (B, G)


def start_from(net: SpotNet, path: str | None) -> None:
    """Start the first stage from ``path``: the authors' file, or weights of its image network alone.

    Raises:
        FlagError: there is no such file, or it is of another network.
    """
    if net.image is None:
        return
    file = Path(path or "").expanduser()
    state = read_state(file) if file.is_file() else {}
    if not any(name.startswith("module.features.") for name in state):
        load_weights(net.image, path)
        return
    named = {
        re.sub(r"^module\.(features\.\d|l\d)(?=\.)", lambda m: PARTS.get(m[1], m[0]), name): tensor
        for name, tensor in state.items()
    }
    parts = nn.ModuleDict({"image": net.image, "describe": net.describe})
    fill(parts, {k: v.clone() for k, v in named.items()}, file, "MERGE's model-low-v1.pth")


class SlideNet(nn.Module):
    """The second stage: four layers of graph attention (GAT, Veličković et al. 2018) over a slide.

    Args:
        genes: G.
        widths: of the heads of each layer but the last.
        heads: of these layers.
        dropped_edges: the share of edges that a training step leaves out of all layers; a spot always
            sees itself.
        norm: ``graph`` takes one mean and one deviation of all spots and channels, ``node`` those of
            each spot.
    """

    def __init__(
        self,
        genes: int,
        widths: Sequence[int],
        heads: int,
        dropped_edges: float,
        norm: Literal["graph", "node"],
    ):
        super().__init__()
        from torch_geometric.nn import GATConv, LayerNorm

        sizes = [DESCRIBED, *(heads * width for width in widths)]
        self.layers = nn.ModuleList(
            GATConv(size, width, heads) for size, width in zip(sizes, widths, strict=False)
        )
        self.norms = nn.ModuleList(LayerNorm(size, mode=norm) for size in sizes[1:])
        self.head, self.dropped_edges = GATConv(sizes[-1], genes), dropped_edges

    def forward(self, z: Tensor, edges: Tensor) -> Tensor:
        """z (N, 256) of all spots; edges (2, E) from the spot that is seen to the spot that sees."""
        from torch_geometric.utils import dropout_edge

        edges, _ = dropout_edge(edges, self.dropped_edges, training=self.training)  # (2, ≤ E)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            z = norm(layer(z, edges).relu())  # (N, H d)
        return self.head(z, edges)  # (N, G)


class MergeNet(nn.Module):
    """Both stages, which are trained one after the other."""

    def __init__(self, spots: SpotNet, slides: SlideNet):
        super().__init__()
        self.spots, self.slides = spots, slides
