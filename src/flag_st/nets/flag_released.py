"""The network of FLAG as the configuration that its authors released runs it."""

from torch import Tensor, nn

from flag_st.diffusion.precond import CovarianceEdm, RawScore
from flag_st.nets.conditioned import ConditionedNet
from flag_st.nets.dit import NoiseEmbedding
from flag_st.nets.edge_graph import EdgeGraph
from flag_st.nets.gene_decoder import GeneDecoder, Size, mlp
from flag_st.nets.graph import Edges, Tiles
from flag_st.nets.graph_transformer import Projector


class ReleasedFlagNet(ConditionedNet):
    """One attention logit per channel and edge states of N × N × width.

    Neither static edges nor time reach the backbone, since both of its switches are off in the
    released configuration.

    Args:
        As ``flag_st.nets.flag_paper.PaperFlagNet``; ``channels`` is 0.
    """

    #: No edge attribute is read, whatever the choice.
    EDGES: dict[Edges, tuple[str, ...]] = {"both": (), "distance": (), "histology": (), "none": ()}
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
            logits="channel",
            context=False,
            edges_used=False,
            edge_state=True,
            dropout=dropout,
        )
        # The paper speaks of three layers here, the release has two.
        self.condition = mlp(genes, 512, size.width)
        aligned = align_at if targets else ()
        # Most of these time features are constant to three digits over t ∈ [0, 1].
        time = NoiseEmbedding(size.width, features=256, low=10 ** (-4 * 127 / 128), high=1.0)
        self.decoder = GeneDecoder(genes, precond, size, align_at=aligned, noise=time)
        self.projector = Projector(size.width, project, targets) if targets else None
        # The release never calls this layer; it is here because its parameters are counted.
        self.label = mlp(features, features, size.width)
        self._reset()

    def _reset(self) -> None:
        """Initial weights of the release: Xavier everywhere, then zeros where DiT has them."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for head in (self.decoder.noise.mlp, self.label):
            for layer in (head[0], head[-1]):
                assert isinstance(layer, nn.Linear)
                nn.init.normal_(layer.weight, std=0.02)
        self.decoder.dit.reset()

    def encode(self, x: Tensor, sigma: Tensor, tiles: Tiles) -> Tensor:
        """Noisy expression x (B, N, G) → one condition per spot; sigma only scales x."""
        scaled = self.precond.scaled(x, sigma)  # (B, N, G)
        z, _ = self.graph(scaled, tiles.x, tiles.edges, tiles.mask)  # (B, N, G)
        return self.condition(z)  # (B, N, d)
