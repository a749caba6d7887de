"""A tiny cohort in memory whose expression really depends on its features."""

from pathlib import Path

import numpy as np

from flag_st.core import registry
from flag_st.data.slide import Cohort, Slide
from flag_st.data.targets import Targets, writing_targets

GENES, WIDTH = 12, 10


def slide(name: str, patient: str = "p1", spots: int = 40, seed: int = 0) -> Slide:
    """Expression is a rectified linear function of the features plus noise."""
    weights = np.random.default_rng(99).normal(size=(WIDTH, GENES))
    rng = np.random.default_rng([seed, *name.encode()])
    features = rng.normal(size=(spots, WIDTH)).astype(np.float32)
    y = np.maximum(1.5 + 0.4 * features @ weights + 0.2 * rng.normal(size=(spots, GENES)), 0)
    return Slide(
        id=name,
        patient=patient,
        spots=np.array([f"{name}-{i}" for i in range(spots)]),
        position=np.stack(np.divmod(np.arange(spots), 7), 1) * 200.0
        + rng.uniform(0, 5, (spots, 2)),
        features=features,
        expression=y.astype(np.float32),
        pixel_um=0.3,
    )


def cohort(*names: str, patient: str = "p1") -> Cohort:
    return Cohort([slide(n, patient) for n in names], [f"g{i}" for i in range(GENES)])


def with_targets(one: Slide, directory: Path, width: int = 6, kind: str = "static") -> Slide:
    """The slide with vectors of a gene model on disk: per gene, per spot and gene, or per spot."""
    from dataclasses import replace

    genes = [f"g{i}" for i in range(GENES)]
    of_all = {"contextual": (len(one), GENES, width), "spot": (len(one), width)}
    vectors = np.random.default_rng(3).normal(size=of_all.get(kind, (GENES, width)))
    path = directory / f"{one.id}.h5"
    with writing_targets(path, kind, one.spots, genes, width) as put:
        put(slice(0, len(one)), vectors)
    return replace(one, targets=Targets.open(path, one.spots, genes))


def with_patches(one: Slide, directory: Path, side: int = 64) -> Slide:
    """The slide with a patch file whose brightness follows the first feature.

    Patches are smaller than those of real slides, which spares image networks nine tenths of their time.
    """
    from dataclasses import replace

    import h5py

    rng = np.random.default_rng([7, *one.id.encode()])
    level = np.clip(128 + 30 * one.features[:, :1, None, None], 0, 255)
    images = np.clip(level + rng.normal(0, 10, (len(one), side, side, 3)), 0, 255).astype(np.uint8)
    path = directory / f"{one.id}-patches.h5"
    with h5py.File(path, "w") as file:
        file["img"] = images
        file["coords"] = np.zeros((len(one), 2), dtype=np.int64)
        file["barcode"] = np.array(one.spots, dtype=object)
        file.attrs["contract"] = 1
    return replace(one, patches=path)


def made(cls, *args, **params):
    """An instance of a plug-in, built from plain values as the configuration gives them."""
    names = registry.arguments(cls)
    return registry.build(
        f"{cls.__module__}.{cls.__qualname__}", {**dict(zip(names, args, strict=False)), **params}
    )
