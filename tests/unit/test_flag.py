"""FLAG learns, aligns, keeps to its seeds; the shared loop resumes to the same bytes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.core.seeds import Draws, torch_generator
from flag_st.data.slide import TRANSFORMS, Cohort
from flag_st.methods import training
from flag_st.methods.base import Run, load
from flag_st.methods.flag import Flag
from flag_st.methods.flag.windows import slide_denoiser, windows
from flag_st.methods.training import Loop, Training
from flag_st.planning import config

SIZE: dict[str, Any] = dict(
    width=32,
    depth=2,
    heads=4,
    backbone={"width": 32, "depth": 2, "heads": 4},
    alignment={"blocks": 1, "width": 32},
)


def trained(tmp_path: Path, epochs: int = 60, **more) -> tuple[Flag, list[dict]]:
    rows: list[dict] = []
    settings = {"epochs": epochs, "lr": 4e-3, "warmup": 5, "ema": 0.98, "validate_every": 10}
    sizes = {**SIZE, "dropout": 0.0, "training": settings}
    method = toy.made(Flag, **config.merge(sizes, more))
    train, valid = toy.cohort("a", "b", "c", "d"), toy.cohort("v")
    method.fit(train, valid, Run(0, "cpu", tmp_path / "checkpoint", rows.append))
    return method, rows


def correlation(prediction: np.ndarray, truth: np.ndarray) -> float:
    return float(
        np.mean([np.corrcoef(p, t)[0, 1] for p, t in zip(prediction.T, truth.T, strict=True)])
    )


def test_learns_and_its_draws_have_the_right_spread(tmp_path):
    method, rows = trained(tmp_path)
    test = toy.slide("t")
    prediction = method.predict(test.without_truth(), 8, Draws(0, "t"))
    assert correlation(prediction.point, test.expression) > 0.75
    draw, mean = prediction.samples[0], prediction.samples.mean(0)
    assert correlation(draw, test.expression) < correlation(mean, test.expression)
    ratio = draw.std(0).mean() / test.expression.std(0).mean()
    assert 0.7 < ratio < 1.4  # neither collapsed nor exploded
    assert (prediction.samples >= 0).all()
    losses = [row["valid_loss"] for row in rows if "valid_loss" in row]
    assert losses[-1] < losses[0]


def test_resume_equals_an_uninterrupted_run(tmp_path):
    """Killed after an epoch with a checkpoint, the next run ends with the same bytes."""

    class Killed(Exception):
        pass

    def method():
        settings = {"epochs": 6, "validate_every": 2, "checkpoint_seconds": 0.0, "warmup": 2}
        return toy.made(Flag, **SIZE, training=settings)

    def fit(one: Flag, directory: Path, stop_after: int | None = None) -> list[dict]:
        def bar(items, **_):
            for epoch in items:
                if epoch == stop_after:
                    raise Killed
                yield epoch

        rows: list[dict] = []
        train, valid = toy.cohort("a", "b"), toy.cohort("v")
        one.fit(train, valid, Run(3, "cpu", directory, rows.append, bar))
        return rows

    straight, broken, resumed = method(), method(), method()
    rows = fit(straight, tmp_path / "one")
    with pytest.raises(Killed):
        fit(broken, tmp_path / "two", stop_after=3)
    assert (tmp_path / "two" / "checkpoint.pt").exists()
    assert fit(resumed, tmp_path / "two") == rows
    for name, value in straight.arrays().items():
        assert np.array_equal(value, resumed.arrays()[name]), name


def test_a_checkpoint_of_other_settings_or_a_damaged_one_is_not_continued(tmp_path):
    def fit(directory: Path, epochs: int, origin: str) -> dict[str, np.ndarray]:
        settings = {"epochs": epochs, "validate_every": 1, "checkpoint_seconds": 0.0, "warmup": 2}
        method = toy.made(Flag, **SIZE, training=settings)
        method.fit(toy.cohort("a"), toy.cohort("v"), Run(3, "cpu", directory, origin=origin))
        return method.arrays()

    fit(tmp_path / "c", 4, "old")  # leaves a checkpoint, as a killed run does
    straight = fit(tmp_path / "d", 2, "new")
    for damage in (False, True):
        if damage:
            (tmp_path / "c" / "checkpoint.pt").write_bytes(b"PK")
        found = fit(tmp_path / "c", 2, "new")
        assert all(np.array_equal(found[name], value) for name, value in straight.items())


def test_alignment_pulls_tokens_to_the_gene_model(tmp_path):
    slides = [toy.with_targets(toy.slide(n), tmp_path) for n in "abc"]
    genes = [f"g{i}" for i in range(toy.GENES)]
    rows: list[dict] = []
    method = toy.made(
        Flag, **SIZE, training={"epochs": 25, "lr": 3e-3, "warmup": 2, "validate_every": 25}
    )
    method.fit(Cohort(slides, genes), toy.cohort("v"), Run(0, "cpu", tmp_path / "c", rows.append))
    assert rows[-1]["align"] < 0.5 * rows[0]["align"]
    assert not any("projector" in name for name in method.arrays())


@pytest.mark.parametrize("kind", ["static", "contextual", "spot"])
def test_alignment_reads_every_kind_of_gene_model(tmp_path, kind):
    """The loss of alignment is that of numpy: per gene, or of the mean token of a spot."""
    slides = [toy.with_targets(toy.slide(n), tmp_path, kind=kind) for n in "ab"]
    method = toy.made(Flag, **SIZE, tiling={"per_step": 2})
    train = Cohort(slides, [f"g{i}" for i in range(toy.GENES)])
    method._statistics(train)
    torch.manual_seed(0)
    method.net = method.build(toy.GENES, toy.WIDTH, targets=6).eval()
    task = method.task(train, toy.cohort("v"), Run())
    ((tiles, cuts),) = task.batches(torch_generator(0))
    found: list[torch.Tensor] = []
    method.net.projector.register_forward_hook(lambda _, __, out: found.append(out.detach()))
    _, parts = task.loss((tiles, cuts), torch_generator(1))
    cosines = []
    order = [(slide, spot) for slide, index in cuts for spot in index]
    for tokens, (slide, spot) in zip(found[0].numpy(), order, strict=True):
        vectors, _ = slide.targets.read(np.array([spot]))
        vectors = vectors if kind == "static" else vectors[0]
        expressed = slide.truth[spot] > 0
        rows = [(tokens.mean(0), vectors)]
        if kind != "spot":
            rows = list(zip(tokens[expressed], vectors[expressed], strict=True))
        cosines += [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in rows]
    assert parts["align"] == pytest.approx(1 - np.mean(cosines), abs=1e-5)


def test_expression_of_the_test_slide_changes_nothing(tmp_path):
    method, _ = trained(tmp_path, epochs=2)
    slide = toy.slide("t")
    seen = method.predict(slide, 2, Draws(0, "t"))
    unseen = method.predict(slide.without_truth(), 2, Draws(0, "t"))
    assert np.array_equal(seen.samples, unseen.samples)


def test_encoding_once_and_each_time_both_learn(tmp_path):
    method, _ = trained(tmp_path, backbone={"encode": "once"})
    test = toy.slide("t")
    point = method.predict(test.without_truth(), 2, Draws(0, "t")).point
    assert correlation(point, test.expression) > 0.7


def test_accumulated_steps_equal_the_mean_of_their_batches(tmp_path):
    """Two half batches with accumulation move the weights exactly like their mean loss."""
    method = toy.made(Flag, **{**SIZE, "dropout": 0.0}, tiling={"per_step": 1})
    train, valid = toy.cohort("a", "b"), toy.cohort("v")
    method._statistics(train)
    run = Run(0, "cpu", tmp_path)
    method.net = method.build(toy.GENES, toy.WIDTH)
    loop = Loop(method.task(train, valid, run), Training(accumulate=2, clip=1e9), run)
    batches = list(loop.task.batches(torch_generator(0)))
    generator = torch_generator(run.seed, "step", 0)
    mean = sum(loop.task.loss(b, generator)[0] for b in batches) / len(batches)
    mean.backward()
    wanted = {n: p.grad.clone() for n, p in loop.module.named_parameters() if p.grad is not None}
    loop.optimizer.zero_grad()
    kept: dict = {}
    loop.optimizer.step = lambda: kept.update(
        {n: p.grad.clone() for n, p in loop.module.named_parameters() if p.grad is not None}
    )
    loop._update(batches, {})
    assert set(kept) == set(wanted)
    for name, gradient in wanted.items():
        assert np.allclose(gradient, kept[name], atol=1e-6), name


def test_tensorboard_gets_what_the_history_gets(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rows: list[dict] = []
    run = Run(0, "cpu", tmp_path / "c", rows.append, events=tmp_path / "events")
    method = toy.made(
        Flag, **SIZE, training={"epochs": 3, "validate_every": 2, "tensorboard": True}
    )
    method.fit(toy.cohort("a"), toy.cohort("v"), run)
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([r["loss"] for r in rows])
    assert [e.step for e in events.Scalars("valid_loss")] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"graph": {"edges": "distances"}}, "histology"),
        ({"backbone": {"encode": "twice"}}, "once"),
        ({"backbone": {"encode": "once", "kind": "paper"}}, "backbone.kind: fused"),
        ({"sampling": {"solver": "euler"}}, "heun"),
        ({"sampling": {"steps": 0}}, "at least 1 step"),
        ({"noise": {"sigma_min": 90.0}}, "sigma_min < sigma_max"),
        ({"noise": {"t_min": 1.0}}, "t_min < 1"),
        ({"tiling": {"spots": 0}}, "spots must be positive"),
        ({"alignment": {"blocks": 13}}, "from 1 to 12"),
        ({"alignment": {"blocks": [8, 1]}}, "the first and the last"),
        ({"training": {"learning_rate": 1}}, "weight_decay"),
        ({"training": {"precision": "fp8"}}, "bf16"),
    ],
)
def test_wrong_arguments_name_the_choices(arguments, word):
    with pytest.raises(FlagError, match=word):
        toy.made(Flag, **arguments)


@pytest.mark.parametrize(
    ("argument", "place"),
    [
        ({"sigma_max": 10.0}, r"noise: \{sigma_max: 10.0\}"),
        ({"edges": "none"}, r"graph: \{edges: none\}"),
        ({"tile_spots": 100}, "Valid: .*tiling"),
    ],
)
def test_arguments_of_before_the_groups_are_refused_with_their_new_place(argument, place):
    with pytest.raises(FlagError, match=f"takes no argument {next(iter(argument))}.*{place}"):
        toy.made(Flag, **argument)


# --- the three presets ---------------------------------------------------------------------------

PRESETS = {
    name: config.load()["methods"][name]["params"]
    for name in ("flag_paper", "flag_released", "flag_graph")
}
PRESETS["flag"] = {}


def preset(name: str, **more) -> Flag:
    """A preset as configured, reduced in size, with weights that let everything through."""
    sizes = config.merge(PRESETS[name], {**SIZE, "dropout": 0.0})
    method = toy.made(Flag, **config.merge(sizes, more))
    method._statistics(toy.cohort("a"))
    torch.manual_seed(0)
    method.net = method.build(toy.GENES, toy.WIDTH).eval().requires_grad_(False)
    for p in method.net.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return method


def test_nothing_can_be_aligned_without_gene_tokens():
    with pytest.raises(FlagError, match="no gene tokens that could be aligned"):
        toy.made(Flag, backbone={"kind": "alone"}).build(toy.GENES, toy.WIDTH, 6)


def cleaned(method: Flag, slide, level: float = 1.3, seed: int = 1) -> torch.Tensor:
    x = torch.randn(1, len(slide), toy.GENES, generator=torch_generator(seed))
    return slide_denoiser(method.net, opened(method, slide))(x, torch.tensor(level))[0]


def opened(method: Flag, slide) -> list:
    return windows(method.seen(slide), method.options.tiling, method.builder, "cpu")


def test_parameters_of_the_release_as_counted():
    """`methods/flag.md`, G = 200, 1024 features, Geneformer's 1152."""
    net = toy.made(Flag, **PRESETS["flag_released"]).build(200, 1024, 1152)
    assert sum(p.numel() for p in net.parameters()) == 75_904_610
    assert sum(p.numel() for p in net.graph.parameters()) == 34_128_609
    smaller = toy.made(Flag, **PRESETS["flag_released"]).build(50, 1024, 1152)
    assert sum(p.numel() for p in smaller.parameters()) == 75_904_610 - 150 * 1665


