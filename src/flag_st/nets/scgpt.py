"""The networks of scGPT (Cui et al., Nature Methods 2024), with the names of the published keys."""

from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from flag_st.nets.backbone import Backbone, Parts, Sublayer


class GeneEncoder(nn.Module):
    """Embeds which gene a token is."""

    def __init__(self, vocabulary: int, width: int, padding: int | None):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=padding)
        self.enc_norm = nn.LayerNorm(width)

    def forward(self, genes: Tensor) -> Tensor:
        return self.enc_norm(self.embedding(genes))  # (B, L, d)


class ValueEncoder(nn.Module):
    """Embeds the expression of the gene, given as its bin."""

    def __init__(self, width: int):
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(1, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, values: Tensor) -> Tensor:
        x = self.linear1(values.clamp(max=512)[..., None]).relu()  # (B, L, d)
        return self.norm(self.linear2(x))  # (B, L, d)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.Wqkv, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """x (B, L, d); present (B, L): 1 where a token may be read, or None if all may."""
        seen = None if present is None else present.bool()[:, None, None]  # (B, 1, 1, L)
        qkv = self.Wqkv(x).unflatten(-1, (3, self.heads, -1))  # (B, L, 3, H, d/H)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # 3 of (B, H, L, d/H)
        x = scaled_dot_product_attention(q, k, v, seen)  # (B, H, L, d/H)
        return self.out_proj(x.transpose(1, 2).flatten(2))  # (B, L, d)


class Layer(nn.Module):
    """Post-norm transformer layer with ReLU."""

    def __init__(self, width: int, heads: int, inner: int):
        super().__init__()
        self.self_attn = Attention(width, heads)
        self.linear1, self.linear2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        x = self.norm1(x + self.self_attn(x, present))  # (B, L, d)
        return self.norm2(x + self.feed(x))  # (B, L, d)

    def feed(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """The second sublayer, in which no token reads another one."""
        return self.linear2(self.linear1(x).relu())  # (B, L, d)


class Trunk(nn.Module):
    """What encoder and backbone consist of.

    Args:
        arguments: contents of ``args.json``.
        vocabulary: rows of the table of genes.
        padding: the row of padding, or None if there is none.
    """

    def __init__(self, arguments: Mapping, vocabulary: int, padding: int | None):
        super().__init__()
        width, heads, inner = (arguments[key] for key in ("embsize", "nheads", "d_hid"))
        self.encoder = GeneEncoder(vocabulary, width, padding)
        self.value_encoder = ValueEncoder(width)
        layers = [Layer(width, heads, inner) for _ in range(arguments["nlayers"])]
        self.transformer_encoder = nn.ModuleDict({"layers": nn.ModuleList(layers)})

    def layers(self) -> Iterator[Layer]:
        for layer in self.transformer_encoder["layers"].children():
            assert isinstance(layer, Layer)
            yield layer


class Encoder(Trunk):
    """The part of the published model that gene embeddings need: all but its decoders."""

    def forward(self, genes: Tensor, values: Tensor, present: Tensor) -> Tensor:
        x = self.encoder(genes) + self.value_encoder(values)  # (B, L, d)
        for layer in self.layers():
            x = layer(x, present)  # (B, L, d)
        return x  # (B, L, d)


class Decoder(nn.Module):
    """States of genes (B, G, d) → the bins of their values (B, G)."""

    def __init__(self, width: int):
        super().__init__()
        first, second, last = nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, 1)
        self.fc = nn.Sequential(first, nn.LeakyReLU(), second, nn.LeakyReLU(), last)

    def forward(self, h: Tensor) -> Tensor:
        return self.fc(h).squeeze(-1)  # (B, G)


class ScGptBackbone(Trunk, Backbone):
    """scGPT as HINGE modulates it: ``<cls>`` and then the panel, in which hidden genes are masked.

    Args:
        arguments: contents of ``args.json``.
        genes: G; row 0 of its table of genes is ``<cls>``, and row j + 1 the j-th gene.
    """

    def __init__(self, arguments: Mapping, genes: int):
        super().__init__(arguments, 1 + genes, None)
        self.width, self.residual = arguments["embsize"], 1.0
        self.mask_value = float(arguments["mask_value"])
        self.decoder = Decoder(self.width)

    def tokens(self, values: Tensor, hidden: Tensor) -> Tensor:
        given = values.masked_fill(hidden, self.mask_value)  # (B, G)
        # As in the package's sequences with unexpressed genes, <cls> has the value 0.
        known = self.value_encoder(F.pad(given, (1, 0)))  # (B, 1 + G, d)
        rows = torch.arange(known.shape[1], device=known.device)  # (1 + G,)
        return self.encoder(rows) + known  # (B, 1 + G, d)

    def sublayers(self) -> list[Sublayer]:
        """As in scGPT's pre-training, masked genes are read like all others."""
        found: list[Sublayer] = []
        for layer in self.layers():
            found.append(Sublayer(layer.self_attn, layer.norm1, True))
            found.append(Sublayer(layer.feed, layer.norm2, True))
        return found

    def decode(self, h: Tensor) -> Tensor:
        return self.decoder(h)  # (B, G)

    def parts(self) -> Parts:
        return Parts(self.encoder.embedding.weight, self.transformer_encoder, self.decoder)

    def reset(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.LayerNorm | nn.Embedding):
                module.reset_parameters()
