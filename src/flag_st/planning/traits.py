"""Traits of plug-ins that the planner must know before it can import a class.

The environment that plans the workflow has no PyTorch, so each entry of the configuration states the
traits of its class. ``flag-st check`` and the training job compare them with the class that is built.
"""

from collections.abc import Callable, Mapping
from typing import Any

from flag_st.core.errors import FlagError

#: Layer → trait of its entries → how the built plug-in says the same.
TRAITS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "methods": {
        "stochastic": lambda method: method.stochastic,
        "needs_truth": lambda method: "truth" in method.needs,
        "needs_patches": lambda method: "patches" in method.needs,
        "backbone": lambda method: "backbone" in method.needs,
    },
    "encoders": {"fits": lambda encoder: encoder.fits},
    "gene_models": {
        "fits": lambda gene_model: gene_model.fits,
        "backbone": lambda gene_model: gene_model.backs,
    },
    "metrics": {
        "downstream": lambda metric: metric.downstream,
        "calibrated": lambda metric: metric.calibrated,
    },
}


def stated(layer: str, entry: Mapping[str, Any]) -> dict[str, bool]:
    """The traits that an entry states; one that it does not mention is false."""
    return {trait: bool(entry.get(trait)) for trait in TRAITS.get(layer, {})}


def check_traits(layer: str, name: str, traits: Mapping[str, bool], plugin: Any) -> None:
    """Compare what an entry states with the plug-in that was built from it.

    Args:
        layer, name: of the entry.
        traits: as ``stated`` returns them.
        plugin: the built object.

    Raises:
        FlagError: they disagree.
    """
    for trait, of in TRAITS.get(layer, {}).items():
        if traits[trait] != bool(of(plugin)):
            entry, cls = (str(bool(value)).lower() for value in (traits[trait], of(plugin)))
            raise FlagError(
                f"{layer}.{name} says {trait}: {entry}, but {type(plugin).__name__} with these params "
                f"has {trait}: {cls}",
                remedy=f"write {trait}: {cls} in the entry {layer}.{name}",
            )


def bounds_others(config: Mapping[str, Any], method: str) -> bool:
    """Whether a method has seen the truth, so that it bounds the others and does not compete.

    It may be told the truth of the slide that it predicts, or build on a gene model whose corpus holds
    the test slides.
    """
    entry = config["methods"][method]
    names = filter(None, (entry.get("gene_model"), entry.get("backbone")))
    corpora = {config["gene_models"][name].get("corpus") for name in names}
    return bool(entry.get("needs_truth")) or "oracle" in corpora