@pytest.mark.parametrize("name", ["flag", "flag_paper", "flag_released"])
def test_the_page_on_methods_states_the_parameters(name):
    """G = 200, 1024 features that are z-scored twice by ours, Geneformer's 1152."""
    with torch.device("meta"):
        net = toy.made(Flag, **PRESETS[name]).build(200, 1024, 1152)
    count = sum(p.numel() for p in net.parameters())
    assert f" {count:,}" in Path("docs/methods.md").read_text()


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_all_networks_keep_one_contract(name):
    """Noisy x and σ → clean x, whatever the chunk; chosen spots get what all spots get."""
    method, slide = preset(name, tiling={"edge_px": 1e5}), toy.slide("a")
    net, tiles = method.net, opened(method, slide)[0].tiles
    x = torch.randn(1, len(slide), toy.GENES, generator=torch_generator(3))
    sigma, chosen = torch.full((1, 1, 1), 0.7), torch.tensor([2, 30, 31])
    clean = net(x, sigma, tiles)
    assert clean.shape == x.shape
    assert torch.allclose(net(x, sigma, tiles, chunk=7), clean, atol=1e-4)
    few = net.denoise(x, sigma, tiles, chosen)
    assert torch.allclose(few.clean, clean[0, chosen], atol=1e-4)
    assert (few.readout is not None) == (name == "flag")
    # With almost no noise, clean is what came in.
    assert torch.allclose(net(x, torch.full((1, 1, 1), 1e-4), tiles), x, atol=1e-2)


