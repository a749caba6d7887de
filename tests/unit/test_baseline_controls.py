"""Controls around the baselines: graph regression, added noise, the adjacent section."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import toy
from toy_slides import correlation, fitted, predict, reloaded, toy_cohort, toy_slide

from flag_st.core.errors import FlagError
from flag_st.data.slide import Cohort, Slide
from flag_st.methods.adjacent_section import AdjacentSection, overlay
from flag_st.methods.graph_regressor import GraphRegressor
from flag_st.methods.noise import PlusNoise
from flag_st.methods.ridge import Ridge

SMALL = {"width": 32, "depth": 2, "heads": 4, "dropout": 0.0}
LEARN = {**SMALL, "training": {"epochs": 150, "lr": 3e-3, "warmup": 5, "ema": 0.9, "patience": 0}}
BRIEF = {**SMALL, "training": {"epochs": 2}}


# --- graph regression ---------------------------------------------------------------------------


def test_graph_regressor_learns_a_slide_by_heart(tmp_path):
    cohort = toy_cohort()
    method = fitted(toy.made(GraphRegressor, **LEARN), cohort, tmp_path)
    assert correlation(predict(method, cohort[0]).point, cohort[0].expression) > 0.9


def test_graph_regressor_reload_and_permutation(tmp_path):
    cohort = toy_cohort(2)
    method = fitted(toy.made(GraphRegressor, **LEARN | BRIEF), cohort, tmp_path)
    slide, use = toy_slide("B1", 30), "flag_st.methods.graph_regressor.GraphRegressor"
    first = predict(method, slide).samples
    np.testing.assert_array_equal(
        predict(reloaded(method, use, BRIEF, tmp_path), slide).samples, first
    )
    order = np.random.default_rng(0).permutation(30)
    moved = predict(method, slide.subset(order)).samples
    np.testing.assert_allclose(moved, first[:, order], atol=1e-4)


def test_graph_regressor_tiles(tmp_path):
    """About one tile for every ``spots`` spots, of the size asked for."""
    cohort = toy_cohort(2, spots=100)
    method = fitted(
        toy.made(GraphRegressor, **BRIEF, tiling={"spots": 25, "per_step": 3}), cohort, tmp_path
    )
    task = method.task(cohort, cohort, toy_run(tmp_path))
    batches = list(task.batches(torch.Generator().manual_seed(0)))
    assert [b.num_graphs for b in batches] == [3, 3, 2]
    assert all((b.batch.bincount() == 25).all() for b in batches)


@pytest.mark.parametrize("edges", ["both", "none"])
def test_graph_regressor_reads_its_neighbours_if_there_are_edges(tmp_path, edges):
    cohort, slide = toy_cohort(2), toy_slide("B1", 30)
    method = fitted(toy.made(GraphRegressor, **BRIEF, graph={"edges": edges}), cohort, tmp_path)
    half = np.arange(15)
    alone = predict(method, slide.subset(half)).samples
    same = np.allclose(alone, predict(method, slide).samples[:, half], atol=1e-5)
    assert same == (edges == "none")


@pytest.mark.parametrize("threads", [1, 2])
def test_graph_regressor_trained_twice_is_the_same_bytes(tmp_path, threads):
    """Sums over edges keep their order, whatever the number of threads is."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        first, second = (
            fitted(
                toy.made(GraphRegressor, width=32, depth=2, heads=4, training={"epochs": 3}),
                toy_cohort(2, spots=300),
                tmp_path / name,
            ).arrays()
            for name in "ab"
        )
    finally:
        torch.set_num_threads(before)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(second[name], values)


def test_graph_regressor_refuses_heads_that_do_not_divide_its_width():
    with pytest.raises(FlagError, match="width 30 is no multiple of heads 4"):
        GraphRegressor(width=30, heads=4)


def toy_run(tmp_path):
    from flag_st.methods.base import Run

    return Run(directory=tmp_path / "run")


# --- noise ----------------------------------------------------------------------------------------

RIDGE = {"use": "flag_st.methods.ridge.Ridge", "params": {"components": 5}}
GRAPH = {"use": "flag_st.methods.graph_regressor.GraphRegressor", "params": BRIEF}


def test_the_point_estimate_is_that_of_the_method_alone(tmp_path):
    train, valid, test = toy.cohort("a", "b"), toy.cohort("v", "w"), toy.slide("t")
    noisy = fitted(PlusNoise(RIDGE, "genes"), train, tmp_path / "noisy", valid)
    alone = fitted(Ridge(components=5), train, tmp_path / "alone", valid)
    np.testing.assert_array_equal(predict(noisy, test, 3).point, predict(alone, test).point)


