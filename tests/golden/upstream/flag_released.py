"""FLAG (Si et al. 2026), as its released configuration runs it.

Packages: einops, torch_geometric, xxhash.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from flag_st.core import registry
from flag_st.core.torchvision_guard import ensure_torchvision
from flag_st.planning import config
from golden import Golden, drawing, dropping, fill, normal
from golden.upstream import descending, give, renaming

REPOSITORY, COMMIT = "darkflash03/FLAG", "3099d3b43ff34fb3bbf163c89127f5e2bd7d7801"

GENES, FEATURES, TARGETS, SPOTS = 6, 10, 5, 7
#: The noise level of the loss, as the uniform number that it is made from.
LEVEL = 0.5
#: Draws are compared in units of σ², 100 at the start: with random weights, scores are of size 1.
UNIT = 100.0
#: Without clipping, which would hide what lies below zero.
SIZE: dict[str, Any] = {
    "width": 16,
    "depth": 3,
    "heads": 2,
    "backbone": {"width": 16, "depth": 2, "heads": 2},
    "alignment": {"blocks": 2, "width": 12},
    "sampling": {"steps": 30, "clip": False},
}

#: The graph transformer, whose place is ``graph``, with and without adaptive norms.
GRAPH = (
    (r"\.t_in\.", ".time.mlp."),
    (r"\.to_([qkv])\.", r".attention.\1."),
    (r"\.to_e_(mul|add)\.", lambda m: f".attention.state.{NAMES[m[1]]}."),
    (r"\.cx\.cx_([qk])_(mul|add)\.", lambda m: f".attention.{m[1]}_{m[2][0]}."),
    (r"\.cx\.cx_out_(mul|add)\.", lambda m: f".attention.out_{m[1][0]}."),
    (r"\.ce\.ce_(mul|add)\.", lambda m: f".attention.static.{NAMES[m[1]]}."),
    (r"\.ce\.ce_out_(mul|add)\.", lambda m: f".stream.film.{NAMES[m[1]]}."),
    (r"\.to_x_out\.0", ".out"),
    (r"\.to_x_out\.1", ".dropout"),
    (r"\.to_e_out\.0", ".stream.out"),
    (r"\.to_e_out\.1", ".stream.dropout"),
    (r"\.ga_x_norm", ".before.norm"),
    (r"\.ga_e_norm", ".stream.before.norm"),
    (r"\.ff_x_norm", ".after.norm"),
    (r"\.ff_e_norm", ".stream.after.norm"),
    (r"\.norm\.to_gb\.1", ".film"),
    (r"\.ff_x\.", ".ffn."),
    (r"\.ff_e\.", ".stream.ffn."),
    (r"\.ffn\.0\.", ".ffn.norm."),
    (r"\.ffn\.1\.proj", ".ffn.up"),
    (r"\.ffn\.2", ".ffn.dropout"),
    (r"\.ffn\.3", ".ffn.down"),
    (r"\.z_fuse\.", ".context.mlp."),
    (r"\.(alpha|beta|gamma|delta)$", r".attention.\1"),
)
NAMES = {"mul": "multiply", "add": "add"}

RENAME = renaming(
    (r"^blocks", "decoder.dit.blocks"),
    (r"^graph_backbone", "graph"),
    (r"^gene_joint_embed\.gene_name_ebd", "decoder.dit.gene"),
    (r"^gene_joint_embed\.gene_count_ebd", "decoder.dit.value"),
    (r"^time_embed", "decoder.noise"),
    (r"^label_embed", "label"),
    (r"^node2gene", "condition"),
    (r"^projectors\.0", "projector.mlp"),
    (r"^final_layer\.linear", "decoder.dit.head"),
    (r"^final_layer\.adaLN_modulation", "decoder.dit.modulation"),
    (r"\.adaLN_modulation", ".modulation"),
    (r"\.attn\.proj\.", ".attention.out."),
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.fc1", ".mlp.0"),
    (r"\.mlp\.fc2", ".mlp.3"),
    *GRAPH,
    (r"\.pool_cx", ".idle"),
)


def make() -> Golden:
    batch, inputs = tile()
    state = fill(ours("flag_released", SIZE).build(GENES, FEATURES, TARGETS)).state_dict()
    theirs, outputs, drops = network(state), {}, {}
    loss_of = import_module("losses").repa_graph_fixed_loss
    for mode in ("evaluation", "training"):
        theirs.train(mode == "training")
        leaf = batch["cond_x"].clone().requires_grad_()
        draws = {"rand": [torch.tensor([LEVEL])], "randn_like": [inputs["noise"]]}
        scores: list[tuple] = []
        hook = theirs.register_forward_hook(lambda *given: scores.append(given[2]))  # noqa: B023
        with dropping(theirs, RENAME) as drops[mode], drawing(**draws):
            loss, _, _ = loss_of(theirs, sde(), {**batch, "cond_x": leaf}, CONFIG)
        hook.remove()
        loss.backward()
        outputs |= {mode: scores[0][0], f"{mode}_tokens": scores[0][1][0]}
        outputs |= {f"{mode}_loss": loss, f"{mode}_gradient": leaf.grad[0]}
    with torch.no_grad(), drawing(**draws):
        cells = import_module("losses").repa_cell_graph_fixed_loss
        outputs["loss_of_spots"], _, _ = cells(theirs.eval(), sde(), batch, CONFIG)
    outputs["draw"] = draw(theirs, batch, inputs["start"])
    return Golden(REPOSITORY, COMMIT, SIZE, inputs, outputs, drops)


def ours(entry: str, changes: dict[str, Any]) -> Any:
    """A method as it is shipped, but for ``changes`` of its arguments."""
    shipped = config.load()["methods"][entry]
    return registry.build(shipped["use"], config.merge(shipped["params"], changes))


def tile() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One tile as the authors' code takes it, and what it was made from."""
    ensure_torchvision()
    place = 150 * normal(SPOTS, 2, name="position").double()  # pixels
    u = normal(SPOTS, FEATURES, name="features") + 1
    counts = (4 * normal(SPOTS, GENES, name="counts").abs()).floor()
    y = torch.log2(counts + 1)
    vectors = normal(SPOTS, GENES, TARGETS, name="vectors").half().float()
    edges = import_module("dataset.utils").build_graph_with_all_effects_fully_connected
    known = torch.ones(1, SPOTS, dtype=torch.bool)
    correlations = import_module("dataset.graph_dataset").GraphDataset._pcc
    batch = {
        "x_gt": y[None],
        "e_gt": correlations(y, known[0])[None],
        "cond_x": u[None],
        "cond_e": edges(place.numpy(), u.numpy())[1].view(1, SPOTS, SPOTS, 2),
        "mask": known,
        "llm_gene_level_embeddings": vectors[None],
        "llm_gene_level_mask": (y > 0).float()[None],
        "llm_cell_level_embeddings": vectors[None, :, 0],
    }
    inputs = {"position": place, "features": u, "expression": y, "vectors": vectors}
    inputs["noise"] = normal(1, SPOTS, GENES, name="noise")
    inputs["start"] = normal(1, SPOTS, GENES, name="start")
    inputs["level"] = torch.tensor(LEVEL)
    return batch, inputs


