"""CellPLM as the official package computes it: ``backend: package`` of ``cellplm.py``."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import one_hot

from flag_st.core.errors import FlagError
from flag_st.core.io import write_json
from flag_st.gene_models.packages import official

PREFIX = "checked"


class Pipeline:
    """The package's ``CellEmbeddingPipeline``, from raw counts to one vector per spot.

    It reads a copy that holds the tensors of ``own`` alone, because it would load whatever is in
    the published file and leave out, without a word, what does not fit. It draws a cluster per spot
    even at inference; the mean over these draws is taken instead (``mean_over_clusters``).

    Args:
        config: the official configuration.
        own: this project's encoder, filled from the published file.
        device: where to compute.

    Raises:
        FlagError: the package is not installed, or has left out some of the weights.
    """

    def __init__(self, config: Mapping[str, Any], own: nn.Module, device: str):
        package = official("CellPLM.pipeline.cell_embedding")
        state = own.state_dict()
        with TemporaryDirectory() as folder:
            write_json(Path(folder) / f"{PREFIX}.config.json", dict(config))
            torch.save({"model_state_dict": state}, Path(folder) / f"{PREFIX}.best.ckpt")
            self.pipeline = package.CellEmbeddingPipeline(PREFIX, folder)
        loaded = self.pipeline.model.state_dict()
        for key, tensor in state.items():
            if key not in loaded or not torch.equal(loaded[key], tensor):
                raise FlagError(
                    f"CellPLM has not loaded {key} of the published file",
                    remedy="use the version that envs/cellplm.yaml pins, or `backend: own`",
                )
        self.genes, self.device = config["gene_list"], device
        latent = self.pipeline.model.get_submodule("latent.layers.1.inference")
        latent.register_forward_hook(mean_over_clusters)

    def __call__(self, counts) -> np.ndarray:
        """(N, K) float32 vectors of CSR raw counts (N, P) of the model's P genes."""
        import anndata
        import pandas as pd

        slide = anndata.AnnData(counts, var=pd.DataFrame(index=self.genes))
        return self.pipeline.predict(slide, device=self.device).cpu().numpy()  # (N, K)


def mean_over_clusters(net: Any, inputs: tuple, outputs: dict[str, Any]) -> dict[str, Any]:
    """Hook of the package's ``InferenceNet``: its mean, averaged over the clusters it may draw."""
    x, share = inputs[0], outputs["prob_cat"]  # (N, d), (N, C)
    clusters = torch.arange(share.shape[1], device=x.device)
    drawn = one_hot(clusters).to(x)  # (C, C)
    mean = sum(
        share[:, c, None] * net.qzxy(x, drawn[c].expand(len(x), -1))[0] for c in clusters.tolist()
    )  # (N, K)
    return {**outputs, "mean": mean}
