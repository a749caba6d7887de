"""Every rule of the workflow: what it makes, what its jobs ask for, and in which environment they run.

The rules in ``workflow/rules`` take these facts from here, and so do ``flag-st plan`` and the summary
that Snakemake prints at the end of a run. Inputs, parameters and scripts are in the rules themselves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from string import Formatter
from typing import Any, NamedTuple

PANEL = "{cohort}/{split}/{panel}"
RUN = PANEL + "/{method}/seed{seed}"
#: What a job asks for.
AMOUNTS = ("threads", "gpu", "mem_mb", "runtime")
#: Amounts that grow with each try of a job; the profile says how often a job is tried.
GROWING = ("mem_mb", "runtime")


class Entry(NamedTuple):
    """The entry of a layer of the configuration that one wildcard of a job names."""

    layer: str
    wildcard: str


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule.

    Attributes:
        name: the rule's name, which is also the name of its script or folder of scripts.
        key: what tells the jobs of this rule apart, wildcards in braces; empty if there is one job.
        outputs: name → path below the results folder, wildcards in braces.
        env: conda environment, a file in ``envs`` without its ending.
        threads: CPU cores.
        gpu: number of GPUs.
        mem_mb: memory of the first try in MB.
        runtime: time limit of the first try in minutes.
        entry: where the configuration may say otherwise: this entry's keys ``env``, ``threads``,
            ``gpu``, ``mem_mb`` and ``runtime`` take precedence over the values above.
    """

    name: str
    key: str
    outputs: dict[str, str]
    env: str
    threads: int = 1
    gpu: int = 0
    mem_mb: int
    runtime: int
    entry: Entry | None = None

    @cached_property
    def wildcards(self) -> tuple[str, ...]:
        """Names of the wildcards in ``key``, which are those of every output."""
        return tuple(name for _, name, _, _ in Formatter().parse(self.key) if name)

    @property
    def log(self) -> str:
        """Path of a job's log below the results folder."""
        return "/".join(filter(None, ("logs", self.name, self.key))) + ".log"

    @property
    def benchmark(self) -> str:
        """Path of the time and memory that Snakemake measures, below the results folder."""
        return "/".join(filter(None, ("benchmarks", self.name, self.key))) + ".tsv"

    def amount(self, key: str, config: Mapping[str, Any], wildcards: Any) -> int:
        """One of ``AMOUNTS`` for the first try of a job; ``wildcards`` is indexed by name."""
        return self._stated(key, config, wildcards)

    def environment(self, config: Mapping[str, Any], wildcards: Any) -> str:
        """The conda environment of a job, a file in ``envs`` without its ending."""
        return self._stated("env", config, wildcards)

    def _stated(self, key: str, config: Mapping[str, Any], wildcards: Any) -> Any:
        default = getattr(self, key)
        if self.entry is None:
            return default
        return config[self.entry.layer][wildcards[self.entry.wildcard]].get(key, default)

    def files(self, results: str, wildcards: Mapping[str, Any]) -> list[str]:
        """Paths of a job's outputs."""
        return [f"{results}/{path.format(**wildcards)}" for path in self.outputs.values()]


ENCODER = Entry("encoders", "encoder")
GENE_MODEL = Entry("gene_models", "gene_model")
METHOD = Entry("methods", "method")

