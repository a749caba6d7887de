"""The contract of networks whose graph only conditions single spots: FLAG's, as written and as released."""

from abc import abstractmethod

from torch import Tensor, nn

from flag_st.diffusion.precond import CovarianceEdm, RawScore
from flag_st.nets.edge_graph import EdgeGraph
from flag_st.nets.gene_decoder import Denoised, GeneDecoder
from flag_st.nets.graph import Tiles
from flag_st.nets.graph_transformer import Projector


class ConditionedNet(nn.Module):
    """Spots are denoised one by one, each under the condition that the graph gives it.

    Attributes:
        graph, condition: what ``encode`` consists of.
        decoder: denoises single spots.
        projector: maps tokens to the space of the gene model, or None without alignment.
    """

    graph: EdgeGraph
    condition: nn.Sequential
    decoder: GeneDecoder
    projector: Projector | None

    @property
    def precond(self) -> CovarianceEdm | RawScore:
        return self.decoder.precond

    @abstractmethod
    def encode(self, x: Tensor, sigma: Tensor, tiles: Tiles) -> Tensor:
        """Noisy expression x (B, N, G) and sigma (B or 1, 1, 1) → one condition (B, N, d) per spot."""

    def denoise(
        self,
        x: Tensor,
        sigma: Tensor,
        tiles: Tiles,
        chosen: Tensor | None = None,
        chunk: int | None = None,
    ) -> Denoised:
        """Denoise the chosen spots, with the arguments of ``FlagNet.denoise``."""
        c = self.encode(x, sigma, tiles)  # (B, N, d)
        clean, tokens = self.decoder(x, sigma, c, None, chosen, chunk)  # (M, G), (M, G, d)
        return Denoised(clean, None, tokens)

    def forward(self, x: Tensor, sigma: Tensor, tiles: Tiles, chunk: int | None = None) -> Tensor:
        """Noisy expression x (B, N, G) and sigma (B or 1, 1, 1) → clean expression."""
        return self.denoise(x, sigma, tiles, None, chunk).clean.view_as(x)  # (B, N, G)
