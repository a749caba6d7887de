"""FLAG: graph-conditioned latent diffusion of expression, aligned to a gene foundation model.

A spatial graph transformer turns noisy expression, image features and edges into one condition a
spot; a transformer over gene tokens denoises under it; a middle block is pulled towards gene-model
embeddings while training. Nothing of the gene model is needed for prediction.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from flag_st.diffusion.losses import edm_loss
from flag_st.diffusion.precond import CovarianceEdm
from flag_st.diffusion.samplers import SAMPLERS
from flag_st.diffusion.schedules import karras, log_normal
from flag_st.errors import FlagError
from flag_st.methods.base import Method, Prediction, Run
from flag_st.nets.dit import GeneDiT, NoiseEmbedding
from flag_st.nets.graph import EDGES, Tiles, collate, spot_graph
from flag_st.nets.graph_transformer import GraphTransformer, Projector, alignment_loss
from flag_st.seeds import Draws, torch_generator
from flag_st.slide import Cohort, Slide
from flag_st.training import Loop, Task, Training


class FlagNet(nn.Module):
    """Graph backbone and gene transformer behind the EDM preconditioner."""

    def __init__(self, genes: int, features: int, targets: int, **size: Any):
        super().__init__()
        width = size["width"]
        self.graph = GraphTransformer(
            genes,
            features,
            width=size["graph_width"],
            depth=size["graph_depth"],
            heads=size["graph_heads"],
            channels=len(EDGES[size["edges"]]),
            see_x=size["encode"] == "each",
            dropout=size["dropout"],
        )
        self.condition = nn.Sequential(
            nn.Linear(size["graph_width"], 512), nn.SiLU(), nn.Linear(512, width)
        )
        self.noise = NoiseEmbedding(width)
        self.precond = CovarianceEdm(genes)
        align_at = size["align_at"] if targets else None
        self.dit = GeneDiT(genes, width, size["depth"], size["heads"], 2, align_at, size["dropout"])
        self.projector = Projector(width, size["project"], targets) if targets else None

    def encode(self, tiles: Tiles, x: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Condition (B, N, d) and read-out (B, N, G) of all spots of the tiles."""
        h, readout = self.graph(tiles.x, tiles.edges, tiles.mask, x, noise)  # (B, N, g), (B, N, G)
        return self.condition(h), readout  # (B, N, d), (B, N, G)

    def decode(
        self, x: Tensor, noise: Tensor, c: Tensor, readout: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Gene tokens of M spots: x, readout (M, G), noise (M,), c (M, d) → (M, G), tokens."""
        values = torch.stack([x, readout], dim=-1)  # (M, G, 2)
        out, tokens = self.dit(values, c + self.noise(noise))  # (M, G), (M, G, d)
        # The backbone alone is already a denoiser; gene tokens refine what it says.
        return readout + out, tokens  # (M, G), (M, G, d)


class FlagTask(Task):
    """Random tiles of the training slides; denoising loss and alignment."""

    def __init__(self, method: "Flag", train: Cohort, valid: Cohort, run: Run):
        self.method, self.module, self.device = method, method.net, run.device
        self.train_slides, self.valid_slides = list(train), list(valid)
        # Standardised once: a slide's own statistics are of the slide, not of a tile.
        self.normalised = {s.id: (method.inputs(s), method.outputs(s)) for s in train}

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tiles, list]]:
        """Every slide in turn, as often as it takes to see each spot about once."""
        m = self.method
        jobs = [
            (s, slide)
            for s, slide in enumerate(self.train_slides)
            for _ in range(max(1, round(len(slide) / m.tile_spots)))
        ]
        order = torch.randperm(len(jobs), generator=generator).tolist()
        for start in range(0, len(order), m.tiles_per_step):
            graphs, places = [], []
            for i in order[start : start + m.tiles_per_step]:
                _, slide = jobs[i]
                index = random_tile(slide.position, m.tile_spots, generator)
                u, y = self.normalised[slide.id]
                graphs.append(spot_graph(slide.position[index], u[index], y[index]))
                places.append((slide, index))
            yield m.collate(graphs), places

    def loss(self, batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        tiles, places = batch
        tiles, m, net = tiles.to(self.device), self.method, self.module
        b, n, g = tiles.y.shape
        sigma = log_normal((b, 1, 1), m.sigma_mean, m.sigma_std, generator).to(self.device)
        noise = torch.randn(b, n, g, generator=generator).to(self.device)
        x = tiles.y + sigma * noise  # (B, N, G)
        chosen = self._chosen(tiles.mask, generator)  # (M,) flat indices of real spots
        denoised, tokens, readout = m.denoise_tiles(net, x, sigma, tiles, chosen)
        clean = tiles.y.flatten(0, 1)  # (B N, G)
        spread = sigma.expand(b, n, 1).flatten(0, 1)  # (B N, 1)
        loss = edm_loss(denoised, clean[chosen], spread[chosen]).mean()
        parts = {"denoise": loss.item()}
        # The backbone's own estimate is trained on every spot, also those left out above.
        real = tiles.mask.flatten()
        backbone = edm_loss(readout.flatten(0, 1)[real], clean[real], spread[real]).mean()
        parts["backbone"] = backbone.item()
        loss = loss + m.backbone_weight * backbone
        if net.projector is not None:
            target, mask = self._targets(chosen, tiles.mask, places)
            align = alignment_loss(net.projector(tokens), target, mask)
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
            masks.append(known & (slide.expression[rows] > 0))
        target = torch.as_tensor(np.concatenate(found)).to(self.device)
        return target, torch.as_tensor(np.concatenate(masks)).to(self.device)

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Denoising loss at fixed levels with fixed noise, on every spot of every slide.

        ``pcc`` is of the posterior mean from pure noise: noisy truth, even at high σ, still tells
        what hundreds of genes have in common (depth), so a correlation from it would flatter.
        """
        m, losses, correlations = self.method, [], []
        levels = torch.exp(m.sigma_mean + m.sigma_std * torch.tensor([-1.0, 0.0, 1.0]))
        for slide in self.valid_slides:
            tiles = m.collate([m.graph_of(slide, truth=True)]).to(self.device)
            everything = torch.arange(len(slide), device=self.device)
            generator = torch_generator("validation", slide.id)
            for sigma in [*levels, torch.tensor(m.sigma_max)]:
                noise = sigma * torch.randn(tiles.y.shape, generator=generator)
                spread = sigma.view(1, 1, 1).to(self.device)
                x = tiles.y + noise.to(self.device)
                clean, *_ = m.denoise_tiles(module, x, spread, tiles, everything)
                losses.append(edm_loss(clean, tiles.y[0], spread[0]).mean().item())
            mean, *_ = m.denoise_tiles(module, noise.to(self.device), spread, tiles, everything)
            correlations.append(mean_correlation(mean.float(), tiles.y[0]))
        return {"loss": float(np.mean(losses)), "pcc": float(np.mean(correlations))}


class Flag(Method):
    """Spatial gene expression by graph-conditioned diffusion.

    Args:
        width, depth, heads: of the gene transformer (paper: 384 × 12 × 6).
        graph_width, graph_depth, graph_heads: of the graph backbone (paper: 384 × 6 × 8).
        centre: features are z-scored with ``training`` statistics, with each ``slide``'s own
            (stain falls out, and the slide's level with it; no label is used), or ``both``, side
            by side.
        edges: ``both``, ``distance``, ``histology`` or ``none`` (Table 14; no graph in Table 2).
        sigma_um: width of the distance kernel in µm (paper: 224 px, about 154 µm on HER2ST).
        encode: ``each`` reads the noisy expression at every evaluation, so that draws are
            coherent in space; ``once`` encodes image and graph once per slide.
        align_at, align_weight, project: aligned block, its weight in the loss, projector width.
        backbone_weight: weight of the backbone's own denoising loss.
        dropout: in both networks.
        tile_spots: spots of a training tile (a random spot and its nearest).
        tiles_per_step: tiles of one optimiser step, padded to the largest.
        decode_spots: of these, spots whose gene tokens are trained in the step.
        covariance: precondition along the genes' principal components (``CovarianceEdm``);
            without it every gene counts as independent.
        sigma_mean, sigma_std: of ln σ in training; far above the usual −1.2 of images, since
            what hundreds of genes share outlives the noise of one. sigma_min, sigma_max, steps, sampler: of
            sampling, in units of each gene's training standard deviation.
        point_draws: the point estimate is the mean of so many single evaluations at
            ``sigma_max``, which is the posterior mean; 0 takes the mean of the draws.
        clip: no draw below zero counts.
        training: settings of the loop (``flag_st.training.Training``).
    """

    stochastic: ClassVar[bool] = True

    def __init__(
        self,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        graph_width: int = 384,
        graph_depth: int = 6,
        graph_heads: int = 8,
        centre: str = "both",
        edges: str = "both",
        sigma_um: float = 154.0,
        encode: str = "each",
        align_at: int = 8,
        align_weight: float = 0.5,
        project: int = 2048,
        backbone_weight: float = 0.5,
        dropout: float = 0.1,
        tile_spots: int = 256,
        tiles_per_step: int = 4,
        decode_spots: int = 256,
        covariance: bool = True,
        sigma_mean: float = 1.0,
        sigma_std: float = 2.0,
        sigma_min: float = 0.02,
        sigma_max: float = 80.0,
        steps: int = 18,
        sampler: str = "heun",
        point_draws: int = 8,
        clip: bool = True,
        training: dict[str, Any] | None = None,
    ):
        for name, value, choices in (
            ("centre", centre, ("training", "slide", "both")),
            ("edges", edges, tuple(EDGES)),
            ("encode", encode, ("each", "once")),
            ("sampler", sampler, tuple(SAMPLERS)),
        ):
            if value not in choices:
                raise FlagError(f"flag: {name} {value!r}", choices=choices)
        if align_at > depth:
            raise FlagError(f"flag: align_at {align_at} exceeds depth {depth}")
        self.size = dict(
            width=width,
            depth=depth,
            heads=heads,
            graph_width=graph_width,
            graph_depth=graph_depth,
            graph_heads=graph_heads,
            edges=edges,
            encode=encode,
            align_at=align_at,
            project=project,
            dropout=dropout,
        )
        self.centre, self.views = centre, 2 if centre == "both" else 1
        self.sigma_um, self.align_weight, self.backbone_weight = (
            sigma_um,
            align_weight,
            backbone_weight,
        )
        self.tile_spots, self.tiles_per_step = tile_spots, tiles_per_step
        self.decode_spots, self.covariance = decode_spots, covariance
        self.sigma_mean, self.sigma_std = sigma_mean, sigma_std
        self.sigma_min, self.sigma_max, self.steps = sigma_min, sigma_max, steps
        self.sampler, self.point_draws, self.clip = sampler, point_draws, clip
        self.training = Training.of(training)

    # --- data ------------------------------------------------------------------------------

    def _statistics(self, train: Cohort) -> None:
        y, u = train.expression.astype(np.float64), train.features.astype(np.float64)
        self.mean, self.scale = y.mean(0), np.maximum(y.std(0), 1e-3)  # (G,)
        self.feature_mean, self.feature_scale = u.mean(0), np.maximum(u.std(0), 1e-6)  # (D,)

    def graph_of(self, slide: Slide, truth: bool = False):
        """The whole slide's spot graph with standardised features and, if asked, expression."""
        y = self.outputs(slide) if truth else None
        return spot_graph(slide.position, self.inputs(slide), y)

    def outputs(self, slide: Slide) -> np.ndarray:
        """(N, G) z-scores by training statistics."""
        return (slide.expression - self.mean) / self.scale

    def inputs(self, slide: Slide) -> np.ndarray:
        """Standardised features of a whole slide; clipped, as one artefact must not dominate."""
        raw = slide.features.astype(np.float64)  # (N, D)
        own = (raw - raw.mean(0)) / np.maximum(raw.std(0), 1e-6)  # (N, D)
        known = (raw - self.feature_mean) / self.feature_scale  # (N, D)
        views = {"training": [known], "slide": [own], "both": [known, own]}[self.centre]
        return np.clip(np.concatenate(views, 1), -6, 6)  # (N, D) or (N, 2 D)

    def collate(self, graphs: list) -> Tiles:
        return collate(graphs, EDGES[self.size["edges"]], self.sigma_um)

    # --- the contract: noisy x, sigma → clean x ------------------------------------------------

    def denoise_tiles(
        self, net: FlagNet, x: Tensor, sigma: Tensor, tiles: Tiles, chosen: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Denoise the spots ``chosen`` (flat indices into B × N).

        Args:
            x: (B, N, G). sigma: (B, 1, 1), one level a tile.

        Returns:
            (M, G), aligned tokens (M, G, d), and the backbone's own estimate (B, N, G).
        """
        scaled, noise = net.precond.scaled(x, sigma), sigma.log() / 4  # (B, N, G), (B, 1, 1)
        c, readout = net.encode(tiles, scaled, noise.view(-1))  # (B, N, d), (B, N, G)
        levels = sigma.expand(*x.shape[:2], 1)  # (B, N, 1)
        x_, scaled, c, own, level = (
            t.flatten(0, 1)[chosen] for t in (x, scaled, c, readout, levels)
        )  # (M, ...) each
        raw, tokens = net.decode(scaled, level.log().squeeze(-1) / 4, c, own)  # (M, G), (M, G, d)
        return net.precond.clean(x_, raw, level), tokens, net.precond.clean(x, readout, sigma)

    # --- fit and predict -------------------------------------------------------------------------

    def build(self, genes: int, features: int, targets: int = 0) -> FlagNet:
        return FlagNet(genes, self.views * features, targets, **self.size)

    def fit(self, train: Cohort, valid: Cohort, run: Run) -> None:
        self._statistics(train)
        targets = train[0].targets
        torch.manual_seed(torch_generator(run.seed, "init").initial_seed())
        width = targets.width if targets else 0
        self.net = self.build(len(train.genes), train[0].features.shape[1], width)
        self.device = run.device
        if self.covariance:
            # Within slides: what differs between slides is not how genes go together in one.
            values = [self.outputs(s) for s in train]
            values = np.concatenate([v - v.mean(0) for v in values])  # (M, G)
            self.net.precond.fit(torch.as_tensor(values))
        Loop(FlagTask(self, train, valid, run), self.training, run)()

    @torch.inference_mode()
    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        tiles = self.collate([self.graph_of(slide)]).to(self.device)
        shape = (1, len(slide), len(self.mean))
        everything = torch.arange(len(slide), device=self.device)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return self.denoise_tiles(self.net, x, sigma.view(1, 1, 1), tiles, everything)[0][None]

        def start(k: int) -> Tensor:
            # The training mean is 0 here, so noise around it has no bias to undo.
            return self.sigma_max * torch.randn(shape, generator=draws.torch(k)).to(self.device)

        grid = karras(self.steps, self.sigma_min, self.sigma_max)
        solve = SAMPLERS[self.sampler]
        samples_ = torch.cat([solve(denoise, start(k), grid) for k in range(samples)])  # (S, N, G)
        point = samples_.mean(0)  # (N, G)
        if self.point_draws:
            high = torch.tensor(self.sigma_max, device=self.device)
            means = [denoise(start(-1 - k), high) for k in range(self.point_draws)]
            point = torch.cat(means).mean(0)  # (N, G)
        return Prediction(self._counts(samples_), self._counts(point))

    def _counts(self, z: Tensor) -> np.ndarray:
        """Back from z-scores to the panel's unit."""
        y = z.float().cpu().numpy() * self.scale + self.mean
        return (np.maximum(y, 0) if self.clip else y).astype(np.float32)

    # --- on disk -----------------------------------------------------------------------------------

    def arrays(self) -> dict[str, np.ndarray]:
        own = ("mean", "scale", "feature_mean", "feature_scale")
        state = {f"net.{k}": v.cpu().numpy() for k, v in self.net.state_dict().items()}
        # The projector serves training alone; a model file without it is a third smaller.
        state = {k: v for k, v in state.items() if not k.startswith("net.projector.")}
        return {**state, **{name: getattr(self, name) for name in own}}

    def restore(self, arrays: dict[str, np.ndarray], device: str) -> None:
        state = {k[4:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("net.")}
        for name in ("mean", "scale", "feature_mean", "feature_scale"):
            setattr(self, name, arrays[name])
        self.net = self.build(len(self.mean), len(self.feature_mean))
        self.net.load_state_dict(state)
        self.net = self.net.to(device).eval().requires_grad_(False)
        self.device = device


def random_tile(position: np.ndarray, spots: int, generator: torch.Generator) -> np.ndarray:
    """A random spot and its nearest, ``spots`` in all: every offset and no seam is the same."""
    if len(position) <= spots:
        return np.arange(len(position))
    centre = int(torch.randint(len(position), (1,), generator=generator))
    distance = np.linalg.norm(position - position[centre], axis=1)
    return np.sort(np.argsort(distance, kind="stable")[:spots])


def mean_correlation(prediction: Tensor, truth: Tensor) -> float:
    """Mean over genes of Pearson's r across spots, (N, G) each; constant genes count 0."""
    p, t = prediction - prediction.mean(0), truth - truth.mean(0)
    r = (p * t).sum(0) / (p.norm(dim=0) * t.norm(dim=0)).clamp(min=1e-8)
    return r.mean().item()
