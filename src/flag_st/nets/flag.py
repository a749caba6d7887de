"""Our network of FLAG: a graph transformer, then a transformer over gene tokens."""

from torch import Tensor

from flag_st.diffusion.precond import CovarianceEdm, RawScore
from flag_st.nets.gene_decoder import Denoised, GeneDecoder, Size, mlp
from flag_st.nets.graph import EDGES, Tiles
from flag_st.nets.graph_transformer import GraphTransformer, Projector
from flag_st.nets.tile_net import TokenNet

#: What ``encode`` returns: a condition (B, N, d) and the backbone's raw estimate (B, N, G).
Encoded = tuple[Tensor, Tensor]


class FlagNet(TokenNet):
    """Our network. Its backbone already denoises; gene tokens start from that and refine it.

    Args:
        genes, features, targets: G, D and K, the width of the gene model (0: no alignment).
        channels: number of edge attributes.
        precond: relates raw outputs to clean expression.
        size: of the gene transformer. backbone: of the graph transformer.
        align_at: blocks (counted from 1) whose tokens are aligned.
        project: width of the projector, which maps tokens to the space of the gene model.
        dropout: in both transformers.
        see_x: whether the backbone reads the noisy expression; without it the condition is the
            same at every σ and is computed once per slide.
    """

    #: Edge attributes by the name of a choice. Each spot has an edge with itself.
    EDGES = EDGES
    LOOPS = True

    def __init__(
        self,
        genes: int,
        features: int,
        targets: int,
        *,
        channels: int,
        precond: CovarianceEdm | RawScore,
        size: Size,
        backbone: Size,
        align_at: tuple[int, ...],
        project: int,
        dropout: float,
        see_x: bool = True,
    ):
        super().__init__()
        self.graph = GraphTransformer(
            genes,
            features,
            backbone.width,
            backbone.depth,
            backbone.heads,
            channels=channels,
            see_x=see_x,
            dropout=dropout,
        )
        self.condition = mlp(backbone.width, 512, size.width)
        aligned = align_at if targets else ()
        self.decoder = GeneDecoder(genes, precond, size, 2, aligned, dropout)
        self.projector = Projector(size.width, project, targets) if targets else None

    def encode(self, x: Tensor | None, sigma: Tensor, tiles: Tiles) -> Encoded:
        """x (B, N, G), None if the backbone does not read it, and sigma (B or 1, 1, 1)."""
        precond = self.precond
        scaled = None if x is None else precond.scaled(x, sigma)  # (B, N, G)
        noise = precond.noise(sigma).flatten().expand(len(tiles.x))  # (B,)
        h, readout = self.graph(tiles, scaled, noise)  # (B, N, g), (B, N, G)
        return self.condition(h), readout  # (B, N, d), (B, N, G)

    def denoise(
        self,
        x: Tensor,
        sigma: Tensor,
        tiles: Tiles,
        chosen: Tensor | None = None,
        chunk: int | None = None,
        encoded: Encoded | None = None,
    ) -> Denoised:
        """Denoise the chosen spots; the other spots of their tiles are context.

        Args:
            x: (B, N, G) noisy expression. sigma: (B or 1, 1, 1).
            chosen, chunk: as in ``GeneDecoder``.
            encoded: what ``encode`` returned, if it is known.
        """
        c, readout = encoded or self.encode(x, sigma, tiles)  # (B, N, d), (B, N, G)
        clean, tokens = self.decoder(x, sigma, c, readout, chosen, chunk)  # (M, G), (M, G, d)
        own = self.precond.clean(x, readout, sigma)  # (B, N, G)
        return Denoised(clean, own, tokens)
