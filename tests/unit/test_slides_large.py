"""Large slides: shared by processes, predicted in parts, and cut only once, with the same numbers."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import slide_pictures as made
from toy_slides import correlation, fitted, predict, toy_cohort, toy_slide

from flag_st.core.seeds import Draws
from flag_st.data.spatial import pitch
from flag_st.encoders.texture import Texture
from flag_st.methods.base import Method, Prediction
from flag_st.methods.flag.method import Flag
from flag_st.methods.flag.options import Alignment, Backbone, Sampling
from flag_st.methods.ridge import Ridge
from flag_st.methods.training import Training
from flag_st.slides import encode as encoding
from flag_st.slides import parts as partition
from flag_st.slides.appearance import appearance
from flag_st.slides.cut import Patches
from flag_st.slides.image import open_image
from flag_st.slides.likeness import Likeness
from flag_st.slides.parts import parts, predict_in_parts
from flag_st.slides.predict import _use_threads


@pytest.fixture
def image(tmp_path):
    made.tiff(**made.TILE)(tmp_path / "slide.tif")
    with open_image(tmp_path / "slide.tif", 0.5) as opened:
        yield opened


POSITION = np.random.default_rng(0).uniform(0, (350, 270), (11, 2))


#: Which processes encoded; others than this one have a list of their own.
PIDS: list[int] = []


class Watched(Texture):
    def encode(self, patches, **more):
        PIDS.append(os.getpid())
        return super().encode(patches, **more)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_patches_of_a_slide(image, monkeypatch, processes):
    monkeypatch.setattr(encoding, "FEW", 4)
    monkeypatch.setattr(encoding, "BLOCK", 3)
    alone, shared = Patches(image, POSITION), Patches(image, POSITION)
    wanted = encoding.encode(Watched(), alone)
    assert set(PIDS) == {os.getpid()}
    PIDS.clear()
    found = encoding.encode(Watched(), shared, processes)
    assert not PIDS
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(shared.seen, alone.seen)


def test_encoders_that_see_batches_are_left_alone(image, monkeypatch):
    monkeypatch.setattr(encoding, "FEW", 4)
    monkeypatch.setattr(encoding, "_pool", None)

    class Batched(Texture):
        apart = False

    encoding.encode(Batched(), Patches(image, POSITION[:5]), 2)


ENDLESS = """
import os, time
import numpy as np
from flag_st.encoders.texture import Texture
from flag_st.slides import encode

class Endless(Texture):
    def encode(self, patches, **more):
        print(os.getpid(), flush=True)
        time.sleep(600)

encode.FEW = 0
encode.encode(Endless(), np.zeros((200, 2, 2, 3), np.uint8), 2)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_killed_command_leaves_no_process_behind():
    running = subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True)
    children = [int(running.stdout.readline()) for _ in range(2)]
    assert all(Path(f"/proc/{pid}").exists() for pid in children)
    running.send_signal(signal.SIGKILL)
    running.wait()
    end = time.monotonic() + 20
    while any(_lives(pid) for pid in children) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(_lives(pid) for pid in children)


