"""How FLAG is trained and validated: tiles of the training slides, denoising and alignment."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from flag_st.core.seeds import torch_generator
from flag_st.data.slide import Slide
from flag_st.data.tiling import Seen
from flag_st.methods.flag.options import Options
from flag_st.methods.flag.windows import slide_denoiser, windows
from flag_st.methods.training import Task
from flag_st.methods.validation import mean_correlation
from flag_st.nets.flag import FlagNet
from flag_st.nets.flag_graph import GraphFlagNet
from flag_st.nets.flag_paper import PaperFlagNet
from flag_st.nets.flag_released import ReleasedFlagNet
from flag_st.nets.graph import GraphBuilder, Tiles
from flag_st.nets.graph_transformer import alignment_loss

Net = FlagNet | GraphFlagNet | PaperFlagNet | ReleasedFlagNet
#: A tile as it was cut: its slide, and the indices (n,) of its spots.
Cut = tuple[Slide, np.ndarray]


class FlagTask(Task[Net]):
    """The denoising loss on tiles of the training slides, plus the alignment to a gene model.

    Args:
        train, valid: slides with truth; features and expression are standardised once per slide,
            because a slide's own statistics are those of the slide and not of a tile.
    """

    def __init__(
        self,
        net: Net,
        options: Options,
        builder: GraphBuilder,
        train: list[Seen],
        valid: list[Seen],
        device: str,
    ):
        self.module, self.options, self.builder = net, options, builder
        self.train, self.valid, self.device = train, valid, device

    def compiled(self) -> Iterable[nn.Module]:
        """Training calls the network by its parts."""
        return self.module.parts()

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tiles, list[Cut]]]:
        slides = [seen.slide for seen in self.train]
        for batch in self.options.tiling.batches(slides, generator):
            tiles = self.builder.tiles([(self.train[i], index) for i, index in batch])
            yield tiles, [(slides[i], index) for i, index in batch]

    def loss(self, batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        tiles, cuts = batch
        tiles, options, net = tiles.to(self.device), self.options, self.module
        sigma, x = self._noised(tiles.truth, generator)  # (B, 1, 1), (B, N, G)
        chosen = self._chosen(tiles.mask, generator)  # (M,) flat indices of real spots
        found = net.denoise(x, sigma, tiles, chosen)
        precond = net.precond
        clean = tiles.truth.flatten(0, 1)  # (B N, G)
        level = sigma.expand(*tiles.mask.shape, 1).flatten(0, 1)  # (B N, 1)
        loss = precond.loss(found.clean, clean[chosen], level[chosen]).mean()
        parts = {"denoise": loss.item()}
        if found.readout is not None:
            # The backbone's own estimate is trained on every spot, also on those not chosen.
            real = tiles.mask.flatten()
            own = found.readout.flatten(0, 1)[real]
            backbone = precond.loss(own, clean[real], level[real]).mean()
            parts["backbone"] = backbone.item()
            loss = loss + options.backbone.weight * backbone
        if net.projector is not None:
            target, mask = self._targets(chosen, tiles.mask, cuts)
            each = [alignment_loss(net.projector(t), target, mask) for t in found.tokens]
            align = torch.stack(each).mean()
            parts["align"] = align.item()
            loss = loss + options.alignment.weight * align
        return loss, parts

    def _noised(self, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One level per tile (B, 1, 1), and y (B, N, G) with noise of that level."""
        shape, noise = (len(y), 1, 1), self.options.noise
        if not self.options.diffusion:
            return torch.full(shape, noise.sigma_max, device=y.device), torch.zeros_like(y)
        sigma = noise.draw(shape, generator).to(y.device)  # (B, 1, 1)
        unit = torch.randn(y.shape, generator=generator).to(y.device)  # (B, N, G)
        return sigma, y + sigma * unit  # (B, 1, 1), (B, N, G)

    def _chosen(self, mask: Tensor, generator: torch.Generator) -> Tensor:
        """At most ``decode_spots`` real spots, since gene tokens cost far more than the graph."""
        real = mask.flatten().nonzero().squeeze(-1).cpu()
        order = torch.randperm(len(real), generator=generator)[: self.options.decode_spots]
        return real[order.sort().values].to(mask.device)

    def _targets(self, chosen: Tensor, mask: Tensor, cuts: list[Cut]) -> tuple[Tensor, Tensor]:
        """Targets and masks (M, G) of the chosen spots, which alone are read.

        Targets are (M, G, K), or (M, 1, K) of a gene model that has one vector per spot. The mask is
        True where the gene has a vector and is expressed.
        """
        n, vectors, masks = mask.shape[1], [], []
        flat = chosen.cpu().numpy()
        for b, (slide, index) in enumerate(cuts):
            assert slide.targets is not None
            rows = index[flat[flat // n == b] % n]
            embedded, known = slide.targets.read(rows)
            if slide.targets.kind == "spot":
                embedded = embedded[:, None]  # (n, 1, K)
            vectors.append(np.broadcast_to(embedded, (len(rows), *embedded.shape[-2:])))
            masks.append(known & (slide.truth[rows] > 0))
        target = torch.as_tensor(np.concatenate(vectors)).to(self.device)
        return target, torch.as_tensor(np.concatenate(masks)).to(self.device)

    def validate(self, module: Net) -> dict[str, float]:
        """The denoising loss at fixed levels with fixed noise, on every spot of every slide.

        ``pcc`` is that of the posterior mean from pure noise. Noisy truth still tells, even at high
        σ, what hundreds of genes have in common (depth), so a correlation from it would flatter.
        """
        losses, correlations, options = [], [], self.options
        levels = options.noise.validation_levels()
        levels = levels if options.diffusion else levels[-1:]
        for seen in self.valid:
            opened = windows(seen, options.tiling, self.builder, self.device)
            denoise = slide_denoiser(module, opened, options.backbone.encode == "once")
            y = torch.as_tensor(seen.y, device=self.device)[None]  # (1, N, G)
            generator = torch_generator("validation", seen.slide.id)
            for sigma in levels:
                noise = sigma * torch.randn(y.shape, generator=generator) * options.diffusion
                noise, sigma = noise.to(self.device), sigma.to(self.device)  # (1, N, G), ()
                x = (y + noise) * options.diffusion  # (1, N, G)
                loss = module.precond.loss(denoise(x, sigma), y, sigma)  # (1, N, G)
                losses.append(loss.mean().item())
            # The last level is the highest.
            correlations.append(mean_correlation(denoise(noise, sigma)[0], y[0]))
        return {"loss": float(np.mean(losses)), "pcc": float(np.mean(correlations))}
