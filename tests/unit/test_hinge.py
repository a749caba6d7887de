"""HINGE around a small CellFM: what is frozen stays, what is hidden is learned, draws are as stated."""

import numpy as np
import pytest
import torch
import toy_slides
from published import write_cellfm, write_scgpt
from scipy import sparse

from flag_st.core.errors import FlagError
from flag_st.core.io import load_arrays
from flag_st.core.seeds import Draws
from flag_st.gene_models.cellfm_mini import CellFmMini
from flag_st.gene_models.masked_values import Pretraining
from flag_st.methods.base import Run, load
from flag_st.methods.hinge import Hinge
from flag_st.methods.hinge.options import Body, Curriculum, Masking, Sampling, Start
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
    assert len(found.samples) == 1  # no draw differs from another
    u = torch.as_tensor(method.features_of(slide))
    with torch.inference_mode():
        shown = method.in_unit(method.process.one_shot(method.net, u))
    np.testing.assert_allclose(found.samples[0], shown, atol=1e-6)


def test_a_draw_may_end_early_with_the_estimate_of_all_genes(backbone, tmp_path):
    """After the first step that is the one-shot prediction; after the last it is the draw."""
    drawn = {}
    for until in (None, 1, 5):
        asked = {"masking": Masking(horizon=5)}
        asked |= {} if until is None else {"sampling": Sampling(until=until)}
        method, slide = fitted(backbone, tmp_path / str(until), **asked)
        drawn[until] = method.predict(slide.without_truth(), 2, Draws(0, slide.id)).samples
    np.testing.assert_array_equal(drawn[1], drawn[None])
    assert len(drawn[5]) == 1
    u = torch.as_tensor(method.features_of(slide))
    with torch.inference_mode():
        shown = method.in_unit(method.process.one_shot(method.net, u))
    np.testing.assert_allclose(drawn[5][0], shown, atol=1e-6)
    with pytest.raises(FlagError, match=r"sampling\.until is 6; give 1 to 5 steps"):
        fitted(backbone, tmp_path, masking=Masking(horizon=5), sampling=Sampling(until=6))


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
        ({"masking": Masking(1, "cosine")}, "horizon 1: masked diffusion needs at least 2 steps"),
        ({"sampling": Sampling(budget=0)}, "budget 0 of a chain of 6 steps: give 1 to 6"),
        ({"curriculum": Curriculum(ratio=0)}, "curriculum ratio 0"),
    ):
        with pytest.raises(FlagError, match=message):
            made(**options)
    with pytest.raises(FlagError, match=r"no backbone to freeze.*backbone: cellfm_mini"):
        Hinge()
    with pytest.raises(FlagError, match=r"no network to modulate.*backbone: true"):
        Hinge({"use": "flag_st.gene_models.coexpression.Coexpression"})
    with pytest.raises(FlagError, match=r"scGPT has no body\.slope, which is of CellFM alone"):
        Hinge({"use": "flag_st.gene_models.scgpt.ScGPT"}, body=Body(slope=0.01))
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


# --- published backbones ------------------------------------------------------------------------------


@pytest.fixture
def cellfm(tmp_path, monkeypatch):
    """CellFM's files, among whose genes are those of the panel."""
    params = write_cellfm(tmp_path / "files", ["first", *GENES[::-1], "last"], monkeypatch)
    return {"use": "flag_st.gene_models.cellfm.PublishedCellFm", "params": params}


@pytest.fixture
def scgpt(tmp_path):
    params = write_scgpt(tmp_path / "files", ["first", *GENES[::-1], "last"])
    return {"use": "flag_st.gene_models.scgpt.ScGPT", "params": params}


