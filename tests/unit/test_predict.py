"""New slides: the pipeline's own numbers, whole folders or none, and faults told before anything is made."""

import importlib.util
import json
import shutil
from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
from finished import make_run, output
from PIL import Image
from skimage.measure import find_contours
from stages import SPLIT

from flag_st.commands import predict as command
from flag_st.commands.cli import main
from flag_st.core.errors import FlagError
from flag_st.data import pyramid
from flag_st.exported.export import export
from flag_st.exported.model import open_model
from flag_st.outputs import folder as folders
from flag_st.slides.cut import Patches
from flag_st.slides.image import open_image
from flag_st.slides.mask import tissue_mask
from flag_st.slides.places import read_places
from flag_st.slides.predict import Predictor, best_genes
from flag_st.slides.request import COLUMNS, Request, name_of, read_sheet

(TEST,) = SPLIT["test"]
MADE = [*folders.FILES, folders.PAGE, folders.RECORD]


@pytest.fixture(scope="module")
def image(folder):
    return folder / f"results/tiny/data/raw/wsis/{TEST}.tif"


@pytest.fixture(scope="module")
def spots(folder):
    return folder / output("prepare_slide", "spots", slide=TEST)


@pytest.fixture(scope="module")
def made(model, image, spots, tmp_path_factory):
    """The folder of the test slide, predicted at its own spots by the command."""
    out = tmp_path_factory.mktemp("predicted")
    given = ["--model", str(model), "-o", str(out), "--at", str(spots), "--force"]
    assert main(["predict", str(image), *given]) == 0
    return out / TEST


def same_prediction(path, wanted):
    found, wanted = anndata.read_h5ad(path), anndata.read_h5ad(wanted)
    assert list(found.obs_names) == list(wanted.obs_names)
    assert list(found.var_names) == list(wanted.var_names)
    assert found.X.tobytes() == wanted.X.tobytes()
    assert set(found.layers) == {
        *(*wanted.layers, "lower_90", "upper_90", "verdict"),
        *("neighbourhood", "neighbourhood_lower_90", "neighbourhood_upper_90"),
    }
    for name in wanted.layers:
        assert found.layers[name].tobytes() == wanted.layers[name].tobytes()
    assert np.array_equal(found.obsm["spatial"], wanted.obsm["spatial"])
    for key in ("slide", "patient", "unit", "seed", "method", "draws", "contract"):
        assert found.uns[key] == wanted.uns[key]


def test_the_same_spots_get_the_bytes_of_the_pipeline(made, run):
    same_prediction(made / "prediction.h5ad", run / f"predictions/{TEST}.h5ad")


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_positions_of_a_table_are_read_to_their_last_digit(tmp_path, suffix):
    position = np.random.default_rng(3).uniform(0, 20_000, (300, 2))
    table = pd.DataFrame(position, columns=["x_um", "y_um"])
    table.to_csv(tmp_path / f"spots{suffix}", index=False, sep="\t" if suffix == ".tsv" else ",")
    assert np.array_equal(read_places(tmp_path / f"spots{suffix}").position, position)


def test_a_method_that_reads_pixels_gets_them_too(folder, image, spots, tmp_path, monkeypatch):
    """They are cut only once, for the encoder and the method."""
    cut, one = [], Patches.__getitem__
    monkeypatch.setattr(Patches, "__getitem__", lambda s, rows: cut.append(rows) or one(s, rows))
    small = {"width": 16, "depth": 1, "heads": 2, "training": {"epochs": 1}}
    entry = {"use": "flag_st.methods.histogene.HisToGene", "params": {**small, "inputs": "patches"}}
    trained = make_run(folder, "pixels", entry)
    export(trained, tmp_path / "model.flag")
    given = ["--model", str(tmp_path / "model.flag"), "-o", str(tmp_path), "--at", str(spots)]
    assert main(["predict", str(image), *given, "--force"]) == 0
    same_prediction(tmp_path / TEST / "prediction.h5ad", trained / f"predictions/{TEST}.h5ad")
    assert sorted(p.name for p in (tmp_path / TEST).iterdir()) == sorted(MADE)
    assert sum(rows.stop - rows.start for rows in cut) == len(anndata.read_h5ad(spots))


def test_a_folder_has_all_files_and_their_digests(made):
    assert sorted(path.name for path in made.iterdir()) == sorted(MADE)
    facts = json.loads((made / folders.RECORD).read_text())
    assert set(facts["files"]) == set(MADE) - {folders.RECORD}
    assert facts["origin"]["forced"] is True
    assert len(json.loads((made / "spots.geojson").read_text())["features"]) > 10


