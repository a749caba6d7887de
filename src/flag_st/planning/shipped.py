"""Which entries of a configuration keep a shipped name and have other settings."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from flag_st.planning import config as layers

#: Layer → the keys of its entries that decide results; None: all of them.
DECIDING: dict[str, tuple[str, ...] | None] = {
    "cohorts": ("prepare",),
    "encoders": ("params", "field_um"),
    "gene_models": ("params", "corpus"),
    "methods": ("params",),
    "panels": None,
    "splits": None,
}
#: Arguments of models that are not trained here, which say where their files are or how many things are computed at a
#: time. A method's batch is one of training, and decides what is learned.
FREE = {"weights", "directory", "batch", "batch_tokens"}
FROZEN = ("encoders", "gene_models")


@cache
def _shipped() -> dict[str, Any]:
    return layers.resolve(layers.shipped())


def differs(config: Mapping[str, Any], layer: str, name: str | None) -> bool:
    """Whether the entry ``name`` would give other results than the shipped one of this name.

    Args:
        config: a resolved configuration.
        layer: one of ``DECIDING``.
        name: None for nothing; an entry that is not shipped differs from none.
    """
    known = _shipped()[layer].get(name)
    return known is not None and _settings(layer, known) != _settings(layer, config[layer][name])


def _settings(layer: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    keys = DECIDING[layer]
    found = {key: entry[key] for key in (entry if keys is None else keys) if entry.get(key)}
    if layer in FROZEN and isinstance(params := found.get("params"), Mapping):
        found["params"] = {key: value for key, value in params.items() if key not in FREE}
    return found


def run_differs(config: Mapping[str, Any], experiment: str, method: str) -> bool:
    """Whether anything that the runs of a method in an experiment use has a shipped name and other settings."""
    one, entry = config["experiments"][experiment], config["methods"][method]
    used = [("methods", method), ("encoders", entry["encoder"])]
    used += [("gene_models", entry["gene_model"]), ("splits", one["split"])]
    used += [(layer, name) for layer in ("cohorts", "panels") for name in one[layer]]
    return any(differs(config, layer, name) for layer, name in used)