@pytest.mark.parametrize("name", ["flag_paper", "flag_released", "joint", "joint_released"])
@pytest.mark.parametrize("unit", ["log1p", "log2p1", "log1p_cp10k"])
def test_networks_see_the_logarithm_of_their_entry_whatever_the_unit_of_the_panel(name, unit):
    """A count of 7 is log2 8 = 3 as released, and ln 8 as written; the prediction is converted back."""
    entry = config.load()["methods"][name]
    method = registry.build(entry["use"], entry["params"])
    counts = np.full((40, toy.GENES), 7.0)
    values = TRANSFORMS[unit](counts, np.full((40, 1), 1e4)).astype(np.float32)
    slide = replace(toy.slide("a"), expression=values, unit=unit)
    method._statistics(Cohort([slide], [f"g{i}" for i in range(toy.GENES)]))
    seen = method.expression_of(slide)
    assert seen == pytest.approx(3.0 if name.endswith("released") else np.log(8))
    assert method.in_unit(torch.as_tensor(seen)) == pytest.approx(values)


@pytest.mark.parametrize(
    ("name", "sees"), [("flag", 1), ("flag_graph", 1), ("flag_paper", 1), ("flag_released", 0)]
)
def test_edges_reach_the_output_of_all_but_the_release(name, sees):
    """Spots of one tile move, none leaves it: only what an edge knows has changed."""
    slide = toy.slide("a")
    wide = {"tiling": {"edge_px": 1e5}, "graph": {"sigma_px": 1000}}  # the pitch is 667 px
    method = preset(name, **({} if name in ("flag", "flag_graph") else wide))
    moved = replace(slide, position=slide.position[::-1].copy())
    change = (cleaned(method, slide) - cleaned(method, moved)).abs().max()
    assert (change > 1e-4) if sees else (change < 1e-6)


