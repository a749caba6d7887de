"""What all encoders with weights share, and the opening of weight files."""

import os
import pickle
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
import toy
from hub_server import HubServer, isolate
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from flag_st.core.errors import FlagError
from flag_st.core.torchvision_guard import ensure_torchvision
from flag_st.encoders.base import check_features
from flag_st.encoders.concat import Concat
from flag_st.encoders.published import Published
from flag_st.gene_models.reduce import Reduced
from flag_st.planning import config
from flag_st.transfer.weights import Checkpoint, fill, read_state

torch.set_num_threads(1)


class Probe(Published):
    """A linear read-out of 4 by 4 block means: small, yet sensitive to every pixel."""

    def build(self):
        layers = nn.AvgPool2d(56), nn.Flatten(), nn.Linear(48, self.sizes.get("width", 5))
        return nn.Sequential(*layers)


class Enlarging(Probe):
    resize = 256


class Bilinear(Probe):
    resize = crop = 448
    interpolation = "bilinear"


@pytest.mark.parametrize(
    ("features", "fault"),
    [
        (np.ones((3, 2)), r"shape \(3, 2\) for 4 patches"),
        (np.ones(4), r"one row per patch, \(4, D\)"),
        (np.array([[1.0], [np.nan], [np.inf], [0]]), "for 2 of 4 patches"),
    ],
)
def test_features_that_do_not_fit_the_patches_are_refused(features, fault):
    with pytest.raises(FlagError, match=f"encoder mine returned.*{fault}"):
        check_features(features, 4, "mine")
    check_features(np.ones((4, 2)), 4, "mine")


@pytest.fixture
def state():
    torch.manual_seed(0)
    return {"2.weight": torch.randn(5, 48), "2.bias": torch.randn(5)}


@pytest.fixture
def weights(tmp_path, state):
    path = tmp_path / "pytorch_model.bin"
    torch.save(state, path)
    return path


@pytest.fixture
def patches():
    return np.random.default_rng(0).integers(0, 256, (7, 224, 224, 3)).astype(np.uint8)


def opened(cls=Probe, **params):
    encoder = cls("owner/model", **params)
    encoder.open("cpu")
    return encoder


def test_features_equal_a_plain_calculation(weights, state, patches):
    found = opened(weights=weights).encode(patches)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    x = ((patches / 255 - mean) / std).reshape(7, 4, 56, 4, 56, 3).mean((2, 4))
    x = x.transpose(0, 3, 1, 2).reshape(7, -1)
    expected = x @ state["2.weight"].double().numpy().T + state["2.bias"].double().numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_neither_batch_nor_order_changes_features(weights, patches):
    whole = opened(weights=weights, batch=7).encode(patches)
    for batch in (1, 2, 3):
        np.testing.assert_allclose(
            opened(weights=weights, batch=batch).encode(patches), whole, atol=1e-5
        )
    order = [6, 2, 0, 5, 1, 3, 4]
    found = opened(weights=weights, batch=3).encode(patches[order])
    np.testing.assert_allclose(found, whole[order], atol=1e-5)


def test_disk_is_read_in_batches_and_progress_told(tmp_path, weights, patches):
    class Watched:
        """A dataset that remembers what was asked of it."""

        def __init__(self, dataset):
            self.dataset, self.rows = dataset, []

        def __len__(self):
            return len(self.dataset)

        def __getitem__(self, index):
            self.rows.append(len(range(*index.indices(len(self.dataset)))))
            return self.dataset[index]

    told = []

    def progress(items, **facts):
        told.append((len(items), facts["desc"]))
        return items

    with h5py.File(tmp_path / "patches.h5", "w") as file:
        watched = Watched(file.create_dataset("img", data=patches))
        found = opened(weights=weights, batch=3).encode(watched, progress)
    np.testing.assert_allclose(found, opened(weights=weights).encode(patches), atol=1e-5)
    assert watched.rows == [3, 3, 1]
    assert told == [(3, "Probe")]


def test_batches_shrink_until_they_fit_the_memory(weights, patches):
    class Small(Probe):
        room = 2

        def forward(self, images):
            self.tried.append(len(images))
            if len(images) > self.room:
                raise torch.cuda.OutOfMemoryError("out of memory")
            return super().forward(images)

    encoder = opened(Small, weights=weights, batch=7)
    encoder.tried = []
    np.testing.assert_allclose(
        encoder.encode(patches), opened(weights=weights).encode(patches), atol=1e-5
    )
    assert encoder.tried == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    encoder.room = 0
    with pytest.raises(FlagError, match=r"one patch does not fit.*bf16"):
        encoder.encode(patches)


