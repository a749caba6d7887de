"""Self-supervised encoder: loss and views against their definitions, training on toy patches."""

import h5py
import numpy as np
import pytest
import torch

from flag_st.core.errors import FlagError
from flag_st.encoders import ssl_vit
from flag_st.encoders.ssl_vit import SslVit

torch.set_num_threads(1)

TINY = {"width": 16, "depth": 1, "heads": 2, "views": 16}


def tissue(n: int, seed: int) -> np.ndarray:
    """Patches of two kinds, even ones with few large dark discs and odd ones with many small."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:224, :224]
    patches = np.empty((n, 224, 224, 3), dtype=np.uint8)
    for i in range(n):
        count, radius = ((5, 24), (60, 7))[i % 2]
        patches[i] = random.normal((215, 170, 205), 6, (224, 224, 3)).clip(0, 255)
        for cy, cx in random.integers(0, 224, (count, 2)):
            patches[i][(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = (90, 60, 140)
    return patches


@pytest.fixture(scope="module")
def fitted():
    encoder = SslVit(steps=40, **TINY)
    encoder.open("cpu")
    rows = []
    encoder.fit([tissue(30, 0), tissue(10, 1)], seed=3, log=rows.append)
    encoder.rows = rows
    return encoder


def test_loss_equals_its_definition():
    random = np.random.default_rng(0)
    a, b = random.normal(size=(2, 12, 5))
    found = ssl_vit.vicreg(torch.tensor(a), torch.tensor(b))
    assert found["invariance"].item() == pytest.approx(25 * np.mean((a - b) ** 2))
    hinge = [max(0.0, 1 - np.sqrt(z[:, j].var(ddof=1) + 1e-4)) for z in (a, b) for j in range(5)]
    assert found["variance"].item() == pytest.approx(25 * np.mean(hinge))
    off = 0.0
    for z in (a, b):
        covariance = np.cov(z.T)
        off += sum(covariance[i, j] ** 2 for i in range(5) for j in range(5) if i != j) / 5
    assert found["covariance"].item() == pytest.approx(off)


def test_a_collapsed_network_is_punished():
    same = torch.ones(8, 4)
    terms = ssl_vit.vicreg(same, same)
    assert terms["invariance"] == terms["covariance"] == 0
    assert terms["variance"].item() == pytest.approx(25 * 0.99)


def test_windows_lie_inside_and_take_all_turns():
    """A ramp tells position and direction of each window."""
    ramp = torch.linspace(0, 1, 112).expand(1, 1, 112, 112)
    images = torch.cat([ramp, ramp.mT, ramp * 0], dim=1).expand(400, -1, -1, -1)
    found = ssl_vit.cut(images, 64, (0.25, 0.5), torch.Generator().manual_seed(0))
    assert found.shape == (400, 3, 64, 64)
    width = found[:, :2].amax((2, 3)) - found[:, :2].amin((2, 3))
    torch.testing.assert_close(width[:, 0], width[:, 1], atol=1e-5, rtol=0)  # squares
    assert 0.47 < width.min() < 0.51 < 0.68 < width.max() < 0.72  # sqrt(0.25) to sqrt(0.5)
    centre = found[:, :2].mean((2, 3))
    inside = (centre - width / 2 > -0.01) & (centre + width / 2 < 1.01)
    assert inside.all()
    # Up to its sign, how each of the two ramps grows along the window's rows and columns.
    rows = (found[:, :2, 0, -1] - found[:, :2, 0, 0]) / width
    columns = (found[:, :2, -1, 0] - found[:, :2, 0, 0]) / width
    signs = torch.cat([rows, columns], dim=1).round().int()
    assert {tuple(s.tolist()) for s in signs} == {
        (a, 0, 0, b) for a in (1, -1) for b in (1, -1)
    } | {(0, a, b, 0) for a in (1, -1) for b in (1, -1)}


def test_restaining_scales_concentrations():
    from skimage.color import hed_from_rgb

    np.testing.assert_allclose(np.linalg.inv(ssl_vit.STAINS), hed_from_rgb, atol=1e-6)
    images = torch.rand(50, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.3
    random = torch.Generator().manual_seed(0)
    torch.testing.assert_close(ssl_vit.restain(images, 0.0, random), images)
    found = ssl_vit.restain(images, 0.2, random)

    def stains(x):
        return (-torch.log(x)).permute(0, 2, 3, 1).flatten(1, 2) @ torch.tensor(
            hed_from_rgb
        ).float()

    before, after = stains(images), stains(found)  # (50, 16, 3)
    inside = ((found > 0.01) & (found < 0.99)).all(1).flatten(1)
    for i in range(50):
        if inside[i].sum() > 2:
            for s in range(3):
                x, y = before[i, inside[i], s].numpy(), after[i, inside[i], s].numpy()
                slope, shift = np.polyfit(x, y, 1)
                assert abs(slope - 1) < 0.2 + 1e-3
                assert abs(shift) < 0.02 + 1e-3
                np.testing.assert_allclose(slope * x + shift, y, atol=1e-4)


def test_training_lowers_the_loss_and_tells_tissues_apart(fitted):
    losses = [sum(v for k, v in row.items() if k != "step") for row in fitted.rows]
    assert [row["step"] for row in fitted.rows] == [0, 10, 20, 30, 39]
    assert np.mean(losses[-2:]) < 0.95 * losses[0]
    features = fitted.encode(tissue(20, seed=9))
    assert features.shape == (20, 32)
    z = (features - features.mean(0)) / features.std(0)
    cosine = z @ z.T / (np.linalg.norm(z, axis=1)[:, None] * np.linalg.norm(z, axis=1))
    alike = np.add.outer(range(20), range(20)) % 2 == 0
    np.fill_diagonal(alike, False)
    apart = np.add.outer(range(20), range(20)) % 2 == 1
    assert cosine[alike].mean() > cosine[apart].mean() + 0.5


def test_seed_and_patches_alone_decide_the_weights(tmp_path):
    slides = [tissue(9, 0), tissue(5, 1)]
    with h5py.File(tmp_path / "patches.h5", "w") as file:
        on_disk = [file.create_dataset(str(i), data=s) for i, s in enumerate(slides)]

        def digest(patches, seed, noise, **params):
            torch.manual_seed(noise)  # the global stream must not matter
            encoder = SslVit(steps=3, **TINY | params)
            encoder.open("cpu")
            state = torch.get_rng_state()
            encoder.fit(patches, seed)
            assert torch.equal(torch.get_rng_state(), state)
            return encoder.digest()

        first = digest(slides, 0, noise=1)
        assert digest(on_disk, 0, noise=2, batch=4) == first
        assert digest(slides, 1, noise=1) != first
        assert digest([slides[0]], 0, noise=1) != first


def test_a_subset_is_drawn_where_patches_exceed_the_limit():
    slides = [tissue(9, 0), tissue(5, 1)]
    encoder = SslVit(limit=6, batch=4, **TINY)
    encoder.open("cpu")
    whole = SslVit(batch=64, **TINY)._gather(slides, seed=0)
    part = encoder._gather(slides, seed=0)
    assert whole.shape == (14, 3, 112, 112)
    assert part.shape == (6, 3, 112, 112)
    assert all((whole == p).flatten(1).all(1).any() for p in part)
    assert not torch.equal(part, encoder._gather(slides, seed=1))


def test_moments_are_those_of_the_pixels():
    images = torch.randint(0, 256, (5, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    mean, std = ssl_vit.moments(images.byte())
    flat = images.double().transpose(0, 1).flatten(1) / 255
    torch.testing.assert_close(mean, flat.mean(1))
    torch.testing.assert_close(std, flat.std(1, correction=0))


def test_a_saved_encoder_gives_equal_features(tmp_path, fitted):
    path = tmp_path / "model.safetensors"
    fitted.save(path)
    again = SslVit(steps=40, **TINY)
    again.open("cpu")
    again.load(path)
    patches = tissue(5, 7)
    np.testing.assert_array_equal(again.encode(patches), fitted.encode(patches))
    assert again.digest() == fitted.digest()
    fitted.save(tmp_path / "twice.safetensors")
    assert (tmp_path / "twice.safetensors").read_bytes() == path.read_bytes()
    wider = SslVit(**TINY | {"width": 32})
    with pytest.raises(
        FlagError, match=r"ssl_vit has pos_embed of shape \(1, 49, 16\), not \(1, 49, 32\)"
    ):
        wider.load(path)


def test_batches_do_not_change_features(fitted):
    patches = tissue(5, 4)
    whole = fitted.encode(patches)
    alone = np.concatenate([fitted.encode(patches[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(alone, whole, atol=1e-5)


def test_order_of_calls_is_told():
    encoder = SslVit(**TINY)
    encoder.open("cpu")
    with pytest.raises(FlagError, match="call fit or load first"):
        encoder.digest()
    with pytest.raises(FlagError, match="call fit or load first"):
        encoder.encode(tissue(1, 0))
    with pytest.raises(FlagError, match="needs patches"):
        encoder.fit([], seed=0)