@pytest.mark.parametrize(("name", "told"), [("flag", 1), ("flag_paper", 1), ("flag_released", 0)])
def test_time_reaches_the_encoder_of_all_but_the_release(name, told):
    method, slide = preset(name), toy.slide("a")
    net, tiles = method.net, opened(method, slide)[0].tiles
    # The same scaled values at both levels, so that time alone differs.
    net.decoder.precond.scaled = lambda x, sigma: x
    x = torch.randn(*tiles.mask.shape, toy.GENES, generator=torch_generator(2))
    early, late = (net.encode(x, torch.full((1, 1, 1), s), tiles) for s in (0.05, 8.0))
    if name == "flag":  # the condition, and the backbone's own estimate
        early, late = early[0], late[0]
    assert ((early - late).abs().max() > 1e-4) == bool(told)


@pytest.mark.parametrize("name", ["flag_paper", "flag_released"])
def test_presets_of_the_paper_sample_as_it_does(name):
    """201 evaluations: 100 Heun steps on a geometric grid from 10 and one of Tweedie's."""
    method, slide, calls = preset(name), toy.slide("a", spots=5), []
    method.net.register_forward_pre_hook(lambda _, arguments: calls.append(arguments[1].item()))
    method.device = "cpu"
    method.predict(slide.without_truth(), 1, Draws(0, "a"))
    assert len(calls) == 201 * len(opened(method, slide))
    assert calls[0] == pytest.approx(10)
    low, last = (0.010715, 0.01) if name == "flag_released" else (0.01, 0.0)
    assert calls[-1] == pytest.approx(low, rel=1e-4)
    # The release sees the times 1 to 0.01 of its SDE, whose σ at t = 0 would be 0.01.
    times = method.net.decoder.precond.noise(torch.tensor([calls[0], calls[-1]]))
    assert times.tolist() == pytest.approx([1.0, last], abs=1e-5)
    drawn = method.options.noise.draw((20000,), torch_generator(0))
    assert drawn.min().item() == pytest.approx(low, rel=0.01)
    assert drawn.min() >= low * (1 - 1e-5)