def test_noise_has_the_covariance_of_validation_residuals(tmp_path):
    train, valid, test = toy.cohort("a", "b"), toy.cohort("v", "w", "x"), toy.slide("t", spots=8000)
    method = fitted(PlusNoise(RIDGE, "genes"), train, tmp_path, valid)
    residual = np.concatenate([predict(method.base, s).point - s.expression for s in valid])
    found = predict(method, test, 1)
    noise = found.samples[0] - found.point
    np.testing.assert_allclose(np.cov(noise.T), np.cov(residual.T), atol=0.05)
    alone = fitted(PlusNoise(RIDGE, "diagonal"), train, tmp_path / "alone", valid)
    found = predict(alone, test, 1)
    covariance = np.cov((found.samples[0] - found.point).T)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 0.05
    np.testing.assert_allclose(np.diag(covariance), residual.var(0), rtol=0.15)


def test_noise_around_a_network_survives_its_file(tmp_path):
    params = {"base": GRAPH, "covariance": "diagonal"}
    cohort, slide = toy_cohort(2), toy_slide("B1", 30)
    method = fitted(PlusNoise(**params), cohort, tmp_path)
    again = reloaded(method, "flag_st.methods.noise.PlusNoise", params, tmp_path)
    first = predict(method, slide, 2)
    np.testing.assert_array_equal(predict(again, slide, 2).samples, first.samples)
    np.testing.assert_array_equal(first.point, predict(method.base, slide).point)
    assert np.abs(first.samples[0] - first.samples[1]).max() > 0.1
    assert isinstance(method.build(5, 6), torch.nn.Module)


def test_a_base_that_was_trained_as_a_method_of_its_own_is_not_trained_again(tmp_path):
    train, test = toy_cohort(2), toy_slide("B1", 30)
    alone = fitted(toy.made(GraphRegressor, **BRIEF), train, tmp_path / "alone")
    path = tmp_path / "model.safetensors"
    genes = list(train.genes)
    alone.save(path, use=GRAPH["use"], params=BRIEF, genes=genes, seed=0)
    whole = fitted(PlusNoise(GRAPH), train, tmp_path / "whole")
    rows: list[dict] = []
    run = replace(toy_run(tmp_path), parts=[path], log=rows.append)
    taken = PlusNoise(GRAPH)
    taken.fit(train, train, run)
    assert not rows  # nothing was trained
    np.testing.assert_array_equal(predict(taken, test, 2).samples, predict(whole, test, 2).samples)
    # Another seed, or other arguments, is another model.
    for different in (replace(run, seed=1), run):
        params = BRIEF if different.seed else {**BRIEF, "width": 16}
        PlusNoise({**GRAPH, "params": params}).fit(train, train, different)
        assert rows
        rows.clear()


def test_noise_takes_over_what_its_base_needs():
    patches = {"use": "flag_st.methods.bleep.Bleep", "params": {"inputs": "patches"}}
    assert PlusNoise(patches).needs == {"patches"}
    assert PlusNoise(RIDGE).needs == frozenset()
    with pytest.raises(FlagError, match="diagonal, genes, not 'spots'"):
        toy.made(PlusNoise, RIDGE, "spots")
    with pytest.raises(FlagError, match="base"):
        PlusNoise({"params": {}})


# --- adjacent section -----------------------------------------------------------------------------


def blob(name, patient="A", degrees=0.0, shift=(0.0, 0.0), phase=(0.0, 0.0), size=1.0):
    """One tissue on an array: an irregular outline, expression by place within the tissue."""
    grid = np.stack(np.meshgrid(np.arange(-18, 19), np.arange(-18, 19)), -1).reshape(-1, 2) + phase
    grid = grid[((grid[:, 0] / 15) ** 2 + (grid[:, 1] / 9) ** 2 < size)]
    grid = grid[~((grid[:, 0] > 2) & (grid[:, 1] > 3))] * 200.0
    y = 2 + np.stack([np.sin(grid[:, 0] / 900), np.cos(grid[:, 1] / 700)], -1)
    a = np.deg2rad(degrees)
    position = grid @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]) + shift
    spots = np.array([f"{name}-{i}" for i in range(len(grid))])
    return Slide(name, patient, spots, position, np.zeros((len(grid), 1), np.float32), y)


@pytest.mark.parametrize("degrees", [-17.0, 4.5, 31.0])
def test_overlay_finds_turn_and_shift(degrees):
    """Although the spots of the two sections do not fall on each other."""
    fixed, moving = blob("a"), blob("b", degrees=degrees, shift=(5000, -900), phase=(0.5, 0.3))
    laid, _ = overlay(moving.position, fixed.position, 45)
    a = np.deg2rad(-degrees)
    back = (moving.position - [5000, -900]) @ np.array(
        [[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]]
    )
    assert np.linalg.norm(laid - back, axis=1).max() < 150  # µm, of a pitch of 200


