"""CellFM (Zeng et al., Nature Communications 2025): a gene language model of retention layers.

Parameters have the names of the published checkpoint, but for those of norms. Genes have no order:
a token is the sum of what its value says and of its gene's own vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flag_st.core.errors import FlagError
from flag_st.nets.backbone import Backbone, Parts, Sublayer


@dataclass(frozen=True)
class CellFmSizes:
    """The shape of a CellFM.

    Attributes:
        rows: rows of the gene table R; row 0 is padding.
        width: D.
        layers: L.
        heads: of retention.
        bins: rows of the table of values.
    """

    rows: int
    width: int = 1536
    layers: int = 40
    heads: int = 48
    bins: int = 256

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise FlagError(f"CellFM: width {self.width} is no multiple of heads {self.heads}")


def square(width: int) -> nn.Linear:
    return nn.Linear(width, width, bias=False)


class Retention(nn.Module):
    """Linear attention without softmax, decay or positions; its cost grows linearly with the genes."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (square(width) for _ in range(3))
        self.u_proj, self.o_proj = square(width), square(width)

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """x (B, L, D); keep (B, L): 1 where a token may be read, or None if all may."""
        maps = (self.q_proj, self.k_proj, self.v_proj, self.u_proj)
        q, k, v, u = (m(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for m in maps)
        q, k = q.relu(), k.relu()  # 2 × (B, H, L, d)
        if keep is not None:
            k = k * keep[:, None, :, None]
        o = q @ (k.transpose(-1, -2) @ v)  # (B, H, L, d)
        # Constant factors of q, k and v would vanish in this norm, and are left out. Where nothing may be
        # read all is 0, and the root must not be taken of it, as its slope there is infinite.
        size = o.float().square().mean(-1, keepdim=True).clamp(min=1e-24)  # (B, H, L, 1)
        o = o / size.sqrt()  # (B, H, L, d)
        return self.o_proj((o * F.silu(u)).transpose(1, 2).flatten(2))  # (B, L, D)


class Gated(nn.Module):
    """The product of two linear maps, and a third one."""

    def __init__(self, width: int):
        super().__init__()
        self.u_proj, self.v_proj, self.o_proj = (square(width) for _ in range(3))

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        return self.o_proj(self.u_proj(x) * self.v_proj(x))  # (B, L, D)


class Layer(nn.Module):
    """Retention and a gated map, each followed by a norm of the sum with λ times its input."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn, self.ffn = Retention(width, heads), Gated(width)
        self.post_norm1 = nn.LayerNorm(width, eps=1e-6)
        self.post_norm2 = nn.LayerNorm(width, eps=1e-6)


class Values(nn.Module):
    """A value (…) as a soft choice among the rows of a table → (…, D)."""

    def __init__(self, width: int, bins: int, slope: float):
        super().__init__()
        self.a, self.slope = nn.Parameter(torch.zeros(1, 1)), slope
        self.w1 = nn.Linear(1, bins, bias=False)
        self.w3 = nn.Linear(bins, bins, bias=False)
        self.table = nn.Linear(bins, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.leaky_relu(self.w1(x.unsqueeze(-1)), self.slope)  # (B, G, bins)
        return self.table((self.w3(h) + self.a * h).softmax(-1))  # (B, G, D)


class ValueEncoder(nn.Module):
    """Values, and the token of a hidden one."""

    def __init__(self, width: int, bins: int, slope: float):
        super().__init__()
        self.value_enc = Values(width, bins, slope)
        self.mask_emb = nn.Parameter(torch.zeros(1, 1, width))


class ValueDecoder(nn.Module):
    """States of genes (B, G, D) → values (B, G)."""

    def __init__(self, width: int, slope: float):
        super().__init__()
        self.w1, self.w2 = nn.Linear(width, width, bias=False), nn.Linear(width, 1, bias=False)
        self.slope = slope

    def forward(self, h: Tensor) -> Tensor:
        return self.w2(F.leaky_relu(self.w1(h), self.slope)).squeeze(-1)  # (B, G)


class CellFm(Backbone):
    """The parts of CellFM that HINGE uses.

    Args:
        sizes: of the network.
        genes: (G,) rows of the gene table that belong to the panel; ``genes`` can also be set to (B, G)
            rows, if the genes of a batch differ.
        slope: of the leaky ReLUs: 0.2 as CellFM was trained (MindSpore's default), 0.01 as HINGE's
            code has it (PyTorch's).
        masked: the mask token takes the place of a hidden gene's value (``replace``, as in CellFM), or
            is added to what is put there (``add``, as in HINGE's code).
        mask_token: ``mask_emb``, or ``zero_emb``, which the release takes in its place.
        half_masked: hidden genes cannot be read in the first half of the layers, as in CellFM.

    Raises:
        FlagError: a row that the table does not have.
    """

    genes: Tensor

    def __init__(
        self,
        sizes: CellFmSizes,
        genes: Sequence[int],
        slope: float = 0.2,
        masked: Literal["replace", "add"] = "replace",
        mask_token: Literal["mask_emb", "zero_emb"] = "mask_emb",
        half_masked: bool = True,
    ):
        super().__init__()
        if not all(0 < row < sizes.rows for row in genes):
            raise FlagError(f"CellFM: rows of genes must be 1 to {sizes.rows - 1}")
        width = sizes.width
        self.width, self.residual = width, (2 * sizes.layers) ** 0.25
        self.masked, self.mask_token, self.half_masked = masked, mask_token, half_masked
        self.gene_emb = nn.Parameter(torch.zeros(sizes.rows, width))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.zero_emb = nn.Parameter(torch.zeros(1, 1, width)) if mask_token == "zero_emb" else None
        self.value_enc = ValueEncoder(width, sizes.bins, slope)
        layers = [Layer(width, sizes.heads) for _ in range(sizes.layers)]
        self.encoder = nn.ModuleList(layers)
        self.value_dec = ValueDecoder(width, slope)
        # Never on the meta device, since no file of weights could fill it.
        rows = torch.as_tensor(list(genes), device="cpu")  # (G,)
        self.register_buffer("genes", rows, persistent=False)
        if mask_token == "zero_emb":
            del self.value_enc.mask_emb

    def reset(self) -> None:
        """Random weights as CellFM starts from: DeepNorm's gains where the residual is amplified."""
        gain = (8 * len(self.encoder)) ** -0.25
        for name, value in self.named_parameters():
            if value.ndim == 2 and not name.endswith(".a"):
                nn.init.xavier_uniform_(value, gain if _amplified(name) else 1.0)
        for token in (self.gene_emb, self.cls_token, self._token):
            nn.init.normal_(token, std=0.02)
        with torch.no_grad():
            self.gene_emb[0] = 0

    @property
    def _token(self) -> Tensor:
        return self.value_enc.mask_emb if self.zero_emb is None else self.zero_emb

    def tokens(self, values: Tensor, hidden: Tensor) -> Tensor:
        """States before the first layer.

        Args:
            values: (B, G); those of hidden genes are looked at if the token is added to them.
            hidden: (B, G) bool.
        """
        hide = hidden.unsqueeze(-1).to(values.dtype)  # (B, G, 1)
        known = self.value_enc.value_enc(values)  # (B, G, D)
        if self.masked == "replace":
            known = known * (1 - hide)  # (B, G, D)
        states = known + hide * self._token + self.gene_emb[self.genes]  # (B, G, D)
        return torch.cat([self.cls_token.expand(len(values), -1, -1), states], 1)  # (B, 1 + G, D)

    def sublayers(self) -> list[Sublayer]:
        """Each sublayer in order; hidden genes are read in the second half alone, if at all."""
        half = len(self.encoder) // 2
        found: list[Sublayer] = []
        for place, layer in enumerate(self.encoder):
            assert isinstance(layer, Layer)
            reads_all = not self.half_masked or place >= half
            found.append(Sublayer(layer.attn, layer.post_norm1, reads_all))
            found.append(Sublayer(layer.ffn, layer.post_norm2, True))
        return found

    def decode(self, h: Tensor) -> Tensor:
        """States of genes (B, G, D) → values (B, G)."""
        return self.value_dec(h)  # (B, G)

    def parts(self) -> Parts:
        return Parts(self.gene_emb, self.encoder, self.value_dec)


def _amplified(name: str) -> bool:
    """Whether DeepNorm shrinks this map: all of a layer but queries and keys."""
    return name.endswith(("v_proj.weight", "u_proj.weight", "o_proj.weight"))
