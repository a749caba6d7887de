"""Joint node-edge diffusion (Si et al. 2026), as released.

Packages: einops, torch_geometric, xxhash.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from golden import Golden, drawing, dropping, fill, normal
from golden.upstream import flag_released as flag
from golden.upstream import give, renaming

REPOSITORY, COMMIT = flag.REPOSITORY, flag.COMMIT

SIZE: dict[str, Any] = {"width": 16, "depth": 2, "heads": 2, "sde": {"steps": 30, "clip": False}}

#: The network is the graph transformer itself.
RENAME = renaming(
    (r"^", "graph."),
    *flag.GRAPH,
    (r"\.pool_cx", ".context.pool_u"),
    (r"\.pool_ce", ".context.pool_edges"),
)
CONFIG: dict[str, Any] = {
    **flag.CONFIG,
    "mode": "graph_diffusion_learned",
    "model_config": {
        **flag.CONFIG["model_config"],
        "ada_norm": True,
        "use_cond_e_in_attn": True,
        "n_layers": SIZE["depth"],
    },
    "train_config": {"lambda_edge": 1, "lambda_consistency": 0.1},
}


def make() -> Golden:
    batch, inputs = flag.tile()
    del inputs["vectors"]
    inputs |= {
        f"{name}_edges": normal(1, flag.SPOTS, flag.SPOTS, name=f"{name} of edges")
        for name in ("noise", "start")
    }
    state = fill(flag.ours("joint_released", SIZE).build(flag.GENES, flag.FEATURES)).state_dict()
    theirs, drops = network(state), {}
    outputs = {"edges": batch["e_gt"][0, ..., 0], "static": batch["cond_e"][0]}
    loss_of = import_module("losses").graph_diffusion_loss
    for mode in ("evaluation", "training"):
        theirs.train(mode == "training")
        leaf = batch["cond_x"].clone().requires_grad_()
        noise = [inputs["noise"], inputs["noise_edges"].unsqueeze(-1)]
        draws = {"rand": [inputs["level"].view(1)], "randn_like": noise}
        scores: list[tuple] = []
        hook = theirs.register_forward_hook(lambda *given: scores.append(given[2]))  # noqa: B023
        with dropping(theirs, RENAME) as drops[mode], drawing(**draws):
            loss, parts, _ = loss_of(theirs, flag.sde(), {**batch, "cond_x": leaf}, CONFIG)
        hook.remove()
        loss.backward()
        nodes, edges = scores[0]
        outputs |= {f"{mode}_nodes": nodes, f"{mode}_edges": edges, f"{mode}_loss": loss}
        outputs |= {f"{mode}_{name}": value for name, value in parts.items()}
        outputs[f"{mode}_gradient"] = leaf.grad[0]
    outputs["draw"] = draw(theirs.eval(), batch, inputs)
    return Golden(REPOSITORY, COMMIT, SIZE, inputs, outputs, drops)


def network(state: Mapping[str, Tensor]) -> nn.Module:
    theirs = import_module("models").GraphModel(CONFIG["model_config"])
    # Sines come first there, and cosines here.
    time = "graph.time.mlp.0.weight"
    state = {**state, time: state[time].unflatten(1, (2, -1)).flip(1).flatten(1)}
    scalars = {k: v for k, v in flag.scalars(state) if k.startswith("graph.")}
    give(theirs, scalars, RENAME)
    return theirs


def draw(theirs: nn.Module, batch: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
    """The nodes of the authors' sampler, in ``flag.UNIT``. (N, G)"""
    sampler = import_module("samplers").graph_diffusion_ode_sampler
    conditions = (batch["cond_x"], batch["cond_e"], batch["mask"])
    with drawing(randn=[inputs["start"], inputs["start_edges"].unsqueeze(-1)]):
        nodes, _ = sampler(CONFIG, theirs, flag.sde(), *conditions, steps=SIZE["sde"]["steps"])
    return nodes.view(flag.SPOTS, flag.GENES) / flag.UNIT
