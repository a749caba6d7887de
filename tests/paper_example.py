"""Results of a small study in the very files that the pipeline writes, made in a second."""

from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import scipy.sparse

from flag_st.core.io import CONTRACT, write_json
from flag_st.core.provenance import Record
from flag_st.data.slide import Slide, read_expression, write_prediction
from flag_st.methods.base import Prediction
from flag_st.metrics.coverage import Coverage
from flag_st.metrics.gsc import Gsc
from flag_st.metrics.mae import Mae
from flag_st.metrics.mse import Mse
from flag_st.metrics.pcc import Pcc
from flag_st.metrics.ssc import Ssc
from flag_st.paper.experiment import Experiment
from flag_st.scoring.slides import Pair, score_slides

REPORTED = Path(__file__).parents[1] / "config" / "reported.csv"
EVIL = '</script><script>alert("x")</script>'
GENES = tuple(f"GENE{i}" for i in range(12))
PITCH, PIXEL, SIDE = 200.0, 0.5, 8
METRICS = {"pcc": Pcc(), "mse": Mse(), "mae": Mae(), "gsc": Gsc(), "ssc": Ssc()}
METRICS["coverage"] = Coverage()
#: name → (share of the truth kept, sd of the noise added, stochastic)
METHODS = {"flag": (0.9, 0.3, True), "ridge": (0.6, 0.0, False), "oracle": (1.0, 0.0, False)}


