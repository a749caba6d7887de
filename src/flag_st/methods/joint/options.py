"""The options of joint diffusion in groups."""

from dataclasses import dataclass

from flag_st.core.errors import FlagError

#: The SDE ends at this time t, not at 0 (App. D).
LAST_T = 0.01


@dataclass(frozen=True)
class Sde:
    """The VE-SDE σ(t) = sigma_min (sigma_max / sigma_min)^t, and how it is solved (App. D).

    Attributes:
        sigma_min, sigma_max: σ at t = 0 and t = 1, in units of the scaled expression.
        steps: steps of Heun's method in t, from 1 to ``LAST_T``; one Tweedie step follows.
        clip: set expression below zero counts to zero in each draw, as the release does.

    Raises:
        FlagError: the range of σ is empty or does not lie above 0, or there is no step.
    """

    sigma_min: float = 0.01
    sigma_max: float = 10.0
    steps: int = 100
    clip: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max or self.steps < 1:
            raise FlagError(
                f"joint: sde.sigma_min {self.sigma_min:g}, sde.sigma_max {self.sigma_max:g} and "
                f"sde.steps {self.steps}",
                remedy="give 0 < sigma_min < sigma_max, and at least 1 step",
            )

    @property
    def sigma_low(self) -> float:
        """σ at ``LAST_T``: the lowest level of training and sampling."""
        return self.sigma_min * (self.sigma_max / self.sigma_min) ** LAST_T


@dataclass(frozen=True)
class Losses:
    """What the loss of the nodes is joined by when edges are diffused, too.

    Attributes:
        edges: weight λ of the loss of the edges.
        consistency: weight λ of the disagreement between edges and nodes.
        stop_gradient: consistency moves the edges alone, as in the release; the paper names no
            stop-gradient (§3.2).
    """

    edges: float = 1.0
    consistency: float = 0.1
    stop_gradient: bool = False
