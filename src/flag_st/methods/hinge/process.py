"""How genes are hidden, revealed and drawn, for each objective of HINGE."""

from typing import Literal

import torch
from torch import Tensor, nn

from flag_st.diffusion.ddpm import Ddpm
from flag_st.methods.hinge.options import Masking, Sampling

Objective = Literal["masked", "gaussian", "one_shot"]
#: Steps of the Gaussian ablation in training, and in drawing.
GAUSS_STEPS, GAUSS_DRAWN = 1000, 50
#: Spots that go through the network at once when slides are predicted.
AT_ONCE = 256


class Process:
    """One objective for a panel of G genes.

    Args:
        objective: ``masked``, ``gaussian`` or ``one_shot``, as in ``Hinge``.
        masking, sampling: the groups of options.
        genes: G.
    """

    def __init__(self, objective: Objective, masking: Masking, sampling: Sampling, genes: int):
        self.objective, self.masking, self.sampling, self.genes = (
            objective,
            masking,
            sampling,
            genes,
        )
        self.chain = masking.chain(genes)
        self.gauss = Ddpm.linear(GAUSS_STEPS)

    def steps(self, count: int, last: int, generator: torch.Generator) -> Tensor:
        """(B,) random steps: from 1 to ``last``, or those of the objective."""
        if self.objective == "one_shot":
            return torch.full((count,), len(self.chain))
        if self.objective == "gaussian":
            return torch.randint(GAUSS_STEPS, (count,), generator=generator)
        return torch.randint(1, last + 1, (count,), generator=generator)

    def even_steps(self, count: int) -> Tensor:
        """(N,) fixed steps, spread evenly, so that the spots of any slide see all of them."""
        place = torch.arange(count) * 7919  # a prime, so that neighbours see unlike steps
        if self.objective == "one_shot":
            return torch.full((count,), len(self.chain))
        return place % GAUSS_STEPS if self.objective == "gaussian" else 1 + place % len(self.chain)

    def error(
        self, net: nn.Module, u: Tensor, y: Tensor, t: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The loss (Eq. 7): squared error of what is supervised.

        Args:
            u: (B, V) image features; y: (B, G) expression; t: (B,) steps.
        """
        uniform = torch.rand(y.shape, generator=generator).to(y.device)  # (B, G)
        if self.objective == "gaussian":
            noise = torch.randn(y.shape, generator=generator).to(y.device)  # (B, G)
            clean = self._seen_whole(net, self.gauss.noised(y, t, noise), t, u)  # (B, G)
            return (clean.float() - y).square().mean()
        hide = self.chain.paths if self.masking.draw == "bernoulli" else self.chain.counted
        before, now = hide(uniform, t)  # 2 × (B, G)
        x = self._filled(y, now, generator)  # (B, G)
        error = (net(x, t, now, before, u).float() - y).square()  # (B, G)
        if self.masking.supervise == "next":
            revealed = before & ~now  # (B, G)
            return (error * revealed).sum() / revealed.sum().clamp(min=1)
        return (self.chain.weights(t).unsqueeze(-1) * error * ~now).mean()

    def one_shot(self, net: nn.Module, u: Tensor) -> Tensor:
        """(N, G) prediction from the image alone: all genes hidden, or nothing but noise's mean."""
        x = torch.zeros(len(u), self.genes, device=u.device)  # (N, G)
        if self.objective == "gaussian":
            t = torch.full((len(u),), GAUSS_STEPS - 1, device=u.device)
            return self._seen_whole(net, x, t, u)  # (N, G)
        hidden = torch.zeros_like(x, dtype=torch.bool)
        t = torch.full((len(u),), len(self.chain), device=u.device)  # (N,)
        return net(x, t, hidden, ~hidden, u)  # (N, G)

    def draw(self, net: nn.Module, u: Tensor, generator: torch.Generator) -> Tensor:
        """One draw of all spots, (N, G) in the network's unit (Algorithm 1)."""
        if self.objective == "gaussian":
            return self._gaussian(net, u, generator)
        chain = self.chain
        if self.objective == "one_shot":
            chain = chain.within(1)
        elif self.sampling.budget is not None:
            chain = chain.within(self.sampling.budget)

        def clean(x: Tensor, t: Tensor, now: Tensor, before: Tensor) -> Tensor:
            x = self._filled(x, now, generator)  # (N, G)
            parts = zip(*(v.split(AT_ONCE) for v in (x, t, now, before, u)), strict=True)
            return torch.cat([net(*part) for part in parts])  # (N, G)

        until = 1 if self.objective == "one_shot" else self.sampling.until
        return chain.sample(clean, (len(u), self.genes), generator, str(u.device), until)

    def _filled(self, y: Tensor, visible: Tensor, generator: torch.Generator) -> Tensor:
        """(B, G) visible values, and in the place of hidden ones 0 or noise."""
        other = torch.zeros_like(y)
        if self.masking.fill == "gauss":
            other = torch.randn(y.shape, generator=generator).to(y.device)
        return torch.where(visible, y, other)  # (B, G)

    def _seen_whole(self, net: nn.Module, x: Tensor, t: Tensor, u: Tensor) -> Tensor:
        """The Gaussian ablation's estimate of clean values: noisy as they are, none is hidden."""
        seen = torch.ones_like(x, dtype=torch.bool)
        return net(x, t + 1, seen, seen, u)  # (B, G)

    def _gaussian(self, net: nn.Module, u: Tensor, generator: torch.Generator) -> Tensor:
        chain = self.gauss.strided(GAUSS_DRAWN)
        x = torch.randn((len(u), self.genes), generator=generator).to(u.device)  # (N, G)
        for step in reversed(range(len(chain))):
            t = torch.full((len(u),), step, device=u.device)  # (N,)
            seen = chain.times.to(u.device)[t]  # (N,)
            clean = self._seen_whole(net, x, seen, u).float()  # (N, G)
            x, log_variance = chain.posterior(clean, x, t)  # (N, G), (N, 1)
            if step:
                noise = torch.randn(x.shape, generator=generator).to(u.device)  # (N, G)
                x = x + torch.exp(0.5 * log_variance) * noise  # (N, G)
        return x  # (N, G)
