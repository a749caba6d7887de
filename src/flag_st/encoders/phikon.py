"""Phikon-v2, published in the layout of transformers: ``config.json`` and ``model.safetensors``."""

from pathlib import Path

from torch import Tensor, nn

from flag_st.core.errors import FlagError
from flag_st.core.io import read_json
from flag_st.core.torchvision_guard import ensure_torchvision
from flag_st.encoders.published import Transformer
from flag_st.transfer.weights import Checkpoint

#: Names in the published file → names since transformers 5.
RENAMED = {
    "attention.attention.query.": "attention.q_proj.",
    "attention.attention.key.": "attention.k_proj.",
    "attention.attention.value.": "attention.v_proj.",
    "attention.output.dense.": "attention.o_proj.",
}


class PhikonV2(Transformer):
    """Phikon-v2 (Filiot et al. 2024): DINOv2 ViT-L/16, 303 M parameters, D = 1024.

    ``weights`` is the folder that holds both files, or the weight file with its config beside it.
    """

    blocks = "encoder.layer"
    ignore = ("embeddings.mask_token",)  # only needed for pre-training by masking

    def __init__(self, repo: str, file: str = "model.safetensors", **more):
        super().__init__(repo, file=file, **more)

    def config(self) -> dict:
        """The published ``config.json``, which states the sizes."""
        local = self.checkpoint.local
        if local is not None and Path(local).expanduser().is_file():
            local = Path(local).expanduser().parent
        known = self.checkpoint
        path = Checkpoint(known.repo, "config.json", known.revision, local=local).locate()
        found = read_json(path)
        if found.get("model_type") != "dinov2":
            raise FlagError(
                f"{path} describes model_type {found.get('model_type')!r}, not 'dinov2'",
                remedy=f"take both files from {known.page}",
            )
        return found

    def build(self) -> nn.Module:
        ensure_torchvision()
        from transformers import Dinov2Config, Dinov2Model

        config = self.config() | {"use_mask_token": False} | self.sizes
        return Dinov2Model(Dinov2Config(**config))

    def adapt(self, state: dict[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
        wanted = net.state_dict()
        return {renamed(key, wanted): tensor for key, tensor in state.items()}

    def last(self, images: Tensor) -> Tensor:
        return self.net(images).last_hidden_state[:, 0]  # (B, D)

    def tokens(self, images: Tensor, block: int) -> Tensor:
        x = self.net.get_submodule("embeddings")(images)  # (B, 1 + N, d)
        for i in range(block + 1):
            x = self.net.get_submodule(f"encoder.layer.{i}")(x)  # (B, 1 + N, d)
            x = x[0] if isinstance(x, tuple) else x  # (B, 1 + N, d); a tuple before transformers 5
        return x[:, 1:]  # (B, N, d)


def renamed(key: str, wanted: dict[str, Tensor]) -> str:
    """``key`` as the installed transformers calls it."""
    for old, new in RENAMED.items():
        if (candidate := key.replace(old, new)) in wanted:
            return candidate
    return key