@pytest.mark.parametrize(
    "entry", ["flag", "flag_paper", "flag_released", "joint", "joint_released"]
)
def test_draws_are_clipped_by_ours_and_by_the_release_alone(entry):
    """The paper names no clipping. Random networks draw values below zero counts."""
    chosen = config.load()["methods"][entry]
    small = {"steps": 2, "point_draws": 1} if "flag" in entry else {"steps": 2}
    sizes = (
        {**SIZE, "sampling": small} if "flag" in entry else {"width": 16, "depth": 1, "sde": small}
    )
    method = registry.build(chosen["use"], config.merge(chosen["params"], sizes))
    method._statistics(toy.cohort("a"))
    torch.manual_seed(0)
    method.net, method.device = method.build(toy.GENES, toy.WIDTH).eval(), "cpu"
    drawn = method.predict(toy.slide("a", spots=9).without_truth(), 2, Draws(0, "a")).samples
    assert (drawn.min() < 0) == (entry in ("flag_paper", "joint"))


def test_squares_of_the_grid_do_not_see_each_other():
    slide = toy.slide("a", spots=60)
    method = preset("flag_paper", tiling={"edge_px": 2000.0})
    first, second = (w.index.numpy() for w in opened(method, slide)[:2])
    moved = slide.features.copy()
    moved[second] += 3
    change = (cleaned(method, slide) - cleaned(method, replace(slide, features=moved))).abs()
    assert change[second].max() > 1e-3
    assert change[first].max() == 0


