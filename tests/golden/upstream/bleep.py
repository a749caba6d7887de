"""BLEEP (Xie et al. 2023). Packages: none besides this project's.

The sizes are variables of the authors' module ``config``; the image network is a small ResNet of
timm instead of ResNet-50.
"""

import ast
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flag_st.core.torchvision_guard import ensure_torchvision
from flag_st.methods.bleep import BleepNet
from flag_st.nets.pixels import normalise
from golden import Golden, dropping, fill, normal, stream
from golden.upstream import give, renaming

REPOSITORY, COMMIT = "bowang-lab/BLEEP", "23959670c7407510c1716a173184bdcc18833a35"

SPOTS, PIXELS, GENES, WIDTH, DROPOUT = 6, 40, 9, 16, 0.1
NETWORK = "test_resnet"
#: Retrieval: queries, the bank that they are looked up in, and how many are averaged.
QUERIES, BANK, NEIGHBOURS = 4, 12, 3

RENAME = renaming(
    (r"^image_encoder\.model", "image.net"),
    (r"^image_projection", "image_head"),
    (r"^spot_projection", "expression_head"),
    (r"\.projection", ".project"),
    (r"\.fc", ".refine"),
    (r"\.layer_norm", ".norm"),
)


def make() -> Golden:
    images = stream("images").integers(0, 256, (SPOTS, PIXELS, PIXELS, 3), dtype=np.uint8)
    y = normal(SPOTS, GENES, name="expression")
    ours = fill(BleepNet(GENES, 0, WIDTH, DROPOUT, NETWORK))
    theirs = network(ours.state_dict(), ours.image.channels)
    batch = {"image": normalise(images, "cpu"), "reduced_expression": y.requires_grad_()}
    outputs, drops, embedded = {}, {}, []
    for head in (theirs.image_projection, theirs.spot_projection):
        head.register_forward_hook(lambda *given: embedded.append(given[2]))
    for mode in ("evaluation", "training"):
        theirs.train(mode == "training")
        with dropping(theirs, RENAME) as drops[mode]:
            loss = theirs(batch)
        outputs |= {f"{mode}_loss": loss, mode: torch.stack(embedded[-2:])}
    loss.backward()
    outputs["gradient"] = y.grad
    queries, keys = normal(QUERIES, WIDTH, name="queries"), normal(BANK, WIDTH, name="keys")
    values = normal(BANK, GENES, name="values")
    outputs["retrieved"] = values[find_matches()(keys, queries, NEIGHBOURS)].mean(1)
    inputs = {"images": torch.from_numpy(images), "expression": y}
    inputs |= {"queries": queries, "keys": keys, "values": values}
    settings = {"genes": GENES, "width": WIDTH, "dropout": DROPOUT, "network": NETWORK}
    settings["neighbours"] = NEIGHBOURS
    return Golden(REPOSITORY, COMMIT, settings, inputs, outputs, drops)


def network(state: dict[str, Tensor], channels: int) -> nn.Module:
    ensure_torchvision()
    config = import_module("config")  # read by the other modules when they are imported
    config.model_name, config.pretrained, config.image_embedding = NETWORK, False, channels
    config.spot_embedding, config.projection_dim, config.dropout = GENES, WIDTH, DROPOUT
    theirs = import_module("models").CLIPModel()
    give(theirs, state, RENAME)
    return theirs


def find_matches() -> Callable[[Tensor, Tensor, int], np.ndarray]:
    """The authors' function of this name: keys (M, d), queries (N, d) and k → indices (N, k).

    It is written in a notebook, which cannot be imported.
    """
    notebook = json.loads(Path(sys.path[0], "BLEEP_inference.ipynb").read_text(encoding="utf-8"))
    sources = ("".join(cell["source"]) for cell in notebook["cells"])
    source = next(text for text in sources if "def find_matches" in text)
    (node,) = (
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == "find_matches"
    )
    space = {"torch": torch, "F": F, "np": np}
    exec(compile(ast.Module([node], []), "find_matches", "exec"), space)
    return space["find_matches"]