class Files(dict):
    """Named files of a job, as a rule hands them over."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def job(params=None, wildcards=None, **files) -> SimpleNamespace:
    return SimpleNamespace(
        input=Files(files.get("input", {})),
        output=Files(files.get("output", {})),
        params=SimpleNamespace(**(params or {})),
        wildcards=SimpleNamespace(**(wildcards or {})),
        progress=lambda items, **_: items,
        gpu=0,
    )


def write_spots(path: Path, slide: str, seed: int) -> None:
    """A square array of spots on a drawn picture, with smooth expression."""
    rng = np.random.default_rng(seed)
    row, column = (a.ravel() for a in np.mgrid[:SIDE, :SIDE])
    position = np.stack([column, row], axis=1) * PITCH + 2 * PITCH  # (N, 2) µm
    waves = np.sin(position @ rng.normal(size=(2, len(GENES))) / 700 + np.arange(len(GENES)))
    counts = rng.poisson(np.exp(1.5 + waves)).astype(np.float32)
    side = int((SIDE + 3) * PITCH / PIXEL * 0.1)
    shade = np.linspace(120, 230, side)[:, None] * np.linspace(0.8, 1, side)
    table = anndata.AnnData(
        scipy.sparse.csr_matrix(counts),
        obs=pd.DataFrame(index=[f"{r}x{c}" for r, c in zip(row, column, strict=True)]),
        var=pd.DataFrame({"ensembl": ""}, index=pd.Index(GENES)),
        obsm={"spatial": position / PIXEL, "spatial_um": position},
        uns={
            "contract": CONTRACT,
            "slide": slide,
            "patient": "P1",
            "pixel_size_um": PIXEL,
            "image": np.stack([shade, shade * 0.8, shade], axis=2).astype(np.uint8),
            "image_scale": 0.1,
        },
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    table.write_h5ad(path)


def predict(truth: np.ndarray, method: str, seed: int) -> Prediction:
    """Draws around the truth shrunk to its mean; numbers of no model, only of known quality."""
    share, noise, stochastic = METHODS[method]
    rng = np.random.default_rng([seed, len(method)])
    mean = truth.mean(0) + share * (truth - truth.mean(0))
    draws = mean + noise * rng.normal(size=(3 if stochastic else 1, *mean.shape))
    return Prediction(draws.astype(np.float32))


def write_history(path: Path, method: str, seed: int) -> None:
    from flag_st.core.history import History

    history = History(path)
    if METHODS[method][2]:
        for epoch in range(6):
            row = {"epoch": epoch, "loss": 2.0 / (epoch + 1) + 0.01 * seed}
            history(row | ({"valid_loss": 1.5 + 0.1 * (epoch - 3) ** 2} if epoch % 2 else {}))
    history.write()


class Study:
    """One cohort of test slides, three methods, two seeds; ``experiment`` as Snakemake knows it."""

    def __init__(self, root: Path, cohort: str = "HER2ST", encoder: str = "uni", slides: int = 2):
        self.root, self.cohort, self.encoder = Path(root), cohort, encoder
        self.slides = ["A1", "B<1>", *(f"C{i}" for i in range(2, slides))]
        for i, slide in enumerate(self.slides):
            write_spots(self.spots(slide), slide, i)
        seeds = {name: (0, 1) if METHODS[name][2] else (0,) for name in METHODS}
        self.keys = [
            {"cohort": cohort, "split": "random", "panel": "hmhvg200", "method": m, "seed": s}
            for m in METHODS
            for s in seeds[m]
        ]
        for key in self.keys:
            self._write_run(key)

    def spots(self, slide: str) -> Path:
        return self.root / "slides" / slide / "spots.h5ad"

    def of(self, key: dict, name: str) -> Path:
        return self.root / key["method"] / f"seed{key['seed']}" / name

    def _write_run(self, key: dict) -> None:
        method, seed, folder = key["method"], key["seed"], self.of(key, "")
        folder.mkdir(parents=True)
        facts = {
            "use": f"methods.{method}",
            "params": {"width": 4},
            "genes": list(GENES),
            "method": method,
            "unit": "log1p",
            "encoder": self.encoder,
            "gene_model": "geneformer" if method == "flag" else None,
            "settings": {"width": 4, "training": {"lr": 0.002, "epochs": 6}},
        }
        record = Record("train", {}, {}, [])
        record.add(config=facts, seed=seed, train_spots=100)
        record.write(folder / "run.json")
        write_history(folder / "history.csv", method, seed)
        pairs = []
        for slide in self.slides:
            table = anndata.read_h5ad(self.spots(slide))
            names, position = table.obs_names.to_numpy().astype(str), table.obsm["spatial_um"]
            truth = read_expression(self.spots(slide), names, GENES, "log1p")
            made = predict(truth, method, seed)
            one = Slide(slide, "P1", names, position, np.zeros((len(names), 1)))
            write_prediction(folder / f"{slide}.h5ad", one, made, {**facts, "seed": seed})
            pairs.append(Pair(slide, GENES, truth, made.point, made.samples, position))
        cost = {"seconds": 6.4, "peak_memory_mb": 512.0, "gpu_memory_mb": None, "device": "cpu"}
        write_json(folder / "predict.run.json", cost)
        score_slides(pairs, METRICS, labels=key).to_parquet(folder / "scores.parquet", index=False)

    def experiment(self, **changes) -> Experiment:
        """An experiment of all runs, as scripts know it."""
        return Experiment.of(self.item(**changes))

    def item(self, **changes) -> dict:
        """The same as the workflow passes it, ``item`` in ``paper_common.smk``."""
        methods = {
            name: {"label": name, "stochastic": traits[2], "needs_truth": name == "oracle"}
            | {"needs_patches": False, "changed": False}
            for name, traits in METHODS.items()
        }
        source = {"name": self.cohort, "use": "flag_st.sources.hest.Hest", "params": {}}
        uses = {n: f"{type(m).__module__}.{type(m).__name__}" for n, m in METRICS.items()}
        known = {"name": "table_1", "title": "Main", "caption": "Made up.", "reported": "table_1"}
        known |= {"params": {}, "methods": methods, "metrics": uses, "missing": [], "patients": {}}
        return {**known, "cohorts": {self.cohort: {**source, "slides": None}}, **changes}

    def collect(self) -> dict[str, str]:
        """Scores and runs of the whole study, collected by the script of the rule."""
        out = {name: str(self.root / f"{name}.parquet") for name in ("scores", "runs")}
        inputs = {"scores": self.files("scores.parquet"), "runs": self.files("run.json")}
        for name in ("collect_scores", "collect_runs"):
            load(name)(job({"runs": self.keys}, input=inputs, output=out))
        return out

    @property
    def prediction_keys(self) -> list[dict]:
        return [{**key, "slide": slide} for key in self.keys for slide in self.slides]

    def files(self, name: str) -> list[str]:
        return [str(self.of(key, name)) for key in self.keys]

    @property
    def inputs(self) -> dict:
        """Inputs of a figure job that reads everything, and what they are of."""
        places = [str(self.of(key, f"{key['slide']}.h5ad")) for key in self.prediction_keys]
        return {
            "input": {
                "predictions": places,
                "spots": [str(self.spots(slide)) for slide in self.slides],
                "history": self.files("history.csv"),
                "slides": [str(self.spots(slide)) for slide in self.slides],
                "records": [str(self.of(key, "predict.run.json")) for key in self.prediction_keys],
                "reported": str(REPORTED),
            },
            "of": {
                "runs": self.keys,
                "predictions": self.prediction_keys,
                "spots": [{"cohort": self.cohort, "slide": slide} for slide in self.slides],
                "slides": [{"cohort": self.cohort, "slide": slide} for slide in self.slides],
            },
        }


def load(script: str):
    """The ``main`` of a script, found as the rule finds it."""
    import runpy

    path = Path(__file__).parents[1] / "scripts" / f"{script}.py"
    return runpy.run_path(str(path))["main"]


def write_report(
    study: Study, root: Path, runs_as=lambda runs: runs, new_slides=(), **changes
) -> str:
    """Collect, make one table and one figure, and write the page; returns its text."""
    files, paper = study.inputs, root / "paper"
    runs, scores = root / "runs.parquet", root / "scores.parquet"
    collected = {"scores": study.files("scores.parquet"), "runs": study.files("run.json")}
    for name in ("collect_scores", "collect_runs"):
        load(name)(
            job({"runs": study.keys}, input=collected, output={"scores": scores, "runs": runs})
        )
    runs_as(pd.read_parquet(runs)).to_parquet(runs)
    columns = {"columns": [{"metric": "pcc", "scope": "pooled", "paper": "pcc"}]}
    table, figure = study.item(params=columns, **changes), study.item(name="curves", **changes)
    written = {kind: paper / f"table_1.{kind}" for kind in ("csv", "tex", "md", "html")}
    inputs = {"scores": scores, "runs": runs, "reported": REPORTED}
    load("tables/main")(job({"item": table}, input=inputs, output=written))
    drawn = {kind: paper / f"curves.{kind}" for kind in ("png", "pdf", "csv")}
    load("figures/training_curves")(
        job({"item": figure, "of": files["of"]}, input=files["input"], output=drawn)
    )
    page = root / "report" / "index.html"
    explorer = root / "report" / "explorer" / "curves.html"
    load("explorer")(
        job({"item": figure, "of": files["of"]}, input=files["input"], output={"page": explorer})
    )
    inputs = {"tables": [written["html"]], "figures": [drawn["png"]], "runs": [runs, runs]}
    inputs |= {"explorers": [explorer], "new_slides": new_slides}
    inputs["explorer"] = new_slides[0].parent / "explorer.html" if new_slides else []
    params = {"experiments": [table, figure], "tables": ["table_1"], "figures": ["curves"]}
    params |= {"explorers": ["curves"], "absent": []}
    defaults = {"split": "random", "panel": "hmhvg200", "encoder": "uni", "gene_model": None}
    params["config"] = {"defaults": {**defaults, "samples": 8}, "results": EVIL}
    load("report")(job(params, input={**inputs, "reported": REPORTED}, output={"page": page}))
    return page.read_text(encoding="utf-8")
