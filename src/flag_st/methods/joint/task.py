"""How joint diffusion is trained and validated: score matching of nodes and edges, consistency."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from flag_st.core.seeds import torch_generator
from flag_st.data.tiling import Seen, Tiling
from flag_st.diffusion.losses import edm_loss, score_matching_loss
from flag_st.diffusion.schedules import log_uniform
from flag_st.methods.joint.options import Losses, Sde
from flag_st.methods.joint.sampling import draw, open_slide
from flag_st.methods.training import Task
from flag_st.methods.validation import regression_scores
from flag_st.nets.graph import GraphBuilder, Tiles
from flag_st.nets.joint import JointNet, average, pairs_of

#: Noise levels at which validation states the error of the noise.
LEVELS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class JointTask(Task[JointNet]):
    """The losses of nodes and edges, and of their consistency, on tiles of the training slides.

    Args:
        train, valid: slides with truth.
    """

    def __init__(
        self,
        net: JointNet,
        sde: Sde,
        losses: Losses,
        tiling: Tiling,
        builder: GraphBuilder,
        train: list[Seen],
        valid: list[Seen],
        device: str,
    ):
        self.module, self.sde, self.losses = net, sde, losses
        self.tiling, self.builder, self.device = tiling, builder, device
        self.train = train
        self.valid = [(seen, open_slide(seen, tiling, builder, device)) for seen in valid]

    def batches(self, generator: torch.Generator) -> Iterator[Tiles]:
        slides = [seen.slide for seen in self.train]
        for batch in self.tiling.batches(slides, generator):
            yield self.builder.tiles([(self.train[i], index) for i, index in batch])

    def loss(self, batch: Tiles, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        tiles, net = batch.to(self.device), self.module
        shape = (len(tiles.x), 1, 1)
        sigma = log_uniform(shape, self.sde.sigma_low, self.sde.sigma_max, generator)
        sigma = sigma.to(self.device)  # (B, 1, 1)
        measure = edm_loss if net.head == "edm" else score_matching_loss
        parts, estimate = self._errors(net, tiles, sigma, generator, measure)
        loss = parts["nodes"]
        if net.joint:
            gap = net.disagreement(estimate, self.losses.stop_gradient)  # (B, N, N)
            parts["consistency"] = average(gap, pairs_of(tiles.mask))
            loss = loss + self.losses.edges * parts["edges"]
            loss = loss + self.losses.consistency * parts["consistency"]
        return loss, {name: value.item() for name, value in parts.items()}

    def _errors(
        self,
        net: JointNet,
        tiles: Tiles,
        sigma: Tensor,
        generator: torch.Generator,
        measure: Callable[..., Tensor],
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Mean ``measure`` of the nodes and of diffused edges; and the clean estimate of z."""
        clean, noise = net.clean(tiles), net.noise(tiles.mask, generator)  # 2 × (B, N, G + N)
        estimate = net(clean + sigma * noise.to(self.device), sigma, tiles)  # (B, N, G + N)
        nodes, edges = net.split(measure(estimate, clean, sigma))  # (B, N, G), (B, N, N)
        parts = {"nodes": average(nodes, tiles.mask.unsqueeze(-1))}
        if net.joint:
            parts["edges"] = average(edges, pairs_of(tiles.mask))
        return parts, estimate

    def validate(self, module: JointNet) -> dict[str, float]:
        """One draw of every slide with fixed noise; ``loss`` is its MSE, as the paper chooses.

        ``nodes_σ`` and ``edges_σ`` are errors of the noise at single levels; 1 is the error of a
        network that returns its input.
        """
        pairs, errors = [], {}  # type: list[tuple[Tensor, Tensor]], dict[str, list[float]]
        for seen, opened in self.valid:
            name = seen.slide.id
            drawn = draw(module, opened, self.sde, torch_generator("validation", name))  # (N, G)
            pairs.append((drawn, torch.as_tensor(seen.y, device=self.device)))
            generator = torch_generator("validation", name, "levels")
            for level in LEVELS:
                sigma = torch.full((1, 1, 1), level, device=self.device)
                for _, tiles in opened:
                    found, _ = self._errors(module, tiles, sigma, generator, score_matching_loss)
                    for part, value in found.items():
                        errors.setdefault(f"{part}_{level:g}", []).append(value.item())
        return regression_scores(pairs) | {k: float(np.mean(v)) for k, v in errors.items()}
