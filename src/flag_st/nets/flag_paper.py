"""The network of FLAG as the paper writes it (Eq. 23-26)."""

from torch import Tensor

from flag_st.diffusion.precond import CovarianceEdm, RawScore
from flag_st.nets.conditioned import ConditionedNet
from flag_st.nets.edge_graph import EdgeGraph
from flag_st.nets.gene_decoder import GeneDecoder, Size, mlp
from flag_st.nets.graph import PAPER_EDGES, Tiles
from flag_st.nets.graph_transformer import Projector


class PaperFlagNet(ConditionedNet):
    """Edges modulate one attention logit per head; norms adapt to time and pooled conditions.

    Args:
        As ``flag_st.nets.flag.FlagNet``; ``dropout`` is in the backbone alone, which always reads
        the noisy expression.
    """

    #: Edge attributes by the name of a choice. Edges join different spots only.
    EDGES = PAPER_EDGES
    LOOPS = False

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
    ):
        super().__init__()
        self.graph = EdgeGraph(
            genes,
            features,
            backbone.width,
            backbone.depth,
            backbone.heads,
            channels=channels,
            logits="head",
            context=True,
            edges_used=channels > 0,
            edge_state=False,
            dropout=dropout,
            # The release's time features turn up to 403 times over t ∈ [0, 1]; these are smooth.
            frequencies=(0.5, 64.0),
        )
        self.condition = mlp(genes, 512, 512, size.width)
        self.decoder = GeneDecoder(genes, precond, size, align_at=align_at if targets else ())
        self.projector = Projector(size.width, project, targets) if targets else None

    def encode(self, x: Tensor, sigma: Tensor, tiles: Tiles) -> Tensor:
        """Noisy expression x (B, N, G) and sigma (B or 1, 1, 1) → one condition per spot."""
        precond = self.precond
        time = precond.noise(sigma).flatten().expand(len(x))  # (B,)
        scaled = precond.scaled(x, sigma)  # (B, N, G)
        z, _ = self.graph(scaled, tiles.x, tiles.edges, tiles.mask, time)  # (B, N, G)
        return self.condition(z)  # (B, N, d)
