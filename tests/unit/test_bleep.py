"""BLEEP: sizes, contrastive loss, retrieval, and learning."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
import toy
from torch.utils._python_dispatch import TorchDispatchMode
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
from flag_st.methods.bleep import Bleep, contrastive_loss
from flag_st.nets.cosine_neighbours import mean_of_nearest, top_k
from flag_st.nets.pixels import ImageNetwork, Patches, dihedral, load_weights, normalise

USE = "flag_st.methods.bleep.Bleep"
SMALL = {"width": 32, "neighbours": 3, "batch": 40}
LEARN = {**SMALL, "training": {"epochs": 150, "lr": 1e-2, "accumulate": 1, "patience": 0}}
BRIEF = {**SMALL, "training": {"epochs": 2}}


def test_published_sizes():
    """24.2 M with ResNet-50 (25.05 M with the authors' genes), 0.45 M on features."""
    total, parts = count_parameters(toy.made(Bleep, "patches"), 200, 1024, 0)
    assert total == 24_216_640
    assert parts == {"image": 23_508_032, "image_head": 590_848, "expression_head": 117_760}
    assert count_parameters(toy.made(Bleep, "patches"), 3467, 1024, 0)[0] == 25_052_992
    total, parts = count_parameters(
        toy.made(
            Bleep,
        ),
        200,
        1024,
        0,
    )
    assert total == 446_464
    assert parts == {"image_head": 328_704, "expression_head": 117_760}


def reference_loss(image, expression, temperature):
    """Term by term in numpy, as the method's description states it."""

    def softmax(a):
        e = np.exp(a - a.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    logits = expression @ image.T / temperature
    target = softmax((image @ image.T + expression @ expression.T) / 2 / temperature)
    by_expression = -(target * np.log(softmax(logits))).sum(1)
    by_image = -(target.T * np.log(softmax(logits.T))).sum(1)
    return ((by_expression + by_image) / 2).mean()


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_contrastive_loss(temperature):
    rng = np.random.default_rng(0)
    image, expression = rng.normal(size=(2, 9, 5))
    pair = [torch.tensor(a, requires_grad=True) for a in (image, expression)]
    loss = contrastive_loss(*pair, temperature)
    assert loss.item() == pytest.approx(reference_loss(image, expression, temperature))
    # Finite differences see the targets move: the gradient must flow through them.
    loss.backward()
    step = np.zeros_like(image)
    step[4, 2] = 1e-5
    ends = [reference_loss(image + s * step, expression, temperature) for s in (1, -1)]
    assert pair[0].grad[4, 2].item() == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-4)


def brute_force(queries, keys, k):
    cosine = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
        keys / np.linalg.norm(keys, axis=1, keepdims=True)
    ).T
    return np.argsort(-cosine, axis=1, kind="stable")[:, :k], -np.sort(-cosine, axis=1)[:, :k]


@pytest.mark.parametrize(("query_block", "key_block"), [(7, 11), (64, 3), (1000, 1000)])
def test_blocked_retrieval_equals_brute_force(query_block, key_block):
    rng = np.random.default_rng(1)
    queries, keys, values = (rng.normal(size=s) for s in ((50, 6), (83, 6), (83, 4)))
    index, cosine = brute_force(queries, keys, 10)
    q, k, v = (torch.tensor(a) for a in (queries, keys, values))
    found, where = top_k(q, k, 10, query_block, key_block)
    np.testing.assert_array_equal(where, index)
    np.testing.assert_allclose(found, cosine)
    mean = mean_of_nearest(q, k, v, 10, query_block=query_block, key_block=key_block)
    np.testing.assert_allclose(mean, values[index].mean(1))


def test_more_neighbours_than_keys():
    q, k, v = torch.randn(5, 3), torch.randn(4, 3), torch.randn(4, 2)
    torch.testing.assert_close(mean_of_nearest(q, k, v, 50), v.mean(0).expand(5, 2))


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_retrieval_never_holds_all_pairs():
    queries, keys = torch.randn(900, 4), torch.randn(1100, 4)
    with Largest() as seen:
        mean_of_nearest(queries, keys, torch.randn(1100, 3), 5, query_block=100, key_block=200)
    assert seen.elements <= 100 * 200  # of 900 × 1100 pairs


def test_learns_a_slide_by_heart(tmp_path):
    cohort = toy_cohort()
    method = fitted(toy.made(Bleep, **LEARN), cohort, tmp_path)
    assert correlation(predict(method, cohort[0]).point, cohort[0].expression) > 0.9


def test_prediction_is_a_mean_of_training_spots(tmp_path):
    """With one neighbour every predicted profile is a training profile, and never another's."""
    train, valid = toy_cohort(2), Cohort([toy_slide("V1")], toy_cohort().genes)
    method = fitted(toy.made(Bleep, **{**BRIEF, "neighbours": 1}), train, tmp_path, valid)
    found = predict(method, toy_slide("T1", 25)).samples[0]
    known = {row.tobytes() for row in train.expression}
    assert all(row.tobytes() in known for row in found)


