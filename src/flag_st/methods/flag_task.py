"""How FLAG is trained and validated: tiles of the training slides, denoising and alignment."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from flag_st.core.seeds import torch_generator
from flag_st.data.slide import Cohort
from flag_st.methods.base import Run
from flag_st.methods.training import Task, mean_correlation
from flag_st.nets.flag import FlagNet
from flag_st.nets.graph import Tiles, random_tile
from flag_st.nets.graph_transformer import alignment_loss

if TYPE_CHECKING:
    from flag_st.methods.flag import Flag


class FlagTask(Task[FlagNet]):
    """Tiles of the training slides; denoising loss and alignment."""

    def __init__(self, method: "Flag", train: Cohort, valid: Cohort, run: Run):
        self.method, self.module, self.device = method, method.net, run.device
        self.train_slides, self.valid_slides = list(train), list(valid)
        # Standardised once: a slide's own statistics are of the slide, not of a tile.
        self.normalised = {s.id: (method.features_of(s), method.expression_of(s)) for s in train}

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tiles, list]]:
        """Every slide in turn, as often as it takes to see each spot about once."""
        m = self.method
        jobs = [(slide, index) for slide in self.train_slides for index in m.tiles_of(slide)]
        order = torch.randperm(len(jobs), generator=generator).tolist()
        for start in range(0, len(order), m.tiles_per_step):
            graphs, places = [], []
            for i in order[start : start + m.tiles_per_step]:
                slide, index = jobs[i]
                if index is None:
                    index = random_tile(slide.position, m.tile_spots, generator)
                graphs.append(m.graph_of(slide, index, *self.normalised[slide.id]))
                places.append((slide, index))
            yield m.collate(graphs), places

    def loss(self, batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        tiles, places = batch
        tiles, m, net = tiles.to(self.device), self.method, self.module
        sigma, x = m.noised(tiles.truth, generator)  # (B, 1, 1), (B, N, G)
        chosen = self._chosen(tiles.mask, generator)  # (M,) flat indices of real spots
        denoised, tokens, readout = m.denoise(net, x, sigma, tiles, chosen)
        clean = tiles.truth.flatten(0, 1)  # (B N, G)
        spread = sigma.expand(*tiles.mask.shape, 1).flatten(0, 1)  # (B N, 1)
        loss = net.precond.loss(denoised, clean[chosen], spread[chosen]).mean()
        parts = {"denoise": loss.item()}
        if readout is not None:
            # The backbone's own estimate is trained on every spot, also those left out above.
            real = tiles.mask.flatten()
            backbone = net.precond.loss(readout.flatten(0, 1)[real], clean[real], spread[real])
            parts["backbone"] = backbone.mean().item()
            loss = loss + m.backbone_weight * backbone.mean()
        if net.projector is not None:
            target, mask = self._targets(chosen, tiles.mask, places)
            each = [alignment_loss(net.projector(t), target, mask) for t in tokens]
            align = torch.stack(each).mean()
            parts["align"] = align.item()
            loss = loss + m.align_weight * align
        return loss, parts

    def _chosen(self, mask: Tensor, generator: torch.Generator) -> Tensor:
        """At most ``decode_spots`` real spots: gene tokens cost far more than the graph."""
        real = mask.flatten().nonzero().squeeze(-1).cpu()
        order = torch.randperm(len(real), generator=generator)[: self.method.decode_spots]
        return real[order.sort().values].to(mask.device)

    def _targets(self, chosen: Tensor, mask: Tensor, places: list) -> tuple[Tensor, Tensor]:
        """Gene vectors and masks of the chosen spots, read from disk for these alone."""
        n, found, masks = mask.shape[1], [], []
        flat = chosen.cpu().numpy()
        for b, (slide, index) in enumerate(places):
            rows = index[flat[flat // n == b] % n]
            vectors, known = slide.targets.read(rows)
            if slide.targets.kind == "spot":
                vectors = vectors[:, None]  # (n, 1, K): one vector for all genes of a spot
            found.append(np.broadcast_to(vectors, (len(rows), *vectors.shape[-2:])))
            masks.append(known & (slide.truth[rows] > 0))
        target = torch.as_tensor(np.concatenate(found)).to(self.device)
        return target, torch.as_tensor(np.concatenate(masks)).to(self.device)

    def validate(self, module: FlagNet) -> dict[str, float]:
        """Denoising loss at fixed levels with fixed noise, on every spot of every slide.

        ``pcc`` is of the posterior mean from pure noise: noisy truth, even at high σ, still tells
        what hundreds of genes have in common (depth), so a correlation from it would flatter.
        """
        m, losses, correlations = self.method, [], []
        for slide in self.valid_slides:
            denoise = m.denoiser(module, slide, self.device)
            y = torch.as_tensor(m.expression_of(slide), device=self.device)[None]
            generator = torch_generator("validation", slide.id)
            for sigma in m.levels():
                noise = sigma * torch.randn(y.shape, generator=generator) * m.diffusion
                noise, sigma = noise.to(self.device), sigma.to(self.device)
                x = (y + noise) * m.diffusion
                losses.append(module.precond.loss(denoise(x, sigma), y, sigma).mean().item())
            # The last level is the highest.
            correlations.append(mean_correlation(denoise(noise, sigma)[0], y[0]))
        return {"loss": float(np.mean(losses)), "pcc": float(np.mean(correlations))}
