"""The workflow's scripts run one by one, in this process, on three tiny sections."""

import logging
import runpy
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from running import ROOT

from flag_st.planning.traits import stated

SLIDES = ("P1S1", "P2S1", "P3S1")
SPLIT = {"train": ["P1S1"], "valid": ["P2S1"], "test": ["P3S1"]}
GENES, SIZE = 60, 12
KEYS = {"cohort": "tiny", "split": "s", "panel": "p", "method": "ridge", "seed": "0"}


class Named(list):
    """Stands in for Snakemake's own: the values in order, and each by its name."""

    def __init__(self, values: dict[str, Any]):
        super().__init__(v for x in values.values() for v in (x if isinstance(x, list) else [x]))
        vars(self).update(values)

    def get(self, name: str, default: Any = None) -> Any:
        return vars(self).get(name, default)

    def items(self):
        return vars(self).items()

    def __getitem__(self, name):
        return vars(self)[name] if isinstance(name, str) else super().__getitem__(name)


@dataclass
class Job:
    """What Snakemake gives a script; paths are relative to the folder of all files."""

    script: str
    input: dict[str, Any] = field(default_factory=dict)
    output: dict[str, str] = field(default_factory=dict)
    params: dict[str, Any] = field(default_factory=dict)
    wildcards: dict[str, str] = field(default_factory=dict)
    log: str = "job.log"

    def run(self, folder: Path) -> tuple[int, str]:
        """Exit code and log of the script in ``folder``."""

        def within(value):
            return (
                [within(v) for v in value] if isinstance(value, list) else str(folder / str(value))
            )

        log = folder / self.log
        log.parent.mkdir(parents=True, exist_ok=True)
        log.unlink(missing_ok=True)
        job = SimpleNamespace(
            rule=Path(self.script).name,
            input=Named({k: within(v) for k, v in self.input.items()}),
            output=Named({k: within(v) for k, v in self.output.items()}),
            params=Named(self.params),
            wildcards=Named(self.wildcards),
            threads=1,
            resources={"gpu": 0},
            log=[str(log)],
        )
        handlers = list(logging.getLogger().handlers)
        try:
            runpy.run_path(str(ROOT / f"scripts/{self.script}.py"), {"snakemake": job})
            return 0, log.read_text()
        except SystemExit as end:
            return int(end.code), log.read_text()
        finally:
            for handler in logging.getLogger().handlers[:]:
                if handler not in handlers:
                    logging.getLogger().removeHandler(handler)
                    handler.close()


def each(pattern: str, *parts: str) -> list[str]:
    """``pattern`` for the slides of parts of the split, of all without parts."""
    names = [s for part in parts for s in SPLIT[part]] or SLIDES
    return [pattern.format(slide=name) for name in names]


def spots(*parts: str) -> list[str]:
    return each("slides/{slide}/spots.h5ad", *parts)


def features(*parts: str) -> list[str]:
    return each("features/{slide}.h5ad", *parts)


def retrieve(slide: str, raw: Path) -> Job:
    source = {"name": "tiny", "use": "flag_st.sources.folder.Folder", "params": {"root": str(raw)}}
    return Job(
        "retrieve",
        output={"manifest": f"sources/{slide}.json"},
        params={"source": source, "root": None, "directory": "raw"},
        wildcards={"slide": slide},
    )


def prepare_slide(slide: str) -> Job:
    return Job(
        "prepare_slide",
        {"manifest": f"sources/{slide}.json"},
        {"spots": f"slides/{slide}/spots.h5ad", "patches": f"slides/{slide}/patches.h5"},
        {"patient": "", "prepare": {}},
        {"slide": slide},
    )


def encode_patches(slide: str) -> Job:
    plugin = {"name": "texture", "use": "flag_st.encoders.texture.Texture", "params": {}}
    return Job(
        "encode_patches",
        {"spots": f"slides/{slide}/spots.h5ad", "patches": f"slides/{slide}/patches.h5"},
        {"features": f"features/{slide}.h5ad"},
        {"encoder": plugin},
        {"slide": slide, "encoder": "texture"},
    )


def embed_genes(slide: str) -> Job:
    return Job(
        "embed_genes",
        {
            "spots": f"slides/{slide}/spots.h5ad",
            "panel": "panel.parquet",
            "fitted": "gene_model.safetensors",
        },
        {"targets": f"targets/{slide}.h5"},
        {"gene_model": COEXPRESSION},
    )


