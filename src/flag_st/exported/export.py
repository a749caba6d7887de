"""``flag-st export``: from the folder of a run to one file that predicts new slides."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import flag_st
from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.core.fitted import nested
from flag_st.core.io import load_arrays, save_arrays
from flag_st.core.provenance import commit
from flag_st.data.lattice import array_pitch, layout
from flag_st.data.patients import validated_and_trained
from flag_st.data.slide import Cohort
from flag_st.exported.licences import notes, portable, weights
from flag_st.exported.model import KIND, SCORES
from flag_st.exported.privacy import spots_in
from flag_st.exported.run import Run
from flag_st.intervals.calibration import Calibration
from flag_st.intervals.certificate import Certificate
from flag_st.intervals.conformal import Seen
from flag_st.intervals.validation import predict_validation
from flag_st.methods.base import Method, load
from flag_st.metrics.base import Case
from flag_st.metrics.pcc import per_gene
from flag_st.paper.tissue import spot_diameter
from flag_st.slides.appearance import FOCUS, STAIN, of_file
from flag_st.slides.likeness import Likeness

#: Draws of a stochastic method, where the run has no record of a prediction that tells its number.
DRAWS = 8
#: Patches per slide whose stain and focus are measured.
PATCHES = 500

Progress = Callable[..., Iterable]


def export(
    folder: str | Path,
    out: str | Path,
    draws: int | None = None,
    device: str = "cpu",
    progress: Progress = lambda items, **_: items,
    licence: str = "",
) -> None:
    """Write the exported model of a run.

    Validation slides are predicted, because a run scores test slides only; test slides are never
    opened. Equal runs and code give equal bytes.

    Args:
        folder: ``results/{cohort}/{split}/{panel}/{method}/seed{n}``.
        out: path of the file.
        draws: draws per validation slide, and by default per new slide; None takes as many as the
            run made of its test slides.
        device: where the validation slides are predicted.
        licence: of the training slides, where ``config/sources.tsv`` does not list them.

    Raises:
        FlagError: the run is not finished, its files are not those that it was trained with, or the
            method needs the truth or keeps training spots.
    """
    run = Run(folder)
    method, facts = load(run.model, device)
    _refuse_truth(method, facts)
    patches = "patches" in method.needs
    train, valid = (
        run.cohort(p, facts["genes"], facts["unit"], patches) for p in ("train", "valid")
    )
    learned = method.arrays()
    if name := spots_in(learned, [*train, *valid]):
        raise FlagError(
            f"{facts['method']} keeps training spots in its array {name!r}, and an exported model "
            "must hold neither expression nor features of single spots",
            remedy="export a run of a method that does not retrieve spots, such as ridge or flag",
        )
    samples = (draws or run_draws(run)) if method.stochastic else 1
    met = validated_and_trained(run.split, run.patients)
    seen = predict_validation(method, valid, samples, int(facts["seed"]), progress)
    arrays = {
        **nested("method", learned),
        **nested("encoder", encoder_arrays(run)),
        **nested("features", Likeness.fit(train.features, valid.features).arrays()),
        **appearances(run, progress),
        **nested("validation", scores(valid, seen)),
        **nested("intervals", Calibration.fit(seen, met).arrays()),
        **nested("certificate", Certificate.fit(seen, met).arrays()),
    }
    save_arrays(out, arrays, facts_of(run, facts, method, train, samples, licence))


def _refuse_truth(method: Method, facts: dict[str, Any]) -> None:
    if "truth" in method.needs:
        raise FlagError(
            f"{facts['method']} is a control that is told the truth, which a new slide does not have",
            remedy="export a run of a method that predicts",
        )


def run_draws(run: Run) -> int:
    """The number of draws that the run made of its test slides."""
    try:
        return int(run.job("predict", slide=run.split["test"][0])["params"]["samples"])
    except FlagError:
        return DRAWS


def encoder_arrays(run: Run) -> dict[str, np.ndarray]:
    """What an encoder that learns from training slides has learned; nothing for a frozen one."""
    if run.scope == "data":
        return {}
    return load_arrays(run.file("fit_encoder", "model"))[0]


def scores(valid: Cohort, seen: Sequence[Seen]) -> dict[str, np.ndarray]:
    """``SCORES`` per gene, (V, G) each, of the predictions of the V validation slides."""
    rows: dict[str, list[np.ndarray]] = {name: [] for name in SCORES}
    for slide, made in zip(valid, seen, strict=True):
        truth, point = made.truth.astype(np.float64), made.prediction.point.astype(np.float64)
        samples = made.prediction.samples  # (S, N, G)
        rows["pcc"].append(per_gene(Case(truth, point, slide.position, valid.genes)))
        rows["rmse"].append(np.sqrt(((truth - point) ** 2).mean(0)))
        many = len(samples) > 1
        rows["spread"].append(samples.std(0, ddof=1).mean(0) if many else 0 * rows["rmse"][-1])
    return {name: np.stack(values).astype(np.float64) for name, values in rows.items()}  # (V, G)


def appearances(run: Run, progress: Progress) -> dict[str, np.ndarray]:
    """How the encoder's patches of training slides are stained, and how sharp those of both parts are.

    Nothing is fitted to the focus, so that training slides count as well: scanners differ, and one
    validation slide is of one scanner.
    """
    seen: dict[str, list[np.ndarray]] = {"train": [], "valid": []}
    names = [(part, slide) for part in seen for slide in run.split[part]]
    for part, slide in progress(names, desc="stain and focus"):
        with h5py.File(run.seen_by_encoder(slide)) as file:
            seen[part].append(of_file(file["img"], PATCHES))
    train, valid = (np.concatenate(seen[part]) for part in ("train", "valid"))  # (n, 4) each
    stain = Likeness.fit(train[:, STAIN], valid[:, STAIN])
    focus = np.concatenate([train[:, FOCUS], valid[:, FOCUS]])
    focus = focus[np.isfinite(focus)]
    quantiles = np.percentile(focus, np.arange(101)) if len(focus) else np.full(101, -np.inf)
    return {**nested("stain", stain.arrays()), "focus.quantiles": quantiles}


def facts_of(
    run: Run, facts: dict[str, Any], method: Method, train: Cohort, samples: int, licence: str
) -> dict[str, Any]:
    """The header of the file.

    Besides the facts of the run's own model file (``use``, ``params``, ``genes``, ``unit``,
    ``method``, ``seed``, ``width``): what it is, the encoder's entry with its digest, the patches,
    the training platform, slides and patients of every part, draws, licences, weights and code.
    """
    slide = run.split["train"][0]
    encoder = run.job("encode_patches", slide=slide, scope=run.scope)["params"]
    source = run.job("retrieve", slide=slide)["params"]["source"]
    entry = {key: encoder["encoder"][key] for key in ("name", "use", "params")}
    own = {"use": facts["use"], "params": facts["params"]}
    entries = [entry, own, *gene_model(run, slide)]
    patients = run.patients
    kept = {k: v for k, v in facts.items() if k != "contract"}
    return {
        **kept,
        **portable(own),
        "kind": KIND,
        "cohort": run.keys["cohort"],
        "encoder_entry": {**portable(entry), "digest": encoder_digest(run, slide)},
        "patches": patch_size(run, slide),
        "platform": platform(train),
        "pixel_um": {s.id: s.pixel_um for s in train},
        "split": {p: {s: patients.get(s, "") for s in names} for p, names in run.split.items()},
        "samples": samples,
        "stochastic": method.stochastic,
        "threads": {
            "encoder": encoder.get("threads", 1),
            "method": run.record["params"].get("threads", 1),
        },
        "licences": notes({**source, "licence": licence}, entries),
        "weights": weights(portable(entry), portable(own)),
        "code": {"version": flag_st.__version__, **commit()},
        "settings": registry.resolve(facts["use"], portable(own)["params"]),
    }


def gene_model(run: Run, slide: str) -> list[dict[str, Any]]:
    """The entry of the gene model that training aligned to, if there was one."""
    name = run.inputs.get("gene_model")
    if not name:
        return []
    return [run.job("embed_genes", gene_model=name, slide=slide)["params"]["gene_model"]]


def encoder_digest(run: Run, slide: str) -> str:
    """The digest that the encoder left in the features that the run was trained on."""
    with h5py.File(run.file("encode_patches", "features", slide=slide, scope=run.scope)) as file:
        return file["uns/digest"].asstr()[()]


def patch_size(run: Run, slide: str) -> dict[str, float]:
    """Edge in pixels and µm per pixel of the patches that the encoder saw."""
    with h5py.File(run.seen_by_encoder(slide)) as file:
        return {"size": int(file.attrs["size"]), "um_per_px": float(file.attrs["um_per_px"])}


def platform(train: Cohort) -> dict[str, Any]:
    """Pitch, spot diameter (µm) and layout of the arrays of the training slides."""
    pitches = [array_pitch(slide.position) for slide in train]
    middle = int(np.argsort(pitches)[len(pitches) // 2])
    position = train[middle].position
    return {
        "pitch_um": round(pitches[middle], 3),
        "spot_um": round(spot_diameter(position), 3),
        "layout": layout(position),
    }