#: In the order of the workflow.
_RULES = (
    Rule(
        name="retrieve",
        key="{cohort}/{slide}",
        outputs={"manifest": "{cohort}/data/sources/{slide}.json"},
        env="data",
        mem_mb=2000,
        runtime=120,
    ),
    Rule(
        name="check_cohort",
        key="{cohort}",
        outputs={"checked": "{cohort}/data/checked.json"},
        env="data",
        mem_mb=4000,
        runtime=60,
    ),
    Rule(
        name="prepare_slide",
        key="{cohort}/{slide}",
        outputs={
            "spots": "{cohort}/data/slides/{slide}/spots.h5ad",
            "patches": "{cohort}/data/slides/{slide}/patches.h5",
        },
        env="data",
        mem_mb=8000,
        runtime=60,
    ),
    Rule(
        name="cut_patches",
        key="{cohort}/{field}um/{slide}",
        outputs={"patches": "{cohort}/data/slides/{slide}/patches_{field}um.h5"},
        env="data",
        mem_mb=4000,
        runtime=60,
    ),
    Rule(
        name="prepare_counts",
        key="{cohort}/{slide}",
        outputs={"counts": "{cohort}/data/slides/{slide}/counts.h5ad"},
        env="data",
        mem_mb=4000,
        runtime=30,
    ),
    Rule(
        name="make_split",
        key="{cohort}/{split}",
        outputs={"split": "{cohort}/{split}/split.json"},
        env="data",
        mem_mb=1000,
        runtime=30,
    ),
    Rule(
        name="select_panel",
        key=PANEL,
        outputs={"panel": PANEL + "/panel.parquet"},
        env="data",
        mem_mb=16000,
        runtime=60,
    ),
    Rule(
        name="fit_encoder",
        key="{cohort}/{split}/{encoder}",
        outputs={"model": "{cohort}/{split}/features/{encoder}/model.safetensors"},
        env="encode",
        mem_mb=8000,
        runtime=120,
        entry=ENCODER,
    ),
    Rule(
        name="encode_patches",
        key="{cohort}/{scope}/{encoder}/{slide}",
        outputs={"features": "{cohort}/{scope}/features/{encoder}/{slide}.h5ad"},
        env="encode",
        mem_mb=8000,
        runtime=120,
        entry=ENCODER,
    ),
    Rule(
        name="fit_gene_model",
        key=PANEL + "/{gene_model}",
        outputs={"model": PANEL + "/targets/{gene_model}/model.safetensors"},
        env="torch",
        mem_mb=8000,
        runtime=120,
        entry=GENE_MODEL,
    ),
    Rule(
        name="embed_genes",
        key=PANEL + "/{gene_model}/{slide}",
        outputs={"targets": PANEL + "/targets/{gene_model}/{slide}.h5"},
        env="torch",
        mem_mb=8000,
        runtime=120,
        entry=GENE_MODEL,
    ),
    Rule(
        name="train",
        key=RUN,
        outputs={
            "model": RUN + "/model.safetensors",
            "history": RUN + "/history.csv",
            "run": RUN + "/run.json",
        },
        env="torch",
        mem_mb=8000,
        runtime=60,
        entry=METHOD,
    ),
    Rule(
        name="predict",
        key=RUN + "/{slide}",
        outputs={
            "prediction": RUN + "/predictions/{slide}.h5ad",
            "run": RUN + "/predictions/{slide}.run.json",
        },
        env="torch",
        mem_mb=8000,
        runtime=60,
        entry=METHOD,
    ),
    Rule(
        name="calibrate",
        key=RUN,
        outputs={"calibration": RUN + "/calibration.safetensors"},
        env="torch",
        mem_mb=8000,
        runtime=60,
        entry=METHOD,
    ),
    Rule(
        name="evaluate",
        key=RUN,
        outputs={"scores": RUN + "/scores.parquet"},
        env="evaluate",
        mem_mb=4000,
        runtime=30,
    ),
    Rule(
        name="evaluate_downstream",
        key=RUN,
        outputs={"scores": RUN + "/downstream.parquet"},
        env="downstream",
        mem_mb=8000,
        runtime=120,
    ),
    Rule(
        name="collect_scores",
        key="{experiment}",
        outputs={"scores": "experiments/{experiment}/scores.parquet"},
        env="figures",
        mem_mb=4000,
        runtime=30,
    ),
    Rule(
        name="collect_runs",
        key="{experiment}",
        outputs={"runs": "experiments/{experiment}/runs.parquet"},
        env="figures",
        mem_mb=4000,
        runtime=30,
    ),
    Rule(
        name="table",
        key="{experiment}",
        outputs={
            "csv": "paper/tables/{experiment}.csv",
            "tex": "paper/tables/{experiment}.tex",
            "md": "paper/tables/{experiment}.md",
            "html": "paper/tables/{experiment}.html",
        },
        env="figures",
        mem_mb=4000,
        runtime=30,
    ),
    Rule(
        name="figure",
        key="{experiment}",
        outputs={
            "csv": "paper/figures/{experiment}.csv",
            "pdf": "paper/figures/{experiment}.pdf",
            "png": "paper/figures/{experiment}.png",
        },
        env="figures",
        mem_mb=8000,
        runtime=60,
    ),
    Rule(
        name="explorer",
        key="{experiment}",
        outputs={"page": "report/explorer/{experiment}.html"},
        env="figures",
        mem_mb=8000,
        runtime=60,
    ),
    Rule(
        name="export_model",
        key=RUN,
        outputs={"model": RUN + "/exported.flag"},
        env="predict",
        mem_mb=16000,
        runtime=120,
        entry=METHOD,
    ),
    Rule(
        name="paint_slide",
        key="{cohort}/{slide}",
        outputs={"image": "{cohort}/data/painted/{slide}.tif"},
        env="data",
        mem_mb=4000,
        runtime=30,
    ),
    Rule(
        name="check_slides",
        key="",
        outputs={"checked": "new_slides/checked.json"},
        env="predict",
        mem_mb=4000,
        runtime=60,
    ),
    Rule(
        name="predict_slide",
        key="{slide}",
        outputs={"folder": "new_slides/{slide}"},
        env="predict",
        threads=4,
        gpu=1,
        mem_mb=16000,
        runtime=240,
    ),
    Rule(
        name="join_slides",
        key="",
        outputs={
            "explorer": "new_slides/explorer.html",
            "cohort": "new_slides/cohort.tsv",
        },
        env="predict",
        mem_mb=4000,
        runtime=30,
    ),
    Rule(
        name="report",
        key="",
        outputs={"page": "report/index.html"},
        env="figures",
        mem_mb=4000,
        runtime=30,
    ),
)
RULES = {rule.name: rule for rule in _RULES}