def test_a_grid_is_laid_like_the_training_arrays(model, image, tmp_path):
    given = ["--model", str(model), "-o", str(tmp_path), "--force"]
    genes = open_model(model).genes[3:5]
    assert main(["predict", str(image), *given, "--genes", *genes, "--draws", "3"]) == 0
    table = anndata.read_h5ad(tmp_path / TEST / "prediction.h5ad")
    assert table.uns["draws"] == 3
    assert table.uns["pitch_um"] == pytest.approx(200, abs=5)
    step = np.linalg.norm(table.obsm["spatial"][:, None] - table.obsm["spatial"][None], axis=2)
    step[np.diag_indices(len(step))] = np.inf
    assert np.median(step.min(1)) == pytest.approx(table.uns["pitch_um"], rel=0.01)
    (feature, *_) = json.loads((tmp_path / TEST / "spots.geojson").read_text())["features"]
    shown = [name for name in feature["properties"]["measurements"] if name.split()[0] in genes]
    assert len(shown) == 6  # two genes, each with its spread and its verdict


def test_gene_sets_are_scored_from_the_command_line(model, image, tmp_path, capsys):
    """Other sets make the slide anew; sets that the panel cannot score are told before any slide."""
    genes, sets = open_model(model).genes, tmp_path / "sets.gmt"
    given = ["predict", str(image), "--model", str(model), "-o", str(tmp_path), "--force"]
    for members in (genes[:5], genes[2:8]):
        sets.write_text("\t".join(["MINE", "about", *members]) + "\n")
        assert main([*given, "--gene-sets", str(sets)]) == 0
        table = anndata.read_h5ad(tmp_path / TEST / "prediction.h5ad")
        inside = table.var_names.isin(members)
        wanted = table.X[:, inside].mean(1) - table.X[:, ~inside].mean(1)
        assert table.obsm["gene_sets"]["MINE"].to_numpy() == pytest.approx(wanted, abs=1e-5)
        whole = pd.read_csv(tmp_path / "cohort.tsv", sep="\t").set_index("name")
        assert whole.loc["MINE", "predicted_mean"] == pytest.approx(wanted.mean(), rel=1e-4)
    sets.write_text("MINE\tabout\tNOSUCH\n")
    assert main([*given, "--gene-sets", str(sets)]) == 1
    assert "no gene set has 5 genes" in capsys.readouterr().err


@pytest.mark.parametrize("unit", ["um", "px"])
def test_spots_of_a_table_are_those_of_the_h5ad(model, image, spots, made, tmp_path, unit):
    table = anndata.read_h5ad(spots)
    position = table.obsm["spatial_um" if unit == "um" else "spatial"]
    frame = pd.DataFrame(position, columns=[f"x_{unit}", f"y_{unit}"])
    frame.insert(0, "spot", list(table.obs_names))
    frame.to_csv(tmp_path / "spots.csv", index=False)
    given = ["--model", str(model), "-o", str(tmp_path), "--at", str(tmp_path / "spots.csv")]
    assert main(["predict", str(image), *given, "--force"]) == 0
    found = anndata.read_h5ad(tmp_path / TEST / "prediction.h5ad")
    assert found.X.tobytes() == anndata.read_h5ad(made / "prediction.h5ad").X.tobytes()


def test_a_prediction_file_names_spots_as_well(model, image, made, tmp_path):
    given = ["--model", str(model), "-o", str(tmp_path), "--at", str(made / "prediction.h5ad")]
    assert main(["predict", str(image), *given, "--force"]) == 0
    found = anndata.read_h5ad(tmp_path / TEST / "prediction.h5ad")
    assert found.X.tobytes() == anndata.read_h5ad(made / "prediction.h5ad").X.tobytes()


def write_pyramid(path, pixels, um_per_px):
    """A slide image of (h, w, 3) ``pixels``."""
    picture = Image.fromarray(pixels)
    pyramid.write_pyramid(path, picture, (um_per_px, um_per_px), factor=2, smallest=512)


def requests(image, tmp_path, count=3):
    """Copies of the slide under other names."""
    paths = [tmp_path / f"S{i}.tif" for i in range(count)]
    for path in paths:
        shutil.copy(image, path)
    return [Request(path, path.stem, force=True) for path in paths]


