"""Vision transformers (and a ResNet) that timm builds: UNI, UNI2-h, Virchow2, H-optimus-0, ...

Another model of this family takes a class of a few lines: the architecture in timm, its options as
the model card states them, the normalisation and the pooling.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from flag_st.core.torchvision_guard import ensure_torchvision
from flag_st.encoders.published import Published, Transformer, blocks_of_timm, positions_like


class Timm(Published):
    """A network that timm builds by the name of its architecture.

    Class attributes:
        arch: its name in timm.
        options: arguments of ``timm.create_model``.
        gated: whether the feed-forward part is a packed SwiGLU.
    """

    arch: ClassVar[str]
    options: ClassVar[dict[str, Any]] = {}
    gated: ClassVar[bool] = False

    def build(self) -> nn.Module:
        ensure_torchvision()
        import timm
        from timm.layers import SwiGLUPacked

        layers: dict[str, Any] = (
            {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU} if self.gated else {}
        )
        return timm.create_model(self.arch, num_classes=0, **layers, **self.options | self.sizes)


class Vit(Timm, Transformer):
    """A vision transformer that timm builds; its head gives the pooling of the authors."""

    def last(self, images: Tensor) -> Tensor:
        return self.net(images)  # (B, D)

    def tokens(self, images: Tensor, block: int) -> Tensor:
        return blocks_of_timm(self.net, images, block)  # (B, N, d)


class Uni(Vit):
    """UNI (Chen et al., Nature Medicine 2024): ViT-L/16, 303 M parameters, D = 1024."""

    arch = "vit_large_patch16_224"
    options: ClassVar = {"init_values": 1e-5, "dynamic_img_size": True}


class Uni2H(Vit):
    """UNI2-h: ViT-H/14 with 8 registers and SwiGLU, 681 M parameters, D = 1536."""

    arch = "vit_giant_patch14_224"
    gated = True
    options: ClassVar = {
        "img_size": 224,
        "patch_size": 14,
        "depth": 24,
        "num_heads": 24,
        "embed_dim": 1536,
        "mlp_ratio": 2.66667 * 2,
        "init_values": 1e-5,
        "no_embed_class": True,
        "reg_tokens": 8,
        "dynamic_img_size": True,
    }


class HOptimus0(Vit):
    """H-optimus-0: ViT-g/14 with 4 registers, 1135 M parameters, D = 1536."""

    arch = "vit_giant_patch14_reg4_dinov2"
    mean = (0.707223, 0.578729, 0.703617)
    std = (0.211883, 0.230117, 0.177517)
    options: ClassVar = {
        "img_size": 224,
        "init_values": 1e-5,
        "global_pool": "token",
        "dynamic_img_size": True,
    }


class GigaPath(Vit):
    """Prov-GigaPath's tile encoder (Xu et al., Nature 2024): ViT-g/16, 1135 M, D = 1536.

    As published, patches are enlarged to 256 px and cropped to 224, so it sees the inner 98 µm.
    """

    arch = "vit_giant_patch14_dinov2"
    resize = 256
    options: ClassVar = {
        "img_size": 224,
        "patch_size": 16,
        "embed_dim": 1536,
        "depth": 40,
        "num_heads": 24,
        "mlp_ratio": 5.33334,
        "init_values": 1e-5,
    }


class Virchow2(Vit):
    """Virchow2 (Zimmermann et al. 2024): ViT-H/14 with 4 registers, 631 M parameters.

    Args:
        pooling: ``class+mean`` (class token and mean patch token, D = 2560) or ``class`` (1280), of the
            last block; a ``block`` has a pooling of its own.
    """

    arch = "vit_huge_patch14_224"
    gated = True
    options: ClassVar = {
        "init_values": 1e-5,
        "reg_tokens": 4,
        "mlp_ratio": 5.3375,
        "global_pool": "",
        "dynamic_img_size": True,
    }

    def __init__(self, repo: str, pooling: Literal["class+mean", "class"] = "class+mean", **more):
        super().__init__(repo, **more)
        self.last_pooling = pooling
        if self.block is None:
            self.pooling = pooling

    def last(self, images: Tensor) -> Tensor:
        tokens = self.net(images)  # (B, 1 + 4 + 256, d)
        if self.last_pooling == "class":
            return tokens[:, 0]  # (B, d)
        patches = tokens[:, self.net.num_prefix_tokens :]  # (B, 256, d)
        return torch.cat([tokens[:, 0], patches.mean(1)], dim=1)  # (B, 2 d)


class DinoV2S(Vit):
    """DINOv2 ViT-S/14 (Oquab et al. 2023): 22 M parameters, natural images, no histology, D = 384.

    Published for images of 518 px; its positions are resampled to those of 224 px.
    """

    arch = "vit_small_patch14_dinov2"
    ignore = ("mask_token",)  # only needed for pre-training by masking
    options: ClassVar = {"img_size": 224}

    def adapt(self, state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
        return positions_like(state, "pos_embed", net)


class ResNet50(Timm):
    """ResNet50 trained on ImageNet: an open fallback that has seen no histology.

    Args:
        pooling: ``layer3`` (mean of the third stage, D = 1024, the "resnet50" of HEST-Benchmark)
            or ``last`` (mean of the last stage, D = 2048).
    """

    arch = "resnet50"
    ignore = ("fc.",)

    def __init__(self, repo: str, pooling: Literal["layer3", "last"] = "layer3", **more):
        super().__init__(repo, **more)
        self.pooling = pooling

    def forward(self, images: Tensor) -> Tensor:
        if self.pooling == "last":
            return self.net(images)  # (B, 2048)
        x = images
        for name in ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3"):
            x = self.net.get_submodule(name)(x)
        return x.mean((2, 3))  # (B, 1024), of (B, 1024, 14, 14)
