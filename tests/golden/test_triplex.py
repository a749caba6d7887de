"""TRIPLEX as released, beside its authors' code."""

import numpy as np
import torch
import toy

from flag_st.data.lattice import windows
from flag_st.methods.base import Run
from flag_st.methods.triplex import Section, Triplex, TriplexTask
from golden import Golden, drawing, dropping, fill


def opened(golden: Golden) -> tuple[Triplex, Section]:
    settings = {k: v for k, v in golden.settings.items() if k != "genes"}
    method = toy.made(Triplex, **settings, inputs="patches", network="resnet18", as_released=True)
    method.net = fill(method.build(golden.settings["genes"], golden.settings["width"]))
    method.mean, method.scale, method.device = np.zeros(golden.settings["genes"]), 1.0, "cpu"
    inputs = golden.inputs
    features, rows = inputs["features"].requires_grad_(), inputs["rows"]
    around, neighbours = (torch.as_tensor(windows(inputs["cells"].numpy(), r)) for r in (1, 2))
    images = np.zeros((len(features), *inputs["images"].shape[1:]), dtype=np.uint8)
    images[rows] = inputs["images"]
    y = torch.zeros(len(features), golden.settings["genes"])
    y[rows] = inputs["expression"]
    return method, Section(features, around, neighbours, images, y)


def test_as_released():
    golden = Golden.load("triplex")
    method, section = opened(golden)
    net, rows, found = method.net, golden.inputs["rows"], {}
    with dropping(net.eval(), like=golden.drops["evaluation"]):
        slide = net.slide(section.features, section.around)
        found["evaluation"] = method.heads(net, section, slide, rows)[0].clamp(min=0)
    task = TriplexTask(method, [], [], Run())
    net.heads["fusion"].register_forward_hook(lambda *given: heads.append(given[2].clamp(min=0)))
    heads, still = [], torch.zeros(len(rows), dtype=torch.long)
    with dropping(net.train(), like=golden.drops["training"]), drawing(randint=[still]):
        loss, _ = task.loss((section, rows), torch.Generator())
    loss.backward()
    found |= {"training": heads[-1], "loss": loss, "gradient": section.features.grad}
    golden.compare(found)
