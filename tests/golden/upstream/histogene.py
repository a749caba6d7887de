"""HisToGene (Pang, Su & Li 2021). Packages: einops, pytorch_lightning, torchmetrics."""

from collections.abc import Iterator
from importlib import import_module

import torch
from torch import Tensor, nn

from flag_st.core.torchvision_guard import ensure_torchvision
from flag_st.methods.histogene import HisToGeneNet
from golden import Golden, dropping, fill, normal, stream
from golden.upstream import give, renaming

REPOSITORY, COMMIT = "maxpmx/HisToGene", "44ff75b9b68949796f27f1b4121d36ea4cba8bf3"

#: The width belongs to the authors' 16 heads of 64 channels, which cannot be chosen.
SPOTS, PIXELS, GENES, WIDTH, DEPTH, POSITIONS, DROPOUT = 7, 8, 6, 1024, 2, 64, 0.1

RENAME = renaming(
    (r"^patch_embedding", "embed"),
    (r"^x_embed", "first"),
    (r"^y_embed", "second"),
    (r"^gene_head", "head"),
    (r"^vit\.transformer\.layers", "layers"),
    (r"^vit\.dropout", "dropout"),
    (r"\.0\.norm\.", ".norm1."),
    (r"\.1\.norm\.", ".norm2."),
    (r"\.0\.fn\.to_out\.0\.", ".out."),
    (r"\.0\.fn\.to_out\.1$", ".drop"),
    (r"\.0\.fn\.", "."),
    (r"\.1\.fn\.net\.", ".mlp."),
)


def make() -> Golden:
    pixels = stream("pixels").integers(0, 256, (SPOTS, 3 * PIXELS**2))
    tokens = torch.from_numpy(pixels).float() / 255
    cells = torch.from_numpy(stream("cells").integers(0, POSITIONS, (SPOTS, 2)))
    y = normal(SPOTS, GENES, name="expression")
    settings = {"width": WIDTH, "depth": DEPTH, "positions": POSITIONS, "dropout": DROPOUT}
    ours = HisToGeneNet(GENES, 3 * PIXELS**2, heads=16, ratio=2.0, **settings)
    theirs = network(fill(ours).state_dict())
    leaf, outputs, drops = tokens.clone().requires_grad_(), {}, {}
    for mode in ("evaluation", "training"):
        theirs.train(mode == "training")
        with dropping(theirs, RENAME) as drops[mode]:
            outputs[mode] = theirs(leaf[None], cells[None])[0]
    with dropping(theirs, RENAME):
        loss = theirs.training_step((leaf[None], cells[None], y[None]), 0)
    loss.backward()
    outputs |= {"loss": loss, "gradient": leaf.grad}
    inputs = {"tokens": tokens, "cells": cells, "expression": y}
    return Golden(REPOSITORY, COMMIT, {"genes": GENES, **settings}, inputs, outputs, drops)


def network(state: dict[str, Tensor]) -> nn.Module:
    ensure_torchvision()
    theirs = import_module("vis_model").HisToGene(
        patch_size=PIXELS, n_layers=DEPTH, n_genes=GENES, dim=WIDTH, dropout=DROPOUT
    )
    theirs.log = lambda name, value: None  # it asks for a trainer
    give(theirs, dict(joined(state)), RENAME)
    return theirs


def joined(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Our weights, with those of query, key and value in one map."""
    for name, value in state.items():
        layer = name.removesuffix(".query.weight")
        if layer != name:
            yield f"{layer}.to_qkv.weight", torch.cat([value, state[f"{layer}.key_value.weight"]])
        elif not name.endswith("key_value.weight"):
            yield name, value
