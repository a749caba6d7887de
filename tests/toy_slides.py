"""Small slides whose expression can be told from their features, for tests of methods."""

from pathlib import Path

import numpy as np

from flag_st.core.seeds import Draws
from flag_st.data.slide import Cohort, Slide
from flag_st.methods.base import Method, Run, load
from flag_st.nets.graph import SpotGraph, spot_graph

GENES, FEATURES = 12, 16


def toy_slide(
    name: str = "A1",
    spots: int = 40,
    genes: int = GENES,
    features: int = FEATURES,
    patient: str = "A",
    seed: int = 0,
) -> Slide:
    """Spots of a square array, 200 µm apart; features and log counts follow three smooth fields."""
    rng = np.random.default_rng([seed, *name.encode()])
    side = int(np.ceil(np.sqrt(spots)))
    cells = np.stack(np.divmod(np.arange(spots), side), -1)  # (N, 2)
    position = 200.0 * cells + rng.uniform(-4, 4, (spots, 2))
    world = np.random.default_rng(seed)  # the same for all slides of a seed
    phases = np.sin(cells @ rng.uniform(0.3, 0.9, (2, 3)) + rng.uniform(0, 6, 3))  # (N, 3)
    own = 0.3 * rng.normal(size=(spots, 3))  # what a spot does not share with its neighbours
    latent = np.concatenate([phases + own, np.ones((spots, 1))], axis=1)  # (N, 4)
    seen = latent @ world.normal(size=(4, features)) + 0.05 * rng.normal(size=(spots, features))
    loading = world.normal(size=(4, genes))
    loading[3] = world.uniform(1.0, 4.0, genes)
    expression = np.maximum(latent @ loading, 0)
    return Slide(
        id=name,
        patient=patient,
        spots=np.array([f"{i}x{j}" for i, j in cells]),
        position=position,
        features=seen.astype(np.float32),
        expression=expression.astype(np.float32),
    )


def toy_cohort(slides: int = 1, spots: int = 40, **more) -> Cohort:
    made = [toy_slide(f"A{i + 1}", spots, **more) for i in range(slides)]
    return Cohort(made, [f"g{i}" for i in range(made[0].expression.shape[1])])


def fitted(method: Method, cohort: Cohort, tmp_path: Path, valid: Cohort | None = None) -> Method:
    """Trained on ``cohort`` and, without ``valid``, also judged on it: a test of overfitting."""
    method.fit(cohort, valid or cohort, Run(seed=0, directory=tmp_path / "run"))
    return method


def correlation(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Mean over genes of Pearson's r."""
    p, t = prediction - prediction.mean(0), truth - truth.mean(0)
    return float(((p * t).sum(0) / np.sqrt((p**2).sum(0) * (t**2).sum(0))).mean())


def reloaded(method: Method, use: str, params: dict, tmp_path: Path) -> Method:
    """Through a model file and back."""
    method.save(tmp_path / "model.safetensors", use=use, params=params)
    return load(tmp_path / "model.safetensors")[0]


def predict(method: Method, slide: Slide, samples: int = 1, seed: int = 0):
    return method.predict(slide.without_truth(), samples, Draws(seed, slide.id))


def with_patches(slide: Slide, path: Path, side: int = 32, seed: int = 0) -> Slide:
    """The slide with a patch file, in another order, whose colours and stripes tell expression."""
    from dataclasses import replace

    import h5py

    rng = np.random.default_rng(seed)
    level = slide.expression[:, :3]
    level = (level - level.min(0)) / (level.max(0) - level.min(0) + 1e-6)  # (N, 3)
    image = 40 + 170 * level[:, None, None, :] + rng.normal(0, 8, (len(slide), side, side, 3))
    order = rng.permutation(len(slide))
    with h5py.File(path, "w") as file:
        file["img"] = image.clip(0, 255).astype(np.uint8)[order]
        file.create_dataset(
            "barcode", data=slide.spots[order].astype(object), dtype=h5py.string_dtype()
        )
    return replace(slide, patches=path)


def toy_graphs(
    sizes, neighbours: int | None = 6, far: int = 2, features: int = 5
) -> list[SpotGraph]:
    """Spot graphs with random features, of exactly regular arrays, which have many ties."""
    rng = np.random.default_rng(0)
    return [
        spot_graph(
            toy_slide(f"s{n}", n).position.round(-2),
            rng.normal(size=(n, features)),
            rng.normal(size=(n, 3)),
            neighbours,
            far,
        )
        for n in sizes
    ]
