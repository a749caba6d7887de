"""TRIPLEX (Chung et al. 2024). Packages: einops, pytorch_lightning, wget.

Two things are replaced: flash attention, which needs a GPU, by the formula that it computes, and
the download of a pretrained ResNet-18 by one with our weights.
"""

import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType, SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flag_st.core.torchvision_guard import ensure_torchvision
from flag_st.data.lattice import windows
from flag_st.nets.pixels import normalise
from flag_st.nets.triplex import Branch, TriplexNet
from golden import Golden, dropping, fill, normal, stream
from golden.upstream import give, renaming

REPOSITORY, COMMIT = "NEXGEM/TRIPLEX", "4750051b9a8ba1122c9d4a30a40943edc418a1c5"

#: Cells of the array that hold no spot, and the spots of the batch.
SIDE, EMPTY, ROWS, PIXELS, GENES, WIDTH = 4, (3, 8), (0, 3, 7, 8, 13), 48, 6, 16
#: The dropouts are those that the authors set for HER2ST.
BRANCHES = {
    "fusion": {"depth": 1, "heads": 2, "ratio": 4.0, "dropout": 0.2},
    "slide": {"depth": 3, "heads": 4, "ratio": 4.0, "dropout": 0.1},
    "neighbour": {"depth": 2, "heads": 4, "ratio": 1.0, "dropout": 0.3},
}

RENAME = renaming(
    (r"^target_encoder\.0\.", "image.net.conv1."),
    (r"^target_encoder\.1\.", "image.net.bn1."),
    (r"^target_encoder\.(\d)", lambda m: f"image.net.layer{int(m[1]) - 3}"),
    (r"^target_linear", "target"),
    (r"^fc\.", "heads.fusion."),
    (r"^fc_target", "heads.target"),
    (r"^fc_neighbor", "heads.neighbour"),
    (r"^fc_global", "heads.slide"),
    (r"^global_encoder\.pos_layer\.proj", "slide.position"),
    (r"^global_encoder\.layer1", "slide"),
    (r"^global_encoder\.layer2\.layers\.(\d)", lambda m: f"slide.layers.{int(m[1]) + 1}"),
    (r"^global_encoder", "slide"),
    (r"^neighbor_encoder(\.layer)?\.", "neighbour."),
    (r"^fusion_encoder(\.fusion_layer)?\.", "fusion."),
    (r"^neighbour\.layers\.(\d)\.0\.fn\.attention_biases", r"neighbour.biases.\1"),
    (r"\.0\.norm\.", ".norm1."),
    (r"\.1\.norm\.", ".norm2."),
    (r"\.0\.fn\.to_q\.", ".query."),
    (r"\.0\.fn\.to_kv\.", ".key_value."),
    (r"\.0\.fn\.to_out\.0\.", ".out."),
    (r"\.0\.fn\.to_out\.1$", ".drop"),
    (r"\.0\.fn\.", "."),
    (r"\.1\.fn\.net\.", ".mlp."),
)


def make() -> Golden:
    cells = np.delete(np.indices((SIDE, SIDE)).reshape(2, -1).T, EMPTY, axis=0)  # (N, 2)
    features = normal(len(cells), WIDTH, name="features")
    images = stream("images").integers(0, 256, (len(ROWS), PIXELS, PIXELS, 3), dtype=np.uint8)
    y = normal(len(ROWS), GENES, name="expression").abs()
    branches = {name: Branch(**sizes) for name, sizes in BRANCHES.items()}
    ours = fill(TriplexNet(GENES, WIDTH, WIDTH, **branches, network="resnet18", as_released=True))
    theirs = network(ours.state_dict())
    outputs, drops = {}, {}
    for mode in ("evaluation", "training"):
        theirs.train(mode == "training")
        leaf = features.clone().requires_grad_()
        with dropping(theirs, RENAME) as drops[mode]:
            found = run(theirs, leaf, cells, images, y if mode == "training" else None)
        outputs[mode] = found["logits"]
    found["loss"].backward()
    outputs |= {"loss": found["loss"], "gradient": leaf.grad}
    inputs = {"cells": torch.from_numpy(cells), "features": features, "expression": y}
    inputs |= {"rows": torch.tensor(ROWS), "images": torch.from_numpy(images)}
    settings = {"genes": GENES, "width": WIDTH, **BRANCHES}
    return Golden(REPOSITORY, COMMIT, settings, inputs, outputs, drops)