def test_a_killed_run_leaves_whole_slides_and_goes_on(model, image, tmp_path, monkeypatch):
    """Killed within the second slide: the first is whole and not touched again, nothing is half."""
    asked, out = requests(image, tmp_path), tmp_path / "out"
    whole = Predictor.predict

    def killed(self, request, *rest):
        if request.name == "S1":
            raise KeyboardInterrupt
        return whole(self, request, *rest)

    monkeypatch.setattr(Predictor, "predict", killed)
    with pytest.raises(KeyboardInterrupt):
        command.predict(asked, model, out)
    assert [p.name for p in out.iterdir()] == ["S0"]
    times = {p.name: p.stat().st_mtime_ns for p in (out / "S0").iterdir()}
    monkeypatch.setattr(Predictor, "predict", whole)
    said: list[str] = []
    command.predict(asked, model, out, say=said.append)
    assert sorted(p.name for p in out.iterdir()) == [
        "S0",
        "S1",
        "S2",
        "cohort.tsv",
        "explorer.html",
    ]
    assert {p.name: p.stat().st_mtime_ns for p in (out / "S0").iterdir()} == times
    assert said[0].endswith("S0: is there already")
    # Other genes are another request, and a lost file makes a folder incomplete.
    (out / "S2/genes.ome.tif").unlink()
    said.clear()
    command.predict(asked, model, out, say=said.append)
    assert [line.endswith("already") for line in said[:3]] == [True, True, False]
    assert said[3:] == [f"open {out}/explorer.html, or summary.html in the folder of a slide"]


def test_all_faults_are_told_before_the_first_slide(model, image, tmp_path):
    asked = [replace(requests(image, tmp_path, 1)[0], genes=("NOSUCH",))]
    (tmp_path / "text.tif").write_bytes(b"II*\0" + bytes(99))  # a TIFF without a page
    far = tmp_path / "far.csv"
    far.write_text("x_um,y_um\n10,10\n9e9,10\n")
    asked += [
        Request(tmp_path / "gone.svs", "gone"),
        Request(tmp_path / "text.tif", "text"),
        Request(tmp_path / "S0.tif", "S0"),
        Request(tmp_path / "S0.tif", "far", at=far),
        Request(tmp_path / "S0.tif", "zero", pitch_um=-1.0),
        Request(tmp_path / "S0.tif", "a b"),
    ]
    with pytest.raises(FlagError) as error:
        command.predict(asked, model, tmp_path / "out")
    text = str(error.value)
    for part in (
        "NOSUCH",
        "gone",
        "text",
        "2 slides are called S0",
        "1 of 2 spots",
        "above 0",
        "a b",
    ):
        assert part in text
    assert "7 faults" in text
    assert not (tmp_path / "out").exists()


def test_a_refused_slide_does_not_keep_others(model, image, tmp_path):
    """Its neighbours are made, the message names it, and force makes it, marked as refused."""
    import tifffile

    asked = [Request(image, "usual", force=True)]
    light = tifffile.imread(image).astype(float) / 255
    write_pyramid(tmp_path / "odd.tif", (255 * light**3).astype(np.uint8), 1.0)  # too much stain
    asked.append(Request(tmp_path / "odd.tif", "odd", pixel_um=1.0))
    with pytest.raises(FlagError, match="1 of 2 slides were not made") as error:
        command.predict(asked, model, tmp_path / "out")
    assert "slide odd: it is too unlike the training slides" in str(error.value)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        *("cohort.tsv", "explorer.html", "usual")
    ]
    assert "usual/explorer.js" in (tmp_path / "out/explorer.html").read_text()
    forced = Request(tmp_path / "odd.tif", "odd", pixel_um=1.0, force=True)
    command.predict([forced], model, tmp_path / "out")
    table = anndata.read_h5ad(tmp_path / "out/odd/prediction.h5ad")
    assert table.uns["trust"]["verdict"] == "refused"
    assert len(table.uns["trust"]["reasons"])


def test_glass_without_tissue_is_named(model, tmp_path):
    write_pyramid(tmp_path / "glass.tif", np.full((1024, 1024, 3), 245, np.uint8), 0.5)
    asked = [Request(tmp_path / "glass.tif", "glass", pixel_um=0.5)]
    with pytest.raises(FlagError, match="slide glass: "):
        command.predict(asked, model, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--at", "spots.csv"], "--at names the spots of one slide"),
        (["--mask", "tissue.geojson"], "--mask names the tissue of one slide"),
    ],
)
def test_spots_and_tissue_of_one_slide_do_not_fit_several(model, image, capsys, option, said):
    assert main(["predict", str(image), str(image), "--model", str(model), *option]) == 1
    message = capsys.readouterr().err
    assert said in message
    assert f"columns slide and {option[0][2:]}" in message


