"""STFlow as released, beside its authors' code."""

import numpy as np
import pytest
import torch
import toy

from flag_st.methods.base import Run
from flag_st.methods.stflow import StFlow, StFlowTask
from flag_st.nets.stflow import collate
from golden import Golden, drawing, dropping, fill

SETTINGS = ("width", "depth", "heads", "dropout", "neighbours", "steps")
#: The authors' frames in our order: the signs of the longer and the shorter axis.
FRAMES = [3, 1, 2, 0]


@pytest.fixture(scope="module")
def golden() -> Golden:
    return Golden.load("stflow")


def layout(place, mask):
    """Masks of one row per spot → ours, of one row per region; (.., 4, K, ·) → (.., K, 4, ·)."""
    mask = mask.unflatten(0, (2, -1))
    if place.endswith("edge.dropout"):
        return mask[:, :, FRAMES].transpose(2, 3)
    return mask.transpose(2, 3) if place.endswith("attention.dropout") else mask


def regions(golden):
    names = ("position", "features", "expression")
    parts = [tuple(golden.inputs[f"{name}{i}"].numpy() for name in names) for i in (0, 1)]
    return [collate(p, golden.settings["neighbours"], as_released=True) for p in (parts, parts[:1])]


def opened(golden) -> StFlow:
    settings = {name: golden.settings[name] for name in SETTINGS}
    method = toy.made(StFlow, **settings, prior="gaussian", as_released=True)
    genes, features = golden.settings["genes"], golden.settings["features"]
    method.net = fill(method.build(genes, features)).eval()
    method.mean, method.device = np.zeros(genes), "cpu"
    return method


def test_as_released(golden):
    method = opened(golden)
    task, estimates = StFlowTask(method, [], [], Run()), []
    method.net.register_forward_hook(lambda *given: estimates.append(given[2]))
    both, alone = regions(golden)
    found = {"axes": both.geometry[..., :2].abs()}
    for mode in ("evaluation", "training"):
        method.net.train(mode == "training")
        if mode == "training":  # masks belong to frames, whose signs are arbitrary: the authors'
            both.geometry[..., :2] = golden.inputs["axes"]
        both.u.requires_grad_().grad = None
        draws = {"rand": [golden.inputs["t"]], "randn": [golden.inputs["noise"]]}
        with dropping(method.net, like=golden.drops[mode], layout=layout), drawing(**draws):
            loss, _ = task.loss(both, None)
        loss.backward()
        found |= {mode: estimates[-1], f"{mode}_loss": loss, f"{mode}_gradient": both.u.grad}
    with torch.no_grad(), drawing(randn=[golden.inputs["start"]]):
        found["draw"] = method.flow(method.net.eval(), alone, None)
    golden.compare(found)
