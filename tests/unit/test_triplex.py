"""TRIPLEX: sizes, its three branches, the loss, and learning."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toy
from toy_slides import correlation, fitted, predict, reloaded, toy_cohort, toy_slide, with_patches

from flag_st.commands.describe import count_parameters
from flag_st.core.errors import FlagError
from flag_st.core.seeds import Draws
from flag_st.data.lattice import windows
from flag_st.data.slide import Cohort
from flag_st.methods.base import Run
from flag_st.methods.triplex import Triplex
from flag_st.nets.triplex import Branch, Fusion, NeighbourEncoder, PositionGenerator

USE = "flag_st.methods.triplex.Triplex"
CALM = {"heads": 4, "dropout": 0.0}
SMALL = {"width": 32, "fusion": CALM, "slide": CALM, "neighbour": CALM}
LEARN = {**SMALL, "training": {"epochs": 40, "lr": 2e-3, "validate_every": 20, "patience": 0}}
BRIEF = {**SMALL, "training": {"epochs": 2}}
UNI = {
    "width": 1024,
    "fusion": {"depth": 1, "heads": 8, "ratio": 2.0},
    "slide": {"depth": 2, "heads": 16, "ratio": 2.0},
    "neighbour": {"depth": 2, "heads": 16, "ratio": 2.0},
}


def test_published_sizes():
    """29.19 M as published and 54.52 M at UNI's width, a ResNet-18 included."""
    total, parts = count_parameters(toy.made(Triplex, "patches"), 200, 512, 0)
    assert total == 29_191_696
    millions = {name: round(count / 1e6, 2) for name, count in parts.items()}
    expected = {"image": 11.18, "slide": 9.46, "neighbour": 4.73, "fusion": 3.15, "heads": 0.41}
    assert millions == expected | {"target": 0.26}
    assert count_parameters(toy.made(Triplex, "patches", **UNI), 200, 1024, 0)[0] == 54_523_008


def test_size_on_features():
    """18.3 M, and 1.05 M for two linear maps from the encoder's width to 512."""
    assert count_parameters(
        toy.made(
            Triplex,
        ),
        200,
        1024,
        0,
    )[0] == 18_277_328 + 2 * (1024 * 512 + 512)


@pytest.mark.parametrize(("hidden", "millions"), [(2048, 43.10), (4, 34.72)])
def test_sizes_of_the_first_release(hidden, millions):
    """Its neighbour MLPs got the ratio 4 as their width. It had no map of the target's tokens."""
    neighbour = {"depth": 4, "heads": 4, "ratio": hidden / 512}
    method = toy.made(Triplex, "patches", slide={"depth": 5, "heads": 8}, neighbour=neighbour)
    total, parts = count_parameters(method, 200, 512, 0)
    assert (total - parts["target"]) / 1e6 == pytest.approx(millions, abs=0.005)


def test_positions_are_a_depthwise_convolution_of_the_array():
    torch.manual_seed(0)
    cells = np.argwhere(np.random.default_rng(0).random((9, 7)) < 0.7)
    x = torch.randn(len(cells), 4)
    grid = torch.zeros(1, 4, 9, 7)
    grid[0, :, cells[:, 0], cells[:, 1]] = x.T
    for residual in (True, False):
        module = PositionGenerator(4, residual)
        kernel = module.weight.T.reshape(4, 1, 3, 3)
        expected = F.conv2d(grid, kernel, module.bias, padding=1, groups=4) + residual * grid
        found = module(x, torch.as_tensor(windows(cells, 1)))
        torch.testing.assert_close(found, expected[0, :, cells[:, 0], cells[:, 1]].T)


def test_missing_neighbours_are_not_seen():
    torch.manual_seed(0)
    module = NeighbourEncoder(6, 8, Branch(2, 2, 2.0, 0.0))
    for table in module.biases:
        torch.nn.init.normal_(table)
    u, mask = torch.randn(3, 25, 6), torch.rand(3, 25) < 0.6
    mask[:, 12] = True
    other = torch.where(mask.unsqueeze(-1), u, torch.randn(3, 25, 6))
    torch.testing.assert_close(module(u, mask)[mask], module(other, mask)[mask])
    fusion, target = Fusion(8, Branch(2, 2, 2.0, 0.0)), torch.randn(3, 4, 8)
    spot, around = torch.randn(3, 8), torch.randn(3, 25, 8)
    changed = torch.where(mask.unsqueeze(-1), around, torch.randn(3, 25, 8))
    torch.testing.assert_close(
        fusion(spot, target, around, mask), fusion(spot, target, changed, mask)
    )
    seen = torch.where(mask.unsqueeze(-1), torch.randn(3, 25, 8), around)
    assert (
        fusion(spot, target, around, mask) - fusion(spot, target, seen, mask)
    ).abs().max() > 1e-3


def test_neighbour_bias_depends_on_the_offset_alone():
    """Entry |Δrow| × 5 + |Δcolumn| of the table, for every pair of the window."""
    apart = NeighbourEncoder(6, 8, Branch(1, 2, 2.0, 0.0)).apart
    assert apart[0, 24] == 24  # opposite corners
    assert apart[12, 13] == apart[13, 12] == 1
    assert apart[12, 17] == 5
    assert apart[7, 9] == apart[22, 20] == 2


