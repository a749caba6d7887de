"""Encoders that learn, as the rules run them: fit, save, load, encode."""

import runpy
from types import SimpleNamespace

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import torch

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.encoders.concat import Concat
from flag_st.encoders.ssl_vit import SslVit
from flag_st.encoders.texture import Texture

torch.set_num_threads(1)

TINY = {"width": 16, "depth": 1, "heads": 2, "views": 8, "steps": 3}
VIT = {"use": "flag_st.encoders.ssl_vit.SslVit", "params": TINY}
TEXTURE = {"use": "flag_st.encoders.texture.Texture"}
CONCAT = {
    "use": "flag_st.encoders.concat.Concat",
    "params": {"parts": {"texture": TEXTURE, "vit": VIT}},
}
SPOTS = 6


class Job(SimpleNamespace):
    """What ``flag_st.core.job.run`` hands to a script."""

    def get(self, name):
        return getattr(self, name, None)


def patches(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    coarse = random.integers(60, 230, (SPOTS, 14, 14, 3), dtype=np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2)  # (N, 224, 224, 3)


@pytest.fixture
def slides(tmp_path):
    """Prepared files of three slides: name → (spots.h5ad, patches.h5)."""
    files = {}
    for seed, name in enumerate("abc"):
        spots, images = tmp_path / f"{name}.h5ad", tmp_path / f"{name}.h5"
        barcodes = [f"{name}{i}" for i in range(SPOTS)]
        table = anndata.AnnData(
            np.ones((SPOTS, 2), dtype=np.float32),
            obs=pd.DataFrame(index=barcodes),
            obsm={"spatial_um": np.arange(2.0 * SPOTS).reshape(-1, 2)},
            uns={"patient": name, "pixel_size_um": 0.5},
        )
        table.write_h5ad(spots)
        with h5py.File(images, "w") as file:
            file["img"] = patches(seed)
            file.create_dataset("barcode", data=barcodes, dtype=h5py.string_dtype())
        files[name] = spots, images
    return files


def script(root, name, inputs, output, entry):
    main = runpy.run_path(str(root / "scripts" / f"{name}.py"))["main"]
    main(
        SimpleNamespace(
            input=Job(**inputs),
            output=SimpleNamespace(**output),
            params=SimpleNamespace(encoder={"name": "mine", "params": {}, **entry}),
            wildcards=SimpleNamespace(slide="c", encoder="mine"),
            gpu=0,
            progress=lambda items, **_: items,
        )
    )


def fit(root, slides, names, entry, path):
    inputs = {"patches": [slides[name][1] for name in names]}
    script(root, "fit_encoder", inputs, {"model": path}, entry)


def encode(root, slides, entry, path, fitted=()):
    spots, images = slides["c"]
    inputs = {"spots": spots, "patches": images, "fitted": fitted}
    script(root, "encode_patches", inputs, {"features": path}, entry)
    return anndata.read_h5ad(path)


@pytest.mark.parametrize(("entry", "width"), [(VIT, 32), (CONCAT, 203 + 32)])
def test_the_rules_give_the_features_of_the_encoder_that_was_fitted(
    root, slides, tmp_path, entry, width
):
    """fit_encoder and encode_patches are two processes; between them is only the model file."""
    model, features = tmp_path / "model.safetensors", tmp_path / "features.h5ad"
    fit(root, slides, "ab", entry, model)
    table = encode(root, slides, entry, features, model)
    here = registry.build(entry["use"], entry["params"])
    here.open("cpu")
    here.fit([patches(0), patches(1)], seed=0)
    assert table.X.shape == (SPOTS, width)
    assert table.X.tobytes() == here.encode(patches(2)).tobytes()
    assert table.uns["digest"] == here.digest()


@pytest.mark.parametrize("entry", [VIT, CONCAT])
def test_what_is_fitted_depends_on_the_training_slides_and_is_the_same_twice(
    root, slides, tmp_path, entry
):
    first, second, other = (tmp_path / f"{n}.safetensors" for n in range(3))
    fit(root, slides, "ab", entry, first)
    fit(root, slides, "ab", entry, second)
    fit(root, slides, "ac", entry, other)
    assert first.read_bytes() == second.read_bytes() != other.read_bytes()


def test_an_entry_without_fits_is_told_what_it_lacks(root, slides, tmp_path):
    with pytest.raises(FlagError, match=r"ssl_vit has learned nothing yet.*fits: true"):
        encode(root, slides, VIT, tmp_path / "features.h5ad")
    assert not (tmp_path / "features.h5ad").exists()


def test_a_model_of_other_parts_or_params_is_refused(root, slides, tmp_path):
    model = tmp_path / "model.safetensors"
    fit(root, slides, "ab", VIT, model)
    with pytest.raises(FlagError, match="the fitted ssl_vit lacks mean"):
        encode(root, slides, CONCAT, tmp_path / "features.h5ad", model)
    deeper = {**VIT, "params": TINY | {"depth": 2}}
    with pytest.raises(FlagError, match=r"the fitted ssl_vit lacks blocks\.1\."):
        encode(root, slides, deeper, tmp_path / "features.h5ad", model)


def test_parts_that_learn_make_the_whole_learn():
    assert SslVit(**TINY).fits
    assert Concat({"texture": TEXTURE, "vit": VIT}).fits
    assert not Concat({"texture": TEXTURE}).fits
    assert not Texture().fits
