"""The helpers themselves: what they are told to notice, they notice."""

import numpy as np
import pytest
import torch
from torch import nn

from golden import Drop, Golden, drawing, dropping, fill, normal


def layer(p: float = 0.3) -> nn.Module:
    return fill(nn.TransformerEncoderLayer(8, 2, 16, dropout=p, batch_first=True))


#: Must come out in every version of torch and numpy.
WEIGHT, NOISE = -0.5202281, -0.9073569
PLACES = ["self_attn.attention", "dropout1", "dropout", "dropout2"]


def test_weights_depend_on_names_and_numpy_alone():
    first, again, other = layer().state_dict(), layer().state_dict(), fill(layer(), 1).state_dict()
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name])
        assert not torch.equal(tensor, other[name])
        assert (tensor != 0).all()
    assert first["linear1.weight"][0, 0].item() == pytest.approx(WEIGHT, abs=1e-6)
    assert normal(3, name="x")[0].item() == pytest.approx(NOISE, abs=1e-6)


def test_masks_are_replayed():
    net, x = layer(), normal(2, 5, 8, name="x")
    with dropping(net) as drops:
        first = net(x)
    assert [d.place for d in drops] == PLACES
    assert {d.p for d in drops} == {0.3}
    torch.manual_seed(7)
    with dropping(net, like=drops):
        torch.testing.assert_close(net(x), first)
    assert (net.eval()(x) - first).abs().max() > 0.1


def test_masks_keep_the_mean():
    drop, x = nn.Dropout(0.25), torch.ones(40_000)
    with dropping(drop):
        first, second = drop(x), drop(x)
    assert first.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert first.mean().item() == pytest.approx(1, abs=0.01)
    assert not torch.equal(first, second)  # each use has a mask of its own


def test_a_missing_an_additional_and_another_dropout_are_refused():
    net, x = layer(), normal(2, 5, 8, name="x")
    with dropping(net) as drops:
        net(x)
    refused = [
        (layer().eval(), drops, r"missing: .*dropout1"),
        (layer(), drops[:-1], r"no dropout 1 at dropout2"),
        (layer(0.1), drops, r"0\.1 here, 0\.3 in the authors' code"),
    ]
    for one, like, message in refused:
        with pytest.raises(AssertionError, match=message), dropping(one, like=like):
            one(x)


def test_masks_of_another_layout():
    """The authors' network has the axes the other way round."""
    ours, x = nn.Dropout(0.5), normal(3, 4, name="x")
    with dropping(ours, rename=lambda place: "drop") as drops:
        theirs = ours(x.T)
    net = nn.ModuleDict({"drop": ours})
    with dropping(net, like=drops, layout=lambda place, mask: mask.T):
        assert torch.equal(ours(x), theirs.T)


def test_drawn_values_are_given_back():
    x = normal(2, 3, name="x")
    with drawing(randn=[x, x[:1]], randint=[x[0]], randn_like=[x]):
        assert torch.equal(torch.randn(2, 3), x)
        assert torch.equal(torch.randn((1, 3), device="cpu"), x[:1])
        assert torch.equal(torch.randint(9, (3,)), x[0])
        assert torch.equal(torch.randn_like(x), x)
    with pytest.raises(AssertionError, match=r"randn of \(3, 2\)"), drawing(randn=[x]):
        torch.randn(3, 2)
    with pytest.raises(AssertionError, match="more values"), drawing(randn=[]):
        torch.randn(3, 2)
    with pytest.raises(AssertionError, match="not drawn"), drawing(randn=[x]):
        pass


def test_files(tmp_path, monkeypatch):
    monkeypatch.setattr("golden.DATA", tmp_path)
    x = normal(2, 3, name="x")
    made = Golden(
        "a/b", "0", {"width": 8}, {"x": x}, {"y": 2 * x}, {"training": [Drop("d", 0.1, (2,))]}
    )
    made.save("one")
    loaded = Golden.load("one")
    assert (loaded.settings, loaded.drops) == (made.settings, made.drops)
    loaded.compare({"y": 2 * x})
    for wrong in ({"y": 2 * x + 1e-3}, {}, {"y": 2 * x, "z": x}):
        with pytest.raises(AssertionError):
            loaded.compare(wrong)
    large = Golden("a/b", "0", {}, {"x": torch.from_numpy(np.zeros(100_001))}, {})
    with pytest.raises(ValueError, match="choose smaller sizes"):
        large.save("two")
