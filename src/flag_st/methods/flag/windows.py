"""A whole slide behind the one contract: noisy expression and σ in, clean expression out."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from flag_st.data.tiling import Seen, Tiling
from flag_st.diffusion.samplers import Denoiser
from flag_st.nets.flag import FlagNet
from flag_st.nets.graph import GraphBuilder, Tiles

#: Gene tokens of so many spots are decoded at once. On a GPU this bounds the memory; on a CPU, fewer stay
#: in its cache, which saves a quarter of the time and changes no bit.
CHUNK, CHUNK_CPU = 256, 64


@dataclass(frozen=True)
class Window:
    """A part of a slide that is one graph: the tile (B = 1), and which spots (n,) it holds."""

    tiles: Tiles
    index: Tensor


def windows(seen: Seen, tiling: Tiling, builder: GraphBuilder, device: str) -> list[Window]:
    """The graphs that prediction sees: the whole slide, or the tiles that it is cut into."""
    return [
        Window(builder.tiles([(seen, index)]).to(device), torch.as_tensor(index))
        for index in tiling.cut(seen.slide)
    ]


def slide_denoiser(net: nn.Module, opened: list[Window], once: bool = False) -> Denoiser:
    """A function of (x (1, N, G), σ scalar) → clean x of the slide, window by window.

    Args:
        net: any of the three networks.
        opened: the windows of the slide.
        once: the condition does not depend on the noisy expression, and is computed here
            (``FlagNet`` only).
    """
    more: list[dict] = [{} for _ in opened]
    if once:
        assert isinstance(net, FlagNet)
        some = torch.ones(1, 1, 1, device=opened[0].tiles.x.device)  # no σ matters
        more = [{"encoded": net.encode(None, some, window.tiles)} for window in opened]

    chunk = CHUNK if opened[0].tiles.x.is_cuda else CHUNK_CPU

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        clean = torch.empty_like(x)  # (1, N, G)
        for window, known in zip(opened, more, strict=True):
            part = x[:, window.index]  # (1, n, G)
            out = net(part, sigma.view(1, 1, 1), window.tiles, chunk=chunk, **known)  # (1, n, G)
            clean[:, window.index] = out.to(x.dtype)
        return clean  # (1, N, G)

    return denoise
