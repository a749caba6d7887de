"""CellFM and SoftAdaLN against golden numbers of the authors' code, and what must hold by construction."""

import binascii
import re

import numpy as np
import pytest
import torch

from flag_st.core.errors import FlagError
from flag_st.nets.cellfm import CellFm, CellFmSizes
from flag_st.nets.soft_adaln import Conditioning, Modulated

D, HEADS, LAYERS, ROWS, G, V, B = 64, 2, 40, 16, 12, 5, 2
RELEASED = Conditioning(condition="sum", see_next=True, eta="sigmoid", silu=True)
#: Our names → those by which the golden numbers' weights are drawn.
NAMES = [
    (r"^backbone\.value_enc\.value_enc\.", ""),
    (r"^backbone\.(value_enc\.mask_emb|zero_emb)$", "mask"),
    (r"^backbone\.value_dec\.w", "dec"),
    (r"^backbone\.", ""),
    (r"^condition\.parts\.step", "time"),
    (r"^condition\.parts\.", ""),
    (r"^maps\.", "mod."),
    (r"^share\.value$", "eta"),
    (r"^out_share\.value$", "out_eta"),
]


def golden_name(name: str) -> str:
    for pattern, new in NAMES:
        name, changed = re.subn(pattern, new, name)
        if changed and not pattern.startswith("^maps"):
            break
    return name


def drawn(net: Modulated) -> Modulated:
    """Parameters from their names, as the golden numbers have them."""
    for name, value in net.named_parameters():
        name = golden_name(name)
        start = binascii.crc32(name.encode()) % 1000
        new = 0.1 * torch.sin(0.7 * torch.arange(value.numel()) + start).view(value.shape)
        if re.search(r"post_norm\d\.weight$", name):
            new += 1
        if name == "eta":
            new -= 1
        if name == "out_eta":
            new = torch.full_like(value, 0.5)
        if re.match(r"mod\.\d+\.bias", name):
            new[2 * D : 3 * D] += 2
            new[5 * D :] += 2
        value.data = new
    return net


def golden_inputs():
    x = torch.tensor(np.abs(3 * np.sin(np.arange(B * G))).reshape(B, G), dtype=torch.float32)
    i = torch.arange(B * G).reshape(B, G)
    visible = (i * 7) % 5 > 1
    following = visible | ((i * 3) % 7 > 4)
    image = torch.tensor(np.cos(np.arange(B * V)).reshape(B, V), dtype=torch.float32)
    return x, torch.tensor([7, 33]), visible, following, image


def small(options=RELEASED, **backbone) -> Modulated:
    sizes = CellFmSizes(ROWS, D, LAYERS, HEADS)
    return Modulated(CellFm(sizes, range(1, G + 1), **backbone), options, V, G)


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        (
            {"slope": 0.01, "masked": "add"},
            [
                [
                    0.5572,
                    0.1480,
                    -0.1908,
                    -0.1939,
                    -0.0273,
                    0.2868,
                    0.2516,
                    0.3279,
                    0.5073,
                    -0.1161,
                    -0.1622,
                    -0.1101,
                ],
                [
                    0.4649,
                    0.3738,
                    -0.1998,
                    -0.1854,
                    0.0002,
                    0.1828,
                    0.3540,
                    0.3382,
                    0.5062,
                    -0.0884,
                    -0.2429,
                    -0.1936,
                ],
            ],
        ),
        (
            {"slope": 0.2},
            [
                [
                    0.6359,
                    0.1647,
                    -0.2546,
                    -0.2583,
                    -0.0390,
                    0.3334,
                    0.2930,
                    0.3788,
                    0.5759,
                    -0.1390,
                    -0.2044,
                    -0.1445,
                ],
                [
                    0.5344,
                    0.4216,
                    -0.2652,
                    -0.2469,
                    -0.0059,
                    0.2161,
                    0.4089,
                    0.3907,
                    0.5752,
                    -0.1058,
                    -0.3244,
                    -0.2564,
                ],
            ],
        ),
    ],
    ids=["released", "slope .2, mask replaces"],
)
def test_forward_is_that_of_the_authors_code(backbone, expected):
    """Of donghaifang/HINGE f2fba80 at small sizes, and of the same with what the paper writes."""
    net = drawn(small(**backbone))
    with torch.no_grad():
        out = net(*golden_inputs())
    torch.testing.assert_close(out, torch.tensor(expected), atol=1e-4, rtol=0)


