"""One cohort in every form that users bring: the same spots, features, model and predictions, to the byte.

The workflow's own scripts make everything from the files of each form. A form that shifted a patch by a
pixel, lost a spot or changed an order would show here.
"""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import own_sections
import own_stores as stores
import pytest
from own_sections import Own, her2st_section, write_run
from stages import GENES, SLIDES, SPLIT, STAGES, Job, encode_patches, prepare_slide, train

from flag_st.core.io import CONTRACT, write_json
from flag_st.data.slide_files import SlideFiles
from flag_st.slides.files import open_reader
from flag_st.sources.synthetic import Synthetic

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
#: What a form may not change.
MADE = (
    *(f"features/{slide}.h5ad" for slide in SLIDES),
    *("panel.parquet", "run/model.safetensors", "run/predictions/P3S1.h5ad"),
)
PITCH_UM = 200.0


def as_hest(own: Own, files: SlideFiles, root: Path, slide: str) -> None:
    for path in files.items().values():
        place = root / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(path)


def as_space_ranger(own: Own, files: SlideFiles, root: Path, slide: str) -> None:
    write_run(own, root / slide / "outs", None)
    (root / f"{slide}.tif").symlink_to(files.wsi)


def as_h5ad(own: Own, files: SlideFiles, root: Path, slide: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    table = own_sections.table_of(own)
    del table.uns["spatial"]["library"]["images"]
    table.write_h5ad(root / f"{slide}.h5ad")
    (root / f"{slide}.tif").symlink_to(files.wsi)


def as_spatialdata(own: Own, files: SlideFiles, root: Path, slide: str) -> None:
    with open_reader(files.wsi) as image:
        pixels = np.asarray(image.region((0, 0), 0, own.size))
    elements = {"images": {"he": stores.image_of(pixels, chunks=(3, 500, 700))}}
    stores.visium_store(own, root / f"{slide}.zarr", **elements)


Write = Callable[[Own, SlideFiles, Path, str], None]
#: Form → its class, how a section is written, and its parameters.
FORMS: dict[str, tuple[str, Write, dict]] = {
    "hest": ("folder.Folder", as_hest, {}),
    "spaceranger": ("spaceranger.SpaceRanger", as_space_ranger, {"pitch_um": PITCH_UM}),
    "h5ad": ("anndata_files.AnnDataFiles", as_h5ad, {"pitch_um": PITCH_UM}),
    "spatialdata": ("spatialdata_zarr.SpatialDataZarr", as_spatialdata, {"pitch_um": PITCH_UM}),
}


def source_of(form: str, raw: Path, slides: list[str]) -> dict:
    """The entry of a cohort whose sections, in HEST-1k layout below ``raw``, are written in a form."""
    name, write, params = FORMS[form]
    root, rows = raw.parent / form / "files", ["slide\tpatient\tpixel_um"]
    for slide in slides:
        own, files = her2st_section(raw, slide)
        write(own, files, root, slide)
        patient = json.loads(files.metadata.read_text())["patient"]
        rows.append(f"{slide}\t{patient}\t{own.pixel_um!r}")
    sheet = root.parent / "sheet.tsv"
    sheet.write_text("\n".join(rows) + "\n")
    given = {"root": str(root), "sheet": str(sheet), **params}
    return {"name": "tiny", "use": f"flag_st.sources.{name}", "params": given}


def make(folder: Path, source: dict) -> None:
    """Everything from the files of a form to a prediction, by the workflow's scripts."""
    write_json(folder / "split.json", {"contract": CONTRACT, **SPLIT})
    jobs = [
        Job(
            "retrieve",
            output={"manifest": f"sources/{slide}.json"},
            params={"source": source, "root": None, "directory": str(folder / "raw")},
            wildcards={"slide": slide},
        )
        for slide in SLIDES
    ]
    jobs += [STAGES["check_cohort"], *map(prepare_slide, SLIDES), *map(encode_patches, SLIDES)]
    jobs += [STAGES["select_panel"], train(), STAGES["predict"]]
    for job in jobs:
        code, log = job.run(folder)
        assert code == 0, f"{job.script}: {log}"


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """Three synthetic sections in HEST-1k layout."""
    folder = tmp_path_factory.mktemp("forms") / "raw"
    made = Synthetic(patients=3, sections=1, spots=(5, 4), genes=GENES)
    for slide in SLIDES:
        made.fetch(slide, folder)
    return folder


@pytest.fixture(scope="module")
def hest(raw) -> Path:
    source = source_of("hest", raw, list(SLIDES))
    make(raw.parent / "hest", source)
    return raw.parent / "hest"


@pytest.mark.parametrize("form", [form for form in FORMS if form != "hest"])
def test_every_form_of_a_cohort_gives_the_same_bytes(raw, hest, form):
    if form == "spatialdata" and importlib.util.find_spec("spatialdata") is None:
        pytest.skip(stores.REASON)
    folder = raw.parent / form
    make(folder, source_of(form, raw, list(SLIDES)))
    for slide in SLIDES:
        found, wanted = (
            anndata.read_h5ad(place / f"slides/{slide}/spots.h5ad") for place in (folder, hest)
        )
        assert list(found.obs_names) == list(wanted.obs_names)
        assert list(found.var_names) == list(wanted.var_names)
        assert (found.X != wanted.X).nnz == 0
        pixel_um = her2st_section(raw, slide)[0].pixel_um
        apart = np.abs(found.obsm["spatial"] - wanted.obsm["spatial"]) * pixel_um
        assert apart.max() <= 1.0
    assert {
        name for name in MADE if (folder / name).read_bytes() != (hest / name).read_bytes()
    } == set()
