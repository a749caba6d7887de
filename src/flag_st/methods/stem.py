"""Stem (Zhu et al. 2025): diffusion over the gene tokens of one spot, given its image features.

Spots are independent of each other: neither graph nor coordinates nor the slide play a part.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from flag_st.core.seeds import Draws, torch_generator
from flag_st.data.slide import Cohort, Slide
from flag_st.data.spatial import nearest
from flag_st.diffusion.ddpm import Ddpm
from flag_st.methods.base import Prediction, Run
from flag_st.methods.network import PLAIN, Centre, NetworkMethod
from flag_st.methods.training import Task, Training
from flag_st.methods.validation import mean_correlation
from flag_st.nets.dit import GeneDiT, NoiseEmbedding

#: Validation correlates the mean of so many draws of so many steps. This is enough to compare
#: settings, at a fraction of the cost of the point estimate.
VALID_DRAWS, VALID_STEPS = 2, 10


class StemNet(nn.Module):
    """noisy x (M, G), step t (M,), features u (M, D) → noise and variance channels (M, G, 2)."""

    def __init__(self, genes: int, features: int, width: int, depth: int, heads: int):
        super().__init__()
        self.tokens = GeneDiT(genes, width, depth, heads, channels=1, align_at=())
        self.tokens.head = nn.Linear(width, 2)
        # The frequencies of the original transformer, for the steps 0 … 999.
        self.time = NoiseEmbedding(width, features=256, low=1e4 ** (-127 / 128), high=1.0)
        self.label = nn.Sequential(
            nn.Linear(features, features), nn.SiLU(), nn.Linear(features, width)
        )
        self.reset()

    def reset(self) -> None:
        for layer in (*self.time.mlp, *self.label):
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.tokens.head.weight)
        nn.init.zeros_(self.tokens.head.bias)

    def forward(self, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
        c = self.time(t.to(x.dtype)) + self.label(u)  # (M, d)
        out, _ = self.tokens(x.unsqueeze(-1), c)  # (M, G, 2)
        return out


class StemTask(Task):
    """Random spots of all training slides; the loss is the error of the noise plus the bound that
    trains the variance."""

    def __init__(self, method: "Stem", train: Cohort, valid: Cohort, run: Run):
        self.method, self.module, self.device = method, method.net, run.device
        u, y = method.condition(train), np.concatenate([method.expression_of(s) for s in train])
        seen = train.expression.any(1)  # (M,) spots without any count teach nothing
        self.u, self.y = torch.as_tensor(u[seen]), torch.as_tensor(y[seen])
        self.valid = [
            (s.id, torch.as_tensor(method.condition([s])), torch.as_tensor(method.expression_of(s)))
            for s in valid
        ]

    def batches(self, generator: torch.Generator) -> Iterator[Tensor]:
        yield from torch.randperm(len(self.y), generator=generator).split(self.method.batch)

    def _errors(
        self, module: nn.Module, u: Tensor, y: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Squared error of the noise and terms of the bound at random steps, (M, G) each."""
        chain = self.method.chain
        t = torch.randint(len(chain), (len(y),), generator=generator).to(self.device)  # (M,)
        noise = torch.randn(y.shape, generator=generator).to(self.device)  # (M, G)
        u, y = u.to(self.device), y.to(self.device)  # (M, D), (M, G)
        x = chain.noised(y, t, noise)  # (M, G)
        out = module(x, chain.times.to(self.device)[t], u).float()  # (M, G, 2)
        error = (out[..., 0] - noise).square()  # (M, G)
        # The bound must move the variance only.
        held = torch.stack([out[..., 0].detach(), out[..., 1]], dim=-1)  # (M, G, 2)
        return error, chain.bound(held, y, x, t, bins=self.method.as_released)  # 2 × (M, G)

    def loss(self, batch: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        error, bound = self._errors(self.module, self.u[batch], self.y[batch], generator)
        noise, variance = error.mean(), bound.mean()
        return noise + variance, {"noise": noise.item(), "bound": variance.item()}

    def validate(self, module: nn.Module) -> dict[str, float]:
        """The error of the noise on every spot, always at the same steps and with the same noise.

        ``pcc`` is that of the mean of a few short draws; it decides nothing here.
        """
        m, found, correlations = self.method, [], []
        chain = m.chain.strided(min(VALID_STEPS, len(m.chain)))
        for name, u, y in self.valid:
            generator = torch_generator("validation", name)
            blocks = [
                torch.stack([e.mean(1) for e in self._errors(module, a, b, generator)])
                for a, b in zip(u.split(m.batch), y.split(m.batch), strict=True)
            ]
            found.append(torch.cat(blocks, dim=1).mean(1))  # (2,)
            u, y = u.to(self.device), y.to(self.device)  # (N, D), (N, G)
            drawn = [m.draw(module, u, chain, generator) for _ in range(VALID_DRAWS)]
            correlations.append(mean_correlation(torch.stack(drawn).mean(0), y))
        error, bound = torch.stack(found).mean(0).tolist()
        return {"loss": error, "bound": bound, "pcc": float(np.mean(correlations))}


#: The settings of training that its authors state, and ours where they state none.
TRAINING = replace(PLAIN, epochs=4000, lr=1e-4, ema=0.9999, validate_every=20, patience=20)


class Stem(NetworkMethod):
    """A conditional DDPM of each spot's expression.

    Args:
        width, depth, heads: of the gene transformer.
        neighbours: the mean features of so many nearest spots are appended to those of each spot,
            as a control for what a graph adds; 0 for none.
        standardise: diffuse z-scores. The authors diffuse log counts as they are, whose variance
            is several times the one that the noise schedule was made for.
        chain: steps of the diffusion in training.
        steps: how many of these steps sampling takes, evenly spaced. The authors take all 1000.
        point_draws: the point estimate is the mean of so many draws (20 in the paper).
        batch: spots per training step. sample_batch: spots per pass while sampling.
        as_released: the likelihood at the end of the bound is that of 8-bit pixels, although the
            values are log counts, which misleads the variance at the last step.
        centre, training: as in ``flag_st.methods.network.NetworkMethod``.
    """

    stochastic: bool = True

    def __init__(
        self,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        neighbours: int = 0,
        standardise: bool = False,
        chain: int = 1000,
        steps: int = 1000,
        point_draws: int = 20,
        batch: int = 256,
        sample_batch: int = 512,
        as_released: bool = False,
        centre: Centre = "training",
        training: Training = TRAINING,
    ):
        super().__init__(centre, training)
        self.size = {"width": width, "depth": depth, "heads": heads}
        self.neighbours, self.point_draws = neighbours, point_draws
        self.scaling = "standard" if standardise else "none"
        self.chain = Ddpm.linear(chain)
        self.sampling = self.chain if steps == chain else self.chain.strided(steps)
        self.batch, self.sample_batch, self.as_released = batch, sample_batch, as_released

    def network_of(self, genes: int, inputs: int) -> nn.Module:
        return StemNet(genes, inputs * (2 if self.neighbours else 1), **self.size)

    def task(self, train: Cohort, valid: Cohort, run: Run) -> Task:
        return StemTask(self, train, valid, run)

    def condition(self, slides) -> np.ndarray:
        """(sum of N, D) features of the spots of all slides, or (sum of N, 2 D) with neighbours."""
        found = []
        for slide in slides:
            u = self.features_of(slide)  # (N, D)
            if self.neighbours:
                around = nearest(slide.position, self.neighbours)  # (N, K)
                u = np.concatenate([u, u[around].mean(1)], axis=1)  # (N, 2 D)
            found.append(u)
        return np.concatenate(found)

    def draw(self, module: nn.Module, u: Tensor, chain: Ddpm, generator: torch.Generator) -> Tensor:
        """One draw (N, G), on the network's scale, of the spots with features u (N, D)."""

        def net(x: Tensor, t: Tensor) -> Tensor:
            blocks = zip(*(z.split(self.sample_batch) for z in (x, t, u)), strict=True)
            return torch.cat([module(*block) for block in blocks])  # (N, G, 2)

        return chain.sample(net, (len(u), len(self.mean)), generator, self.device)  # (N, G)

    @torch.inference_mode()
    def predict(self, slide: Slide, samples: int, draws: Draws) -> Prediction:
        u = torch.as_tensor(self.condition([slide]), device=self.device)  # (N, D)
        wanted = range(max(samples, self.point_draws))
        each = [self.draw(self.net, u, self.sampling, draws.torch(k)) for k in wanted]
        drawn = torch.stack(each)  # (max(S, P), N, G)
        return Prediction(self.in_unit(drawn[:samples]), self.in_unit(drawn.mean(0)))
