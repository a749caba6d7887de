"""``flag-st describe``: the settings that a method entry resolves to, and its size."""

from typing import Any

from flag_st.core import registry
from flag_st.core.errors import FlagError


def describe(config: dict[str, Any], name: str, genes: int, features: int, targets: int) -> dict:
    """The resolved settings and the number of parameters of a method entry.

    Args:
        config: as ``flag_st.planning.config.load`` returns it.
        name: the entry.
        genes, features, targets: G, D and, for methods that align to a gene model, K.

    Returns:
        A dict that JSON can hold; ``parameters`` is None for a method without a network.

    Raises:
        FlagError: no such entry, or arguments that its class refuses.
    """
    if name not in config["methods"]:
        raise FlagError(f"no method {name!r}", choices=sorted(config["methods"]))
    entry = config["methods"][name]
    method = registry.build(entry["use"], entry.get("params", {}))
    aligned = targets if entry["gene_model"] else 0
    count, parts = count_parameters(method, genes, features, aligned)
    return {
        "method": name,
        "use": entry["use"],
        "encoder": entry["encoder"],
        "gene_model": entry["gene_model"],
        "stochastic": method.stochastic,
        "needs": sorted(method.needs),
        "params": registry.resolve(entry["use"], entry.get("params")),
        "sizes": {"genes": genes, "features": features, "targets": aligned},
        "parameters": count,
        "parts": parts,
    }


def count_parameters(method, genes: int, features: int, targets: int):
    """Number of parameters in all and per part, counted on the meta device without using memory."""
    import torch

    with torch.device("meta"):
        network = method.build(genes, features, targets)
    if network is None:
        return None, {}
    parts = {n: sum(p.numel() for p in m.parameters()) for n, m in network.named_children()}
    return sum(p.numel() for p in network.parameters()), parts
