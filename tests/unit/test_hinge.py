"""HINGE around a small CellFM: what is frozen stays, what is hidden is learned, draws are as stated."""

import numpy as np
import pytest
import torch
import toy_slides
from scipy import sparse

from flag_st.core.errors import FlagError
from flag_st.core.seeds import Draws
from flag_st.gene_models.cellfm_mini import CellFmMini
from flag_st.gene_models.masked_values import Pretraining
from flag_st.methods.base import Run, load
from flag_st.methods.hinge import Hinge
from flag_st.methods.hinge.options import Curriculum, Masking, Sampling, Start
from flag_st.methods.training import Training

GENES = [f"g{i}" for i in range(toy_slides.GENES)]
SIZES = {"width": 16, "layers": 2, "heads": 2, "bins": 16}
MINI = {"use": "flag_st.gene_models.cellfm_mini.CellFmMini", "params": SIZES}
BRIEF = Training(epochs=2, lr=1e-3, warmup=0, schedule="constant", ema=0.0, validate_every=1)
LEARN = Training(
    epochs=150, lr=1e-2, warmup=0, schedule="constant", ema=0.0, validate_every=50, patience=0
)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """Pre-trained on counts that follow the same fields as the toy slides."""
    counts = [np.round(np.expm1(toy_slides.toy_slide(n, 60).expression)) for n in ("P1", "P2")]
    model = CellFmMini(**SIZES, pretraining=Pretraining(epochs=30, learning_rate=1e-2))
    model.open("cpu")
    model.fit([sparse.csr_matrix(c) for c in counts], GENES, GENES, seed=0)
    path = tmp_path_factory.mktemp("backbone") / "model.safetensors"
    model.save(path)
    return path


def made(**options) -> Hinge:
    given = {"masking": Masking(horizon=6), "training": BRIEF, "batch": 16}
    return Hinge(MINI, **{**given, **options})


def fitted(backbone, tmp_path, method=None, **options):
    method = method or made(**options)
    cohort = toy_slides.toy_cohort()
    method.fit(cohort, cohort, Run(directory=tmp_path / "run", backbone=backbone))
    return method, cohort[0]


def state_of(path) -> dict[str, torch.Tensor]:
    model = CellFmMini(**SIZES)
    model.open("cpu")
    model.load(path)
    return model.backbone(GENES).state_dict()


def test_what_is_frozen_is_bit_by_bit_as_it_was(backbone, tmp_path):
    method, _ = fitted(backbone, tmp_path)
    before = state_of(backbone)
    for name, value in method.net.backbone.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert any(layer.weight.any() for layer in method.net.maps)  # and the modulators moved


@pytest.mark.parametrize(
    ("train", "moved"),
    [
        ("decoder", {"value_dec.w1.weight", "value_dec.w2.weight"}),
        ("lora", set()),
        ("all", None),
    ],
)
def test_what_is_trained_moves_and_nothing_else(backbone, tmp_path, train, moved):
    method, _ = fitted(backbone, tmp_path, start=Start(train=train))
    now = {k.replace(".inner", ""): v for k, v in method.net.backbone.state_dict().items()}
    changed = {k for k, v in state_of(backbone).items() if not torch.equal(v, now[k])}
    assert changed == moved if moved is not None else len(changed) > 10
    updates = [v for k, v in now.items() if k.endswith("_proj.b")]
    assert len(updates) == (16 if train == "lora" else 0)
    assert all(value.any() for value in updates)


def test_weights_at_the_start(backbone, tmp_path):
    """Random ones are others; permuted rows are the same rows, each at another gene."""
    before = state_of(backbone)
    random, _ = fitted(backbone, tmp_path / "a", start=Start(weights="random"))
    assert not torch.equal(random.net.backbone.gene_emb, before["gene_emb"])
    permuted, _ = fitted(backbone, tmp_path / "b", start=Start(weights="permuted"))
    rows = permuted.net.backbone.gene_emb
    assert not torch.equal(rows, before["gene_emb"])
    assert torch.equal(rows[0], before["gene_emb"][0])
    assert torch.equal(rows.sort(0).values, before["gene_emb"].sort(0).values)
    assert torch.equal(permuted.net.backbone.cls_token, before["cls_token"])