def saved(published, tmp_path, **options):
    """A method that was trained around a published backbone, its file, a slide and its draws there."""
    given = {"masking": Masking(horizon=6), "training": BRIEF, "batch": 16, **options}
    method, slide = fitted(None, tmp_path, method=Hinge(published, **given))
    path = tmp_path / "model.safetensors"
    params = {name: given[name] for name in given if name != "batch"}
    method.save(
        path, use="flag_st.methods.hinge.Hinge", params={"backbone": published, **plain(params)}
    )
    return method, path, slide


def plain(groups: dict) -> dict:
    """Groups of options as the configuration gives them."""
    return {name: dict(vars(group)) for name, group in groups.items()}


@pytest.mark.parametrize("kind", ["cellfm", "scgpt"])
@pytest.mark.parametrize(
    "start",
    [Start(), Start(weights="permuted"), Start(train="decoder"), Start(train="lora", rank=2)],
    ids=["frozen", "permuted", "decoder", "lora"],
)
def test_a_model_file_says_what_was_learned_and_which_backbone_it_is_for(
    kind, start, tmp_path, request
):
    """No frozen tensor is in it, and with the files it draws the same bytes."""
    published = request.getfixturevalue(kind)
    method, path, slide = saved(published, tmp_path, start=start)
    arrays, _ = load_arrays(path)
    inside = {k.removeprefix("net.") for k in arrays if k.startswith("net.backbone.")}
    trained = {"decoder": "dec", "lora": ("a", "b")}.get(start.train, "-")
    if start.train == "lora":
        assert all(name.rpartition(".")[2] in trained for name in inside)
    else:
        assert all(trained in name for name in inside)
    assert bool(inside) == (start.train in ("decoder", "lora"))
    again = load(path)[0].predict(slide.without_truth(), 2, Draws(0, slide.id))
    first = method.predict(slide.without_truth(), 2, Draws(0, slide.id))
    assert np.array_equal(again.samples, first.samples)
    table = method.net.backbone.parts().table
    plain_table = method.model.backbone(GENES).parts().table
    assert torch.equal(table, plain_table) == (start.weights != "permuted")
    assert torch.equal(table.sort(0).values, plain_table.sort(0).values)


def test_another_backbone_or_none_is_refused_in_prediction(cellfm, tmp_path, monkeypatch):
    _, path, _ = saved(cellfm, tmp_path)
    genes = ["first", *GENES[::-1], "last"]
    write_cellfm(tmp_path / "files", genes, monkeypatch, seed=1)
    with pytest.raises(
        FlagError, match=r"files have the digest .*; those of PublishedCellFm .*again"
    ):
        load(path)
    (tmp_path / "files" / "base_weight.ckpt").unlink()
    with pytest.raises(FlagError, match=r"base_weight\.ckpt does not exist"):
        load(path)


def test_a_published_backbone_that_is_not_there_is_refused_before_training(cellfm, tmp_path):
    (tmp_path / "files" / "base_weight.ckpt").unlink()
    with pytest.raises(FlagError, match=r"base_weight\.ckpt does not exist"):
        saved(cellfm, tmp_path)


def test_random_weights_need_no_files_and_are_kept(cellfm, tmp_path):
    (tmp_path / "files" / "base_weight.ckpt").unlink()
    method, path, slide = saved(cellfm, tmp_path, start=Start(weights="random"))
    again = load(path)[0].predict(slide.without_truth(), 1, Draws(0, slide.id))
    first = method.predict(slide.without_truth(), 1, Draws(0, slide.id))
    assert np.array_equal(again.samples, first.samples)


def test_genes_that_a_published_backbone_does_not_know_are_refused_by_name(cellfm, tmp_path):
    from flag_st.data.slide import Cohort

    slides = [toy_slides.toy_slide()]
    method = Hinge(cellfm, masking=Masking(horizon=6), training=BRIEF)
    with pytest.raises(FlagError, match=r"not in the vocabulary of base_weight\.ckpt, such as x0"):
        method.fit(
            Cohort(slides, ["x0", *GENES[1:]]), Cohort(slides, GENES), Run(directory=tmp_path)
        )
