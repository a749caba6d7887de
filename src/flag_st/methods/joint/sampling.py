"""A whole slide as batches of tiles, and one draw of it."""

import numpy as np
import torch
from torch import Tensor

from flag_st.data.tiling import Seen, Tiling
from flag_st.diffusion.samplers import heun_log
from flag_st.diffusion.schedules import geometric
from flag_st.methods.joint.options import Sde
from flag_st.nets.graph import GraphBuilder, Tiles
from flag_st.nets.joint import JointNet

#: Batches of tiles, each with the indices of the spots that its rows belong to.
Opened = list[tuple[np.ndarray, Tiles]]


def open_slide(seen: Seen, tiling: Tiling, builder: GraphBuilder, device: str) -> Opened:
    """All tiles of a slide, ``per_step`` of them in each batch."""
    cut, opened = tiling.cut(seen.slide), []
    for first in range(0, len(cut), tiling.per_step):
        part = cut[first : first + tiling.per_step]
        tiles = builder.tiles([(seen, index) for index in part]).to(device)
        opened.append((np.concatenate(part), tiles))
    return opened


def draw(net: JointNet, opened: Opened, sde: Sde, generator: torch.Generator) -> Tensor:
    """One sample (N, G) of a whole slide on the network's scale, tile by tile."""
    grid, drawn = geometric(sde.steps, sde.sigma_low, sde.sigma_max), []
    for _, tiles in opened:

        def denoise(z: Tensor, sigma: Tensor, tiles: Tiles = tiles) -> Tensor:
            return net(z, sigma.view(1, 1, 1), tiles)

        z = sde.sigma_max * net.noise(tiles.mask, generator, start=True)  # (B, N, G + N)
        x, _ = net.split(heun_log(denoise, z.to(tiles.x.device), grid))  # (B, N, G)
        drawn.append(x[tiles.mask])  # (spots, G)
    order = np.argsort(np.concatenate([index for index, _ in opened]))
    return torch.cat(drawn)[torch.as_tensor(order)]  # (N, G)