def _lives(pid: int) -> bool:
    """Whether a process runs; one that has ended may wait to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_numpy_has_as_many_threads_as_in_the_pipeline():
    from threadpoolctl import threadpool_info, threadpool_limits

    with threadpool_limits(2):
        _use_threads(1)
        assert {pool["num_threads"] for pool in threadpool_info()} == {1}


# Parts


def test_each_spot_belongs_to_one_part_and_is_seen_with_its_surroundings(monkeypatch):
    monkeypatch.setattr(partition, "SPOTS", 300)
    monkeypatch.setattr(partition, "MARGIN", 3.0)
    position = toy_slide(spots=1000).position
    found = list(parts(position))
    assert len(found) == 4
    np.testing.assert_array_equal(np.sort(np.concatenate([own for own, _ in found])), range(1000))
    for own, seen in found:
        assert len(own) <= 300
        near = np.linalg.norm(position[:, None] - position[own], axis=-1).min(1)  # (N,)
        np.testing.assert_array_equal(seen, np.flatnonzero(near <= 3 * pitch(position)))
        assert set(own) <= set(seen)


class Mean(Method):
    """The mean feature of the spots within 500 µm, and as its draws what the streams give."""

    stochastic = True

    def fit(self, train, valid, run) -> None: ...

    def predict(self, slide, samples, draws) -> Prediction:
        near = np.linalg.norm(slide.position[:, None] - slide.position, axis=-1) < 500  # (N, N)
        mean = (near @ slide.features) / near.sum(1, keepdims=True)
        noise = [draws.numpy(k).normal(size=mean.shape) for k in range(samples)]
        return Prediction(np.stack([mean + n for n in noise]).astype(np.float32), mean)

    def arrays(self):
        return {}

    def restore(self, arrays, device) -> None: ...


def test_parts_give_what_the_whole_slide_gives(monkeypatch):
    slide = toy_slide(spots=600).without_truth()
    whole = predict_in_parts(Mean(), slide, 2, seed=3)
    wanted = Mean().predict(slide, 2, Draws(3, slide.id))
    np.testing.assert_array_equal(whole.samples, wanted.samples)
    monkeypatch.setattr(partition, "SPOTS", 200)
    found = predict_in_parts(Mean(), slide, 2, seed=3)
    np.testing.assert_allclose(found.point, wanted.point, rtol=1e-5, atol=1e-6)
    noise = found.samples - wanted.point
    assert abs(np.corrcoef(noise.reshape(2, -1))[0, 1]) < 0.05
    first, other = (noise[0, own[:150]].ravel() for own, _ in list(parts(slide.position))[:2])
    assert abs(np.corrcoef(first, other)[0, 1]) < 0.1  # no part repeats the noise of another
    again = predict_in_parts(Mean(), slide, 2, seed=3)
    np.testing.assert_array_equal(again.samples, found.samples)


def test_flag_in_parts_predicts_as_well_as_at_once(monkeypatch, tmp_path):
    small = Flag(
        width=16,
        depth=1,
        heads=2,
        backbone=Backbone(width=16, depth=1, heads=2),
        alignment=Alignment(blocks=1),
        sampling=Sampling(steps=2, point_draws=8),
        training=Training(epochs=30, lr=5e-3, patience=0),
    )
    fitted(small, toy_cohort(2, 100), tmp_path)
    slide = toy_slide("B", 400)
    at_once, other_seed = (predict(small, slide, seed=seed).point for seed in (0, 1))
    monkeypatch.setattr(partition, "SPOTS", 150)
    found = predict_in_parts(small, slide.without_truth(), 1, seed=0).point
    assert correlation(found, at_once) > correlation(other_seed, at_once) - 0.02
    assert correlation(found, slide.expression) > correlation(at_once, slide.expression) - 0.02


def test_a_method_that_looks_at_single_spots_does_not_see_the_parts(monkeypatch, tmp_path):
    ridge = fitted(Ridge(components=3), toy_cohort(), tmp_path)
    slide = replace(toy_slide("B", 500), expression=None)
    wanted = predict_in_parts(ridge, slide, 1, 0)
    monkeypatch.setattr(partition, "SPOTS", 120)
    found = predict_in_parts(ridge, slide, 1, 0)
    np.testing.assert_allclose(found.samples, wanted.samples, rtol=1e-5)


# What patches look like


def test_stain_and_focus_are_computed_exactly():
    """In double precision and by their definitions; means in single precision were off by 1e-4."""
    rng = np.random.default_rng(0)
    smooth = rng.integers(60, 240, (4, 28, 28, 3)).repeat(8, 1).repeat(8, 2)
    patches = np.clip(smooth + rng.integers(-9, 9, smooth.shape), 0, 255).astype(np.uint8)
    patches[3] = 240
    density = -np.log10((patches + 1.0) / 256)
    from skimage.color import hed_from_rgb

    np.testing.assert_allclose(
        appearance(patches)[:, :3], density.mean((1, 2)) @ hed_from_rgb, atol=2e-6
    )
    grey = density.mean(3)
    energy = [
        ((grey[:, s:] - grey[:, :-s]) ** 2).mean((1, 2))
        + ((grey[:, :, s:] - grey[:, :, :-s]) ** 2).mean((1, 2))
        for s in (1, 4)
    ]
    focus = np.log(energy[0][:3] / energy[1][:3])
    np.testing.assert_allclose(appearance(patches)[:3, 3], focus, atol=1e-5)
    assert np.isnan(appearance(patches)[3, 3])
    assert appearance(patches[:0]).shape == (0, 4)


def test_blocks_change_no_distance(monkeypatch):
    rng = np.random.default_rng(0)
    one = Likeness.fit(rng.normal(size=(300, 20)), rng.normal(size=(100, 20)))
    spots = rng.normal(size=(50, 20))
    wanted = one.distance(spots)
    monkeypatch.setattr("flag_st.slides.likeness.BLOCK", 7)
    np.testing.assert_allclose(one.distance(spots), wanted, rtol=1e-12)
    assert one.distance(spots[:0]).shape == (0,)
