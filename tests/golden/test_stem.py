"""Stem as released, beside its authors' code."""

import numpy as np
import torch
import toy

from flag_st.methods.stem import Stem, StemTask
from golden import Golden, drawing, dropping, fill


def test_as_released():
    golden = Golden.load("stem")
    size = {name: golden.settings[name] for name in ("width", "depth", "heads", "steps")}
    genes = golden.settings["genes"]
    method = toy.made(Stem, **size, as_released=True)
    method.net = net = fill(method.build(genes, golden.settings["features"]))
    method.mean, method.device = np.zeros(genes), "cpu"
    task = StemTask.__new__(StemTask)  # it would read its spots from slides
    task.method, task.module, task.device = method, net, "cpu"
    task.u, task.y = golden.inputs["features"].requires_grad_(), golden.inputs["expression"]
    first, *rest = golden.inputs["noise"]
    found, terms, every = {}, [], torch.arange(len(task.y))
    errors = task._errors
    task._errors = lambda *given: terms.append(errors(*given)) or terms[-1]
    for mode in ("evaluation", "training"):
        net.train(mode == "training")
        draws = {"randint": [golden.inputs["t"]], "randn": [first]}
        with dropping(net, like=golden.drops[mode]), drawing(**draws):
            loss, _ = task.loss(every, None)
        found[mode] = torch.stack([term.mean(1) for term in terms[-1]])
    loss.backward()
    with torch.no_grad(), drawing(randn=[first, *rest[:-1]]):
        # The authors also draw noise after the last step, but give it no weight.
        drawn = method.draw(net.eval(), task.u, method.sampling, None)
    found |= {"loss": loss, "gradient": task.u.grad, "draw": drawn}
    # At the first step the authors approximate the normal distribution function by a tanh.
    golden.compare(found, loose=dict.fromkeys(("evaluation", "training", "loss"), 3e-4))