def counted(rows, image, options, **backbone):
    with torch.device("meta"):
        net = Modulated(CellFm(CellFmSizes(rows), range(1, 201), **backbone), options, image, 200)
    frozen = sum(p.numel() for p in net.backbone.parameters())
    return frozen, sum(p.numel() for p in net.parameters() if p.requires_grad) - frozen


@pytest.mark.parametrize(
    ("rows", "image", "options", "frozen", "trained"),
    [
        (27_856, 1536, RELEASED, 800_830_209, 581_468_241),
        (24_080, 1536, Conditioning(), 795_030_273, 576_436_305),
        (27_856, 1024, RELEASED, 800_830_209, 580_681_809),
        (27_856, 512, Conditioning(), 800_830_209, 574_863_441),
    ],
)
def test_parameters_are_as_many_as_published(rows, image, options, frozen, trained):
    assert counted(rows, image, options) == (frozen, trained)


def test_untrained_the_modulated_network_is_the_bare_one():
    """With a gate of 1; at the paper's start the gate is .9975 and what follows is close."""
    torch.manual_seed(0)
    x, t, visible, following, image = golden_inputs()
    for options in (Conditioning(tau_bias=40.0), Conditioning("affine")):
        net = small(options)
        net.backbone.reset()
        with torch.no_grad():
            bare = net.backbone(x, ~visible)
            torch.testing.assert_close(net(x, t, visible, following, image), bare)
    close = small(Conditioning())
    close.backbone.load_state_dict(net.backbone.state_dict())
    with torch.no_grad():
        difference = (close(x, t, visible, following, image) - bare).norm() / bare.norm()
    assert 0 < difference < 0.2


def test_a_hidden_value_cannot_be_seen():
    torch.manual_seed(0)
    net = drawn(small())
    x, t, visible, following, image = golden_inputs()
    other = torch.where(visible, x, x + 5)
    with torch.no_grad():
        assert torch.equal(
            net(x, t, visible, following, image), net(other, t, visible, following, image)
        )


def test_genes_have_no_order():
    order = torch.randperm(G, generator=torch.Generator().manual_seed(1))
    x, t, visible, following, image = golden_inputs()
    net = drawn(small(Conditioning()))
    with torch.no_grad():
        straight = net(x, t, visible, following, image)
        net.backbone.genes = net.backbone.genes[order]
        moved = net(x[:, order], t, visible[:, order], following[:, order], image)
    torch.testing.assert_close(moved, straight[:, order], atol=1e-5, rtol=1e-5)


def test_hidden_genes_are_not_read_in_the_first_half():
    """The state of a visible gene after the first half does not depend on which genes are hidden."""
    torch.manual_seed(0)
    backbone = CellFm(CellFmSizes(ROWS, D, 2, HEADS), range(1, G + 1))
    backbone.reset()
    x, _, visible, _, _ = golden_inputs()
    reads = [reads_all for _, _, reads_all in backbone.sublayers()]
    assert reads == [False, True, True, True]
    attn, _, _ = backbone.sublayers()[0]
    keep = torch.nn.functional.pad(visible.float(), (1, 0), value=1.0)
    h = backbone.tokens(x, ~visible)
    changed = h.clone()
    changed[:, 1:][~visible] += 1
    assert torch.allclose(attn(h, keep)[:, 0], attn(changed, keep)[:, 0], atol=1e-6)
    assert not torch.allclose(attn(h)[:, 0], attn(changed)[:, 0], atol=1e-3)


def test_wrong_sizes_and_rows_are_refused():
    with pytest.raises(FlagError, match="width 10 is no multiple of heads 3"):
        CellFmSizes(8, 10, 1, 3)
    for rows in ([0, 1], [ROWS]):
        with pytest.raises(FlagError, match="rows of genes must be 1 to 15"):
            CellFm(CellFmSizes(ROWS, D, 1, HEADS), rows)