@pytest.mark.parametrize(
    ("cls", "method", "side"),
    [(Enlarging, Image.Resampling.BICUBIC, 256), (Bilinear, Image.Resampling.BILINEAR, 448)],
)
def test_resize_and_crop_are_those_of_the_published_transforms(weights, patches, cls, method, side):
    smooth = np.asarray(Image.fromarray(patches[0]).resize((28, 28)).resize((224, 224)))
    encoder = opened(cls, weights=weights)
    edge = (side - encoder.crop) // 2
    picture = Image.fromarray(smooth).resize((side, side), method)
    expected = np.asarray(picture.crop((edge, edge, side - edge, side - edge)), dtype=np.float64)
    found = encoder.images(smooth[None])[0].permute(1, 2, 0).double().numpy()
    found = (found * np.array(encoder.std) + np.array(encoder.mean)) * 255
    assert found.shape == (encoder.crop, encoder.crop, 3)
    differs = np.abs(found - expected) > 0.01
    assert differs.mean() < 1e-3  # ties, which Pillow rounds in fixed point
    assert np.abs(found - expected).max() < 1.01


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_low_precision_is_close_but_another_product(weights, patches, precision):
    exact, low = opened(weights=weights), opened(weights=weights, precision=precision)
    a, b = exact.encode(patches), low.encode(patches)
    assert b.dtype == np.float32
    assert 0 < np.abs(a - b).max() < 0.05 * np.abs(a).max()
    assert exact.digest() != low.digest()


def test_digest_follows_what_decides_features_and_nothing_else(tmp_path, weights, state):
    digest = opened(weights=weights).digest()
    assert opened(weights=weights.parent, batch=1).digest() == digest
    assert opened(Enlarging, weights=weights).digest() != digest
    unopened = Probe("owner/elsewhere", weights=str(weights))
    assert unopened.digest() == digest
    other = tmp_path / "other.bin"
    torch.save(state | {"2.bias": state["2.bias"] + 1}, other)
    assert opened(weights=other).digest() != digest


def test_wrong_settings_are_refused():
    with pytest.raises(FlagError, match=r"fp32, bf16, fp16, not 'fp8'"):
        toy.made(Probe, "owner/model", precision="fp8")
    with pytest.raises(FlagError, match="at least 1"):
        Probe("owner/model", batch=0)


def test_concat_puts_parts_side_by_side(weights, patches):
    use = f"{__name__}.Probe"
    small = {"use": use, "params": {"repo": "owner/a", "weights": str(weights)}}
    texture = {"use": "flag_st.encoders.texture.Texture"}
    both = Concat({"probe": small, "texture": texture})
    both.open("cpu")
    found = both.encode(patches)
    assert found.shape == (7, 5 + 203)
    np.testing.assert_allclose(found[:, :5], opened(weights=weights).encode(patches), atol=1e-6)
    assert both.digest() != Concat({"texture": texture, "probe": small}).digest()
    with pytest.raises(FlagError, match="no parts"):
        Concat({})


def test_an_overlay_of_an_entry_reaches_the_entries_that_are_made_of_it(tmp_path):
    """The example of config/README.md, for both kinds of nested entries."""
    own = {"params": {"weights": str(tmp_path)}}
    changed = config.load({"encoders": {"uni": own}, "gene_models": {"geneformer": own}})
    parts = Concat(**changed["encoders"]["uni+conch"]["params"]).parts
    assert list(parts) == ["uni", "conch"]
    assert parts["uni"].checkpoint.local == str(tmp_path)
    assert parts["conch"].checkpoint.local is None
    assert parts["uni"].checkpoint.sha256 == changed["encoders"]["uni"]["params"]["sha256"]
    files = Reduced(**changed["gene_models"]["geneformer_pca64"]["params"]).model.files
    assert files.weights == str(tmp_path)
    assert files.sha256 == changed["gene_models"]["geneformer"]["params"]["sha256"]
    # One part alone can still be told otherwise.
    parts = {"conch": {"params": {"weights": str(tmp_path)}}}
    alone = config.load({"encoders": {"uni+conch": {"params": {"parts": parts}}}})
    assert Concat(**alone["encoders"]["uni+conch"]["params"]).parts["uni"].checkpoint.local is None
    assert alone["encoders"]["conch"]["params"]["weights"] is None


def test_the_guard_makes_timm_importable():
    """In a process of its own: half an import of torchvision would stay behind in this one."""
    code = """
from flag_st.core.torchvision_guard import ensure_torchvision
first, second = ensure_torchvision(), ensure_torchvision()
assert first == second in ("native", "python-only"), (first, second)
import timm, torchvision
from transformers import BertModel
print(timm.create_model("resnet18", num_classes=0).num_features)
"""
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | path, capture_output=True, text=True
    )
    assert done.stdout.strip() == "512", done.stderr