def test_reload_and_permutation(tmp_path):
    cohort = toy_cohort(2)
    method, slide = fitted(toy.made(Bleep, **BRIEF), cohort, tmp_path), toy_slide("B1", 30)
    first = predict(method, slide).samples
    np.testing.assert_array_equal(
        predict(reloaded(method, USE, BRIEF, tmp_path), slide).samples, first
    )
    order = np.random.default_rng(0).permutation(30)
    moved = predict(method, slide.subset(order)).samples
    np.testing.assert_allclose(moved, first[:, order], atol=1e-5)


def test_selection_follows_the_chosen_score(tmp_path):
    cohort = toy_cohort()
    for select, column in (("contrastive", "contrast"), ("retrieval", "mse")):
        method = toy.made(Bleep, **BRIEF, select=select)
        fitted(method, cohort, tmp_path / select)
        scores = method.task(cohort, cohort, _run(tmp_path)).validate(method.net)
        assert scores["loss"] == scores[column]
        assert scores["contrast"] != scores["mse"]
    with pytest.raises(FlagError, match="contrastive, retrieval, not 'pcc'"):
        toy.made(Bleep, select="pcc")


def _run(tmp_path):
    from flag_st.methods.base import Run

    return Run(directory=tmp_path / "run")


def test_eight_views_each_as_likely():
    x = torch.arange(9.0).view(1, 1, 3, 3).repeat(800, 1, 1, 1)
    views, counts = np.unique(
        dihedral(x, torch.Generator().manual_seed(0)).view(800, 9).numpy(),
        axis=0,
        return_counts=True,
    )
    assert len(views) == 8
    assert counts.min() > 60
    corners = views[:, [0, 2, 8, 6]]  # round the square: a turn or flip keeps the cycle
    cycles = [np.roll([0, 2, 8, 6], s)[::d].tolist() for s in range(4) for d in (1, -1)]
    assert all(c.tolist() in cycles for c in corners)


def test_normalised_pixels():
    block = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    x = normalise(block, "cpu")
    assert x.shape == (2, 3, 4, 4)
    assert x[1, 0, 2, 3].item() == pytest.approx((block[1, 2, 3, 0] / 255 - 0.485) / 0.229)
    released = normalise(block, "cpu", as_released=True)
    np.testing.assert_array_equal(released[1, :, 2, 3], block[1, 2, 3, ::-1])


def test_patches_of_several_slides_in_any_order(tmp_path):
    """Joined by spot: the file holds them in an order of its own."""
    slides = [
        with_patches(toy_slide(n, 20), tmp_path / f"{n}.h5", seed=i) for i, n in enumerate("xy")
    ]
    opened, expected = Patches(slides), []
    for slide in slides:
        with h5py.File(slide.patches, "r") as file:
            names, images = file["barcode"].asstr()[:].tolist(), file["img"][:]
        assert names != slide.spots.tolist()
        expected += [images[names.index(spot)] for spot in slide.spots]
    index = [31, 2, 39, 2, 19, 20, 0]
    np.testing.assert_array_equal(opened[index], np.stack(expected)[index])
    np.testing.assert_array_equal(opened[15:25], np.stack(expected)[15:25])
    assert len(opened) == 40
    part = slides[0].subset(np.array([5, 3]))
    np.testing.assert_array_equal(Patches([part])[:2], np.stack(expected)[[5, 3]])
    stranger = replace(slides[0], patches=slides[1].patches, spots=slides[0].spots.astype("<U9"))
    stranger.spots[4] = "nowhere"
    with pytest.raises(FlagError, match="lacks 1 spots, such as nowhere"):
        Patches([stranger])


def test_patches_are_learned(tmp_path):
    slide = with_patches(toy_slide(), tmp_path / "patches.h5")
    slide = replace(slide, features=np.zeros_like(slide.features))
    cohort = Cohort([slide], [f"g{i}" for i in range(12)])
    params = {**LEARN, "inputs": "patches", "network": "test_resnet"}
    params["training"] = {**LEARN["training"], "epochs": 40, "lr": 3e-3}
    method = fitted(toy.made(Bleep, **params), cohort, tmp_path)
    assert correlation(predict(method, slide).point, slide.expression) > 0.9
    again = reloaded(method, USE, params, tmp_path)
    np.testing.assert_array_equal(predict(again, slide).samples, predict(method, slide).samples)


def test_image_weights_from_a_file(tmp_path, caplog):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    source, image = ImageNetwork("test_resnet", True), ImageNetwork("test_resnet", True)
    state = source.net.state_dict()
    save_file({**state, "fc.weight": torch.zeros(2, 2)}, tmp_path / "resnet.safetensors")
    load_weights(image, str(tmp_path / "resnet.safetensors"))
    assert all(torch.equal(v, state[k]) for k, v in image.net.state_dict().items())
    assert all(p.requires_grad for p in image.parameters())
    with pytest.raises(FlagError, match=r"params\.weights"):
        load_weights(image, str(tmp_path / "none.safetensors"))
    with caplog.at_level("WARNING", logger="flag_st"):
        load_weights(image, None)
    assert "starts at random" in caplog.text
    with pytest.raises(FlagError, match=r"params\.network"):
        ImageNetwork("no_such_net", True)
