"""BERT encoders over gene tokens: built from a configuration, filled, and read."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.core.io import read_json
from flag_st.transfer.weights import fill, read_state

if TYPE_CHECKING:
    from transformers import BertConfig, BertModel

#: Keys that the published files hold and an encoder does not use.
UNUSED = ("cls.", "pooler.", "embeddings.position_ids")


def read_config(path: Path) -> "BertConfig":
    """The configuration in ``config.json``.

    Raises:
        FlagError: it is not JSON or describes another architecture.
    """
    from flag_st.core.torchvision_guard import ensure_torchvision

    ensure_torchvision()
    from transformers import BertConfig

    values = read_json(path)
    if not isinstance(values, dict) or values.get("model_type") != "bert":
        raise FlagError(f"{path} does not describe a BERT model", remedy="fetch the file again")
    return BertConfig.from_dict(values)


def load_bert(config_file: Path, weight_file: Path, layer: int, expected: str) -> "BertModel":
    """The encoder of a ``BertForMaskedLM`` checkpoint, cut after hidden state ``layer``.

    Cutting saves the blocks above; the last hidden state is then the requested one.

    Args:
        layer: -1 for the output of the last block, -2 for that of the last but one, …
        expected: what the file should be, for messages.

    Raises:
        FlagError: the file is damaged or does not fit; names the first bad key.
    """
    config = read_config(config_file)
    state = {k.removeprefix("bert."): v for k, v in read_state(weight_file).items()}
    keep = block_count(config.num_hidden_layers, layer)
    model = empty_bert(config)
    fill(model, state, weight_file, expected, ignore=UNUSED)
    model.encoder.layer = model.encoder.layer[:keep]
    return ready(model)


def empty_bert(config: "BertConfig") -> "BertModel":
    """The encoder on the meta device: shapes without memory. The pooler is not in checkpoints."""
    import torch
    from transformers import BertModel

    with torch.device("meta"):
        return BertModel(config, add_pooling_layer=False)


def ready(model: "BertModel") -> "BertModel":
    """A filled ``empty_bert``; its buffers are made here, because no checkpoint has them."""
    import torch

    size = model.config.max_position_embeddings
    buffers = {
        "position_ids": torch.arange(size)[None],
        "token_type_ids": torch.zeros(1, size, dtype=torch.long),
    }
    for name, value in buffers.items():
        model.embeddings.register_buffer(name, value, persistent=False)
    return model.eval().requires_grad_(False)


def block_count(layers: int, layer: int) -> int:
    """Blocks below hidden state ``layer``, counted from the end of ``layers`` blocks."""
    if not -layers <= layer <= -1:
        raise FlagError(f"layer is {layer}", choices=[f"-{layers} … -1 (output of the last block)"])
    return layers + layer + 1


def bert_states(model: "BertModel", tokens: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Last hidden state (B, L, K) float32 of padded ``tokens`` (B, L)."""
    import torch

    with torch.inference_mode():
        out = model(
            input_ids=torch.from_numpy(tokens).to(model.device),
            attention_mask=torch.from_numpy(present.astype(np.int64)).to(model.device),
        )
        return out.last_hidden_state.float().cpu().numpy()  # (B, L, K)