def test_loss_of_four_heads(tmp_path):
    cohort = toy_cohort()
    method = fitted(toy.made(Triplex, **BRIEF), cohort, tmp_path)
    task = method.task(cohort, cohort, Run(directory=tmp_path))
    section, rows = next(task.batches(torch.Generator().manual_seed(0)))
    heads = torch.randn(4, len(rows), 12, generator=torch.Generator().manual_seed(1))
    method.heads = lambda *_: heads
    y = section.y[rows]
    fused, *branches = heads
    expected = F.mse_loss(fused, y)
    for one in branches:
        expected = expected + 0.7 * F.mse_loss(one, y) + 0.3 * F.mse_loss(one, fused)
    loss, parts = task.loss((section, rows), torch.Generator())
    torch.testing.assert_close(loss, expected)
    assert parts["fusion"] == pytest.approx(F.mse_loss(fused, y).item())
    method.as_released = True  # no head below zero expression
    cut = torch.maximum(heads, -torch.as_tensor(method.mean).float())
    fused, *branches = cut
    expected = F.mse_loss(fused, y)
    for one in branches:
        expected = expected + 0.7 * F.mse_loss(one, y) + 0.3 * F.mse_loss(one, fused)
    torch.testing.assert_close(task.loss((section, rows), torch.Generator())[0], expected)


def test_batches_hold_every_spot_once_and_one_slide_each(tmp_path):
    cohort = toy_cohort(3)
    method = fitted(toy.made(Triplex, **BRIEF, batch=15), cohort, tmp_path)
    task = method.task(cohort, cohort, Run(directory=tmp_path))
    seen = {}
    for section, rows in task.batches(torch.Generator().manual_seed(0)):
        assert len(rows) <= 15
        seen.setdefault(id(section), []).extend(rows.tolist())
    assert [sorted(rows) for rows in seen.values()] == [list(range(40))] * 3


def test_learns_a_slide_by_heart(tmp_path):
    cohort = toy_cohort()
    method = fitted(toy.made(Triplex, **LEARN), cohort, tmp_path)
    assert correlation(predict(method, cohort[0]).point, cohort[0].expression) > 0.9


def test_reload_and_permutation(tmp_path):
    cohort = toy_cohort(2)
    method, slide = fitted(toy.made(Triplex, **BRIEF), cohort, tmp_path), toy_slide("B1", 30)
    first = predict(method, slide).samples
    np.testing.assert_array_equal(
        predict(reloaded(method, USE, BRIEF, tmp_path), slide).samples, first
    )
    order = np.random.default_rng(0).permutation(30)
    moved = predict(method, slide.subset(order)).samples
    np.testing.assert_allclose(moved, first[:, order], atol=1e-5)


def test_evaluation_is_deterministic_unless_as_released(tmp_path):
    cohort, slide = toy_cohort(), toy_slide("B1", 30)
    noisy = {**BRIEF, "slide": {"heads": 4, "dropout": 0.5}}
    for released in (False, True):
        method = fitted(
            toy.made(Triplex, **noisy, as_released=released), cohort, tmp_path / str(released)
        )
        torch.manual_seed(1)
        first = method.predict(slide, 1, Draws(0, "B1")).samples
        torch.manual_seed(2)
        again = method.predict(slide, 1, Draws(0, "B1")).samples
        other = method.predict(slide, 1, Draws(1, "B1")).samples
        np.testing.assert_array_equal(first, again)
        assert np.array_equal(first, other) is not released


def test_global_branch_runs_once_per_slide(tmp_path):
    method = fitted(toy.made(Triplex, **BRIEF, batch=4), toy_cohort(), tmp_path)
    calls = []
    method.net.slide.register_forward_hook(lambda *_: calls.append(1))
    slide = toy_slide("B1", 60)
    blocks = predict(method, slide).samples
    assert len(calls) == 1
    method.batch = 100  # one block: the same prediction
    np.testing.assert_allclose(predict(method, slide).samples, blocks, atol=1e-5)


def test_neighbourhood_and_slide_enter(tmp_path):
    """Features of a neighbour and of a far spot both change a spot's prediction."""
    method = fitted(toy.made(Triplex, **BRIEF), toy_cohort(), tmp_path)
    slide = toy_slide("B1", 100)  # 10 × 10
    before = predict(method, slide).samples[0, 0]
    for moved in (1, 99):
        features = slide.features.copy()
        features[moved] += 3
        assert (
            np.abs(predict(method, replace(slide, features=features)).samples[0, 0] - before).max()
            > 0
        )


def test_patches_are_learned(tmp_path):
    slide = with_patches(toy_slide(), tmp_path / "patches.h5")
    slide = replace(slide, features=np.zeros_like(slide.features))
    cohort = Cohort([slide], [f"g{i}" for i in range(12)])
    params = {**LEARN, "inputs": "patches", "network": "test_resnet"}
    params["training"] = {**LEARN["training"], "epochs": 40, "lr": 4e-3}
    method = fitted(toy.made(Triplex, **params), cohort, tmp_path)
    assert correlation(predict(method, slide).point, slide.expression) > 0.9
    again = reloaded(method, USE, params, tmp_path)
    np.testing.assert_array_equal(predict(again, slide).samples, predict(method, slide).samples)


def test_unknown_sizes_are_refused():
    with pytest.raises(FlagError, match=r"slide takes no argument width.*depth"):
        toy.made(Triplex, slide={"width": 3})


def test_missing_neighbours_leave_the_mean(tmp_path):
    """The neighbour head averages real spots; the release also counts the missing ones."""
    method = fitted(toy.made(Triplex, **BRIEF), toy_cohort(), tmp_path)
    net, mask = method.net, torch.zeros(1, 25, dtype=torch.bool)
    mask[0, 12] = True
    states = torch.randn(1, 25, 32)
    net.neighbour.forward = lambda *_: states
    spot, target = torch.zeros(1, 32), torch.zeros(1, 1, 16)
    head = net.heads["neighbour"]
    for released, expected in ((False, states[:, 12]), (True, states.mean(1))):
        net.as_released = released
        found = net(spot, target, None, mask)  # (4, 1, G)
        torch.testing.assert_close(found[2], head(expected))
