"""CellFM and SoftAdaLN against golden numbers of the authors' code, and what must hold by construction."""

import binascii
import re

import numpy as np
import pytest
import torch

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.nets.cellfm import CellFm, CellFmSizes
from flag_st.nets.scgpt import ScGptBackbone
from flag_st.nets.soft_adaln import Conditioning, Modulated
from flag_st.planning import config

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


def size(parameters) -> int:
    return sum(p.numel() for p in parameters)


@pytest.mark.parametrize(
    ("entry", "rows", "published"),
    [
        ("cellfm", 27_856, 800_830_209),
        ("cellfm", 24_080, 795_030_273),
        ("cellfm_80m", 27_856, 83_370_753),
    ],
)
def test_published_backbones_have_as_many_parameters_as_their_authors(entry, rows, published):
    known = config.load()["gene_models"][entry]
    with torch.device("meta"):
        net = registry.build(known["use"], known["params"]).whole(rows)
    assert size(net.parameters()) == published


def test_scgpt_with_its_whole_table_has_as_many_parameters_as_published():
    known = config.load()["gene_models"]["scgpt"]
    with torch.device("meta"):
        net = ScGptBackbone(registry.build(known["use"], known["params"]).arguments, 60_696)
    assert size(net.parameters()) == 50_804_225


@pytest.mark.parametrize(
    ("entry", "image", "frozen", "trained"),
    [
        ("hinge_released", 1536, 800_830_209 - (27_856 - 201) * 1536, 581_468_241),
        ("hinge_paper", 1536, 795_030_273 - (24_080 - 201) * 1536, 576_436_305),
        ("hinge_released", 1024, 800_830_209 - (27_856 - 201) * 1536, 580_681_809),
        ("hinge_paper", 512, 795_030_273 - (24_080 - 201) * 1536, 574_863_441),
        ("hinge_80m", 1536, 83_370_753 - (27_856 - 201) * 1536, 38_166_533),
        ("hinge_scgpt", 1536, 50_804_225 - (60_697 - 201) * 512, 20_617_241 + 2 * 200),
    ],
)
def test_entries_train_as_many_parameters_as_published(entry, image, frozen, trained):
    """Of the table of genes, the panel's rows alone are kept; scGPT's rescaling is our addition."""
    known = config.load()["methods"][entry]
    method = registry.build(known["use"], known["params"])
    with torch.device("meta"):
        net = method.build(200, image)
    names = {f"backbone.{name}" for name, _ in net.backbone.named_parameters()}
    assert method.frozen == names
    assert size(net.backbone.parameters()) == frozen
    assert size(p for p in net.parameters() if p.requires_grad) == trained


def scgpt() -> ScGptBackbone:
    arguments = {"embsize": D, "nheads": 2, "d_hid": 80, "nlayers": 3, "mask_value": -1}
    torch.manual_seed(0)
    return ScGptBackbone(arguments, G)


def test_scgpt_untrained_is_the_bare_network_and_sees_no_hidden_value():
    """Its rescaling changes nothing at first, and is a scale and a shift per gene afterwards."""
    x, t, visible, following, image = golden_inputs()
    net = Modulated(scgpt(), Conditioning(tau_bias=40.0, rescale=True), V, G)
    with torch.no_grad():
        found = net(x, t, visible, following, image)
        torch.testing.assert_close(found, net.backbone(x, ~visible))
        other = torch.where(visible, x, x + 5)
        assert torch.equal(found, net(other, t, visible, following, image))
        assert not torch.equal(found, net(x + 1, t, visible, following, image))
        net.rescale.scale[3], net.rescale.shift[4] = 1.0, 2.0
        changed = net(x, t, visible, following, image)
    expected = found.clone()
    expected[:, 3] *= 2
    expected[:, 4] += 2
    torch.testing.assert_close(changed, expected)
    assert [s.reads_all for s in net.backbone.sublayers()] == [True] * 6


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
