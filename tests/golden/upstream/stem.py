"""Stem (Zhu et al. 2025). Packages: none besides this project's."""

from contextlib import redirect_stderr
from importlib import import_module
from io import StringIO

import torch
from torch import Tensor, nn

from flag_st.core.torchvision_guard import ensure_torchvision
from flag_st.methods.stem import StemNet
from golden import Golden, drawing, dropping, fill, normal
from golden.upstream import descending, give, renaming

REPOSITORY, COMMIT = "SichenZhu/Stem", "cbc3c7c558cd097d93a4c37318838bb4cd780a1e"

SPOTS, STEPS = 6, 4
SIZE = {"genes": 8, "features": 10, "width": 16, "depth": 2, "heads": 2}

RENAME = renaming(
    (r"^gene_joint_embed\.gene_name_ebd", "tokens.gene"),
    (r"^gene_joint_embed\.gene_count_ebd", "tokens.value"),
    (r"^time_embed", "time"),
    (r"^label_embed", "label"),
    (r"^final_layer\.linear", "tokens.head"),
    (r"^final_layer\.adaLN_modulation", "tokens.modulation"),
    (r"^blocks", "tokens.blocks"),
    (r"\.adaLN_modulation", ".modulation"),
    (r"\.attn\.proj\.", ".attention.out."),
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.fc1", ".mlp.0"),
    (r"\.mlp\.fc2", ".mlp.3"),
)


def make() -> Golden:
    u = normal(SPOTS, SIZE["features"], name="features")
    y = 3 * normal(SPOTS, SIZE["genes"], name="expression").abs()
    noise = normal(STEPS + 1, SPOTS, SIZE["genes"], name="noise")
    # Among them the first two steps and the last one, where the bound is computed differently.
    t = torch.tensor([0, 1, 10, 200, 700, 999])
    theirs = network(fill(StemNet(**SIZE)).state_dict())
    outputs, drops = {}, {}
    for mode in ("evaluation", "training"):
        theirs.train(mode == "training")
        leaf = u.clone().requires_grad_()
        with dropping(theirs, RENAME) as drops[mode]:
            loss, outputs[mode] = losses(theirs, leaf, y, t, noise[0])
    loss.backward()
    outputs |= {"loss": loss, "gradient": leaf.grad, "draw": draw(theirs.eval(), u, noise)}
    inputs = {"features": u, "expression": y, "t": t, "noise": noise}
    return Golden(REPOSITORY, COMMIT, {**SIZE, "steps": STEPS}, inputs, outputs, drops)


def network(state: dict[str, Tensor]) -> nn.Module:
    ensure_torchvision()
    code = import_module("Stem.models")
    theirs = code.StemModel(
        input_size=SIZE["genes"],
        hidden_size=SIZE["width"],
        depth=SIZE["depth"],
        num_heads=SIZE["heads"],
        label_size=SIZE["features"],
    )
    time = descending(state["time.mlp.0.weight"])
    give(theirs, {**state, "time.mlp.0.weight": time}, RENAME)
    return theirs


def losses(theirs: nn.Module, u: Tensor, y: Tensor, t: Tensor, noise: Tensor):
    """The loss of a batch, and its two terms for each spot, (2, M)."""
    diffusion = import_module("Stem.diffusion").create_diffusion(timestep_respacing="")
    found = diffusion.training_losses(theirs, y[:, None], t, {"y": u}, noise[:, None])
    return found["loss"].mean(), torch.stack([found["mse"], found["vb"]])


def draw(theirs: nn.Module, u: Tensor, noise: Tensor) -> Tensor:
    """The authors' sampler, in ``STEPS`` steps from the first noise. (M, G)"""
    diffusion = import_module("Stem.diffusion").create_diffusion(str(STEPS))
    steps = [one[:, None] for one in noise[1:]]
    with drawing(randn_like=steps), redirect_stderr(StringIO()):
        drawn = diffusion.p_sample_loop(
            theirs,
            (SPOTS, 1, SIZE["genes"]),
            noise[0][:, None],
            clip_denoised=False,
            model_kwargs={"y": u},
            device="cpu",
        )
    return drawn[:, 0]
