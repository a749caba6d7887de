"""STFlow (Huang et al. 2025). Packages: einops, torch_geometric.

The authors' repository has no code in its history; their commit is kept by the fork that is named
here. It cannot be constructed as it is, since one class is given an argument that it does not take;
the argument is left out. The width of a layer is written for 50 genes.
"""

from collections.abc import Iterator
from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from flag_st.core.torchvision_guard import ensure_torchvision
from flag_st.nets.stflow import StFlowNet
from golden import Golden, drawing, dropping, fill, normal
from golden.upstream import descending, give, renaming

REPOSITORY, COMMIT = "linboqiao/ESTFlow", "880c2eeaa64aaf64ffcd30f3c3278bdab4ab1dbe"

#: Two regions; the second is one spot smaller, so that one spot of padding becomes a neighbour. With
#: more, neighbours would be equally far away, and their order would not be defined.
SPOTS, FEATURES, NEIGHBOURS, STEPS = (14, 13), 12, 4, 5
SIZE = {"genes": 50, "features": FEATURES, "width": 16, "depth": 2, "heads": 2, "dropout": 0.2}

RENAME = renaming(
    (r"^fourier_proj", "time"),
    (r"^image_transform", "features"),
    (r"^backbone\.blks", "blocks"),
    (r"\.gene_updater\.output", ".head"),
    (r"\.attn\.", ".attention."),
    (r"\.layernorm_qkv\.0", ".norm"),
    (r"\.layernorm_qkv\.1", ".qkv"),
    (r"\.edge_trans", ".edge"),
    (r"\.mlp_attn", ".logit"),
    (r"\.W_output", ".out"),
    (r"\.attn_dropout$", ".dropout"),
    (r"\.drop[12]$", ".dropout"),
    (r"\.fc1", ".up"),
    (r"\.fc2", ".down"),
)


#: Columns of what a region has.
COLUMNS = {"position": 2, "features": FEATURES, "expression": 50}


def make() -> Golden:
    regions = [
        {name: normal(n, width, name=f"{name} {n}") for name, width in COLUMNS.items()}
        for n in SPOTS
    ]
    for region in regions:
        region["position"] *= 1000
    ours = fill(StFlowNet(**SIZE, as_released=True))
    theirs = network(ours.state_dict())
    noise, t = normal(2, SPOTS[0], 50, name="noise"), torch.tensor([0.3, 0.8])
    # As the authors' loader does, which places the padding at the centre of a region.
    centred = [{**r, "position": r["position"] - r["position"].mean(0)} for r in regions]
    position, u, y = (pad_sequence([r[name] for r in centred], True) for name in COLUMNS)
    outputs, axes, drops = passes(theirs, position, u, y, noise, t)
    start = normal(1, SPOTS[0], 50, name="start")
    drawn = draw(theirs.eval(), position[:1], u[:1], start)
    inputs = {f"{name}{i}": value for i, r in enumerate(regions) for name, value in r.items()}
    return Golden(
        REPOSITORY,
        COMMIT,
        {**SIZE, "neighbours": NEIGHBOURS, "steps": STEPS},
        {**inputs, "noise": noise, "t": t, "start": start, "axes": axes},
        {**outputs, "axes": axes.abs(), "draw": drawn},
        drops,
    )


def network(state: dict[str, Tensor]):
    ensure_torchvision()
    import stflow.model.transformer as code
    from stflow.model.denoiser import Denoiser

    start = code.GeneUpdate.__init__
    code.GeneUpdate.__init__ = lambda self, width, genes, proj_drop, non_negative: start(
        self, width, genes, proj_drop
    )
    config = SimpleNamespace(
        n_genes=50,
        feature_dim=FEATURES,
        hidden_dim=SIZE["width"],
        pairwise_hidden_dim=SIZE["width"],
        n_layers=SIZE["depth"],
        n_heads=SIZE["heads"],
        dropout=SIZE["dropout"],
        attn_dropout=SIZE["dropout"],
        n_neighbors=NEIGHBOURS,
        activation="swiglu",
    )
    theirs = Denoiser(config)
    give(theirs, {**state, **dict(reordered(state))}, RENAME)
    return theirs


def reordered(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Those of our weights whose columns have another order in the authors' network."""
    for name, weight in state.items():
        if name == "time.mlp.0.weight":
            yield name, descending(weight)
        elif name.endswith("edge.up.weight"):  # their axes begin with the shorter one
            yield name, weight[:, [1, 0, 2]]
        elif name.endswith("out.up.weight"):  # values and edges of a head lie side by side here
            heads = weight.unflatten(1, (SIZE["heads"], 2, -1))  # (p, H, 2, d/H)
            yield name, heads.transpose(1, 2).flatten(1)


def passes(theirs, position, u, y, noise, t):
    """Estimate and loss in both modes; in training also the masks, the axes and the gradient."""
    from stflow.flow.interpolant import Interpolant

    flow = Interpolant("gaussian", normalize=False)
    outputs, drops, frames = {}, {}, []
    attention = theirs.backbone.blks[0].attn
    made = attention.create_frame
    attention.create_frame = lambda *given: frames.append(made(*given)[0]) or made(*given)
    for mode in (False, True):
        theirs.train(mode)
        with drawing(rand=[t], randn=[noise]):
            x, t_ = flow.corrupt_exp(y)
        leaf = u.clone().requires_grad_()
        name = ("evaluation", "training")[mode]
        with dropping(theirs, RENAME) as drops[name]:
            estimate, loss = theirs(x, leaf, position, y, t_)
        loss.backward()
        outputs |= {name: estimate, f"{name}_loss": loss, f"{name}_gradient": leaf.grad}
    # The frame whose signs are both positive comes last. (B, N, K, 2), the longer axis first
    axes = frames[0].view(2, SPOTS[0], 4, NEIGHBOURS, 2)[:, :, 3].flip(-1)
    return outputs, axes, drops


def draw(theirs, position: Tensor, u: Tensor, start: Tensor) -> Tensor:
    """The authors' test loop on one slide, whose scores are not used. (N, G)"""
    from stflow.app.flow.test import test
    from stflow.flow.interpolant import Interpolant

    class Loader(list):
        dataset = SimpleNamespace(gene_list=[str(g) for g in range(50)], name="slide")

    loader = Loader([(u, position, start)])
    args = SimpleNamespace(device="cpu", n_sample_steps=STEPS)
    with drawing(randn=[start]):
        _, found = test(args, Interpolant("gaussian", normalize=False), theirs, [loader], True)
    return torch.from_numpy(found["preds_all"])
