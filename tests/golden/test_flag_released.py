"""FLAG as released, beside its authors' code."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from flag_st.core.seeds import Draws
from flag_st.data.slide import Cohort, Slide
from flag_st.data.targets import Targets, writing_targets
from flag_st.methods.base import Run
from golden import Golden, drawing, dropping, fill
from golden.upstream.flag_released import UNIT, ours

PIXEL_UM = 0.5


def slide_of(
    golden: Golden,
    directory: Path | None = None,
    kind: Literal["contextual", "spot"] = "contextual",
) -> Slide:
    """The tile as a slide of ours, with targets if there is a folder for them.

    The first vector of each spot serves as its only one where there is one per spot.
    """
    values = {name: value.numpy() for name, value in golden.inputs.items()}
    spots = [f"s{i}" for i in range(len(values["features"]))]
    genes = [f"g{i}" for i in range(values["expression"].shape[1])]
    targets = None
    if directory:
        vectors = values["vectors"][:, 0] if kind == "spot" else values["vectors"]
        path = directory / f"{kind}.h5"
        with writing_targets(path, kind, spots, genes, vectors.shape[-1]) as put:
            put(slice(0, len(spots)), vectors)
        targets = Targets.open(path, spots, genes)
    return Slide(
        id="golden",
        patient="",
        spots=np.array(spots),
        position=(values["position"] + 1000) * PIXEL_UM,  # all in the first square of the grid
        features=values["features"],
        expression=values["expression"],
        targets=targets,
        pixel_um=PIXEL_UM,
        unit="log2p1",
    )


def test_as_released(tmp_path):
    golden = Golden.load("flag_released")
    method, slide = ours("flag_released", golden.settings), slide_of(golden, tmp_path)
    cohort = Cohort([slide], [f"g{i}" for i in range(golden.inputs["expression"].shape[1])])
    method._statistics(cohort)
    sizes = golden.inputs["expression"].shape[1], slide.features.shape[1], slide.targets.width
    method.net, method.device = fill(method.build(*sizes)), "cpu"
    task, found = method.task(cohort, cohort, Run()), {}
    (batch,) = task.batches(torch.Generator())
    tokens, scores = [], []
    method.net.projector.register_forward_hook(lambda *given: tokens.append(given[2]))
    method.net.decoder.dit.register_forward_hook(lambda *given: scores.append(given[2][0]))
    for mode in ("evaluation", "training"):
        method.net.train(mode == "training")
        features = batch[0].x.requires_grad_()
        features.grad = None
        draws = {
            "rand": [golden.inputs["level"].view(1, 1, 1)],
            "randn": [golden.inputs["noise"]],
        }
        with dropping(method.net, like=golden.drops[mode]), drawing(**draws):
            loss, _ = task.loss(batch, torch.Generator())
        loss.backward()
        found |= {mode: scores[-1], f"{mode}_tokens": tokens[-1]}
        # Ours is 1 - cosine, so that it ends at 0; the authors' is - cosine. Both have the weight .5.
        found |= {f"{mode}_loss": loss - 0.5, f"{mode}_gradient": features.grad[0]}
    method.net.eval()
    slide = slide_of(golden, tmp_path, "spot")  # as of CellPLM
    task = method.task(Cohort([slide], cohort.genes), cohort, Run())
    with torch.no_grad(), drawing(**draws):
        found["loss_of_spots"] = task.loss(
            next(task.batches(torch.Generator())), torch.Generator()
        )[0]
    found["loss_of_spots"] -= 0.5
    with drawing(randn=[golden.inputs["start"]]):
        drawn = method.predict(slide.without_truth(), 1, Draws(0, "golden")).samples[0]
    golden.compare(found | {"draw": torch.from_numpy(drawn) / UNIT})
