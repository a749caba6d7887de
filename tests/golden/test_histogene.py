"""HisToGene, beside its authors' code."""

import toy

from flag_st.methods.base import Run
from flag_st.methods.histogene import HisToGene, HisToGeneTask
from golden import Golden, dropping, fill


def test_as_released():
    """On pixels that are divided by 255 already, so that the switch ``as_released`` plays no part."""
    golden = Golden.load("histogene")
    settings = {name: value for name, value in golden.settings.items() if name != "genes"}
    method = toy.made(HisToGene, **settings)
    tokens = golden.inputs["tokens"].requires_grad_()
    method.net = net = fill(method.build(golden.settings["genes"], tokens.shape[1]))
    method.device = "cpu"
    task, found = HisToGeneTask(method, [], [], Run()), {}
    task.train = [(tokens, golden.inputs["cells"], golden.inputs["expression"])]
    outputs = []
    net.register_forward_hook(lambda *given: outputs.append(given[2][0]))
    for mode in ("evaluation", "training"):
        net.train(mode == "training")
        with dropping(net, like=golden.drops[mode]):
            loss, _ = task.loss(0, None)
        found[mode] = outputs[-1]
    loss.backward()
    golden.compare(found | {"loss": loss, "gradient": tokens.grad})
