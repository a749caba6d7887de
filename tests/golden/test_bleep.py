"""BLEEP, beside its authors' code."""

import torch
import toy

from flag_st.methods.bleep import Bleep, BleepTask
from flag_st.nets.cosine_neighbours import mean_of_nearest
from golden import Golden, drawing, dropping, fill

SETTINGS = ("width", "dropout", "network", "neighbours")


def test_as_released():
    """On pixels as the authors' last commit means to normalise them: ``as_released`` is off."""
    golden = Golden.load("bleep")
    inputs, settings = golden.inputs, {name: golden.settings[name] for name in SETTINGS}
    method = toy.made(Bleep, inputs="patches", **settings)
    method.net = net = fill(method.build(golden.settings["genes"], 0))
    method.device = "cpu"
    task = BleepTask.__new__(BleepTask)  # it would read its spots from slides
    task.method, task.module, task.device = method, net, "cpu"
    task.images, task.y = inputs["images"].numpy(), inputs["expression"].requires_grad_()
    every, found, embedded = torch.arange(len(task.y)), {}, []
    for head in (net.image_head, net.expression_head):
        head.register_forward_hook(lambda *given: embedded.append(given[2]))
    for mode in ("evaluation", "training"):
        net.train(mode == "training")
        with dropping(net, like=golden.drops[mode]), drawing(randint=[0 * every]):
            loss, _ = task.loss(every, torch.Generator())
        found |= {f"{mode}_loss": loss, mode: torch.stack(embedded[-2:])}
    loss.backward()
    found["gradient"] = task.y.grad
    bank = (inputs["queries"], inputs["keys"], inputs["values"])
    golden.compare(found | {"retrieved": mean_of_nearest(*bank, method.neighbours)})
