"""scGPT's encoder as the official package computes it: ``backend: package`` of ``scgpt.py``."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from flag_st.core.errors import FlagError
from flag_st.gene_models.packages import official


class PackageEncoder(nn.Module):
    """The package's ``TransformerModel``, called as ``scgpt.Encoder`` is."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    @property
    def encoder(self) -> nn.Module:
        """The layer that embeds which gene a token is."""
        return self.model.encoder

    def forward(self, genes: Tensor, values: Tensor, present: Tensor) -> Tensor:
        return self.model._encode(genes, values, src_key_padding_mask=~present)  # (B, L, d)


def package_encoder(
    arguments: Mapping[str, Any], vocabulary: Mapping[str, int], own: nn.Module
) -> PackageEncoder:
    """The package's model, built as its ``embed_data`` does and loaded by its ``load_pretrained``.

    Args:
        arguments, vocabulary: contents of ``args.json`` and ``vocab.json``.
        own: this project's encoder, filled from the same file.

    Raises:
        FlagError: the package is not installed, or has left out some of the weights.
    """
    model = official("scgpt.model").TransformerModel(
        ntoken=len(vocabulary),
        d_model=arguments["embsize"],
        nhead=arguments["nheads"],
        d_hid=arguments["d_hid"],
        nlayers=arguments["nlayers"],
        nlayers_cls=arguments.get("n_layers_cls", 3),
        vocab=vocabulary,
        dropout=arguments.get("dropout", 0.0),
        pad_token=arguments["pad_token"],
        pad_value=arguments["pad_value"],
        do_mvc=True,
        use_fast_transformer=False,  # flash attention needs a GPU and a compiler
    )
    state = own.state_dict()
    official("scgpt.utils").load_pretrained(model, state, verbose=False)
    loaded = model.state_dict()
    for key, tensor in state.items():  # the loader leaves out, without a word, what does not fit
        if not torch.equal(loaded[key.replace("Wqkv.", "in_proj_")], tensor):
            raise FlagError(
                f"scgpt has not loaded {key} of best_model.pt",
                remedy="use the version of scgpt that envs/scgpt.yaml pins, or `backend: own`",
            )
    return PackageEncoder(model.eval().requires_grad_(False))