def test_expression_is_learned_from_features(backbone, tmp_path):
    method, slide = fitted(backbone, tmp_path, training=LEARN)
    found = method.predict(slide.without_truth(), 4, Draws(0, slide.id))
    assert toy_slides.correlation(found.point, slide.expression) > 0.8
    assert toy_slides.correlation(found.samples[0], slide.expression) > 0.7
    assert 0 < found.samples.std(0).mean() < slide.expression.std(0).mean()


def test_a_budget_of_one_is_the_one_shot_prediction(backbone, tmp_path):
    """All genes are hidden and all are revealed: draws do not differ, and T = 1 says the same."""
    method, slide = fitted(backbone, tmp_path, sampling=Sampling(budget=1))
    found = method.predict(slide.without_truth(), 2, Draws(0, slide.id))
    assert np.array_equal(*found.samples)
    u = torch.as_tensor(method.features_of(slide))
    with torch.inference_mode():
        shown = method.in_unit(method.process.one_shot(method.net, u))
    np.testing.assert_allclose(found.samples[0], shown, atol=1e-6)


def test_a_draw_costs_its_budget(backbone, tmp_path):
    calls = []
    method, slide = fitted(backbone, tmp_path, sampling=Sampling(budget=3, point_draws=1))
    method.net.register_forward_hook(lambda *_: calls.append(1))
    method.predict(slide.without_truth(), 1, Draws(0, slide.id))
    assert len(calls) == 3


def test_the_curriculum_begins_with_few_hidden_genes(backbone, tmp_path):
    method, _ = fitted(
        backbone, tmp_path, curriculum=Curriculum(epochs=5, ratio=0.5), masking=Masking(10, zeta=1)
    )
    cohort = toy_slides.toy_cohort()
    task = method.task(cohort, cohort, Run())
    found = []
    for task.epoch in (0, 4, 5):
        found.append(task.last_step)
    assert found == [5, 5, 10]


def test_a_killed_training_ends_with_the_same_bytes(backbone, tmp_path):
    """The curriculum ends while it is killed."""

    class Killed(Exception):
        pass

    def run(directory, killed):
        method, seen = (
            made(
                curriculum=Curriculum(epochs=2),
                training=Training(
                    epochs=4, warmup=0, ema=0.0, validate_every=1, checkpoint_seconds=0.0, lr=1e-2
                ),
            ),
            [],
        )

        def progress(items, **_):
            for item in items:
                if killed and len(seen) == 2:
                    raise Killed
                seen.append(item)
                yield item

        cohort = toy_slides.toy_cohort()
        method.fit(cohort, cohort, Run(0, "cpu", directory, progress=progress, backbone=backbone))
        return method.arrays()

    whole = run(tmp_path / "whole", killed=False)
    with pytest.raises(Killed):
        run(tmp_path / "killed", killed=True)
    again = run(tmp_path / "killed", killed=False)
    assert all(np.array_equal(whole[name], again[name]) for name in whole)


def test_the_model_file_needs_no_backbone(backbone, tmp_path):
    method, slide = fitted(backbone, tmp_path)
    path = tmp_path / "model.safetensors"
    method.save(
        path,
        use="flag_st.methods.hinge.Hinge",
        params={"backbone": MINI, "masking": {"horizon": 6}},
    )
    again = load(path)[0].predict(slide.without_truth(), 2, Draws(0, slide.id))
    first = method.predict(slide.without_truth(), 2, Draws(0, slide.id))
    assert np.array_equal(again.samples, first.samples)


def test_what_is_impossible_is_refused_before_any_training(backbone, tmp_path):
    for options, message in (
        ({"masking": Masking(horizon=1)}, "horizon is 1; give at least 2"),
        ({"sampling": Sampling(budget=7)}, "budget 7 of a chain of 6 steps: give 1 to 6"),
        ({"curriculum": Curriculum(ratio=0)}, "curriculum ratio 0"),
    ):
        with pytest.raises(FlagError, match=message):
            made(**options)
    with pytest.raises(FlagError, match=r"no backbone to freeze.*backbone: cellfm_mini"):
        Hinge()
    with pytest.raises(FlagError, match="was not fitted before it"):
        fitted(None, tmp_path)


def test_genes_outside_the_vocabulary_are_refused_by_name(backbone, tmp_path):
    from flag_st.data.slide import Cohort

    slides = [toy_slides.toy_slide()]
    with pytest.raises(FlagError, match="not in the vocabulary of cellfm_mini, such as x0"):
        made().fit(
            Cohort(slides, ["x0", *GENES[1:]]),
            Cohort(slides, GENES),
            Run(directory=tmp_path, backbone=backbone),
        )