def run(theirs: nn.Module, features: Tensor, cells, images, y: Tensor | None) -> dict[str, Tensor]:
    """The authors' step of training if there is a label ``y``, else of prediction."""
    rows = torch.tensor(ROWS)
    window = torch.as_tensor(windows(cells, 2))[rows]  # (B, 25)
    mask = (window >= 0).long()  # (B, 25)
    around = features[window] * mask.unsqueeze(-1)  # (B, 25, D)
    image = normalise(images, "cpu")  # (B, 3, H, W)
    # The first coordinate is a spot's x, which counts columns; spots lie 100 px apart.
    position = torch.as_tensor(100.0 * cells[:, ::-1].copy()).float()  # (N, 2)
    if y is None:
        return theirs(image, mask, around, position, features[None], sid=rows)
    slide = SimpleNamespace(
        int2id={0: "slide"}, global_embs={"slide": features}, pos_dict={"slide": position}
    )
    pid = torch.zeros(len(rows), dtype=torch.long)
    return theirs(image, mask, around, pid=pid, sid=rows, dataset=slide, label=y)


def attention(qkv: Tensor, dropout_p: float, softmax_scale=None, causal: bool = False) -> Tensor:
    """What flash attention computes, at its default scale and without a causal mask."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # 3 × (B, H, N, d/H)
    out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p)  # (B, H, N, d/H)
    return out.transpose(1, 2)  # (B, N, H, d/H)


def network(state: dict[str, Tensor]) -> nn.Module:
    ensure_torchvision()
    import torchvision

    flash = ModuleType("flash_attn")
    flash.flash_attn_qkvpacked_func, flash.flash_attn_func = attention, None
    sys.modules["flash_attn"] = flash
    sys.path.insert(0, f"{sys.path[0]}/src")
    code = import_module("model.TRIPLEX.TRIPLEX")

    def resnet(checkpoint: str) -> nn.Module:
        made = torchvision.models.resnet18(weights=None)
        made.fc = nn.Identity()
        return made

    code.load_model_weights = resnet
    sizes = {}
    for number, name in enumerate(("fusion", "slide", "neighbour"), 1):
        depth, heads, ratio, dropout = BRANCHES[name].values()
        sizes |= {f"depth{number}": depth, f"num_heads{number}": heads}
        sizes |= {f"mlp_ratio{number}": ratio, f"dropout{number}": dropout}
    theirs = code.TRIPLEX(num_genes=GENES, emb_dim=WIDTH, **sizes)
    give(theirs, dict(reshaped(state)), RENAME)
    return theirs


def reshaped(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Our weights in the authors' shapes: three maps in one, and a kernel of a convolution."""
    for name, value in state.items():
        layer = name.removesuffix(".query.weight")
        if layer != name and not name.startswith("fusion"):
            three = torch.cat([value, state[f"{layer}.key_value.weight"]])  # (3 d, d)
            if name.startswith("slide"):  # for flash attention, the three come last
                three = three.unflatten(0, (3, -1)).transpose(0, 1).flatten(0, 1)  # (3 d, d)
            yield f"{layer}.to_qkv.weight", three
        elif name == "slide.position.weight":
            yield name, value.T.reshape(WIDTH, 1, 3, 3)
        elif name.startswith("neighbour.biases"):
            yield name, value.T
        elif name.startswith("fusion") or not name.endswith("key_value.weight"):
            yield name, value
