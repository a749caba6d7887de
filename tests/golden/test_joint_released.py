"""Joint diffusion as released, beside its authors' code."""

import torch

from flag_st.core.seeds import Draws
from flag_st.data.slide import Cohort
from flag_st.methods.base import Run
from golden import Golden, drawing, dropping, fill
from golden.test_flag_released import slide_of
from golden.upstream.flag_released import UNIT, ours


def test_as_released():
    golden = Golden.load("joint_released")
    method, slide, inputs = ours("joint_released", golden.settings), slide_of(golden), golden.inputs
    genes = inputs["expression"].shape[1]
    cohort = Cohort([slide], [f"g{i}" for i in range(genes)])
    method._statistics(cohort)
    method.net, method.device = fill(method.build(genes, slide.features.shape[1])), "cpu"
    method.start()
    task, scores = method.task(cohort, Cohort([], cohort.genes), Run()), []
    (batch,) = task.batches(torch.Generator())
    _, edges = method.net.split(method.net.clean(batch))
    found = {"edges": edges[0], "static": batch.edges[0]}
    method.net.graph.register_forward_hook(lambda *given: scores.append(given[2]))
    for mode in ("evaluation", "training"):
        method.net.train(mode == "training")
        features = batch.x.requires_grad_()
        features.grad = None
        draws = {
            "rand": [inputs["level"].view(1, 1, 1)],
            "randn": [inputs["noise"], inputs["noise_edges"]],
        }
        with dropping(method.net, like=golden.drops[mode]), drawing(**draws):
            loss, parts = task.loss(batch, torch.Generator())
        loss.backward()
        nodes, edges = scores[-1]
        found |= {f"{mode}_nodes": nodes, f"{mode}_edges": edges, f"{mode}_loss": loss}
        for name, part in (("x", "nodes"), ("e", "edges"), ("cons", "consistency")):
            found[f"{mode}_loss_{name}"] = torch.tensor(parts[part])
        found[f"{mode}_gradient"] = features.grad[0]
    method.net.eval()
    with drawing(randn=[inputs["start"], inputs["start_edges"]]):
        drawn = method.predict(slide.without_truth(), 1, Draws(0, "golden")).samples[0]
    # The fastest time feature turns 400 times over t from 0 to 1, which leaves it three digits.
    golden.compare(found | {"draw": torch.from_numpy(drawn) / UNIT}, atol=2e-4)
