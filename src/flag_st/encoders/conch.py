"""CONCH and CONCH v1.5: a vision transformer with one learned query that attends to its tokens.

Only the image tower is built. Patches of 224 px at 0.5 µm/px are enlarged to the 448 px that the
networks were trained with, so that they see the same 112 µm of tissue as the other encoders.
"""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn, zeros

from flag_st.core.torchvision_guard import ensure_torchvision
from flag_st.encoders.published import Published, Transformer, blocks_of_timm, positions_like


class Conch(Transformer):
    """CONCH (Lu et al., Nature Medicine 2024): ViT-B/16 of 90 M parameters, D = 512.

    The vector is the image embedding before the contrastive projection, not normalised, as its
    authors advise for uses other than retrieval.
    """

    resize = crop = 448
    # CLIP's, as in factory.py of mahmoodlab/CONCH
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    pooling = "attentional pooling before the projection"
    prefix: ClassVar[str] = "visual."
    #: The file holds the whole vision-language model; caption branch and projection are not needed.
    ignore: ClassVar[tuple[str, ...]] = ("attn_pool_caption.", "ln_caption.", "proj_contrast")
    arch: ClassVar[str] = "vit_base_patch16_224"
    blocks = "trunk.blocks"
    options: ClassVar[dict] = {}

    def build(self) -> nn.Module:
        return Tower(self.arch, self.options, MultiheadPool, width=512, **self.sizes)

    def adapt(self, state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
        """The image tower's tensors; positions of another grid are resampled to 28 by 28."""
        cut = len(self.prefix)
        state = {k[cut:]: v for k, v in state.items() if k.startswith(self.prefix)}
        return positions_like(state, "trunk.pos_embed", net.get_submodule("trunk"))

    def last(self, images: Tensor) -> Tensor:
        return self.net(images)  # (B, width)

    def tokens(self, images: Tensor, block: int) -> Tensor:
        return blocks_of_timm(self.net.get_submodule("trunk"), images, block)  # (B, 784, d)


class ConchV15(Conch):
    """CONCH v1.5, the patch encoder of TITAN: ViT-L/16 of 306 M parameters, D = 768."""

    mean, std = Published.mean, Published.std  # those of ImageNet again
    interpolation = "bilinear"
    pooling = "attentional pooling"
    prefix = ""
    ignore = ()
    arch = "vit_large_patch16_224"
    options: ClassVar = {"init_values": 1.0}

    def build(self) -> nn.Module:
        return Tower(self.arch, self.options, PackedPool, width=768, **self.sizes)


class Tower(nn.Module):
    """Trunk, pooling and norm under the names of the published files."""

    def __init__(
        self,
        arch: str,
        options: dict,
        pool: type[nn.Module],
        width: int,
        pool_heads: int = 8,
        **sizes,
    ):
        super().__init__()
        ensure_torchvision()
        import timm

        options = {"img_size": 448, "dynamic_img_size": True, **options, **sizes}
        self.trunk = timm.create_model(arch, num_classes=0, global_pool="", **options)
        self.attn_pool_contrast = pool(width, self.trunk.embed_dim, pool_heads)
        self.ln_contrast = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.trunk(images)  # (B, 1 + 784, d)
        pooled = self.attn_pool_contrast(tokens)  # (B, width)
        return self.ln_contrast(pooled)  # (B, width)


class MultiheadPool(nn.Module):
    """Attention of one learned query to all tokens, in torch's own layout (CONCH)."""

    def __init__(self, width: int, context: int, heads: int):
        super().__init__()
        self.query = nn.Parameter(zeros(1, width))
        self.attn = nn.MultiheadAttention(
            width, heads, kdim=context, vdim=context, batch_first=True
        )
        self.ln_q = nn.LayerNorm(width)
        self.ln_k = nn.LayerNorm(context)

    def forward(self, tokens: Tensor) -> Tensor:
        context = self.ln_k(tokens)  # (B, N, d)
        query = self.ln_q(self.query).expand(len(tokens), 1, -1)  # (B, 1, width)
        pooled, _ = self.attn(query, context, context, need_weights=False)  # (B, 1, width)
        return pooled[:, 0]  # (B, width)


class PackedPool(nn.Module):
    """The same with keys and values in one matrix and no biases (CONCH v1.5)."""

    def __init__(self, width: int, context: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(zeros(1, width))
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_kv = nn.Linear(context, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)
        self.ln_q = nn.LayerNorm(width)
        self.ln_k = nn.LayerNorm(context)

    def forward(self, tokens: Tensor) -> Tensor:
        keys, values = self.to_kv(self.ln_k(tokens)).chunk(2, dim=-1)  # (B, N, width) each
        query = self.to_q(self.ln_q(self.query)).expand(len(tokens), 1, -1)  # (B, 1, width)
        q, k, v = (self.split(x) for x in (query, keys, values))  # (B, h, 1 or N, width / h)
        pooled = F.scaled_dot_product_attention(q, k, v)  # (B, h, 1, width / h)
        return self.to_out(pooled.flatten(1))  # (B, width)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, h, N, width / h)
