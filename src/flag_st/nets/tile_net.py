"""The contract of FLAG's networks: noisy tiles and σ in, clean tiles out."""

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

from flag_st.diffusion.precond import CovarianceEdm, RawScore
from flag_st.nets.gene_decoder import Denoised, GeneDecoder
from flag_st.nets.graph import Tiles
from flag_st.nets.graph_transformer import Projector


class TileNet(nn.Module):
    """A network that denoises the spots of tiles, each with the others around it.

    Attributes:
        graph: reads the graph of a tile.
        projector: maps tokens to the space of the gene model, or None without alignment.
    """

    graph: nn.Module
    projector: Projector | None

    @abstractmethod
    def denoise(
        self,
        x: Tensor,
        sigma: Tensor,
        tiles: Tiles,
        chosen: Tensor | None = None,
        chunk: int | None = None,
    ) -> Denoised:
        """Denoise the chosen spots; the other spots of their tiles are context.

        Args:
            x: (B, N, G) noisy expression. sigma: (B or 1, 1, 1).
            chosen, chunk: as in ``GeneDecoder``.
        """

    def forward(
        self, x: Tensor, sigma: Tensor, tiles: Tiles, chunk: int | None = None, **known: Any
    ) -> Tensor:
        """Noisy expression x (B, N, G) and sigma (B or 1, 1, 1) → clean expression.

        ``known`` is what ``denoise`` of this network takes beyond that.
        """
        return self.denoise(x, sigma, tiles, None, chunk, **known).clean.view_as(x)  # (B, N, G)

    def parts(self) -> tuple[nn.Module, ...]:
        """The parts that training calls, and that are compiled."""
        return (self.graph,)


class TokenNet(TileNet):
    """A network whose graph gives each spot a condition, under which its gene tokens are denoised.

    Attributes:
        condition: makes the condition from what the graph says.
        decoder: denoises single spots.
    """

    condition: nn.Sequential
    decoder: GeneDecoder

    @property
    def precond(self) -> CovarianceEdm | RawScore:
        return self.decoder.precond

    def parts(self) -> tuple[nn.Module, ...]:
        return self.graph, self.condition, self.decoder.dit
