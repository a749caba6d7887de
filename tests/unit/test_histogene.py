"""HisToGene: sizes, the transformer layer, array coordinates, and learning."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import toy
from torch import nn
from toy_slides import (
    correlation,
    fitted,
    predict,
    reloaded,
    toy_cohort,
    toy_slide,
    with_patches,
)

from flag_st.commands.describe import count_parameters
from flag_st.core.errors import FlagError
from flag_st.data.slide import Cohort
from flag_st.methods.histogene import HisToGene, shrink
from flag_st.nets.transformer import Layer

USE = "flag_st.methods.histogene.HisToGene"
SMALL = {"width": 32, "depth": 2, "heads": 4, "positions": 16, "dropout": 0.0}
LEARN = {**SMALL, "training": {"epochs": 150, "lr": 2e-3, "validate_every": 25, "patience": 0}}
BRIEF = {**SMALL, "training": {"epochs": 2, "validate_every": 1}}


@pytest.mark.parametrize(
    ("params", "count"),
    [
        ({"inputs": "patches", "positions": 64}, 106_048_712),
        ({"inputs": "patches", "positions": 64, "depth": 4}, 72_461_512),
        ({"positions": 128}, 68_693_192),
        ({"positions": 128, "depth": 4}, 35_105_992),
    ],
)
def test_published_sizes(params, count):
    """106.0 M and 72.5 M on pixels, 68.7 M and 35.1 M on features."""
    total, parts = count_parameters(toy.made(HisToGene, **params), 200, 1024, 0)
    assert total == count
    assert parts["layers"] == params.get("depth", 8) * 8_396_800
    assert parts["head"] == 207_048
    assert parts["first"] + parts["second"] == 2 * 1024 * params["positions"]
    assert parts["embed"] == (38_536_192 if "inputs" in params else 1024 * 1024 + 1024)


def test_layer_is_the_standard_pre_norm_transformer():
    torch.manual_seed(0)
    ours = Layer(16, 4, ratio=2.0)
    theirs = nn.TransformerEncoderLayer(
        16, 4, 32, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    state = {
        "self_attn.in_proj_weight": torch.cat([ours.query.weight, ours.key_value.weight]),
        "self_attn.in_proj_bias": torch.zeros(48),
        "self_attn.out_proj.weight": ours.out.weight,
        "self_attn.out_proj.bias": ours.out.bias,
        "linear1.weight": ours.mlp[0].weight,
        "linear1.bias": ours.mlp[0].bias,
        "linear2.weight": ours.mlp[3].weight,
        "linear2.bias": ours.mlp[3].bias,
    }
    state |= {
        f"norm{i}.{k}": v for i in (1, 2) for k, v in getattr(ours, f"norm{i}").state_dict().items()
    }
    theirs.load_state_dict(state)
    x = torch.randn(2, 7, 16)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_learns_a_slide_by_heart(tmp_path):
    cohort = toy_cohort()
    method = fitted(toy.made(HisToGene, **LEARN), cohort, tmp_path)
    assert correlation(predict(method, cohort[0]).point, cohort[0].expression) > 0.9


def test_reload_and_permutation(tmp_path):
    cohort = toy_cohort(2)
    method, slide = fitted(toy.made(HisToGene, **BRIEF), cohort, tmp_path), toy_slide("B1", 30)
    first = predict(method, slide).samples
    assert first.shape == (1, 30, 12)
    np.testing.assert_array_equal(
        predict(reloaded(method, USE, BRIEF, tmp_path), slide).samples, first
    )
    order = np.random.default_rng(0).permutation(30)
    moved = predict(method, slide.subset(order)).samples
    np.testing.assert_allclose(moved, first[:, order], atol=1e-4)


@pytest.mark.parametrize("axis", [0, 1])
def test_both_coordinates_enter(axis, tmp_path):
    """One cell further along either axis of the array, every spot and gene is predicted anew."""
    method = fitted(toy.made(HisToGene, **BRIEF), toy_cohort(), tmp_path)
    slide = toy_slide("B1", 30)
    tokens, cells = method.tokens(slide), method.cells(slide)
    shifted = cells.clone()
    shifted[:, axis] += 1
    first, moved = (method.forward(method.net, tokens, c) for c in (cells, shifted))
    assert (first - moved).abs().min() > 1e-4


def test_too_large_array_is_refused(tmp_path):
    method = toy.made(HisToGene, **{**BRIEF, "positions": 5})
    with pytest.raises(FlagError, match=r"spans 7 array positions.*params.positions to 7"):
        method.fit(toy_cohort(), toy_cohort(), None or _run(tmp_path))


def _run(tmp_path):
    from flag_st.methods.base import Run

    return Run(directory=tmp_path / "run")


def test_shrink_averages_squares():
    block = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    small = shrink(block, 4)
    assert small.dtype == np.uint8
    expected = block[1, 2:4, 4:6].astype(float).mean((0, 1))
    np.testing.assert_allclose(small[1, 1, 2], expected, atol=0.5)
    with pytest.raises(FlagError, match="does not divide"):
        shrink(block, 3)


def test_patches_are_read_by_spot_and_learned(tmp_path):
    plain = toy_slide()
    slide = with_patches(plain, tmp_path / "patches.h5")
    # Features say nothing, so what is learned comes from the patches.
    slide = replace(slide, features=np.zeros_like(plain.features))
    cohort = Cohort([slide], [f"g{i}" for i in range(12)])
    params = {**LEARN, "inputs": "patches", "pixels": 8}
    method = fitted(toy.made(HisToGene, **params), cohort, tmp_path)
    assert method.needs == {"patches"}
    assert correlation(predict(method, slide).point, slide.expression) > 0.9
    again = reloaded(method, USE, params, tmp_path)
    np.testing.assert_array_equal(predict(again, slide).samples, predict(method, slide).samples)


def test_as_released_feeds_pixels_up_to_255(tmp_path):
    slide = with_patches(toy_slide(), tmp_path / "patches.h5")
    seen = {}
    for released in (False, True):
        method = toy.made(HisToGene, inputs="patches", pixels=8, as_released=released, **SMALL)
        method.device = "cpu"
        net = lambda x, cells, key=released: seen.setdefault(key, x)  # noqa: E731
        method.forward(net, method.tokens(slide), method.cells(slide))
    assert seen[True].max() > 100
    torch.testing.assert_close(seen[False], seen[True] / 255)


def test_features_entry_without_patches_is_refused_for_pixels(tmp_path):
    with pytest.raises(FlagError, match=r"slide A1 comes without patches.*needs_patches"):
        toy.made(HisToGene, inputs="patches", pixels=8, **SMALL).tokens(toy_slide())
    with pytest.raises(FlagError, match="features, patches, not 'pixels'"):
        toy.made(HisToGene, inputs="pixels")
