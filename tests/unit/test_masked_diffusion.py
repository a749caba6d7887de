"""Masked diffusion: rates, paths, weights and sampling against closed forms."""

import math
from itertools import pairwise

import pytest
import torch

from flag_st.core.errors import FlagError
from flag_st.diffusion.masked import MaskedDiffusion, default_zeta

G, T = 200, 50
DEFAULT = MaskedDiffusion.power(T, default_zeta(G, T))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_one_gene_on_average_is_revealed_first():
    assert default_zeta(G, T) == pytest.approx(1.35437, abs=1e-5)
    assert float(DEFAULT.visible[T - 1]) == pytest.approx(1 / G)
    assert float(DEFAULT.reveal[0]) == 1  # the last step of sampling shows the rest


@pytest.mark.parametrize(
    ("chain", "easy", "last"),
    [
        (MaskedDiffusion.power(T, 0.5), 18, 28.3),
        (MaskedDiffusion.power(T, 1.0), 10, 4.0),
        (DEFAULT, 7, 1.0),
        (MaskedDiffusion.power(T, 2.0), 5, 0.08),
        (MaskedDiffusion.cosine(T), 14, 0.2),
    ],
)
def test_schedules_of_table_s4(chain, easy, last):
    """The last step of the curriculum at ρ = .2, and the genes that are revealed first."""
    assert chain.last_easy(0.2) == easy
    assert float(chain.visible[T - 1]) * G == pytest.approx(last, abs=0.06)


def test_masks_have_their_rates_and_only_fall():
    u = torch.rand(4000, G, generator=generator())
    for step in (1, 7, 25, 50):
        t = torch.full((4000,), step)
        before, now = DEFAULT.paths(u, t)
        assert (before | ~now).all()  # visible now, visible before
        assert float(now.float().mean()) == pytest.approx(float(DEFAULT.visible[step]), abs=0.003)
        hidden = ~now
        revealed = (before & hidden).sum() / hidden.sum()
        assert float(revealed) == pytest.approx(float(DEFAULT.reveal[step - 1]), abs=0.003)


def test_counted_masks_hide_as_many_as_published():
    u = torch.rand(3, G, generator=generator())
    hidden = [int((~DEFAULT.counted(u, torch.full((3,), t))[1][0]).sum()) for t in range(1, T + 1)]
    assert hidden[6] == 36  # 36 genes at the last step of the curriculum
    assert hidden[-1] == G
    steps = [b - a for a, b in zip([0, *hidden], hidden, strict=False)]
    assert steps[:3] == [5, 5, 6]
    assert steps[-2:] == [2, 1]
    assert min(steps) >= 1
    for t in (1, 20, 50):
        before, now = DEFAULT.counted(u, torch.full((3,), t))
        assert (before | ~now).all()


def test_the_loss_on_the_next_genes_is_the_weighted_loss_on_hidden_ones_on_average():
    """E over m_{t-1} of the error on what is revealed next = π_t times that on all hidden genes."""
    u, t = torch.rand(20_000, G, generator=generator()), torch.full((20_000,), 20)
    before, now = DEFAULT.paths(u, t)
    error = torch.linspace(0, 1, G).expand_as(u)  # of a network that does not see m_{t-1}
    following = (error * (before & ~now)).sum(1).mean()
    weighted = (DEFAULT.weights(t) * (error * ~now).sum(1)).mean()
    assert float(following) == pytest.approx(float(weighted), rel=0.01)


def test_sampling_reveals_every_gene_once_and_never_changes_it():
    seen = []

    def net(x, t, now, before):
        seen.append((t[0].item(), x.clone(), now.clone(), before.clone()))
        return torch.full_like(x, float(t[0]))

    x = DEFAULT.sample(net, (5, G), generator(), "cpu")
    assert [t for t, *_ in seen] == list(range(T, 0, -1))
    assert not seen[0][2].any()
    for (_, shown, now, before), (_, later, then, _) in pairwise(seen):
        assert torch.equal(before, then)  # what was to be revealed is visible next
        assert torch.equal(later[now], shown[now])
        assert (later[~then] == 0).all()
    assert (x > 0).all()
    counts = torch.stack([(x == t).sum(1) for t in range(1, T + 1)])
    assert (counts.sum(0) == G).all()


def test_one_step_shows_all_at_once():
    one = DEFAULT.within(1)
    assert one.times.tolist() == [0, T]
    called = []
    one.sample(
        lambda x, t, now, _: called.append((int(t[0]), bool(now.any()))) or x,
        (2, G),
        generator(),
        "cpu",
    )
    assert called == [(T, False)]


def test_a_budget_keeps_both_ends_and_its_rates():
    five = DEFAULT.within(5)
    assert five.times.tolist() == [0, 10, 20, 30, 40, 50]
    expected = (DEFAULT.visible[10] - DEFAULT.visible[20]) / (1 - DEFAULT.visible[20])
    assert float(five.reveal[1]) == pytest.approx(float(expected))
    assert DEFAULT.within(T).visible.equal(DEFAULT.visible)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaskedDiffusion.power(1, 1.0), "horizon 1: masked diffusion needs at least 2"),
        (lambda: DEFAULT.within(0), "budget 0 of a chain of 50 steps: give 1 to 50"),
        (lambda: DEFAULT.within(51), "budget 51"),
        (lambda: DEFAULT.last_easy(0), "curriculum ratio 0"),
        (lambda: MaskedDiffusion(torch.tensor([1.0, 0.5])), "must fall from 1 to 0"),
        (lambda: MaskedDiffusion(torch.tensor([1.0, 0.2, 0.5, 0.0])), "must fall from 1 to 0"),
    ],
)
def test_impossible_chains_are_refused(make, message):
    with pytest.raises(FlagError, match=message):
        make()


def test_zeta_follows_the_horizon():
    """Figure S8: 3.29, 2.30, 1.77, 1.354, 1.151."""
    found = [default_zeta(200, horizon) for horizon in (5, 10, 20, 50, 100)]
    assert found == pytest.approx([3.29, 2.30, 1.77, 1.354, 1.151], abs=0.005)
    assert math.isclose(200**-1, (1 / 50) ** default_zeta(200, 50))
