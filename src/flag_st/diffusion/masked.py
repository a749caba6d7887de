"""Masked diffusion over genes (HINGE, Eq. 1, 2 and 7, Algorithm 1): genes are hidden, then revealed.

A gene is visible or hidden; a visible one has its true value. From step t - 1 to t each visible gene is
hidden with probability 1 - ᾱ_t / ᾱ_{t-1}, so that at step t a gene is visible with probability ᾱ_t. One
uniform number u per gene stands for its whole path: it is visible at step t if u < ᾱ_t.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from flag_st.core.errors import FlagError

#: (x (M, G), step t (M,), visible now (M, G), visible next (M, G)) → clean expression (M, G).
Net = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class MaskedDiffusion:
    """A chain of T steps; at step 0 all genes are visible, and at step T none is.

    Args:
        visible: (T + 1,) float64, ᾱ_t, falling from 1 to 0.
        times: (T + 1,) what the network is told of each step, by default its number.

    Raises:
        FlagError: fewer than two steps (one, if ``visible`` is [1, 0]), or a chain that does not fall
            from 1 to 0.
    """

    def __init__(self, visible: Tensor, times: Tensor | None = None):
        falls = bool((visible[1:] < visible[:-1]).all())
        if len(visible) < 2 or visible[0] != 1 or visible[-1] != 0 or not falls:
            raise FlagError(
                "the share of visible genes must fall from 1 to 0 over at least one step"
            )
        self.visible = visible.double()
        self.times = torch.arange(len(visible)) if times is None else times
        before, now = self.visible[:-1], self.visible[1:]
        #: (T,) π_t: how probable it is that a gene that is hidden at step t is visible at t - 1.
        self.reveal = (before - now) / (1 - now)

    @classmethod
    def power(cls, horizon: int, zeta: float) -> "MaskedDiffusion":
        """ᾱ_t = (1 - t/T)^ζ (Eq. 1)."""
        return cls(_ramp(horizon) ** zeta)

    @classmethod
    def cosine(cls, horizon: int) -> "MaskedDiffusion":
        """ᾱ_t = (1 + cos πt/T) / 2 (Table S4)."""
        visible = 0.5 * (1 + torch.cos(math.pi * (1 - _ramp(horizon))))
        visible[-1] = 0.0
        return cls(visible)

    def __len__(self) -> int:
        return len(self.visible) - 1

    def paths(self, u: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Which genes are visible at steps t - 1 and t.

        Args:
            u: (M, G) uniform in [0, 1).
            t: (M,) steps from 1 to T.

        Returns:
            Two (M, G) bool tensors; what is visible at t is visible at t - 1.
        """
        visible = self.visible.to(u.device)
        return u < visible[t - 1, None], u < visible[t, None]

    def counted(self, u: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """As ``paths``, with ⌊(1 - ᾱ_t) G⌋ hidden genes at each step, as the release draws them."""
        ranks = u.argsort(1).argsort(1)  # (M, G) each gene's place in the order of hiding
        hidden = ((1 - self.visible) * u.shape[1] + 1e-9).floor().to(u.device)  # (T + 1,)
        return ranks >= hidden[t - 1, None], ranks >= hidden[t, None]

    def weights(self, t: Tensor) -> Tensor:
        """(M,) w_t = π_t of Eq. 7."""
        return self.reveal.to(t.device)[t - 1].float()

    def last_easy(self, ratio: float) -> int:
        """The last step at which at most the share ``ratio`` of the genes is hidden; at least 1.

        Raises:
            FlagError: the ratio is not between 0 and 1.
        """
        if not 0 < ratio <= 1:
            raise FlagError(f"curriculum ratio {ratio}: give a share above 0 and up to 1")
        return max(1, int((self.visible >= 1 - ratio).sum()) - 1)

    def within(self, budget: int) -> "MaskedDiffusion":
        """The same chain in ``budget`` evenly spaced steps (Figure S7b); one step shows all at once.

        Raises:
            FlagError: fewer than one step, or more than there are.
        """
        horizon = len(self)
        if not 1 <= budget <= horizon:
            raise FlagError(f"budget {budget} of a chain of {horizon} steps: give 1 to {horizon}")
        steps = torch.arange(budget + 1, dtype=torch.float64) * horizon / budget
        used = (steps + 0.5).floor().long()
        return MaskedDiffusion(self.visible[used], self.times[used])

    def sample(
        self,
        net: Net,
        shape: tuple[int, int],
        generator: torch.Generator,
        device: str,
        until: int = 1,
    ) -> Tensor:
        """Algorithm 1: reveal genes step by step; what was revealed is never changed → (M, G).

        Args:
            net: (x, t, visible now, visible next) → clean expression, all (M, G) but t, (M,).
            shape: M and G.
            generator: decides the order in which genes are revealed.
            device: where the network is.
            until: the step after whose estimate it ends, with that estimate for all genes that are
                still hidden (Figure S7a); after step 1 none is.

        Raises:
            FlagError: there is no such step.
        """
        if not 1 <= until <= len(self):
            raise FlagError(f"until {until} of a chain of {len(self)} steps: give 1 to {len(self)}")
        u = torch.rand(shape, generator=generator).to(device)  # (M, G)
        x, times = torch.zeros(shape, device=device), self.times.to(device)  # (M, G), (T + 1,)
        for step in range(len(self), until - 1, -1):
            t = torch.full(shape[:1], step, device=device)  # (M,)
            before, now = self.paths(u, t)  # 2 × (M, G)
            clean = torch.where(now, x, net(x, times[t], now, before).float())  # (M, G)
            x = clean * before  # (M, G)
        return clean  # (M, G)


def _ramp(horizon: int) -> Tensor:
    """(T + 1,) 1 - t/T.

    Raises:
        FlagError: fewer than two steps.
    """
    if horizon < 2:
        raise FlagError(f"horizon {horizon}: masked diffusion needs at least 2 steps")
    return 1 - torch.arange(horizon + 1, dtype=torch.float64) / horizon


def default_zeta(genes: int, horizon: int) -> float:
    """ζ = log_T G, with which one gene on average is revealed in the first step of sampling."""
    return math.log(genes) / math.log(horizon)
