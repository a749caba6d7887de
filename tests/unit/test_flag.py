"""FLAG learns, aligns, keeps to its seeds; the shared loop resumes to the same bytes."""

from pathlib import Path

import numpy as np
import pytest
import toy

from flag_st.errors import FlagError
from flag_st.methods.base import Run
from flag_st.methods.flag import Flag, FlagTask, random_tile
from flag_st.seeds import Draws, torch_generator
from flag_st.slide import Cohort
from flag_st.training import Loop, Training

SIZE = dict(
    width=32, depth=2, heads=4, graph_width=32, graph_depth=2, graph_heads=4, align_at=1, project=32
)


def trained(tmp_path: Path, epochs: int = 60, **more) -> tuple[Flag, list[dict]]:
    rows: list[dict] = []
    training = {"epochs": epochs, "lr": 4e-3, "warmup": 5, "ema": 0.98, "validate_every": 10}
    method = Flag(**{**SIZE, "dropout": 0.0, "training": training, **more})
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
        training = {"epochs": 6, "validate_every": 2, "checkpoint_seconds": 0.0, "warmup": 2}
        return Flag(**SIZE, training=training)

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


def test_alignment_pulls_tokens_to_the_gene_model(tmp_path):
    slides = [toy.with_targets(toy.slide(n), tmp_path) for n in "abc"]
    genes = [f"g{i}" for i in range(toy.GENES)]
    rows: list[dict] = []
    method = Flag(**SIZE, training={"epochs": 25, "lr": 3e-3, "warmup": 2, "validate_every": 25})
    method.fit(Cohort(slides, genes), toy.cohort("v"), Run(0, "cpu", tmp_path / "c", rows.append))
    assert rows[-1]["align"] < 0.5 * rows[0]["align"]
    assert not any("projector" in name for name in method.arrays())


def test_expression_of_the_test_slide_changes_nothing(tmp_path):
    method, _ = trained(tmp_path, epochs=2)
    slide = toy.slide("t")
    seen = method.predict(slide, 2, Draws(0, "t"))
    unseen = method.predict(slide.without_truth(), 2, Draws(0, "t"))
    assert np.array_equal(seen.samples, unseen.samples)


def test_encoding_once_and_each_time_both_learn(tmp_path):
    method, _ = trained(tmp_path, encode="once")
    test = toy.slide("t")
    point = method.predict(test.without_truth(), 2, Draws(0, "t")).point
    assert correlation(point, test.expression) > 0.7


def test_random_tiles_are_compact_and_seeded():
    slide = toy.slide("a", spots=120)
    index = random_tile(slide.position, 30, torch_generator(1))
    assert len(np.unique(index)) == 30
    spread = np.linalg.norm(slide.position[index] - slide.position[index].mean(0), axis=1).max()
    assert spread < np.linalg.norm(slide.position - slide.position.mean(0), axis=1).max()
    assert np.array_equal(index, random_tile(slide.position, 30, torch_generator(1)))


def test_accumulated_steps_equal_the_mean_of_their_batches(tmp_path):
    """Two half batches with accumulation move the weights exactly like their mean loss."""
    method = Flag(**{**SIZE, "dropout": 0.0}, tiles_per_step=1)
    train, valid = toy.cohort("a", "b"), toy.cohort("v")
    method._statistics(train)
    run = Run(0, "cpu", tmp_path)
    method.net = method.build(toy.GENES, toy.WIDTH)
    loop = Loop(FlagTask(method, train, valid, run), Training(accumulate=2, clip=1e9), run)
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


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"edges": "distances"}, "histology"),
        ({"encode": "twice"}, "once"),
        ({"sampler": "euler"}, "heun"),
        ({"align_at": 13}, "depth 12"),
        ({"training": {"learning_rate": 1}}, "weight_decay"),
        ({"training": {"precision": "fp8"}}, "bf16"),
    ],
)
def test_wrong_arguments_name_the_choices(arguments, word):
    with pytest.raises(FlagError, match=word):
        Flag(**arguments)