#: What the authors' functions read of their configuration.
CONFIG: dict[str, Any] = {
    "mode": "repa_graph_fixed",
    "sde_config": {"sigma_min": 0.01, "sigma_max": 10.0, "t_min": 0.01},
    "model_config": {
        "node_dim": GENES,
        "edge_dim": 1,
        "node_cond_dim": FEATURES,
        "edge_cond_dim": 2,
        "d_model": SIZE["backbone"]["width"],
        "n_layers": SIZE["backbone"]["depth"],
        "n_heads": SIZE["backbone"]["heads"],
        "dropout": 0.1,
        "ada_norm": False,
        "use_cond_e_in_attn": False,
        "d_gene": 512,
        "hidden_dim": SIZE["width"],
        "num_heads": SIZE["heads"],
        "dit_num_blocks": SIZE["depth"],
        "encoder_layer": SIZE["alignment"]["blocks"],
        "projector_dim": SIZE["alignment"]["width"],
        "z_dim": TARGETS,
        "mlp_ratio": 4.0,
    },
}


def sde() -> Any:
    return import_module("sdes.vesde").VESDE(CONFIG["sde_config"])


def network(state: Mapping[str, Tensor]) -> nn.Module:
    theirs = import_module("models").GraphDitRepa(CONFIG["model_config"])
    time = "decoder.noise.mlp.0.weight"
    state = {**state, time: descending(state[time])}
    # Maps from no edge attribute at all have no numbers here, and do not exist in ours.
    empty = {RENAME(k): v for k, v in theirs.state_dict().items() if not v.numel()}
    give(theirs, {**dict(scalars(state)), **empty}, RENAME)
    return theirs


def scalars(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """α, β, γ and δ one by one; ours are a vector."""
    for name, value in state.items():
        if name.endswith(".attention.weights"):
            place = name.removesuffix("weights")
            yield from zip(
                (place + n for n in ("alpha", "beta", "gamma", "delta")), value, strict=True
            )
        else:
            yield name, value


def draw(theirs: nn.Module, batch: Mapping[str, Tensor], start: Tensor) -> Tensor:
    """The authors' sampler, in ``UNIT``. (N, G)"""
    sampler = import_module("samplers").graph_ode_sampler
    given = SimpleNamespace(**batch)
    with drawing(randn=[start]):
        found = sampler(
            CONFIG,
            theirs,
            sde(),
            given.cond_x,
            given.cond_e,
            given.mask,
            steps=SIZE["sampling"]["steps"],
            mode=CONFIG["mode"],
        )
    return found.view(SPOTS, GENES) / UNIT
