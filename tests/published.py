"""Tiny published gene models in the official formats: CellFM's checkpoints and scGPT's three files."""

import hashlib
import json
from pathlib import Path

import numpy as np
import torch

from flag_st.gene_models import cellfm
from flag_st.gene_models.cellfm import GeneList, PublishedCellFm
from flag_st.nets.scgpt import ScGptBackbone

#: Sizes of the tiny CellFM.
CELLFM = {"width": 16, "layers": 2, "heads": 2, "bins": 8}
SCGPT = {"embsize": 16, "nheads": 2, "d_hid": 20, "nlayers": 2, "n_bins": 51, "mask_value": -1}
SCGPT |= {"pad_token": "<pad>", "pad_value": -2, "input_emb_style": "continuous"}
TYPES = {"<f4": "Float32", "<f2": "Float16", "<i8": "Int64"}


def varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, rest = value >> 7, value & 127
        out.append(rest | (128 if value else 0))
        if not value:
            return bytes(out)


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def value(tag: str, array: np.ndarray, kind: str | None = None, packed: bool = False) -> bytes:
    """One named tensor of a MindSpore checkpoint."""
    dims = array.shape or (0,)
    if packed:
        shape = field(1, b"".join(map(varint, dims)))
    else:
        shape = b"".join(varint(8) + varint(n) for n in dims)
    name = kind or TYPES[array.dtype.str]
    tensor = shape + field(2, name.encode()) + field(3, array.tobytes())
    return field(1, field(1, tag.encode()) + field(2, tensor))


def arrays_of(rows: int, kind: str = "<f4", seed: int = 0, **sizes: int) -> dict[str, np.ndarray]:
    """What CellFM's checkpoint holds of the network, drawn at random, and what it holds besides."""
    with torch.device("meta"):
        net = PublishedCellFm(**{**CELLFM, **sizes}).whole(rows)
    rng = np.random.default_rng(seed)
    drawn = {k: rng.normal(0, 0.2, tuple(v.shape)) for k, v in net.state_dict().items()}
    width = net.width
    drawn |= {"zero_emb": rng.normal(size=(1, 1, width)), "ST_emb": rng.normal(size=(1, 2, width))}
    drawn |= {"cellwise_dec.map.weight": rng.normal(size=(width, width))}
    return {name: array.astype(kind) for name, array in drawn.items()}


def write_checkpoint(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """A MindSpore file with norms by the names of MindSpore, and with two moments of each tensor."""
    with open(path, "wb") as file:
        for name, array in arrays.items():
            if "post_norm" in name:
                name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
            for start in ("", "moment1.", "moment2."):
                file.write(value(start + name, array))
        file.write(value("global_step", np.array(7, "<i8")))
    return path


def write_cellfm(folder: Path, genes: list[str], monkeypatch, **changes) -> dict:
    """A tiny CellFM whose list of genes counts as published; returns the params of its entry."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = -(-(len(genes) + 1) // 8) * 8
    content = "HGNC_gene,feature\n" + "".join(f"{gene},protein coding\n" for gene in genes)
    (folder / "genes.csv").write_text(content)
    known = GeneList("genes.csv", len(genes), hashlib.sha256(content.encode()).hexdigest())
    monkeypatch.setitem(cellfm.LISTS, rows, known)
    write_checkpoint(folder / "base_weight.ckpt", arrays_of(rows, **changes))
    return {"weights": str(folder), "file": "base_weight.ckpt", **CELLFM}


def write_scgpt(folder: Path, genes: list[str]) -> dict:
    """A tiny scGPT with its decoder; returns the params of its entry."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = {name: i for i, name in enumerate([*genes, "<pad>", "<cls>", "<eoc>"])}
    torch.manual_seed(0)
    # The backbone's table has one row more than it has genes.
    state = ScGptBackbone(SCGPT, len(tokens) - 1).state_dict()
    (folder / "args.json").write_text(json.dumps(SCGPT))
    (folder / "vocab.json").write_text(json.dumps(tokens))
    torch.save(
        {k: v + 0.1 * torch.randn_like(v) for k, v in state.items()}, folder / "best_model.pt"
    )
    return {"weights": str(folder), "sha256": dict.fromkeys(p.name for p in folder.iterdir())}