def test_the_guard_tells_that_torchvision_is_absent(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert ensure_torchvision() == "absent"


# -- weight files -------------------------------------------------------------------------------


def faults(net, state, **more):
    with pytest.raises(FlagError) as caught:
        fill(net, state, "model.bin", "pytorch_model.bin of owner/model", **more)
    return str(caught.value)


def test_a_state_must_fit_key_by_key(state):
    with torch.device("meta"):
        net = nn.Sequential(nn.AvgPool2d(56), nn.Flatten(), nn.Linear(48, 5))
    missing = faults(net, {"2.bias": state["2.bias"]})
    assert "model.bin lacks 2.weight" in missing
    assert "pytorch_model.bin of owner/model" in missing
    wrong = faults(net, state | {"2.bias": torch.zeros(6)})
    assert "2.bias of shape (6,), not (5,)" in wrong
    for value in (float("nan"), float("inf")):
        broken = faults(net, state | {"2.bias": torch.tensor([0, 1, value, 0, 0])})
        assert "2.bias with numbers that are not finite" in broken
    whole = faults(net, state | {"2.bias": torch.zeros(5, dtype=torch.int64)})
    assert "2.bias of torch.int64, not torch.float32" in whole
    assert "unknown key head.weight" in faults(net, state | {"head.weight": torch.zeros(1)})
    fill(net, state | {"head.weight": torch.zeros(1)}, "f", "", ignore=["head."])
    assert net[2].weight.data_ptr() == state["2.weight"].data_ptr()  # assigned, not copied


@pytest.mark.parametrize("name", ["zip.bin", "old.bin", "model.safetensors"])
def test_formats_are_read_alike(tmp_path, state, name):
    path = tmp_path / name
    if name == "model.safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=name == "zip.bin")
    found = read_state(path)
    assert all(torch.equal(found[k], v) for k, v in state.items())


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_truncated_file_is_refused_by_name(tmp_path, state, name, keep):
    path = tmp_path / name
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(FlagError, match=f"{name} is not a readable weight file"):
        read_state(path)


def test_code_in_a_file_is_never_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "boom"), "w"))

    for path in (tmp_path / "pickle.bin", tmp_path / "zip.bin"):
        if path.name == "pickle.bin":
            path.write_bytes(pickle.dumps(Bomb(), protocol=2))
        else:
            torch.save({"a": Bomb()}, path)
        with pytest.raises(FlagError, match="not a readable weight file"):
            read_state(path)
    assert not (tmp_path / "boom").exists()


def test_a_file_of_more_than_tensors_is_refused(tmp_path, state):
    torch.save({"model": state, "epoch": 3}, tmp_path / "x.bin")
    with pytest.raises(FlagError, match=r"x.bin holds more than named tensors.*state dict"):
        read_state(tmp_path / "x.bin")


def test_the_stated_digest_binds(weights):
    right = Probe("owner/model", weights=weights).weights_digest
    opened(weights=weights, sha256=right.upper())
    with pytest.raises(FlagError, match=rf"{weights} has sha256 {right}, expected 0{{64}}.*sha256"):
        opened(weights=weights, sha256="0" * 64)


def test_a_local_path_that_is_not_there_is_named(tmp_path):
    for local in (tmp_path, tmp_path / "pytorch_model.bin"):
        with pytest.raises(FlagError, match=r"pytorch_model.bin does not exist.*params.weights"):
            Checkpoint("owner/model", "pytorch_model.bin", local=local).locate()


def test_without_network_the_page_and_the_key_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FLAG_ST_MODELS", str(tmp_path / "models"))
    checkpoint = Checkpoint("owner/model", "pytorch_model.bin", "1" * 40)
    with pytest.raises(FlagError, match=r"owner/model.*HF_HUB_OFFLINE.*params.weights"):
        checkpoint.locate()
    # What another program brought into the hub client's cache is found without asking.
    cached = tmp_path / "cache" / "models--owner--model" / "snapshots" / ("1" * 40)
    cached.mkdir(parents=True)
    (cached / "pytorch_model.bin").write_bytes(b"x")
    assert checkpoint.locate() == cached / "pytorch_model.bin"
    # What a person put into the models folder comes first.
    placed = tmp_path / "models" / "owner" / "model"
    placed.mkdir(parents=True)
    (placed / "pytorch_model.bin").write_bytes(b"y")
    assert checkpoint.locate() == placed / "pytorch_model.bin"


@pytest.fixture
def hub(monkeypatch, tmp_path, weights):
    """A hub on the loopback that publishes the weights."""
    isolate(monkeypatch, tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FLAG_ST_MODELS", str(tmp_path / "models"))
    files = {"models/owner/model": {"pytorch_model.bin": weights.read_bytes()}}
    with HubServer(files) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


def test_weights_come_from_the_hub_once(hub, weights, patches):
    pinned = Probe("owner/model", weights=weights).weights_digest
    params = {"revision": hub.commit("models/owner/model"), "sha256": pinned}
    found = opened(**params).encode(patches)
    np.testing.assert_array_equal(found, opened(weights=weights).encode(patches))
    asked = len(hub.requests)
    assert asked > 0
    opened(**params)
    assert len(hub.requests) == asked


def test_a_gated_model_tells_the_page_and_the_key(hub):
    hub.gated["models/owner/model"] = set()
    with pytest.raises(FlagError, match=r"huggingface.co/owner/model.*params.weights"):
        opened()
