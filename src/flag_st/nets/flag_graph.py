"""Our network of FLAG without gene tokens: the graph transformer alone denoises."""

from typing import Any

from torch import Tensor

from flag_st.core.errors import FlagError
from flag_st.diffusion.precond import CovarianceEdm, RawScore
from flag_st.nets.gene_decoder import Denoised, Size
from flag_st.nets.graph import EDGES, Tiles
from flag_st.nets.graph_transformer import GraphTransformer
from flag_st.nets.tile_net import TileNet


class GraphFlagNet(TileNet):
    """Every spot is one token, which reads and emits all of its genes.

    ``flag_st.nets.flag.FlagNet`` starts from the same estimate and refines it gene by gene, at many times the
    cost. Nothing here can be aligned to a gene model, since no token stands for a gene.

    Args:
        genes, features, channels, precond, backbone, dropout: as in ``flag_st.nets.flag.FlagNet``.
        of_tokens: what the other networks are told of their gene tokens, and is not needed here.

    Raises:
        FlagError: alignment to a gene model is asked for.
    """

    #: Edge attributes by the name of a choice. Each spot has an edge with itself.
    EDGES = EDGES
    LOOPS = True
    projector = None

    def __init__(
        self,
        genes: int,
        features: int,
        targets: int = 0,
        *,
        channels: int,
        precond: CovarianceEdm | RawScore,
        backbone: Size,
        dropout: float,
        **of_tokens: Any,
    ):
        super().__init__()
        if targets:
            raise FlagError(
                "flag: the backbone alone has no gene tokens that could be aligned to a gene model",
                remedy="give the entry gene_model: null, or set backbone.kind: fused",
            )
        self.precond = precond
        self.graph = GraphTransformer(
            genes,
            features,
            backbone.width,
            backbone.depth,
            backbone.heads,
            channels=channels,
            dropout=dropout,
        )

    def denoise(
        self,
        x: Tensor,
        sigma: Tensor,
        tiles: Tiles,
        chosen: Tensor | None = None,
        chunk: int | None = None,
    ) -> Denoised:
        """Denoise the chosen spots; ``chunk`` has no effect, since nothing is decoded."""
        noise = self.precond.noise(sigma).flatten().expand(len(tiles.x))  # (B,)
        _, raw = self.graph(tiles, self.precond.scaled(x, sigma), noise)  # (B, N, G)
        clean = self.precond.clean(x, raw, sigma).flatten(0, 1)  # (B N, G)
        return Denoised(clean if chosen is None else clean[chosen], None, [])
