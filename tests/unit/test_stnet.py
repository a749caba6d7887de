"""ST-Net: sizes, the start at the training mean, views, channels, and weights from ImageNet."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import toy
from safetensors.torch import save_file
from toy_slides import correlation, fitted, predict, reloaded, toy_cohort, toy_slide, with_patches

from flag_st.commands.describe import count_parameters
from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.core.torchvision_guard import ensure_torchvision
from flag_st.data.slide import Cohort
from flag_st.methods.stnet import MEASURED, StNet
from flag_st.nets.pixels import MEAN, STD, ImageNetwork, Patches, channels, load_weights, symmetry
from flag_st.planning import config

USE = "flag_st.methods.stnet.StNet"
BRIEF = {"epochs": 2, "patience": 0}
PIXELS = {"inputs": "patches", "network": "test_resnet", "training": BRIEF}


def cohort_of(tmp_path, *names: str, spots: int = 20) -> Cohort:
    """Slides whose patches have 64 px and tell expression by their colours."""
    slides = [
        with_patches(toy_slide(n, spots), tmp_path / f"{n}.h5", side=64, seed=i)
        for i, n in enumerate(names)
    ]
    return Cohort(slides, [f"g{i}" for i in range(12)])


def test_published_size():
    total, parts = count_parameters(toy.made(StNet, "patches"), 200, 1024, 0)
    assert (total, parts["image"]) == (7_158_856, 6_953_856)
    hidden = 1024 * 256 + 256
    assert count_parameters(toy.made(StNet), 200, 1024, 0)[0] == hidden + 256 * 200 + 200


@pytest.mark.parametrize("params", [{"training": BRIEF}, PIXELS], ids=["features", "patches"])
def test_the_training_mean_is_predicted_before_the_first_step(params, tmp_path):
    cohort = cohort_of(tmp_path, "A1", "A2")
    still = {**params, "training": {**BRIEF, "lr": 0.0}}
    method = fitted(toy.made(StNet, **still), cohort, tmp_path)
    found = predict(method, cohort[0]).samples[0]
    mean = np.broadcast_to(cohort.expression.mean(0), found.shape)
    np.testing.assert_allclose(found, mean, atol=1e-6)


@pytest.mark.parametrize("views", [8, 1])
def test_a_mean_over_eight_views_does_not_see_how_a_patch_lies(views, tmp_path):
    cohort = cohort_of(tmp_path, "A1", spots=12)
    learn = {"epochs": 3, "lr": 1e-2, "patience": 0}
    method = fitted(
        toy.made(StNet, **{**PIXELS, "views": views, "training": learn}), cohort, tmp_path
    )
    straight, opened = predict(method, cohort[0]).samples, Patches(cohort)[np.arange(12)]
    assert straight.std(1).min() > 1e-5
    seen = []
    for view in range(8):
        turned = symmetry(torch.as_tensor(opened).permute(0, 3, 1, 2), view).permute(0, 2, 3, 1)
        method.open_images = lambda slides, turned=turned: turned.numpy()
        seen.append(predict(method, cohort[0]).samples)
    apart = np.abs(np.stack(seen) - straight).max()
    assert (apart < 1e-5) == (views == 8)


def test_the_eight_views_are_the_symmetries_of_a_square():
    x = torch.arange(9.0).view(1, 1, 3, 3)
    views = {tuple(symmetry(x, v).flatten().tolist()) for v in range(8)}
    assert len(views) == 8
    assert torch.equal(symmetry(x, 0), x)
    # Any two in a row are one of the eight again.
    twice = {
        tuple(symmetry(symmetry(x, v), w).flatten().tolist()) for v in range(8) for w in range(8)
    }
    assert twice == views


def test_channels_are_measured_on_training_slides_alone_and_kept_with_the_model(tmp_path):
    train, valid = cohort_of(tmp_path, "A1", "A2"), cohort_of(tmp_path, "B1")
    method = fitted(toy.made(StNet, **PIXELS), train, tmp_path, valid)
    pixels = Patches(train)[np.arange(40)] / 255.0
    expected = np.stack([pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))])
    np.testing.assert_allclose(method.channels, expected, rtol=1e-6)
    assert np.abs(method.channels - [MEAN, STD]).max() > 0.01
    seen = method.pixels(Patches(train)[np.arange(40)])
    torch.testing.assert_close(seen.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(seen.std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)
    again = reloaded(method, USE, PIXELS, tmp_path)
    np.testing.assert_array_equal(again.channels, method.channels)
    np.testing.assert_array_equal(
        predict(again, valid[0]).samples, predict(method, valid[0]).samples
    )


def test_channels_of_many_spots_are_those_of_a_sample(tmp_path):
    """As many spots as the authors read; the same ones whatever the seed of the run is."""
    (slide,) = cohort_of(tmp_path, "A1", spots=30)
    asked = []

    class Counted(Patches):
        def __getitem__(self, index):
            asked.extend(index.tolist())
            return super().__getitem__(index)

    channels(Counted([slide]), 20, torch.Generator().manual_seed(0))
    assert len(set(asked)) == len(asked) == 20
    assert MEASURED == 384
    imagenet = toy.made(StNet, **{**PIXELS, "normalise": "imagenet"})
    fitted(imagenet, Cohort([slide], [f"g{i}" for i in range(12)]), tmp_path)
    np.testing.assert_array_equal(imagenet.channels, [MEAN, STD])


@pytest.mark.parametrize("old_names", [False, True])
def test_imagenet_s_weights_by_torchvision_give_what_its_network_computes(old_names, tmp_path):
    ensure_torchvision()
    from torchvision.models import densenet121

    torch.manual_seed(0)
    theirs = densenet121(weights=None).eval()
    for value in theirs.buffers():  # as if it had been trained
        if value.is_floating_point():
            torch.nn.init.uniform_(value, 0.5, 1.5)
    state = dict(theirs.state_dict())
    if old_names:
        swap = {f"{k}{i}": f"{k}.{i}" for k in ("norm", "conv") for i in (1, 2)}
        state = {
            ".".join(swap.get(p, p) if "denselayer" in k else p for p in k.split(".")): v
            for k, v in state.items()
        }
        assert "features.denseblock1.denselayer1.norm.1.weight" in state
    save_file(state, tmp_path / "densenet.safetensors")
    ours = ImageNetwork("densenet121", pooled=True)
    load_weights(ours, str(tmp_path / "densenet.safetensors"))
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        found = theirs.classifier(ours.eval()(x))
        torch.testing.assert_close(found, theirs(x), atol=1e-5, rtol=1e-4)


def test_an_unknown_network_lists_both_kinds():
    with pytest.raises(FlagError, match=r"densenet121.*resnet18"):
        ImageNetwork("densnet121", pooled=True)


def test_learns_a_slide_by_heart_from_features(tmp_path):
    cohort = toy_cohort()
    learn = {"optimiser": "adamw", "lr": 3e-3, "epochs": 60, "patience": 0, "validate_every": 20}
    method = fitted(toy.made(StNet, training=learn), cohort, tmp_path)
    assert correlation(predict(method, cohort[0]).point, cohort[0].expression) > 0.95


def test_learns_a_slide_by_heart_from_pixels(tmp_path):
    cohort = cohort_of(tmp_path, "A1")
    slides = [replace(s, features=np.zeros_like(s.features)) for s in cohort]
    learn = {"lr": 5e-2, "epochs": 25, "patience": 0, "validate_every": 5}
    params = {**PIXELS, "batch": 10, "training": learn}
    method = fitted(toy.made(StNet, **params), Cohort(slides, cohort.genes), tmp_path)
    assert correlation(predict(method, slides[0]).point, slides[0].expression) > 0.9


def test_the_entry_on_patches_trains_as_published():
    """SGD with momentum; the rate of the sum over a batch, 1e-6, times the 32 spots of a batch."""
    entry = config.load()["methods"]["stnet_patches"]
    method = registry.build(entry["use"], entry["params"])
    settings = method.training
    assert (settings.optimiser, settings.momentum, settings.weight_decay) == ("sgd", 0.9, 0.0)
    assert settings.lr == pytest.approx(method.batch * 1e-6)
    assert (settings.epochs, settings.warmup, settings.schedule) == (50, 0, "constant")
    assert (method.network, len(method.views), method.normalise) == ("densenet121", 8, "training")
