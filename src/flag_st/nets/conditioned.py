"""The contract of networks whose graph only conditions single spots: FLAG's, as written and as released."""

from abc import abstractmethod

from torch import Tensor

from flag_st.nets.edge_graph import EdgeGraph
from flag_st.nets.gene_decoder import Denoised
from flag_st.nets.graph import Tiles
from flag_st.nets.tile_net import TokenNet


class ConditionedNet(TokenNet):
    """Spots are denoised one by one, each under the condition that the graph gives it."""

    graph: EdgeGraph

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
        """Denoise the chosen spots; they alone are decoded."""
        c = self.encode(x, sigma, tiles)  # (B, N, d)
        clean, tokens = self.decoder(x, sigma, c, None, chosen, chunk)  # (M, G), (M, G, d)
        return Denoised(clean, None, tokens)
