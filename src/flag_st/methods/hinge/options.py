"""The options of HINGE in groups; the defaults are what the paper writes."""

from dataclasses import dataclass
from typing import Literal

from flag_st.core.errors import FlagError
from flag_st.diffusion.masked import MaskedDiffusion, default_zeta


@dataclass(frozen=True)
class Masking:
    """How genes are hidden and revealed (§3.1).

    Attributes:
        horizon: T, steps of the chain.
        schedule: ``power``: ᾱ_t = (1 - t/T)^ζ; ``cosine``: (1 + cos πt/T)/2.
        zeta: ζ of ``power``; None for log_T G, with which one gene on average is revealed first.
        draw: ``bernoulli`` hides each gene by itself (Eq. 2); ``count`` hides ⌊(1 - ᾱ_t) G⌋ genes
            (release).
        supervise: the loss is on all ``hidden`` genes, with weight π_t (Eq. 7), or on those that are
            revealed ``next`` (release).
        fill: what stands in the place of a hidden value where the mask token is added to it and does
            not replace it: ``zero``, or ``gauss`` for noise (release; RandMask of Table 3).
    """

    horizon: int = 50
    schedule: Literal["power", "cosine"] = "power"
    zeta: float | None = None
    draw: Literal["bernoulli", "count"] = "bernoulli"
    supervise: Literal["hidden", "next"] = "hidden"
    fill: Literal["zero", "gauss"] = "zero"

    def chain(self, genes: int) -> MaskedDiffusion:
        """The chain for a panel of G genes.

        Raises:
            FlagError: fewer than two steps.
        """
        if self.schedule == "cosine":
            return MaskedDiffusion.cosine(self.horizon)
        if self.horizon < 2:
            raise FlagError(f"hinge: masking.horizon is {self.horizon}; give at least 2 steps")
        zeta = default_zeta(genes, self.horizon) if self.zeta is None else self.zeta
        return MaskedDiffusion.power(self.horizon, zeta)


@dataclass(frozen=True)
class Curriculum:
    """The warm start (§3.4): at first only states with few hidden genes, as in pre-training.

    Attributes:
        epochs: how many epochs it lasts; 0 for none.
        ratio: ρ, the largest share of hidden genes in them.
    """

    epochs: int = 5
    ratio: float = 0.2


@dataclass(frozen=True)
class Start:
    """What the backbone is at first, and what of it is trained.

    Attributes:
        weights: ``pretrained``; ``random``, with the gains that CellFM starts from; or ``permuted``:
            pre-trained, with the rows of the gene table in another order (a control: all but the
            identity of genes is kept).
        train: ``modulators`` alone; also the ``decoder`` (Decoder-Tune); also low-rank updates of all
            maps in the layers (``lora``, Backbone-LoRA); or ``all`` of the backbone.
        rank: of the low-rank updates.
    """

    weights: Literal["pretrained", "random", "permuted"] = "pretrained"
    train: Literal["modulators", "decoder", "lora", "all"] = "modulators"
    rank: int = 8


@dataclass(frozen=True)
class Body:
    """How the backbone reads masked input; see ``flag_st.nets.cellfm.CellFm``."""

    slope: float = 0.2
    masked: Literal["replace", "add"] = "replace"
    mask_token: Literal["mask_emb", "zero_emb"] = "mask_emb"
    half_masked: bool = True


@dataclass(frozen=True)
class Sampling:
    """How expression is drawn (Algorithm 1).

    Attributes:
        budget: K ≤ T evaluations of the network for a draw; None for T.
        until: the step after which a draw ends, with the network's estimate of the genes that are
            still hidden (Figure S7a); 1 for all steps.
        point_draws: the point estimate is the mean of so many draws, or of all that are asked for.
    """

    budget: int | None = None
    until: int = 1
    point_draws: int = 8
