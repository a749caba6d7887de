"""SoftAdaLN (HINGE, Eq. 3 to 5): an image and a step modulate every sublayer of a frozen network.

Before training the modulation is the identity, so that the network starts as it was pre-trained.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flag_st.nets.backbone import Backbone, readable

#: Numbers that describe a step to the network, half of them cosines.
STEP_FEATURES = 256


@dataclass(frozen=True)
class Conditioning:
    """How image and step enter; the defaults are what the paper writes.

    Attributes:
        form: ``soft`` (SoftAdaLN with identity initialisation), ``no_identity`` (its maps start
            random, its gate and its share of the norm at one half), or ``affine`` (Hist-Affine-LN:
            scale and shift follow the frozen norm, without gate and SoftNorm).
        condition: ``concat`` (one network sees the image beside the step, §3.3) or ``sum`` (the
            release adds what three networks say of the step, the image and the next mask).
        see_next: the network is told which genes are revealed next (release; ``sum`` alone).
        eta: the share of the norm in SoftNorm: ``raw`` (a number that starts at 0), ``sigmoid`` (of a
            number that starts at -12; the release) or ``zero`` (fixed: no SoftNorm).
        tau_bias: where the gate's bias starts; the gate is its sigmoid.
        silu: the condition passes a SiLU before it is mapped to modulations (release).
        rescale: what the backbone decodes passes an affine map per gene, which is trained and changes
            nothing at first. It is for backbones whose values have another unit than the panel, of
            which the paper says nothing.
    """

    form: Literal["soft", "no_identity", "affine"] = "soft"
    condition: Literal["concat", "sum"] = "concat"
    see_next: bool = False
    eta: Literal["raw", "sigmoid", "zero"] = "raw"
    tau_bias: float = 6.0
    silu: bool = False
    rescale: bool = False


class Condition(nn.Module):
    """Step, image and next mask → one vector per spot."""

    def __init__(self, options: Conditioning, width: int, image: int, genes: int):
        super().__init__()
        self.parts = nn.ModuleDict()
        sizes = {"both": STEP_FEATURES + image}
        if options.condition == "sum":
            sizes = {"step": STEP_FEATURES, "image": image}
            sizes |= {"next": genes} if options.see_next else {}
        for name, size in sizes.items():
            maps = nn.Linear(size, width), nn.Linear(width, width)
            for layer in maps:
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
            self.parts[name] = nn.Sequential(maps[0], nn.SiLU(), maps[1])

    def forward(self, t: Tensor, image: Tensor, following: Tensor) -> Tensor:
        """t (B,) from 1 to T, image (B, V), following (B, G): 1 where a gene is visible next."""
        step = step_features(t)  # (B, 256)
        if "both" in self.parts:
            return self.parts["both"](torch.cat([image, step], -1))  # (B, D)
        c = self.parts["step"](step) + self.parts["image"](image)  # (B, D)
        return c + self.parts["next"](following) if "next" in self.parts else c  # (B, D)


def step_features(t: Tensor) -> Tensor:
    """(B,) steps → (B, 256) cosines and sines of t at frequencies from 1 to 1e-4."""
    half = STEP_FEATURES // 2
    frequency = torch.exp(-math.log(1e4) * torch.arange(half, device=t.device) / half)  # (128,)
    angle = t.float().unsqueeze(-1) * frequency  # (B, 128)
    return torch.cat([angle.cos(), angle.sin()], -1)  # (B, 256)


class Share(nn.Module):
    """η of SoftNorm: how much of a state is replaced by its normalised form."""

    def __init__(self, count: int, kind: str):
        super().__init__()
        start = {"raw": 0.0, "sigmoid": -12.0, "half": 0.5, "zero": 0.0}[kind]
        self.kind = kind
        self.value = nn.Parameter(torch.full((count,), start), requires_grad=kind != "zero")

    def forward(self, h: Tensor, place: int) -> Tensor:
        """SoftNorm(h) = (1 - η) h + η (h - μ)/(σ + ε) of Eq. 3; h (B, L, D)."""
        if self.kind == "zero":
            return h  # (B, L, D)
        eta = self.value[place].sigmoid() if self.kind == "sigmoid" else self.value[place]
        return torch.lerp(h, F.layer_norm(h, h.shape[-1:], eps=1e-6), eta)  # (B, L, D)


class Rescale(nn.Module):
    """A scale and a shift of its own for each gene."""

    def __init__(self, genes: int):
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.zeros(genes)), nn.Parameter(torch.zeros(genes))

    def forward(self, y: Tensor) -> Tensor:
        return y * (1 + self.scale) + self.shift  # (B, G)


class Modulated(nn.Module):
    """A frozen backbone whose sublayers an image and a step modulate.

    Args:
        backbone: its parameters are not trained unless the caller says so.
        options: how the condition enters.
        image: V, width of the image features.
        genes: G.
    """

    def __init__(self, backbone: Backbone, options: Conditioning, image: int, genes: int):
        super().__init__()
        self.backbone, self.options = backbone, options
        width, count = backbone.width, len(backbone.sublayers())
        self.condition = Condition(options, width, image, genes)
        affine = options.form == "affine"
        # One map for both sublayers of a layer: shift, scale and gate of each.
        self.maps = nn.ModuleList(
            nn.Linear(width, (4 if affine else 6) * width) for _ in range(count // 2)
        )
        self.out = nn.Linear(width, 2 * width)
        kind = "half" if options.form == "no_identity" else options.eta
        self.share, self.out_share = Share(count, kind), Share(1, kind)
        self.rescale = Rescale(genes) if options.rescale else nn.Identity()
        self._reset(width)

    def _reset(self, width: int) -> None:
        for layer in (*self.maps, self.out):
            nn.init.zeros_(layer.bias)
            if self.options.form == "no_identity":
                nn.init.xavier_uniform_(layer.weight)
                continue
            nn.init.zeros_(layer.weight)
            if self.options.form == "soft" and layer is not self.out:
                for gate in (2, 5):
                    nn.init.constant_(
                        layer.bias[gate * width : (gate + 1) * width], self.options.tau_bias
                    )

    def forward(
        self, x: Tensor, t: Tensor, visible: Tensor, following: Tensor, image: Tensor
    ) -> Tensor:
        """What the genes are, given those that are visible.

        Args:
            x: (B, G) values, of visible genes alone.
            t: (B,) steps from 1 to T.
            visible, following: (B, G) bool, at step t and at the next one.
            image: (B, V) features.

        Returns:
            (B, G) expression of all genes.
        """
        c = self.condition(t, image, following.to(image.dtype)).unsqueeze(1)  # (B, 1, D)
        c = F.silu(c) if self.options.silu else c  # (B, 1, D)
        h = self.backbone.tokens(x, ~visible)  # (B, 1 + G, D)
        h = self._sublayers(h, c, readable(~visible))  # (B, 1 + G, D)
        shift, scale = self.out(c).chunk(2, -1)  # 2 × (B, 1, D)
        h = self.out_share(h[:, 1:], 0) * (1 + scale) + shift  # (B, G, D)
        return self.rescale(self.backbone.decode(h))  # (B, G)

    def _sublayers(self, h: Tensor, c: Tensor, keep: Tensor) -> Tensor:
        affine, lam = self.options.form == "affine", self.backbone.residual
        for place, (transform, norm, reads_all) in enumerate(self.backbone.sublayers()):
            if place % 2 == 0:
                parts = self.maps[place // 2](c).chunk(4 if affine else 6, -1)  # (B, 1, D) each
            mask = None if reads_all else keep  # (B, 1 + G)
            if affine:
                shift, scale = parts[2 * (place % 2) :][:2]  # 2 × (B, 1, D)
                h = norm(transform(h, mask) + lam * h) * (1 + scale) + shift  # (B, 1 + G, D)
                continue
            shift, scale, gate = parts[3 * (place % 2) :][:3]  # 3 × (B, 1, D)
            u = transform(self.share(h, place) * (1 + scale) + shift, mask)  # (B, 1 + G, D)
            h = norm(gate.sigmoid() * u + lam * h)  # (B, 1 + G, D)
        return h  # (B, 1 + G, D)