def test_point_estimate_is_the_mean_of_many_draws(tmp_path):
    """One evaluation from pure noise against 32 draws of 35: the same posterior mean."""
    method, _ = trained(tmp_path, epochs=80)
    prediction = method.predict(toy.slide("t").without_truth(), 32, Draws(0, "t"))
    mean, spread = prediction.samples.mean(0), prediction.samples.std(0).mean()
    gap = np.sqrt(np.mean((prediction.point - mean) ** 2))
    assert gap < 0.5 * spread
    assert correlation(prediction.point, mean) > 0.95


def test_without_diffusion_there_is_one_answer(tmp_path):
    method, rows = trained(tmp_path, diffusion=False)
    test = toy.slide("t")
    prediction = method.predict(test.without_truth(), 1, Draws(0, "t"))
    again = method.predict(test.without_truth(), 1, Draws(5, "t"))
    assert not method.stochastic
    assert np.array_equal(prediction.samples, again.samples)
    assert correlation(prediction.point, test.expression) > 0.75
    assert rows[-1]["valid_loss"] < rows[9]["valid_loss"] * 1.5


def test_a_range_of_blocks_is_aligned(tmp_path):
    rows: list[dict] = []
    slides = [toy.with_targets(toy.slide(n), tmp_path) for n in ("a", "b")]
    cohort = Cohort(slides, [f"g{i}" for i in range(toy.GENES)])
    method = toy.made(
        Flag,
        **{**SIZE, "alignment": {"blocks": [1, 2], "width": 32}},
        training={"epochs": 30, "lr": 4e-3, "warmup": 5},
    )
    method.fit(cohort, toy.cohort("v"), Run(0, "cpu", tmp_path / "c", rows.append))
    assert method.net.decoder.dit.align_at == {1, 2}
    assert rows[-1]["align"] < 0.8 * rows[0]["align"]


def test_settings_in_pixels_want_a_pixel_size():
    slide = replace(toy.slide("a"), pixel_um=float("nan"))
    with pytest.raises(FlagError, match="pixel size is unknown"):
        opened(preset("flag_paper"), slide)


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_lower_precision_learns_the_same_within_its_digits(tmp_path, precision):
    settings = {"epochs": 4, "validate_every": 2, "warmup": 1}
    points = []
    for chosen in ("fp32", precision):
        method = toy.made(Flag, **SIZE, dropout=0.0, training={**settings, "precision": chosen})
        method.fit(toy.cohort("a"), toy.cohort("v"), Run(0, "cpu", tmp_path / chosen))
        points.append(method.predict(toy.slide("t"), 1, Draws(0, "t")).point)
    gap = np.abs(points[0] - points[1]).max()
    assert gap < 0.2 * points[0].std() + 0.1
    assert (gap > 0) == (precision == "bf16")  # TF32 is of GPUs


def test_a_compiler_that_fails_leaves_the_eager_module_at_work(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    layer, x = torch.nn.Linear(3, 2), torch.ones(4, 3)
    eager = layer(x).detach()
    training._compile([layer])
    assert layer._compiled_call_impl is not None
    assert torch.equal(layer(x), eager)


def test_what_is_compiled_is_what_is_called():
    method, cohort = preset("flag"), toy.cohort("a")
    training._compile(method.task(cohort, cohort, Run()).compiled())
    assert method.net.graph._compiled_call_impl is not None
    assert method.net.decoder.dit._compiled_call_impl is not None


def test_a_model_file_with_the_arguments_of_another_version_is_named(tmp_path):
    method, _ = trained(tmp_path, epochs=1)
    path = tmp_path / "model.safetensors"
    method.save(path, use="flag_st.methods.flag.Flag", params={"graph_width": 32})
    with pytest.raises(FlagError, match=r"another version .*graph_width.*delete it"):
        load(path)
