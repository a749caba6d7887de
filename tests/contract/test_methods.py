"""Every shipped method entry: fits two steps, predicts, follows its spots, saves and reloads."""

from dataclasses import is_dataclass

import numpy as np
import pytest
import torch
import toy
from published import write_cellfm, write_scgpt
from scipy import sparse
from torch.utils._python_dispatch import TorchDispatchMode

from flag_st.commands.describe import describe
from flag_st.core import registry
from flag_st.core.seeds import Draws
from flag_st.data.slide import Cohort
from flag_st.methods.base import Method, Run, load
from flag_st.planning import config
from flag_st.planning.traits import check_traits, stated

CONFIG = config.load()
#: Sizes that make any network small and quick; an entry takes those of its arguments it has.
SMALL = {
    "width": 16,
    "depth": 2,
    "heads": 2,
    "backbone": {"width": 16, "depth": 1, "heads": 2},
    "alignment": {"blocks": 1, "width": 16},
    "sampling": {"steps": 3, "point_draws": 2},
    "sde": {"steps": 3},
    "steps": 3,
    "components": 8,
    "pixels": 8,
    "network": "test_resnet",
    "fusion": {"heads": 2},
    "slide": {"depth": 1, "heads": 2},
    "neighbour": {"depth": 1, "heads": 2},
    "regions": 2,
    "point_draws": 2,
    "scores": 3,
    "masking": {"horizon": 5},
    "widths": [8, 8, 8],
    "graph": {"space": 2, "features": 2},
    "first": {"epochs": 2},
    "training": {"epochs": 2, "validate_every": 1, "warmup": 1},
}


#: HINGE's backbone, or a linear one.
BACKBONE = {
    "width": 16,
    "layers": 2,
    "heads": 2,
    "bins": 8,
    "pretraining": {"epochs": 1, "held_out": 0},
}


def fitting(value, default):
    """Of a group, the options that this plug-in's group of the same name has."""
    if isinstance(value, dict) and is_dataclass(default):
        return {k: v for k, v in value.items() if hasattr(default, k)}
    return value


def small(entry: dict) -> dict:
    """The entry's own arguments, shrunk; so are those of the methods it is made of."""
    params = dict(entry.get("params", {}))
    known = registry.defaults(entry["use"])
    shrunk = {k: fitting(v, known[k]) for k, v in SMALL.items() if k in known}
    if "use" in params.get("backbone", {}):
        known = registry.arguments(registry.load(params["backbone"]["use"]))
        shrunk["backbone"] = {"params": {k: v for k, v in BACKBONE.items() if k in known}}
    own = params.get("sampling", {})
    if {"budget", "until"} & set(own):  # draws that ask for steps of the whole chain
        shrunk.pop("masking", None)
    parts = {k: v for k, v in params.items() if k != "backbone" and isinstance(v, dict)}
    return config.merge(params, {**shrunk, **small_parts(parts)})


def small_parts(parts: dict) -> dict:
    """Of groups of arguments: the methods in them, at any depth, shrunk."""
    found = {}
    for name, part in parts.items():
        if "use" in part:
            found[name] = {**part, "params": small(part)}
        elif inner := small_parts({k: v for k, v in part.items() if isinstance(v, dict)}):
            found[name] = inner
    return found


#: Published backbones by the end of their class's path, and what writes a tiny one.
PUBLISHED = {
    "PublishedCellFm": write_cellfm,
    "ScGPT": lambda folder, genes, _: write_scgpt(folder, genes),
}


def backbone_of(params: dict, directory, monkeypatch):
    """The file of a method's backbone, pre-trained for a moment; None if none is to be fitted.

    Files of a published one are written, and ``params`` then names their folder.
    """
    if "use" not in (given := params.get("backbone", {})):
        return None
    genes = [f"g{i}" for i in range(toy.GENES)]
    if write := PUBLISHED.get(given["use"].rpartition(".")[2]):
        own = write(directory / "published", genes, monkeypatch)
        params["backbone"] = config.merge(given, {"params": own})
        return None
    model = registry.build(given["use"], given["params"])
    model.open("cpu")
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(1.0, (40, toy.GENES)))
    model.fit([counts], genes, genes, seed=0)
    path = directory / "backbone.safetensors"
    model.save(path)
    return path