def test_the_same_mask_as_a_file_gives_the_same_bytes(model, image, tmp_path):
    """Half of the slide by a painted mask, and by polygons; another mask is another slide."""
    with open_image(image) as opened:
        found = tissue_mask(opened)
        half = found.array & (np.arange(found.array.shape[1]) < found.array.shape[1] // 2)
        width, height = opened.size
    Image.fromarray(half).save(tmp_path / "half.png")
    asked = Request(image, "S", mask=str(tmp_path / "half.png"), force=True)
    command.predict([asked], model, tmp_path / "png")
    edges = find_contours(np.pad(half, 1), 0.5)
    scale = np.array([width / half.shape[1], height / half.shape[0]])
    rings = [((edge[:, ::-1] - 0.5) * scale).tolist() for edge in edges]
    features = [
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}
        for ring in rings
    ]
    drawn = tmp_path / "half.geojson"
    drawn.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    command.predict([replace(asked, mask=str(drawn))], model, tmp_path / "drawn")
    png, polygons = (
        anndata.read_h5ad(tmp_path / n / "S/prediction.h5ad") for n in ("png", "drawn")
    )
    assert len(png) > 5
    assert png.X.tobytes() == polygons.X.tobytes()
    assert np.array_equal(png.obsm["spatial"], polygons.obsm["spatial"])
    assert (png.obsm["spatial_px"][:, 0] <= width / 2).all()
    assert png.uns["origin"]["mask"] == "half.png"
    said: list[str] = []
    for other in (asked, replace(asked, mask=str(drawn))):
        command.predict([other], model, tmp_path / "png", say=said.append)
    assert [line.endswith("already") for line in said if "/S: " in line] == [True, False]


def test_spots_need_no_mask(model, image, spots, tmp_path):
    asked = Request(image, "S", at=spots, mask="lazyslide")
    with pytest.raises(FlagError, match="need no mask, and lazyslide is given"):
        command.predict([asked], model, tmp_path / "out")


def test_names_of_files_become_names_of_slides():
    from pathlib import Path

    assert name_of(Path("x/Case 12 (HE).ome.tif")) == "Case_12_HE"
    assert name_of(Path("TCGA-A1.01Z.svs")) == "TCGA-A1.01Z"


def test_a_sheet_is_read_and_its_faults_are_named_by_line(tmp_path):
    sheet = tmp_path / "sheet.tsv"
    sheet.write_text(
        "slide\tname\tpatient\tpixel_um\tpitch_um\tat\tforce\tgenes\tdraws\tmask\tgene_sets\n"
        "a.svs\t\tP1\t0.25\t\t\tyes\tMKI67, ESR1\t4\tlazyslide\t\n"
        "/data/b.tif\tB\t\t\t55\tspots.csv\t\t\t\t\tsets.gmt\n"
        "c.svs\t\t\t\t\t\t\t\t\ttissue.geojson\t\n"
    )
    a, b, c = read_sheet(sheet)
    known = {"genes": ("MKI67", "ESR1"), "draws": 4, "force": True, "mask": "lazyslide"}
    assert a == Request(tmp_path / "a.svs", "a", "P1", 0.25, **known)
    assert a.mask_file is None
    assert c.mask_file == tmp_path / "tissue.geojson"
    assert Request.of(c.as_params()) == c
    assert Request.of(json.loads(json.dumps(a.as_params()))) == a
    assert Request.of(json.loads(json.dumps(b.as_params()))) == b
    assert b.gene_sets == tmp_path / "sets.gmt"
    assert str(b.path) == "/data/b.tif"
    assert (b.name, b.pitch_um, b.at) == ("B", 55.0, tmp_path / "spots.csv")
    sheet.write_text("slide\tpixel_um\tforce\tdraws\na\tx\n\t\nb\t\tmaybe\nc\t\t\t0\n")
    with pytest.raises(FlagError) as error:
        read_sheet(sheet)
    assert all(f"line {n}" in str(error.value) for n in (2, 3, 4, 5))
    for text in ("image\na.svs\n", "slide\tcolour\na\tred\n", "slide\n", ""):
        sheet.write_text(text)
        with pytest.raises(FlagError):
            read_sheet(sheet)
    assert COLUMNS[0] == "slide"


def test_the_best_genes_are_shown(model):
    opened = open_model(model)
    mean = np.nanmean(opened.scores()["pcc"], axis=0)
    assert mean[[opened.genes.index(g) for g in best_genes(opened)]].min() >= np.sort(mean)[-8]


def test_spatialdata_is_asked_for_before_the_first_slide(model, image, tmp_path):
    """Where it is not installed, the command that installs it is told; where it is, it is written."""
    asked = [Request(image, "S", force=True, spatialdata=True)]
    if importlib.util.find_spec("spatialdata") is None:
        with pytest.raises(FlagError, match=r"pip install -e '\.\[slides\]'"):
            command.predict(asked, model, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    else:
        command.predict(asked, model, tmp_path / "out")
        assert (tmp_path / "out/S/slide.zarr").is_dir()
