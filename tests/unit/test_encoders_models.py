"""Each published architecture: official names and sizes, and a forward pass derived anew.

No real weights are at hand, so tiny checkpoints with the official key names stand for them. The
reference below is plain numpy in double precision and shares no code with timm or transformers.
"""

import json
import re

import numpy as np
import pytest
import torch
import toy
from safetensors.torch import save_file
from scipy.special import erf

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.encoders.conch import Conch, ConchV15
from flag_st.encoders.phikon import PhikonV2
from flag_st.encoders.published import Published
from flag_st.encoders.random_network import RandomNetwork
from flag_st.encoders.vit import DinoV2S, GigaPath, HOptimus0, ResNet50, Uni, Uni2H, Virchow2
from flag_st.planning import config

torch.set_num_threads(1)

DIM, HEADS, DEPTH = 32, 2, 2
TINY = {"embed_dim": DIM, "num_heads": HEADS, "depth": DEPTH}
RNG = np.random.default_rng(0)
PATCHES = np.random.default_rng(1).integers(0, 256, (3, 224, 224, 3)).astype(np.uint8)
OPTIMUS = (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def rand(*shape, around=0.0):
    return around + 0.2 * RNG.standard_normal(shape)


def vit_state(
    patch, grid, hidden, swiglu=False, registers=0, positions=None, scale=True, head="fc"
):
    """A tiny checkpoint under the names of the published timm files."""
    state = {
        "cls_token": rand(1, 1, DIM),
        "pos_embed": rand(1, positions or grid**2 + 1, DIM),
        "patch_embed.proj.weight": rand(DIM, 3, patch, patch) / patch,
        "patch_embed.proj.bias": rand(DIM),
        "norm.weight": rand(DIM, around=1),
        "norm.bias": rand(DIM),
    }
    if registers:
        state["reg_token"] = rand(1, registers, DIM)
    for i in range(DEPTH):
        block = {
            "norm1.weight": rand(DIM, around=1),
            "norm1.bias": rand(DIM),
            "attn.qkv.weight": rand(3 * DIM, DIM),
            "attn.qkv.bias": rand(3 * DIM),
            "attn.proj.weight": rand(DIM, DIM),
            "attn.proj.bias": rand(DIM),
            "norm2.weight": rand(DIM, around=1),
            "norm2.bias": rand(DIM),
            "mlp.fc1.weight": rand(hidden, DIM),
            "mlp.fc1.bias": rand(hidden),
            "mlp.fc2.weight": rand(DIM, hidden // 2 if swiglu else hidden),
            "mlp.fc2.bias": rand(DIM),
        }
        if scale:
            block |= {"ls1.gamma": rand(DIM, around=1), "ls2.gamma": rand(DIM, around=1)}
        state |= {f"blocks.{i}.{k}": v for k, v in block.items()}
    return state


def norm(x, state, name):
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x, state, name):
    return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0.0)


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def attention(q, k, v, heads):
    """(…, n, d) queries of (…, N, d) keys and values."""
    out = []
    for h in range(heads):
        part = slice(h * q.shape[-1] // heads, (h + 1) * q.shape[-1] // heads)
        logits = q[..., part] @ np.swapaxes(k[..., part], -1, -2)
        out.append(softmax(logits / np.sqrt(q.shape[-1] / heads)) @ v[..., part])
    return np.concatenate(out, -1)


def vit(images, state, patch, swiglu=False, block=None):
    """Normalised (B, H, W, 3) → all tokens after the last norm, (B, prefix + patches, d).

    With ``block``, the tokens as that block leaves them.
    """
    b, grid = len(images), images.shape[1] // patch
    tiles = images.reshape(b, grid, patch, grid, patch, 3).transpose(0, 1, 3, 5, 2, 4)
    kernel = state["patch_embed.proj.weight"].reshape(DIM, -1)
    x = tiles.reshape(b, grid**2, -1) @ kernel.T + state["patch_embed.proj.bias"]
    prefix = np.concatenate([state["cls_token"], state.get("reg_token", np.zeros((1, 0, DIM)))], 1)
    prefix = np.repeat(prefix, b, axis=0)
    if state["pos_embed"].shape[1] == grid**2:  # no_embed_class: positions of patches alone
        x = np.concatenate([prefix, x + state["pos_embed"]], axis=1)
    else:
        x = np.concatenate([prefix, x], axis=1) + state["pos_embed"]
    for i in range(DEPTH):
        n = f"blocks.{i}."
        q, k, v = np.split(linear(norm(x, state, n + "norm1"), state, n + "attn.qkv"), 3, -1)
        y = linear(attention(q, k, v, HEADS), state, n + "attn.proj")
        x = x + y * state.get(n + "ls1.gamma", 1.0)
        y = linear(norm(x, state, n + "norm2"), state, n + "mlp.fc1")
        if swiglu:
            gate, value = np.split(y, 2, -1)
            y = gate / (1 + np.exp(-gate)) * value
        else:
            y = y * 0.5 * (1 + erf(y / np.sqrt(2)))
        x = x + linear(y, state, n + "mlp.fc2") * state.get(n + "ls2.gamma", 1.0)
        if i == block:
            return x
    return norm(x, state, "norm")


def normalised(patches, moments=IMAGENET):
    return (patches / 255 - np.array(moments[0])) / np.array(moments[1])


def save(folder, state, file="pytorch_model.bin"):
    tensors = {k: torch.tensor(v, dtype=torch.float32) for k, v in state.items()}
    if file.endswith(".safetensors"):
        save_file(tensors, folder / file)
    else:
        torch.save(tensors, folder / file)
    return {k: v.double().numpy() for k, v in tensors.items()}


#: class, patch, checkpoint, sizes of the tiny model, tokens → features
VITS = {
    "uni": (Uni, 16, {"hidden": 4 * DIM}, {}, lambda t: t[:, 0]),
    "uni2_h": (
        Uni2H,
        14,
        {"hidden": 170, "swiglu": True, "registers": 8, "positions": 256},
        {},
        lambda t: t[:, 0],
    ),
    "dinov2_s": (DinoV2S, 14, {"hidden": 4 * DIM}, {}, lambda t: t[:, 0]),
    "h_optimus_0": (
        HOptimus0,
        14,
        {"hidden": 170, "swiglu": True, "registers": 4, "positions": 256},
        {},
        lambda t: t[:, 0],
    ),
    "gigapath": (GigaPath, 16, {"hidden": 170, "swiglu": True}, {}, lambda t: t[:, 0]),
    "virchow2": (
        Virchow2,
        14,
        {"hidden": 170, "swiglu": True, "registers": 4, "positions": 261},
        {},
        lambda t: np.concatenate([t[:, 0], t[:, 5:].mean(1)], axis=1),
    ),
    "virchow2_class": (
        Virchow2,
        14,
        {"hidden": 170, "swiglu": True, "registers": 4, "positions": 261},
        {"pooling": "class"},
        lambda t: t[:, 0],
    ),
}


@pytest.mark.parametrize("name", VITS)
def test_vit_equals_a_plain_forward_pass(tmp_path, name):
    cls, patch, layout, params, pool = VITS[name]
    state = save(tmp_path, vit_state(patch, 224 // patch, **layout))
    encoder = cls("owner/model", weights=tmp_path, sizes=TINY, batch=2, **params)
    encoder.open("cpu")
    if name == "gigapath":  # its resize is checked against Pillow elsewhere
        images = encoder.images(PATCHES).permute(0, 2, 3, 1).double().numpy()
    else:
        images = normalised(PATCHES, OPTIMUS if name == "h_optimus_0" else IMAGENET)
    expected = pool(vit(images, state, patch, layout.get("swiglu", False)))
    np.testing.assert_allclose(encoder.encode(PATCHES), expected, atol=1e-5)
    np.testing.assert_allclose(encoder.encode(PATCHES[::-1]), expected[::-1], atol=1e-5)


@pytest.mark.parametrize("block", range(DEPTH))
@pytest.mark.parametrize("name", VITS)
def test_a_middle_block_is_the_mean_of_its_patch_tokens(tmp_path, name, block):
    cls, patch, layout, params, _ = VITS[name]
    state = save(tmp_path, vit_state(patch, 224 // patch, **layout))
    encoder = cls("owner/model", weights=tmp_path, sizes=TINY, block=block, **params)
    encoder.open("cpu")
    images = encoder.images(PATCHES).permute(0, 2, 3, 1).double().numpy()
    tokens = vit(images, state, patch, layout.get("swiglu", False), block)
    prefix = 1 + layout.get("registers", 0)
    np.testing.assert_allclose(encoder.encode(PATCHES), tokens[:, prefix:].mean(1), atol=1e-5)
    whole = cls("owner/model", weights=tmp_path, sizes=TINY, **params)
    assert encoder.digest() != whole.digest()


@pytest.mark.parametrize("cls", [Uni, Conch])
@pytest.mark.parametrize("block", [DEPTH, -1])
def test_a_block_that_the_network_does_not_have_is_refused(tmp_path, cls, block):
    """Before weights are looked for, of which there are none here."""
    encoder = cls("owner/model", weights=tmp_path, sizes=TINY, block=block)
    with pytest.raises(FlagError, match=rf"{cls.__name__} has no block {block}; it has {DEPTH}"):
        encoder.open("cpu")


def test_positions_of_dinov2_are_resampled_from_its_larger_images(tmp_path):
    """A plane of positions is the same plane on another grid, but for its edge."""
    state = vit_state(14, 37, hidden=4 * DIM)
    ramp = (np.arange(37) + 0.5) / 37  # (37,) centres of the tiles, as a share of the image
    plane = np.stack(np.meshgrid(ramp, ramp, indexing="ij"), -1).reshape(1, -1, 2)
    state["pos_embed"][:, 1:] = np.tile(plane, (1, 1, DIM // 2))
    state |= {"mask_token": rand(1, DIM)}
    save(tmp_path, state)
    encoder = DinoV2S("owner/model", weights=tmp_path, sizes=TINY)
    encoder.open("cpu")
    found = encoder.net.pos_embed.numpy()
    assert found.shape == (1, 257, DIM)
    np.testing.assert_allclose(found[:, 0], state["pos_embed"][:, 0], rtol=1e-6)
    coarse = (np.arange(16) + 0.5) / 16
    expected = np.stack(np.meshgrid(coarse, coarse, indexing="ij"), -1)
    inner = slice(2, -2)
    grid = found[0, 1:].reshape(16, 16, DIM)[..., :2]
    np.testing.assert_allclose(grid[inner, inner], expected[inner, inner], atol=1e-3)


def test_random_network_is_the_same_everywhere_and_another_for_another_seed():
    first, again, other = RandomNetwork(), RandomNetwork(), RandomNetwork(seed=1)
    for encoder in (first, again, other):
        encoder.open("cpu")
    features = first.encode(PATCHES)
    assert features.shape == (3, 256)
    # A few channels of an untrained network are dark for every patch.
    assert (features.std(0) > 0).mean() > 0.9
    assert features.tobytes() == again.encode(PATCHES).tobytes()
    assert first.digest() == again.digest() != other.digest()
    # Written down, so that no change of the drawing goes unnoticed.
    start = first.state["conv1.weight"].ravel()[:3]
    np.testing.assert_allclose(
        start, [-0.13874000310897827, -0.07422661781311035, 0.14147494733333588], rtol=1e-6
    )
    assert not np.allclose(features, other.encode(PATCHES))


def test_random_network_equals_the_stages_of_torchs_operations():
    """Stem and first stage, from the definition: no normalisation changes anything."""
    encoder = RandomNetwork()
    encoder.open("cpu")
    w, f = encoder.state, torch.nn.functional
    x = f.relu(f.conv2d(encoder.images(PATCHES[:1]), w["conv1.weight"], stride=2, padding=3))
    x = f.max_pool2d(x, 3, 2, 1)
    keep = 1 / np.sqrt(1 + 1e-5)  # of each normalisation, whose variance is 1
    x = x * keep
    for i in range(3):
        n = f"layer1.{i}."
        y = f.relu(f.conv2d(x, w[n + "conv1.weight"]) * keep)
        y = f.relu(f.conv2d(y, w[n + "conv2.weight"], padding=1) * keep)
        y = f.conv2d(y, w[n + "conv3.weight"]) * keep
        x = f.relu(y + (f.conv2d(x, w[n + "downsample.0.weight"]) * keep if i == 0 else x))
    np.testing.assert_allclose(encoder.encode(PATCHES[:1]), x.mean((2, 3)).numpy(), rtol=1e-4)


def test_random_network_refuses_a_stage_it_does_not_have():
    with pytest.raises(FlagError, match="no stage 5"):
        RandomNetwork(stage=5)


def conch_state(width, packed, prefix):
    trunk = vit_state(16, 28, hidden=4 * DIM, scale=packed)
    pool = {
        "query": rand(1, width),
        "ln_q.weight": rand(width, around=1),
        "ln_q.bias": rand(width),
        "ln_k.weight": rand(DIM, around=1),
        "ln_k.bias": rand(DIM),
    }
    if packed:
        pool |= {"to_q.weight": rand(width, width), "to_kv.weight": rand(2 * width, DIM)}
        pool |= {"to_out.weight": rand(width, width)}
    else:
        pool |= {"attn.q_proj_weight": rand(width, width), "attn.k_proj_weight": rand(width, DIM)}
        pool |= {"attn.v_proj_weight": rand(width, DIM), "attn.in_proj_bias": rand(3 * width)}
        pool |= {"attn.out_proj.weight": rand(width, width), "attn.out_proj.bias": rand(width)}
    state = {f"trunk.{k}": v for k, v in trunk.items()}
    state |= {f"attn_pool_contrast.{k}": v for k, v in pool.items()}
    state |= {"ln_contrast.weight": rand(width, around=1), "ln_contrast.bias": rand(width)}
    return {prefix + k: v for k, v in state.items()}


def pooled(tokens, state, heads):
    """Attention of one query, from the definition; eps of torch's LayerNorm is 1e-5."""

    def ln(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * state[f"{name}.weight"] + state[f"{name}.bias"]

    p = "attn_pool_contrast."
    query, context = ln(state[p + "query"], p + "ln_q"), ln(tokens, p + "ln_k")
    if p + "to_q.weight" in state:
        q = linear(query, state, p + "to_q")
        k, v = np.split(linear(context, state, p + "to_kv"), 2, -1)
    else:
        bias = np.split(state[p + "attn.in_proj_bias"], 3)
        q = query @ state[p + "attn.q_proj_weight"].T + bias[0]
        k = context @ state[p + "attn.k_proj_weight"].T + bias[1]
        v = context @ state[p + "attn.v_proj_weight"].T + bias[2]
    out = "to_out" if p + "to_out.weight" in state else "attn.out_proj"
    x = linear(attention(np.broadcast_to(q, (len(k), *q.shape)), k, v, heads), state, p + out)
    return ln(x[:, 0], "ln_contrast")


@pytest.mark.parametrize(
    ("cls", "width", "moments"), [(Conch, 512, CLIP), (ConchV15, 768, IMAGENET)]
)
def test_conch_equals_a_plain_forward_pass(tmp_path, cls, width, moments):
    packed, prefix = cls is ConchV15, "visual." if cls is Conch else ""
    state = conch_state(width, packed, prefix)
    extra = {"text.cls_emb": rand(4), "logit_scale": rand(1), "visual.proj_contrast": rand(4, 4)}
    extra |= {"visual.attn_pool_caption.query": rand(2, 4), "visual.ln_caption.bias": rand(4)}
    state = save(tmp_path, state | (extra if cls is Conch else {}))
    state = {k.removeprefix(prefix): v for k, v in state.items()}
    encoder = cls("owner/model", weights=tmp_path, sizes=TINY)
    encoder.open("cpu")
    images = encoder.images(PATCHES[:1]).permute(0, 2, 3, 1).double().numpy()
    assert images.shape == (1, 448, 448, 3)
    colours = np.full((1, 224, 224, 3), (200, 120, 180), dtype=np.uint8)  # no resize changes them
    plain = normalised(colours[0, 0, 0].astype(float), moments)
    np.testing.assert_allclose(encoder.images(colours)[0, :, 0, 0], plain, atol=1e-6)
    trunk = {k.removeprefix("trunk."): v for k, v in state.items() if k.startswith("trunk.")}
    expected = pooled(vit(images, trunk, 16), state, heads=8)
    np.testing.assert_allclose(encoder.encode(PATCHES[:1]), expected, atol=1e-5)
    middle = cls("owner/model", weights=tmp_path, sizes=TINY, block=0)
    middle.open("cpu")
    expected = vit(images, trunk, 16, block=0)[:, 1:].mean(1)
    np.testing.assert_allclose(middle.encode(PATCHES[:1]), expected, atol=1e-5)


def test_conch_positions_of_another_grid_are_resampled(tmp_path):
    """A constant field of positions stays constant on any grid."""
    found = []
    for side in (14, 28):
        state = conch_state(768, True, "")
        state = {k: np.full_like(v, 0.1) if k.endswith("weight") else v for k, v in state.items()}
        state = {k: np.zeros_like(v) if k.endswith("bias") else v for k, v in state.items()}
        state = {
            k: np.ones_like(v) if "token" in k or "gamma" in k else v for k, v in state.items()
        }
        state["attn_pool_contrast.query"] = np.linspace(-1, 1, 768)[None]
        row = np.linspace(0, 1, DIM)
        state["trunk.pos_embed"] = np.tile(row, (1, side**2 + 1, 1))
        save(tmp_path, state)
        encoder = ConchV15("owner/model", weights=tmp_path, sizes=TINY)
        encoder.open("cpu")
        assert encoder.net.trunk.pos_embed.shape == (1, 785, DIM)
        found.append(encoder.net.trunk.pos_embed.numpy())
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


def phikon_state(state):
    """The names of the published file, from those of timm."""
    names = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "attn.proj": "attention.output.dense",
        "ls1.gamma": "layer_scale1.lambda1",
        "ls2.gamma": "layer_scale2.lambda1",
    }
    out = {"embeddings.mask_token": rand(1, DIM)}
    for key, value in state.items():
        key = re.sub(r"^norm\.", "layernorm.", key).replace("blocks.", "encoder.layer.")
        for old, new in names.items():
            key = key.replace(old, new)
        if "attn.qkv" in key:
            for name, part in zip(("query", "key", "value"), np.split(value, 3), strict=True):
                out[key.replace("attn.qkv", f"attention.attention.{name}")] = part
        else:
            out[key] = value
    return out


@pytest.fixture
def phikon(tmp_path):
    config = {"model_type": "dinov2", "hidden_size": DIM, "num_attention_heads": HEADS}
    config |= {"num_hidden_layers": DEPTH, "patch_size": 16, "image_size": 224}
    (tmp_path / "config.json").write_text(json.dumps(config))
    state = vit_state(16, 14, hidden=4 * DIM)
    save(tmp_path, phikon_state(state), "model.safetensors")
    return tmp_path, {k: v.astype(np.float32).astype(float) for k, v in state.items()}


def test_phikon_equals_a_plain_forward_pass(phikon):
    folder, state = phikon
    expected = vit(normalised(PATCHES), state, 16)[:, 0]
    for weights in (folder, folder / "model.safetensors"):
        encoder = PhikonV2("owner/model", weights=str(weights))
        encoder.open("cpu")
        np.testing.assert_allclose(encoder.encode(PATCHES), expected, atol=1e-5)


@pytest.mark.parametrize("block", range(DEPTH))
def test_phikon_of_a_middle_block(phikon, block):
    folder, state = phikon
    encoder = PhikonV2("owner/model", weights=str(folder), block=block)
    encoder.open("cpu")
    expected = vit(normalised(PATCHES), state, 16, block=block)[:, 1:].mean(1)
    np.testing.assert_allclose(encoder.encode(PATCHES), expected, atol=1e-5)


def test_phikon_equals_what_transformers_itself_loads(phikon):
    from transformers import AutoModel

    encoder = PhikonV2("owner/model", weights=phikon[0])
    encoder.open("cpu")
    theirs = AutoModel.from_pretrained(phikon[0], local_files_only=True).eval()
    with torch.inference_mode():
        expected = theirs(encoder.images(PATCHES)).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(encoder.encode(PATCHES), expected, atol=1e-6)


def test_phikon_refuses_another_kind_of_model(phikon):
    (phikon[0] / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(FlagError, match=r"config.json describes model_type 'vit'"):
        PhikonV2("owner/model", weights=phikon[0]).open("cpu")


@pytest.mark.parametrize("pooling", ["layer3", "last"])
def test_resnet_pools_the_stage_it_says(tmp_path, pooling):
    import timm

    torch.manual_seed(0)
    whole = timm.create_model("resnet50", num_classes=10).eval()
    for module in whole.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics that a trained file would have
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    save_file(whole.state_dict(), tmp_path / "model.safetensors")
    encoder = ResNet50("owner/m", pooling=pooling, file="model.safetensors", weights=tmp_path)
    encoder.open("cpu")
    images = torch.tensor(normalised(PATCHES[:1]), dtype=torch.float32).permute(0, 3, 1, 2)
    stages = timm.create_model("resnet50", features_only=True, out_indices=(3, 4)).eval()
    stages.load_state_dict(whole.state_dict(), strict=False)
    with torch.inference_mode():
        expected = stages(images)[0 if pooling == "layer3" else 1].mean((2, 3)).numpy()
    assert expected.shape == (1, 1024 if pooling == "layer3" else 2048)
    np.testing.assert_allclose(encoder.encode(PATCHES[:1]), expected, atol=1e-5, rtol=1e-4)


#: Millions of parameters and number of keys of the official files. CONCH's image tower has 90.39 M
#: with the caption branch and projection (2.83 M) that are not built; the file of CONCH v1.5 has
#: 306.11 M with positions on a grid of 14 x 14, which become 0.60 M more on the grid of 28 x 28.
OFFICIAL = [
    (Uni, 303.35, 342),
    (Uni2H, 681.39, 343),
    (Virchow2, 631.24, 455),
    (HOptimus0, 1134.77, 567),
    (GigaPath, 1134.95, 566),
    (ResNet50, 23.51, 318),
    (DinoV2S, 22.06 - 0.43, 174),  # positions on a grid of 37 x 37 become those of 16 x 16
    (Conch, 90.39 - 2.83, None),
    (ConchV15, 306.11 + 0.60, None),
]


@pytest.mark.parametrize(("cls", "millions", "keys"), OFFICIAL, ids=lambda v: str(v))
def test_official_sizes(cls, millions, keys):
    with torch.device("meta"):
        net = cls("owner/model").build()
    count = sum(p.numel() for p in net.parameters()) / 1e6
    assert count == pytest.approx(millions, abs=0.01)
    if keys is not None:
        assert len(net.state_dict()) == keys


def test_official_size_of_phikon(tmp_path):
    config = {"model_type": "dinov2", "hidden_size": 1024, "num_attention_heads": 16}
    config |= {"num_hidden_layers": 24, "patch_size": 16, "image_size": 224}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        net = PhikonV2("owner/model", weights=tmp_path).build()
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(303.35, abs=0.01)


def test_official_names_of_uni():
    """The list that its model card's loader relies on, written out."""
    block = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    names = {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    names |= {"norm.weight", "norm.bias"}
    for i in range(24):
        names |= {f"blocks.{i}.{n}.{p}" for n in block for p in ("weight", "bias")}
        names |= {f"blocks.{i}.ls1.gamma", f"blocks.{i}.ls2.gamma"}
    with torch.device("meta"):
        state = Uni("owner/model").build().state_dict()
    assert set(state) == names
    assert state["pos_embed"].shape == (1, 197, 1024)
    assert state["patch_embed.proj.weight"].shape == (1024, 3, 16, 16)


def test_another_models_file_is_refused_by_its_first_bad_key(tmp_path):
    save(tmp_path, vit_state(16, 14, hidden=4 * DIM))
    big = r"cls_token of shape \(1, 1, 32\), not \(1, 1, 1024\).*pytorch_model.bin of .*owner/UNI"
    for cls, params, fault in [
        (Uni, {}, big),
        (Uni2H, {"sizes": TINY}, "lacks reg_token|has pos_embed of shape"),
        (Conch, {"sizes": TINY}, "lacks trunk.cls_token"),
        (GigaPath, {"sizes": TINY}, "has blocks.0.mlp.fc1.weight of shape"),
    ]:
        with pytest.raises(FlagError, match=fault):
            cls("owner/UNI", weights=tmp_path, **params).open("cpu")


def test_a_missing_or_unknown_key_is_named(tmp_path):
    state = vit_state(16, 14, hidden=4 * DIM)
    lacking = {k: v for k, v in state.items() if k != "blocks.1.ls2.gamma"}
    save(tmp_path, lacking)
    with pytest.raises(FlagError, match=r"lacks blocks.1.ls2.gamma"):
        Uni("owner/UNI", weights=tmp_path, sizes=TINY).open("cpu")
    save(tmp_path, state | {"head.weight": rand(2, DIM)})
    with pytest.raises(FlagError, match=r"unknown key head.weight"):
        Uni("owner/UNI", weights=tmp_path, sizes=TINY).open("cpu")


@pytest.mark.parametrize("cls", [Virchow2, ResNet50])
def test_unknown_pooling_is_refused(cls):
    with pytest.raises(FlagError, match=r"pooling is one of .*, not 'max'"):
        toy.made(cls, "owner/model", pooling="max")


def test_all_are_frozen_networks():
    for cls, *_ in OFFICIAL:
        assert issubclass(cls, Published)


def test_every_shipped_entry_builds_and_is_pinned():
    entries = config.load()["encoders"]
    built = {name: registry.build(e["use"], e["params"]) for name, e in entries.items()}
    parts = [p for e in built.values() for p in getattr(e, "parts", [e])]
    networks = [p for p in parts if isinstance(p, Published)]
    assert {type(n) for n in networks} == {cls for cls, *_ in OFFICIAL} | {PhikonV2}
    for network in networks:
        assert re.fullmatch(r"[0-9a-f]{40}", network.checkpoint.revision)
        assert network.checkpoint.local is None
