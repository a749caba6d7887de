"""What is planned for an encoder that learns from the training slides."""

import re

import pytest
import yaml
from running import TINY, snakemake

from flag_st.planning import config
from flag_st.planning.grid import Plan

OVERLAY = {
    "defaults": {"encoder": "ssl_vit", "split": "folds", "methods": ["ridge", "flag"]},
    "splits": {"folds": {"scheme": "leave_one_out", "by": "slide", "seed": 0}},
}
PATCHES = re.compile(r"data/slides/(\w+)/patches\.h5")


def jobs(text: str, rule: str) -> list[dict[str, str]]:
    """Input and output of each planned job of a rule."""
    body = re.findall(rf"^rule {rule}:\n((?:    .*\n)+)", text, re.M)
    return [dict(re.findall(r"^    (input|output): (.*)$", one, re.M)) for one in body]


def planned(tmp_path, overlay: dict) -> tuple[str, dict]:
    file = tmp_path / "overlay.yaml"
    file.write_text(yaml.safe_dump(overlay))
    done = snakemake(tmp_path, "-n", "--configfile", str(TINY), str(file))
    assert done.returncode == 0, done.stderr[-3000:]
    folds = Plan(config.load(files=[TINY, file])).expand_split("tiny", "folds")
    return done.stdout, folds


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> tuple[str, dict]:
    """The plan of a fitted encoder: what Snakemake prints, and the folds of its split."""
    return planned(tmp_path_factory.mktemp("fitted"), OVERLAY)


def test_a_fitted_encoder_sees_the_training_slides_of_its_split_alone(fitted):
    text, folds = fitted
    fits = {job["output"]: job["input"] for job in jobs(text, "fit_encoder")}
    assert len(fits) == len(folds) == 3
    for name, split in folds.items():
        seen = fits.pop(f"results/tiny/{name}/features/ssl_vit/model.safetensors")
        assert PATCHES.findall(seen) == list(split.train)
        assert not set(PATCHES.findall(seen)) & {*split.test, *split.valid}
        assert "spots.h5ad" not in seen  # no expression either


def test_features_of_a_fitted_encoder_are_made_with_the_model_of_their_split(fitted):
    text, folds = fitted
    encoded = {job["output"]: job["input"] for job in jobs(text, "encode_patches")}
    wanted = {
        f"results/tiny/{name}/features/ssl_vit/{slide}.h5ad": name
        for name, split in folds.items()
        for slide in (*split.train, *split.valid, *split.test)
    }
    assert set(encoded) == set(wanted)
    for path, name in wanted.items():
        assert f"results/tiny/{name}/features/ssl_vit/model.safetensors" in encoded[path]


def test_a_frozen_encoder_is_not_fitted_and_serves_all_splits(tmp_path):
    overlay = OVERLAY | {"defaults": {**OVERLAY["defaults"], "encoder": "texture"}}
    text, _ = planned(tmp_path, overlay)
    assert not jobs(text, "fit_encoder")
    outputs = {job["output"] for job in jobs(text, "encode_patches")}
    assert outputs == {f"results/tiny/data/features/texture/P{i}S1.h5ad" for i in (1, 2, 3)}


def test_an_encoder_with_a_field_of_its_own_reads_no_standard_patches(tmp_path):
    """Neither where it is fitted nor where it encodes; others keep theirs."""
    text, folds = planned(tmp_path, {**OVERLAY, "encoders": {"ssl_vit": {"field_um": 224}}})
    own = re.compile(r"data/slides/(\w+)/patches_224um\.h5")
    cut = {job["output"]: job["input"] for job in jobs(text, "cut_patches")}
    assert sorted(own.findall(", ".join(cut))) == ["P1S1", "P2S1", "P3S1"]
    assert len(cut) == 3
    for job in jobs(text, "fit_encoder"):
        (name,) = (n for n in folds if f"/{n}/" in job["output"])
        assert own.findall(job["input"]) == list(folds[name].train)
        assert not PATCHES.findall(job["input"])
    for job in jobs(text, "encode_patches"):
        fitted = "ssl_vit" in job["output"]
        assert (len(own.findall(job["input"])), len(PATCHES.findall(job["input"]))) == (
            fitted,
            not fitted,
        )
