"""Geneformer as the official package computes it: ``backend: package`` of ``geneformer.py``."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from flag_st.core.hdf5 import write_table
from flag_st.core.io import write_json
from flag_st.gene_models.packages import official
from flag_st.gene_models.rank_values import RankValues


class Package:
    """``TranscriptomeTokenizer`` and ``get_embs`` of the package.

    The package unpickles dictionaries and builds whatever model a folder describes. It is therefore
    given copies of the checked dictionaries, and the weights beside the configuration of the release.
    Its ``extract_embs`` is of no use here, because it averages genes and samples cells.

    Args:
        ranks: tokens, medians, and the form of a sequence.
        aliases: gene id → the id that the dictionaries use.
        config: what ``config.json`` of the release states.
        weights: the checked ``model.safetensors``.
        layer: which hidden state, counted as transformers does.
        device, dtype: where and in which type the model computes.

    Raises:
        FlagError: the package is not installed.
    """

    def __init__(
        self,
        ranks: RankValues,
        aliases: Mapping[str, str],
        config: Mapping[str, Any],
        weights: Path,
        layer: int,
        device: str,
        dtype: str,
    ):
        self.get_embs = official("geneformer.emb_extractor").get_embs
        self.ranks, self.layer, self.device = ranks, layer, torch.device(device)
        self.names = {token: gene for gene, token in ranks.tokens.items()}
        with TemporaryDirectory() as name:
            folder = Path(name)
            self.tokenizer = tokenizer(ranks, aliases, folder)
            write_json(folder / "config.json", dict(config))
            (folder / "model.safetensors").symlink_to(weights.resolve())
            load = official("geneformer.perturber_utils").load_model
            model = load("Pretrained", 0, name, mode="eval")
        self.model = model.to(self.device, getattr(torch, dtype))

    def encode(self, counts, identifiers: Sequence[str]) -> list[np.ndarray]:
        """Token sequences of all spots, as ``RankValues.encode`` gives them.

        The package leaves the order of tied genes to an unstable sort; columns are handed over by
        ascending token, the order that this project gives to ties. It drops spots without a gene
        that has a token, and these get the sequence without genes.
        """
        import anndata
        import pandas as pd
        from scipy import sparse

        counts = sparse.csr_matrix(counts, dtype=np.float64, copy=True)
        counts.eliminate_zeros()  # the package makes a token of whatever is stored
        order = np.argsort([self.ranks.token(name) for name in identifiers], kind="stable")
        depth = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)  # (N,)
        slide = anndata.AnnData(
            counts[:, order],
            obs=pd.DataFrame({"spot": range(len(depth)), "n_counts": depth}).rename(index=str),
            var=pd.DataFrame({"ensembl_id": [identifiers[i] for i in order]}).rename(index=str),
        )
        with TemporaryDirectory() as folder:
            write_table(Path(folder) / "slide.h5ad", slide)
            parts = self.tokenizer.tokenize_files(Path(folder), "h5ad")
        without = self.ranks.encode(sparse.csr_matrix((1, 0)), [])[0]
        sequences = [without for _ in depth]
        for row in self.tokenizer.create_dataset(*parts):
            sequences[row["spot"]] = np.asarray(row["input_ids"], dtype=np.int64)
        return sequences

    def states(self, tokens: np.ndarray, present: np.ndarray) -> np.ndarray:
        """Hidden states (B, L, K) float32 of padded ``tokens`` (B, L)."""
        rows = [row[here].tolist() for row, here in zip(tokens, present, strict=True)]
        table = {"input_ids": rows, "length": [len(row) for row in rows]}
        with CudaMeans(self.device):
            found = self.get_embs(
                self.model,
                official("geneformer.tokenizer").Dataset.from_dict(table),
                "gene",
                self.layer,
                self.ranks.tokens["<pad>"],
                len(rows),
                self.names,
                special_token=self.ranks.special,
                silent=True,
            )
        return found.float().cpu().numpy()  # (B, L, K)


def tokenizer(ranks: RankValues, aliases: Mapping[str, str], folder: Path) -> Any:
    """The package's tokenizer with these dictionaries, which it only reads from pickles."""
    files = {}
    for name, value in {
        "gene_median_file": ranks.medians,
        "token_dictionary_file": ranks.tokens,
        "gene_mapping_file": aliases,
    }.items():
        files[name] = folder / f"{name}.pkl"
        files[name].write_bytes(pickle.dumps(dict(value)))
    return official("geneformer.tokenizer").TranscriptomeTokenizer(
        {"spot": "spot"},
        model_input_size=ranks.length,
        special_token=ranks.special,
        **files,
    )


class CudaMeans(TorchFunctionMode):
    """Within it, the device "cuda", which the package names in its code, means another one."""

    def __init__(self, device: torch.device):
        super().__init__()
        self.device = device

    def __torch_function__(self, func, types, args=(), kwargs=None):
        args = tuple(self._meant(value) for value in args)
        return func(*args, **{key: self._meant(value) for key, value in (kwargs or {}).items()})

    def _meant(self, value: Any) -> Any:
        return self.device if isinstance(value, str) and value == "cuda" else value
