"""Encoders with a field of view of their own: which patches are cut for them, and where that is refused."""

import csv
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
from finished import KEYS, TEXTURE, do, make_data, make_run, output
from PIL import Image
from stages import SPLIT

from flag_st.commands.cli import main
from flag_st.core.errors import FlagError
from flag_st.data.check_cohort import check_cohort
from flag_st.data.patch_file import cut_field
from flag_st.data.prepare import prepare
from flag_st.data.slide_files import SlideFiles
from flag_st.exported.export import export
from flag_st.exported.model import open_model
from flag_st.planning import config
from flag_st.planning.grid import Plan
from flag_st.planning.jobs import list_jobs
from flag_st.slides.appearance import FOCUS, appearance
from flag_st.slides.cut import Patches
from flag_st.slides.image import open_image
from flag_st.sources.synthetic import Synthetic

(TEST,) = SPLIT["test"]
SLIDES = [slide for slides in SPLIT.values() for slide in slides]


@pytest.fixture(scope="module")
def slide(tmp_path_factory) -> SlideFiles:
    """One small slide with an image."""
    source = Synthetic(patients=1, sections=1, spots=(5, 6), genes=20)
    return source.fetch("P1S1", tmp_path_factory.mktemp("made"))


@pytest.mark.parametrize("field", [56, 224, 300])
@pytest.mark.parametrize("pixel", [0.5, 0.7])
def test_a_patch_is_the_reduction_of_the_tissue_around_its_spot(tmp_path, field, pixel):
    """Of a painted picture whose colours tell the place: red is x / 8, and green is y / 8."""
    y, x = np.indices((2040, 2040)) // 8
    picture = np.stack([x, y, np.full_like(x, 128)], axis=2).astype(np.uint8)
    tifffile.imwrite(tmp_path / "painted.tif", picture, tile=(256, 256), photometric="rgb")
    centre = np.random.default_rng(0).uniform(500, 1500, (6, 2))
    names = [f"s{i}" for i in range(6)]
    table = anndata.AnnData(np.ones((6, 1)), pd.DataFrame(index=names), obsm={"spatial": centre})
    table.uns = {"slide": "S1", "pixel_size_um": pixel}
    table.write_h5ad(tmp_path / "spots.h5ad")
    cut_field(tmp_path / "painted.tif", tmp_path / "spots.h5ad", tmp_path / "cut.h5", field)
    edge = round(field / pixel)
    with h5py.File(tmp_path / "cut.h5") as file:
        assert list(file["barcode"].asstr()[:]) == names
        assert file.attrs["um_per_px"] == field / 224
        corners, patches = file["coords"][:], file["img"][:]
    np.testing.assert_array_equal(corners, np.trunc(centre - field / pixel // 2))
    for (left, top), patch in zip(corners.tolist(), patches, strict=True):
        region = Image.fromarray(picture).crop((left, top, left + edge, top + edge))
        wanted = region.resize((224, 224), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(patch, np.asarray(wanted))
        # The same without Pillow, away from the border, at which a resampled ramp is bent.
        inner = np.arange(8, 216)
        place = (inner + 0.5) * field / 224 / pixel - 0.5
        for corner, colour in ((left, patch[100, inner, 0]), (top, patch[inner, 100, 1])):
            # A step of the ramp is eight pixels wide, and its middle is 3.5 pixels further.
            error = colour - (corner + place - 3.5) / 8
            assert np.abs(error).max() < 1.5
            assert abs(error.mean()) < 0.2


@pytest.mark.parametrize("field", [112, 224])
def test_a_new_slide_gets_the_same_bytes_from_positions_in_um(slide, tmp_path, field):
    spots, standard, out = (tmp_path / name for name in ("spots.h5ad", "patches.h5", "cut.h5"))
    prepare(slide, "P1S1", spots, standard)
    cut_field(slide.wsi, spots, out, field)
    table = anndata.read_h5ad(spots)
    with open_image(slide.wsi, table.uns["pixel_size_um"]) as image, h5py.File(out) as file:
        cut = Patches(image, table.obsm["spatial_um"], field / 224)
        np.testing.assert_array_equal(cut[0 : len(cut)], file["img"][:])
    with h5py.File(standard) as file, h5py.File(out) as other:
        same = np.array_equal(file["img"][:], other["img"][:])
    assert same == (field == 112)


# Where it is refused


def test_slides_without_an_image_are_refused_all_at_once(slide, tmp_path):
    prepare(slide, "P1S1", tmp_path / "spots.h5ad", tmp_path / "P1S1.h5")
    alone = SlideFiles(slide.st, slide.metadata, patches=tmp_path / "P1S1.h5")
    files, fields = {"S1": alone, "S2": slide, "S3": alone}, {"texture_224um": 224}
    wanted = r"S1, S3: there are ready-made patches and no slide image, .* texture_224um \(224 µm\)"
    with pytest.raises(FlagError, match=wanted):
        check_cohort({k: files[k] for k in files}, {}, {}, fields=fields).raise_if_any("cohort")
    found = check_cohort({"S1": alone}, {}, {}).messages
    assert not [text for text in found if "no slide image" in text]
    found = check_cohort({"S2": slide}, {}, {}, fields=fields).messages
    assert not [text for text in found if "no slide image" in text]


def test_a_single_slide_without_an_image_is_refused_too(tmp_path):
    """Where features are asked for that no experiment shows, of which the check of the cohort knows nothing."""
    wanted = r"spots.h5ad has no image, which patches of 224 µm .*Remedy: add wsis/<slide>.tif"
    with pytest.raises(FlagError, match=wanted):
        cut_field(None, tmp_path / "spots.h5ad", tmp_path / "cut.h5", 224)


def test_parts_have_the_field_of_the_whole():
    def both(*parts: str, **keys) -> dict:
        made = {"parts": {part: {"entry": part} for part in parts}}
        entry = {"use": "flag_st.encoders.concat.Concat", "params": made, **keys}
        return config.load({"encoders": {"both": entry}})["encoders"]["both"]

    with pytest.raises(
        FlagError, match=r"both reads patches of 112 µm, and its part texture_224um"
    ):
        both("texture_224um", "random_network")
    with pytest.raises(FlagError, match=r"Remedy: write field_um: 224 in encoders.both"):
        both("texture_224um", "random_network_224um", field_um=300)
    assert both("texture_224um", "random_network", field_um=224)["field_um"] == 224


@pytest.mark.parametrize("layer", ["gene_models", "methods"])
def test_only_encoders_have_a_field(layer):
    name = next(iter(config.load()[layer]))
    with pytest.raises(FlagError, match=r"unknown key field_um"):
        config.load({layer: {name: {"field_um": 224}}})


# What is planned

OVERLAY = {
    "make": ["table_1"],
    "defaults": {
        "cohorts": ["four"],
        "split": "four",
        "encoder": "texture",
        "methods": ["ridge", "ridge_a", "ridge_b"],
    },
    "cohorts": {
        "four": {
            "use": "flag_st.sources.synthetic.Synthetic",
            "params": {"patients": 4, "sections": 1},
        }
    },
    "splits": {
        "four": {
            "scheme": "fixed",
            "train": ["P1S1", "P2S1"],
            "valid": ["P3S1"],
            "test": ["P4S1"],
        }
    },
    "methods": {
        "ridge_a": {"base": "ridge", "encoder": "texture_224um"},
        "ridge_b": {"base": "ridge", "encoder": "random_network_224um"},
    },
}


def test_encoders_of_one_field_share_their_patches():
    cut = [job.wildcards for job in list_jobs(config.load(OVERLAY)) if job.rule == "cut_patches"]
    assert [(w["field"], w["slide"]) for w in cut] == [(224, f"P{i}S1") for i in (1, 2, 3, 4)]


@pytest.mark.parametrize("field", [112, 112.0])
def test_the_standard_field_is_no_field_of_its_own(field):
    loaded = config.load({**OVERLAY, "encoders": {"texture": {"field_um": field}}})
    assert Plan(loaded).field("texture") is None
    assert Plan(loaded).fields("four") == {"texture_224um": 224, "random_network_224um": 224}


def test_every_encoder_of_the_open_overlay_has_its_control_and_no_gate(root):
    """For each field of view that a kind of method reads, there is the untrained network in the same."""
    files = [root / "config" / name for name in ("her2st_open.yaml", "open.yaml")]
    loaded = config.load(files=files)
    with open(root / "config" / "sources.tsv", encoding="utf-8") as file:
        gates = {row["page"]: row["gated"] for row in csv.DictReader(file, delimiter="\t")}
    plan, read, controls = Plan(loaded), set(), set()
    for name in loaded["experiments"]["encoders"]["methods"]:
        method = loaded["methods"][name]
        encoder = loaded["encoders"][method["encoder"]]
        if repo := encoder["params"].get("repo"):
            assert gates[f"https://huggingface.co/{repo}"] == "no", name
        if name != "patient_mean":
            untrained = encoder["use"].endswith(".RandomNetwork")
            (controls if untrained else read).add((method["use"], plan.field(method["encoder"])))
    assert len(read) == 4  # a linear model and a network, each on two fields
    assert read == controls


# New slides


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The tiny cohort with features of 224 µm as well."""
    folder = tmp_path_factory.mktemp("field")
    make_data(folder)
    for slide in SLIDES:
        given = {
            "manifest": output("retrieve", "manifest", slide=slide),
            "spots": output("prepare_slide", "spots", slide=slide),
        }
        do(folder, "cut_patches", given, {}, slide=slide, field="224")
        given["patches"] = output("cut_patches", "patches", slide=slide, field="224")
        wide = {"encoder": {**TEXTURE, "name": "texture_224um"}, "field": 224}
        del given["manifest"]
        do(folder, "encode_patches", given, wide, slide=slide, encoder="texture_224um")
    return folder


ENTRIES = {
    "ridge": {"use": "flag_st.methods.ridge.Ridge", "params": {"components": 4}},
    "pixels": {
        "use": "flag_st.methods.histogene.HisToGene",
        "params": {
            **{"width": 16, "depth": 1, "heads": 2, "inputs": "patches"},
            "training": {"epochs": 1},
        },
    },
}


@pytest.mark.parametrize("method", ENTRIES)
def test_a_new_slide_is_cut_in_the_field_of_the_model(folder, tmp_path, monkeypatch, method):
    """Its prediction has the bytes of the pipeline's; a method that reads pixels keeps the standard ones."""
    monkeypatch.setitem(KEYS, "encoder", "texture_224um")
    run = make_run(folder, f"{method}_224um", ENTRIES[method])
    export(run, tmp_path / "model.flag")
    assert open_model(tmp_path / "model.flag").facts["patches"] == {"size": 224, "um_per_px": 1.0}
    image = folder / f"results/tiny/data/raw/wsis/{TEST}.tif"
    spots = folder / output("prepare_slide", "spots", slide=TEST)
    given = ["--model", str(tmp_path / "model.flag"), "-o", str(tmp_path), "--at", str(spots)]
    assert main(["predict", str(image), *given, "--force"]) == 0
    found = anndata.read_h5ad(tmp_path / TEST / "prediction.h5ad")
    wanted = anndata.read_h5ad(run / f"predictions/{TEST}.h5ad")
    assert found.X.tobytes() == wanted.X.tobytes()
    # Stain and focus are compared with those of training in the same field.
    with h5py.File(folder / output("cut_patches", "patches", slide=TEST, field="224")) as file:
        focus = appearance(file["img"][:])[:, FOCUS]
    np.testing.assert_allclose(found.obs["focus"], focus, rtol=1e-5)