def test_adjacent_section_predicts_by_place(tmp_path):
    train = [blob("b", degrees=12, shift=(700, 0), phase=(0.4, 0.4)), blob("c", patient="B")]
    method = fitted(AdjacentSection(), Cohort(train, ["x", "y"]), tmp_path)
    slide = blob("a")
    assert correlation(predict(method, slide).point, slide.expression) > 0.95
    use = "flag_st.methods.adjacent_section.AdjacentSection"
    again = reloaded(method, use, {}, tmp_path)
    np.testing.assert_array_equal(predict(again, slide).samples, predict(method, slide).samples)
    order = np.random.default_rng(0).permutation(len(slide))
    moved = predict(method, slide.subset(order)).samples
    np.testing.assert_allclose(moved, predict(method, slide).samples[:, order], atol=1e-5)


def test_adjacent_section_takes_the_best_fit(tmp_path):
    """Of two sections of the patient, the one with the slide's outline; never another patient's."""
    like, unlike, foreign = blob("b", phase=(0.4, 0.2)), blob("c", size=0.3), blob("d", "B")
    unlike.expression[:], foreign.expression[:] = 50, 90
    slide = blob("a")
    for order in ([like, unlike, foreign], [foreign, unlike, like]):
        method = fitted(AdjacentSection(), Cohort(order, ["x", "y"]), tmp_path)
        assert predict(method, slide).point.max() < 4


def test_adjacent_section_falls_back_to_the_mean(tmp_path):
    train = Cohort([blob("b"), blob("c", patient="")], ["x", "y"])
    method = fitted(AdjacentSection(), train, tmp_path)
    for patient in ("B", ""):
        found = predict(method, blob("a", patient=patient)).samples
        np.testing.assert_allclose(found, np.broadcast_to(train.expression.mean(0), found.shape))


def test_gaussian_weights_of_four_spots():
    method = AdjacentSection(neighbours=4, width=0.7)
    laid = np.array([[0, 0], [200, 0], [0, 200], [200, 200], [400, 0]], dtype=float)
    y, at = np.eye(5), np.array([[60.0, 20.0]])
    weight = np.exp(-((laid[:4] - at) ** 2).sum(1) / (2 * 140**2))
    found = method._average(at, laid, y)[0]
    np.testing.assert_allclose(found[:4], weight / weight.sum(), rtol=1e-5)
    assert found[4] == 0


def test_adjacent_section_on_real_sections(her2st, tmp_path):
    """C3 from C2: a registered neighbour is known to reach 0.57 on 200 frequent genes."""
    anndata = pytest.importorskip("anndata")
    tables = [anndata.read_h5ad(her2st / "counts" / f"{name}.h5ad") for name in ("C2", "C3")]
    common = sorted(set(tables[0].var_names) & set(tables[1].var_names))
    depth = np.asarray(tables[0][:, common].X.mean(0)).ravel()
    genes = [common[i] for i in np.argsort(-depth, kind="stable")[:200]]
    slides = []
    for name, table in zip(("C2", "C3"), tables, strict=True):
        position = 200.0 * table.obs[["array_x_refined", "array_y_refined"]].to_numpy(float)
        y = np.log1p(table[:, genes].X.toarray()).astype(np.float32)
        features = np.zeros((len(y), 1), np.float32)
        slides.append(Slide(name, "C", table.obs_names.to_numpy(), position, features, y))
    method = fitted(AdjacentSection(), Cohort(slides[:1], genes), tmp_path)
    assert correlation(predict(method, slides[1]).point, slides[1].expression) > 0.55


# --- what all networks share ----------------------------------------------------------------------


@pytest.mark.parametrize(("centre", "columns"), [("training", 16), ("slide", 16), ("both", 32)])
def test_features_are_centred_as_asked(centre, columns, tmp_path):
    cohort = toy_cohort(2)
    method = fitted(toy.made(GraphRegressor, **BRIEF, centre=centre), cohort, tmp_path)
    u = method.features_of(cohort[0])
    assert u.shape == (40, columns)
    assert u.dtype == np.float32
    known = (cohort[0].features - cohort.features.mean(0)) / cohort.features.std(0)
    own = (cohort[0].features - cohort[0].features.mean(0)) / cohort[0].features.std(0)
    expected = {"training": known, "slide": own, "both": np.hstack([known, own])}[centre]
    np.testing.assert_allclose(u, expected.clip(-6, 6), atol=1e-4)
    assert predict(method, cohort[0]).samples.shape == (1, 40, 12)


def test_unknown_centre_and_training_key_are_refused():
    with pytest.raises(FlagError, match="training, slide, both, none, not 'stain'"):
        toy.made(GraphRegressor, centre="stain")
    with pytest.raises(FlagError, match=r"training takes no argument learning_rate.*lr"):
        toy.made(GraphRegressor, training={"learning_rate": 1})
