"""The files of a finished run, found from its folder and its record."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flag_st.core.errors import FlagError
from flag_st.core.io import digest, read_json
from flag_st.data.slide import Cohort, check_slide_id, read_slide
from flag_st.planning.rules import RULES

#: Parts of the path of a run below its results folder: cohort, split, panel, method and seed.
DEPTH = 5


class Run:
    """A run of the pipeline.

    Paths are those of the record, moved to where the results folder is now, so that a copied or
    renamed folder of results will do.

    Args:
        folder: ``results/{cohort}/{split}/{panel}/{method}/seed{n}``.

    Raises:
        FlagError: it is no folder of a finished run.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).resolve()
        record = self.folder / "run.json"
        if not record.is_file() or not self.model.is_file():
            raise FlagError(
                f"{folder} is no folder of a finished run: it has no run.json beside a "
                "model.safetensors",
                remedy="give a folder such as results/HER2ST/random/hmhvg200/flag/seed0",
            )
        self.record = read_json(record)
        self.keys: dict[str, str] = dict(self.record["wildcards"])
        self.results = self.folder.parents[DEPTH - 1]
        self.recorded = Path(self.record["params"]["checkpoint"]).parents[DEPTH]
        names = self.file("make_split", "split")
        self.split: dict[str, list[str]] = {
            part: read_json(names)[part] for part in ("train", "valid", "test")
        }

    @property
    def patients(self) -> dict[str, str]:
        """Slide → patient of the whole cohort; "" if unknown."""
        return self.job("make_split")["params"]["patients"]

    @property
    def model(self) -> Path:
        return self.folder / "model.safetensors"

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The entries that the method reads: ``encoder``, ``gene_model``, ``backbone``."""
        return self.record["params"]["inputs"]

    def file(self, rule: str, output: str, **keys: str) -> Path:
        """An output of the pipeline, which must be as the record of the training knows it.

        Raises:
            FlagError: it is missing, or differs from what the method was trained on.
        """
        known = {**self.keys, "encoder": self.inputs["encoder"], **keys}
        place = RULES[rule].outputs[output].format(**known)
        path = self.results / place
        if not path.is_file():
            raise FlagError(
                f"{path} does not exist, and the run was made with it",
                remedy="run the same snakemake command again: it makes what is missing",
            )
        recorded = self.record["inputs"].get(str(self.recorded / place))
        if recorded is not None and digest(path) != recorded:
            raise FlagError(
                f"{path} is not the file that {self.folder} was trained with",
                remedy="run the same snakemake command again, which trains on what is there now",
            )
        return path

    def job(self, rule: str, **keys: str) -> dict[str, Any]:
        """The record of a job, which lies beside its log."""
        key = RULES[rule].key.format(**{**self.keys, "encoder": self.inputs["encoder"], **keys})
        path = self.results / "logs" / rule / f"{key}.json"
        if not path.is_file():
            raise FlagError(
                f"{path} does not exist, which says how {rule} was run",
                remedy="restore the folder logs of the results, or run snakemake again with "
                f"--forcerun {rule}",
            )
        return read_json(path)

    @property
    def scope(self) -> str:
        """Where the features are: those of an encoder that learns belong to the split."""
        slide = self.split["train"][0]
        for scope in ("data", self.keys["split"]):
            known = {**self.keys, "encoder": self.inputs["encoder"], "scope": scope, "slide": slide}
            place = RULES["encode_patches"].outputs["features"].format(**known)
            if str(self.recorded / place) in self.record["inputs"]:
                return scope
        raise FlagError(
            f"{self.folder / 'run.json'} names no features of slide {slide}",
            remedy="delete it and run the same snakemake command again",
        )

    def cohort(self, part: str, genes: Sequence[str], unit: str, patches: bool) -> Cohort:
        """The slides of ``train`` or ``valid`` with their expression; test slides are never opened."""
        if part not in ("train", "valid"):
            raise FlagError(f"no slide of {part} may be opened here", choices=("train", "valid"))
        slides = []
        for name in self.split[part]:
            features = self.file("encode_patches", "features", slide=name, scope=self.scope)
            spots = self.file("prepare_slide", "spots", slide=name)
            more = self.patches(name) if patches else None
            slide = read_slide(features, spots, genes, unit, patches=more)
            check_slide_id(slide, name, features)
            slides.append(slide)
        return Cohort(slides, genes)

    def patches(self, slide: str) -> Path:
        """The standard patches, which methods read."""
        return self.file("prepare_slide", "patches", slide=slide)

    def seen_by_encoder(self, slide: str) -> Path:
        """The patches that the encoder read, which may have another field of view."""
        params = self.job("encode_patches", slide=slide, scope=self.scope)["params"]
        if field := params.get("field"):
            return self.file("cut_patches", "patches", slide=slide, field=str(field))
        return self.patches(slide)