def prepared(entry: dict, directory):
    """Toy slides with what the entry needs."""

    def one(name):
        slide = toy.slide(name)
        if entry["gene_model"]:
            slide = toy.with_targets(slide, directory)
        return toy.with_patches(slide, directory) if entry.get("needs_patches") else slide

    train, valid, test = [one("a"), one("b")], [one("c")], one("d")
    genes = [f"g{i}" for i in range(toy.GENES)]
    return Cohort(train, genes), Cohort(valid, genes), test


#: Operations whose order of summation no setting of torch fixes on a GPU (the documentation of
#: torch.use_deterministic_algorithms), as they are called here in the backward pass or forward,
#: without the underscore of the forms that work in place.
UNORDERED = {
    "_adaptive_avg_pool2d_backward",
    "_adaptive_avg_pool3d_backward",
    "adaptive_max_pool2d_backward",
    "avg_pool3d_backward",
    "bincount of weights",
    "_ctc_loss_backward",
    "cumsum of floats",
    "_embedding_bag_backward",
    "fractional_max_pool2d_backward",
    "fractional_max_pool3d_backward",
    "grid_sampler_2d_backward",
    "grid_sampler_3d_backward",
    "histc",
    "kthvalue",
    "max_pool3d_with_indices_backward",
    "max_unpool2d",
    "max_unpool3d",
    "median",
    "nll_loss2d_forward",
    "nll_loss_forward",
    "put",
    "reflection_pad1d_backward",
    "reflection_pad2d_backward",
    "reflection_pad3d_backward",
    "replication_pad2d_backward",
    "scatter_reduce by mean",
    "scatter_reduce by prod",
    "scatter_reduce by sum",
    "upsample_bicubic2d_backward",
    "upsample_bilinear2d_backward",
    "upsample_linear1d_backward",
    "upsample_trilinear3d_backward",
}


def called(name: str, args: tuple) -> str:
    """The name of an operation, and what else decides whether its sums keep their order."""
    name = name.rstrip("_")
    if name == "scatter_reduce":
        # A largest or smallest value is the same in any order. Sums have an ordered form in recent
        # versions of torch only.
        return f"{name} by {args[4]}"
    if name == "cumsum" and args[0].is_floating_point():
        return f"{name} of floats"
    if name == "bincount" and len(args) > 1 and args[1] is not None:
        return f"{name} of weights"
    return name


