"""Make torchvision importable beside a torch that cannot load its compiled operators.

A torchvision wheel built for CUDA next to a CPU build of torch fails at import: it registers
shadow kernels of ``nms`` for an operator that its unloadable library never defined. timm and parts
of transformers import torchvision, but only its Python code, so defining the two missing operator
schemas first is enough. With matching wheels the guard merely loads the library early.
"""

import importlib.util
from pathlib import Path

#: The operators vanish with the Python object that defined them, so it is kept here.
_kept: list = []


def ensure_torchvision() -> str:
    """Call before the first import of timm, transformers or torchvision; more calls are harmless.

    Returns:
        ``native`` (compiled operators work), ``python-only`` (no ``nms`` and the like) or
        ``absent`` (not installed).
    """
    import torch

    spec = importlib.util.find_spec("torchvision")  # finds the folder without importing it
    if spec is None or not spec.submodule_search_locations:
        return "absent"
    if _kept:
        return "python-only"
    for library in Path(spec.submodule_search_locations[0]).glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))
            return "native"
        except OSError:
            continue
    schemas = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        schemas.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(schemas)
    return "python-only"
