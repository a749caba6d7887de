"""BERT encoders over gene tokens: built from a configuration, filled, and read."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flag_st.core.errors import FlagError
from flag_st.transfer.weights import fill, read_state

if TYPE_CHECKING:
    from transformers import BertConfig, BertModel

#: Keys that the published files hold and an encoder does not use.
UNUSED = ("cls.predictions.", "pooler.", "embeddings.position_ids")


def published_config(
    vocabulary: int, width: int, layers: int, heads: int, inner: int, length: int
) -> dict[str, Any]:
    """What ``config.json`` of a BERT like Geneformer's states of all that decides its states.

    Args:
        inner: feed-forward width.
        length: longest sequence.
    """
    return {
        "model_type": "bert",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": inner,
        "max_position_embeddings": length,
        "hidden_act": "relu",
        "layer_norm_eps": 1e-12,
        "type_vocab_size": 2,
        "pad_token_id": 0,
    }


def bert_config(published: Mapping[str, Any]) -> "BertConfig":
    """The configuration with these values, and without dropout."""
    from flag_st.core.torchvision_guard import ensure_torchvision

    ensure_torchvision()
    from transformers import BertConfig

    dropout = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    return BertConfig.from_dict({**published, **dict.fromkeys(dropout, 0.0)})


def load_bert(
    published: Mapping[str, Any], weight_file: Path, layer: int, expected: str
) -> "BertModel":
    """The encoder of a ``BertForMaskedLM`` checkpoint, cut after hidden state ``layer``.

    Cutting saves the blocks above; the last hidden state is then the requested one.

    Args:
        published: what its ``config.json`` states.
        layer: -1 for the output of the last block, -2 for that of the last but one, …
        expected: what the file should be, for messages.

    Raises:
        FlagError: the file is damaged or does not fit; names the first bad key.
    """
    config = bert_config(published)
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
