"""The dropouts of every shipped baseline, beside those that its authors' code has."""

import re

import pytest
import torch
from torch import nn

from flag_st.core import registry
from flag_st.planning import config
from golden import Golden

METHODS = config.load()["methods"]
#: Entries, and the golden file that says where their authors' network drops, with which probability.
ENTRIES = {
    "stflow": "stflow",
    "stflow_without_noise": "stflow",
    "stem": "stem",
    "stem_neighbours": "stem",
    "triplex": "triplex",
    "triplex_patches": "triplex",
    "bleep": "bleep",
    "bleep_patches": "bleep",
    "histogene": "histogene",
    "histogene_patches": "histogene",
}
#: What the defaults leave out on purpose; ``as_released`` in the docstring of the method says why.
LEFT_OUT = {"stflow": {"blocks.*.head.5"}}


def network(name: str, **params) -> nn.Module:
    """The network of an entry at its full size, without memory for its weights."""
    entry = METHODS[name]
    method = registry.build(entry["use"], {**entry.get("params", {}), **params})
    with torch.device("meta"):
        return method.build(200, 1024)


def place_of(name: str) -> str:
    """The same for all layers of a kind; weights of attention drop inside the fused kernel."""
    return re.sub(r"\b(blocks|layers)\.\d+", r"\1.*", name).replace(".drop_weights", ".attention")


def dropouts(net: nn.Module) -> dict[str, float]:
    """Place → probability of the dropouts that are on."""
    found = {place_of(n): m for n, m in net.named_modules() if isinstance(m, nn.Dropout) and m.p}
    return {place: m.p for place, m in found.items() if m.training}


def authors(name: str, mode: str) -> dict[str, float]:
    return {place_of(drop.place): drop.p for drop in Golden.load(name).drops[mode]}


@pytest.mark.parametrize("entry", ENTRIES)
def test_dropouts_in_training(entry):
    theirs, out = authors(ENTRIES[entry], "training"), LEFT_OUT.get(ENTRIES[entry], set())
    assert out <= theirs.keys()
    assert dropouts(network(entry)) == {k: p for k, p in theirs.items() if k not in out}
    assert dropouts(network(entry, as_released=True)) == theirs


@pytest.mark.parametrize("entry", ENTRIES)
def test_dropouts_in_evaluation(entry):
    """Ours have none; the release of TRIPLEX keeps some."""
    assert dropouts(network(entry).eval()) == {}
    theirs = authors(ENTRIES[entry], "evaluation")
    assert dropouts(network(entry, as_released=True).eval()) == theirs
    assert bool(theirs) == entry.startswith("triplex")


def test_every_trained_baseline_is_held_against_its_authors():
    """A golden file for each; entries that inherit from a listed one have its network."""
    held = {METHODS[name]["use"] for name in ENTRIES}
    published = ("stflow", "stem", "triplex", "bleep", "histogene")
    uses = {e["use"] for e in METHODS.values() if e["use"].startswith("flag_st.methods.")}
    assert {use for use in uses if use.split(".")[2] in published} == held