class Recorded(TorchDispatchMode):
    """Inside the block, the names of all operations that torch runs, backward passes included."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(called(func.overloadpacket.__name__, args))
        return func(*args, **(kwargs or {}))


def test_operations_without_an_order_are_noticed_in_place_and_by_what_they_do():
    index, values = torch.tensor([0, 0, 1]), torch.rand(3)
    found = {}
    for how in ("amax", "prod", "sum"):
        with Recorded() as recorded:
            torch.zeros(2).scatter_reduce_(0, index, values, how)
        found[how] = bool(recorded.names & UNORDERED)
    assert found == {"amax": False, "prod": True, "sum": True}
    for work, noticed in (
        (lambda: values.cumsum(0), True),
        (lambda: index.cumsum(0), False),
        (lambda: index.bincount(values), True),
        (lambda: index.bincount(), False),
        (lambda: torch.zeros(2).put_(index, values), True),
        (lambda: torch.zeros(2).scatter_add_(0, index, values), False),
    ):
        with Recorded() as recorded:
            work()
        assert bool(recorded.names & UNORDERED) == noticed


@pytest.mark.parametrize("name", sorted(CONFIG["methods"]))
def test_contract(name, tmp_path, monkeypatch):
    entry = CONFIG["methods"][name]
    params = small(entry)
    backbone = backbone_of(params, tmp_path, monkeypatch)
    method = registry.build(entry["use"], params)
    check_traits("methods", name, stated("methods", entry), method)
    train, valid, test = prepared(entry, tmp_path)
    rows: list[dict] = []
    with Recorded() as recorded:
        run = Run(0, "cpu", tmp_path / "checkpoint", rows.append, backbone=backbone)
        method.fit(train, valid, run)
    assert not recorded.names & UNORDERED  # or training twice on a GPU would differ

    seen = test if "truth" in method.needs else test.without_truth()
    samples = 3 if method.stochastic else 1
    first = method.predict(seen, samples, Draws(0, test.id))
    shape = (samples, len(test), toy.GENES)
    assert first.samples.shape == shape
    assert first.point.shape == shape[1:]
    assert np.isfinite(first.samples).all()

    # A draw depends on its number, not on how many are made.
    fewer = method.predict(seen, 1, Draws(0, test.id))
    assert np.allclose(fewer.samples[0], first.samples[0], atol=1e-6)
    if not (method.stochastic and method.point_from_draws):
        assert np.allclose(fewer.point, first.point, atol=1e-6)
    if method.stochastic:
        assert np.abs(first.samples[0] - first.samples[1]).max() > 1e-6
        other = method.predict(seen, 1, Draws(1, test.id))
        assert np.abs(other.samples[0] - first.samples[0]).max() > 1e-6

    else:
        # What is random in training has to be said, or it would not be repeated over seeds.
        other = registry.build(entry["use"], params)
        other.fit(train, valid, Run(1, "cpu", tmp_path / "other", backbone=backbone))
        same = np.array_equal(other.predict(seen, 1, Draws(0, test.id)).samples, first.samples)
        assert same != bool(entry.get("seeded"))

    path = tmp_path / "model.safetensors"
    method.save(path, use=entry["use"], params=params)
    again = load(path)[0].predict(seen, samples, Draws(0, test.id))
    assert np.array_equal(again.samples, first.samples)
    assert np.array_equal(again.point, first.point)


@pytest.mark.parametrize("name", sorted(CONFIG["methods"]))
def test_network_is_built_at_its_own_sizes(name):
    """Unshrunk, as `flag-st describe` tells them; methods that override no `build` have none."""
    described = describe(CONFIG, name, genes=20, features=32, targets=8)
    entry = CONFIG["methods"][name]
    inner = entry.get("params", {}).get("base", entry)  # what a control wraps
    if registry.load(inner["use"]).build is Method.build:
        assert described["parameters"] is None
    else:
        assert described["parameters"] > 1000


@pytest.mark.parametrize("name", sorted(CONFIG["methods"]))
def test_unknown_argument_is_refused_by_name(name):
    entry = CONFIG["methods"][name]
    with pytest.raises(registry.FlagError, match="no_such_argument"):
        registry.build(entry["use"], {"no_such_argument": 1})


def test_controls_rank_as_they_must():
    """Truth beats ridge, ridge beats the mean, shuffled profiles know nothing of the image."""
    train, valid = toy.cohort("a", "b", "c"), toy.cohort("d")
    test = toy.slide("e")
    error, correlation = {}, {}
    for name in ("oracle", "ridge", "training_mean", "shuffled_profiles"):
        entry = CONFIG["methods"][name]
        method = registry.build(entry["use"], entry.get("params", {}))
        method.fit(train, valid, Run())
        draw = method.predict(test, 1, Draws(0, test.id)).samples[0]
        error[name] = float(np.mean((draw - test.expression) ** 2))
        with np.errstate(invalid="ignore"):
            r = [np.corrcoef(draw[:, g], test.expression[:, g])[0, 1] for g in range(toy.GENES)]
        correlation[name] = float(np.nan_to_num(r).mean())
    assert error["oracle"] == 0
    assert error["oracle"] < error["ridge"] < error["training_mean"] < error["shuffled_profiles"]
    assert correlation["ridge"] > 0.8
    assert abs(correlation["shuffled_profiles"]) < 0.15