def train(*needs: str) -> Job:
    given = {
        "features": features("train", "valid"),
        "spots": spots("train", "valid"),
        "patches": [],
        "targets": each("targets/{slide}.h5", "train") if "targets" in needs else [],
        "panel": "panel.parquet",
        "split": "split.json",
    }
    made = {"model": "run/model.safetensors", "history": "run/history.csv", "run": "run/run.json"}
    params = {
        "method": {
            "name": "ridge",
            "use": "flag_st.methods.ridge.Ridge",
            "params": {"components": 4},
        },
        "inputs": {"encoder": "texture", "gene_model": None},
        "traits": stated("methods", {}),
        "panel": {"size": SIZE},
        "checkpoint": "checkpoint",
    }
    return Job("train", given, made, params, KEYS)


COEXPRESSION = {"use": "flag_st.gene_models.coexpression.Coexpression", "params": {"width": 8}}
METRICS = {
    "mse": {"use": "flag_st.metrics.mse.Mse", "params": {}},
    "gsc": {"use": "flag_st.metrics.gsc.Gsc", "params": {}},
}
STAGES = {
    "retrieve": None,  # needs to know where the raw files are: `stages`
    "check_cohort": Job(
        "check_cohort",
        {"manifests": each("sources/{slide}.json"), "counts": [], "vocabularies": []},
        {"checked": "checked.json"},
        {"fields": {}, "panels": {"p": {"size": SIZE}}, "prepare": {}},
        {"cohort": "tiny"},
    ),
    "prepare_slide": prepare_slide("P1S1"),
    "encode_patches": encode_patches("P1S1"),
    "select_panel": Job(
        "select_panel",
        {"spots": spots(), "split": "split.json"},
        {"panel": "panel.parquet"},
        {"panel": {"size": SIZE}, "gene_models": []},
    ),
    "fit_gene_model": Job(
        "fit_gene_model",
        {"spots": spots("train"), "corpus": [], "panel": "panel.parquet", "split": "split.json"},
        {"model": "gene_model.safetensors"},
        {"gene_model": COEXPRESSION, "corpus": "train", "unit": "log1p"},
    ),
    "embed_genes": embed_genes("P1S1"),
    "train": train("targets"),
    "predict": Job(
        "predict",
        {"model": "run/model.safetensors", "features": features("test"), "truth": []},
        {
            "prediction": "run/predictions/P3S1.h5ad",
            "run": "run/predictions/P3S1.run.json",
        },
        {"samples": 2},
        {**KEYS, "slide": "P3S1"},
    ),
    "evaluate": Job(
        "evaluate",
        {
            "predictions": ["run/predictions/P3S1.h5ad"],
            "truth": spots("test"),
            "panel": "panel.parquet",
        },
        {"scores": "run/scores.parquet"},
        {"metrics": METRICS, "panel": {"size": SIZE}},
        KEYS,
    ),
    "collect_scores": Job(
        "collect_scores",
        {"scores": ["run/scores.parquet"]},
        {"scores": "experiment/scores.parquet"},
    ),
    "collect_runs": Job(
        "collect_runs",
        {"runs": ["run/run.json"]},
        {"runs": "experiment/runs.parquet"},
        {"runs": [{**KEYS, "seed": 0}]},
    ),
}


def stage(name: str, folder: Path) -> Job:
    return retrieve("P1S1", folder / "raw") if name == "retrieve" else STAGES[name]


def make_all(folder: Path) -> None:
    """Raw files, and what every stage makes of them; each stage must succeed."""
    from flag_st.core.io import CONTRACT, write_json
    from flag_st.sources.synthetic import Synthetic

    source = Synthetic(patients=3, sections=1, spots=(4, 4), genes=GENES)
    for slide in SLIDES:
        source.fetch(slide, folder / "raw")
    write_json(folder / "split.json", {"contract": CONTRACT, **SPLIT})
    jobs = [retrieve(slide, folder / "raw") for slide in SLIDES] + [STAGES["check_cohort"]]
    jobs += [prepare_slide(slide) for slide in SLIDES] + [encode_patches(slide) for slide in SLIDES]
    names = (
        "select_panel fit_gene_model embed_genes train predict evaluate collect_scores collect_runs"
    )
    jobs += [STAGES[name] for name in names.split()]
    for job in jobs:
        code, log = job.run(folder)
        assert code == 0, f"{job.script}: {log}"
