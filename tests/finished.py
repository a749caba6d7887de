"""Finished runs in the layout of a results folder, made by the workflow's scripts in this process."""

from pathlib import Path
from typing import Any

from stages import SPLIT, Job

from flag_st.core import registry
from flag_st.planning.rules import RULES
from flag_st.planning.traits import stated

KEYS = {"cohort": "tiny", "split": "s", "panel": "p", "seed": "0", "encoder": "texture"}
SLIDES = [slide for slides in SPLIT.values() for slide in slides]
SAMPLES = 2
TEXTURE = {"name": "texture", "use": "flag_st.encoders.texture.Texture", "params": {}}
SOURCE = {
    "name": "tiny",
    "use": "flag_st.sources.synthetic.Synthetic",
    "params": {"patients": 3, "sections": 1, "spots": [7, 7], "genes": 60},
}
#: Entries of methods: what a model of each kind keeps.
METHODS = {
    "ridge": {"use": "flag_st.methods.ridge.Ridge", "params": {"components": 4}},
    "noisy": {
        "use": "flag_st.methods.noise.PlusNoise",
        "params": {
            "base": {"use": "flag_st.methods.ridge.Ridge", "params": {"components": 4}},
            "covariance": "genes",
        },
    },
    "oracle": {"use": "flag_st.methods.controls.Oracle", "params": {}},
    "shuffled": {"use": "flag_st.methods.controls.ShuffledProfiles", "params": {}},
}


def output(rule: str, name: str, **keys: str) -> str:
    return "results/" + RULES[rule].outputs[name].format(**{"scope": "data", **KEYS, **keys})


def do(
    folder: Path, rule: str, inputs: dict[str, Any], params: dict[str, Any], **keys: str
) -> None:
    """Run the script of a rule, whose outputs, log and record go where the workflow puts them."""
    known = {"scope": "data", **KEYS, **keys}
    made = {name: f"results/{path.format(**known)}" for name, path in RULES[rule].outputs.items()}
    wildcards = {name: known[name] for name in RULES[rule].wildcards}
    log = f"results/{RULES[rule].log.format(**known)}"
    code, text = Job(rule, inputs, made, params, wildcards, log).run(folder)
    assert code == 0, f"{rule}: {text}"


def each(rule: str, name: str, *parts: str) -> list[str]:
    return [output(rule, name, slide=slide) for part in parts for slide in SPLIT[part]]


def make_data(folder: Path) -> None:
    """Slides, features, split and panel of the tiny cohort."""
    patients = {slide: slide[:2] for slide in SLIDES}
    for slide in SLIDES:
        params = {
            "source": SOURCE,
            "root": None,
            "directory": str(folder / "results/tiny/data/raw"),
        }
        do(folder, "retrieve", {}, params, slide=slide)
        params = {"patient": patients[slide], "prepare": {}}
        manifest = {"manifest": output("retrieve", "manifest", slide=slide)}
        do(folder, "prepare_slide", manifest, params, slide=slide)
        made = {n: output("prepare_slide", n, slide=slide) for n in ("spots", "patches")}
        do(folder, "encode_patches", made, {"encoder": TEXTURE}, slide=slide)
    do(folder, "make_split", {}, {"split": SPLIT, "patients": patients})
    spots = each("prepare_slide", "spots", "train", "valid", "test")
    given = {"spots": spots, "split": output("make_split", "split")}
    do(folder, "select_panel", given, {"panel": {"size": 12}, "gene_models": []})


def make_run(folder: Path, method: str, entry: dict[str, Any] | None = None) -> Path:
    """Train a method on the data of ``make_data`` and predict the test slide; its run's folder."""
    entry = entry or METHODS[method]
    traits = stated("methods", {})
    built = registry.build(entry["use"], entry["params"])
    traits |= {"stochastic": built.stochastic, "needs_truth": "truth" in built.needs}
    traits |= {"needs_patches": "patches" in built.needs}
    model = output("train", "model", method=method)
    given = {
        "features": each("encode_patches", "features", "train", "valid"),
        "spots": each("prepare_slide", "spots", "train", "valid"),
        "patches": each("prepare_slide", "patches", "train", "valid") * traits["needs_patches"],
        "targets": [],
        "panel": output("select_panel", "panel"),
        "split": output("make_split", "split"),
    }
    params = {
        "method": {"name": method, **entry},
        "inputs": {"encoder": KEYS["encoder"], "gene_model": None},
        "traits": traits,
        "panel": {"size": 12},
        "checkpoint": str(folder / Path(model).parent / "checkpoint"),
    }
    do(folder, "train", given, params, method=method)
    (test,) = SPLIT["test"]
    given = {
        "model": model,
        "features": each("encode_patches", "features", "test"),
        "patches": each("prepare_slide", "patches", "test") * traits["needs_patches"],
        "truth": [],
    }
    if traits["needs_truth"]:
        given["truth"] = output("prepare_slide", "spots", slide=test)
    do(folder, "predict", given, {"samples": SAMPLES}, method=method, slide=test)
    return folder / Path(model).parent
