"""The open route to HER2ST: published files, from a clone or file by file, to HEST layout."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest
from hub_server import Fault, HubServer, isolate

from flag_st.core.errors import FlagError
from flag_st.sources.her2st_github import COMMIT, Her2stOpen

HER2ST = Path(
    os.environ.get("FLAG_ST_HER2ST", Path(__file__).resolve().parents[3] / "shared/data/her2st")
)
needs_data = pytest.mark.skipif(
    not (HER2ST / "wsis/A1.tif").exists(), reason=f"no HER2ST sections at {HER2ST} (FLAG_ST_HER2ST)"
)
REPO = "almaan/her2st"
GENES = ["ERBB2", "CD3E", "FO538757.1", "COL1A1", "KRT5"]
STEP = 20.0  # px per array step, so that 1 px is 10 µm


@pytest.fixture
def server(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path, "hf_neverSent")
    with HubServer() as server:
        yield server


def tiny_checkout(root: Path, size=(640, 680)) -> Path:
    """Section A1 in the published format: 12 counted spots, 11 selected, one of them uncounted."""
    from PIL import Image

    random = np.random.default_rng(1)
    spots = [(x, y) for x in (3, 10, 17, 30) for y in (2, 13, 33)]
    counts = random.poisson(3, (len(spots), len(GENES)))
    for folder in ("ST-cnts", "ST-spotfiles", "ST-pat/lbl", "ST-imgs/A/A1"):
        (root / "data" / folder).mkdir(parents=True)
    lines = ["\t".join(["", *GENES])]
    lines += [
        f"{x}x{y}\t" + "\t".join(map(str, c)) for (x, y), c in zip(spots, counts, strict=True)
    ]
    with gzip.open(root / "data/ST-cnts/A1.tsv.gz", "wt") as file:
        file.write("\n".join(lines) + "\n")
    rows = ["x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected"]
    labels = ["Row.names\tx\ty\tpixel_x\tpixel_y\tlabel"]
    for i, (x, y) in enumerate([*spots[:10], (5, 5), spots[11]]):
        new = np.round(np.array([x, y]) + random.normal(0, 0.05, 2), 3)
        pixel = np.round((new - 1) * STEP, 2)
        rows.append(f"{x}\t{y}\t{new[0]}\t{new[1]}\t{pixel[0]}\t{pixel[1]}\t{int(i != 11)}")
        if i < 4:
            labels.append(f"9x9\t{new[0]}\t{new[1]}\t1.5\t2.5\tinvasive cancer")
    (root / "data/ST-spotfiles/A1_selection.tsv").write_text("\n".join(rows) + "\n")
    (root / "data/ST-pat/lbl/A1_labeled_coordinates.tsv").write_text("\n".join(labels) + "\n")
    pixels = random.integers(0, 256, (680, 640, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).resize(size)
    image.save(root / "data/ST-imgs/A/A1/HE_A1.png")
    return root


@pytest.fixture
def checkout(tmp_path):
    return tiny_checkout(tmp_path / "her2st")


def opened(tmp_path, **options) -> Her2stOpen:
    return Her2stOpen(tmp_path / "open", "config/cohorts/her2st.tsv", **options)


def padded(x, y) -> list[str]:
    """Spot names as HEST-1k writes them."""
    return [f"{a:03d}x{b:03d}" for a, b in zip(x, y, strict=True)]


def test_conversion_keeps_counts_and_places(checkout, tmp_path):
    import anndata
    import pandas as pd

    files = opened(tmp_path, checkout=checkout).fetch("SPA154", tmp_path)
    table = anndata.read_h5ad(files.st)
    selection = pd.read_csv(checkout / "data/ST-spotfiles/A1_selection.tsv", sep="\t")
    counts = pd.read_csv(checkout / "data/ST-cnts/A1.tsv.gz", sep="\t", index_col=0)
    chosen = selection[(selection.selected == 1) & (selection.x != 5)]
    assert list(table.obs_names) == padded(chosen.x, chosen.y)
    assert list(table.var_names) == GENES
    rows = [f"{r.x}x{r.y}" for r in chosen.itertuples()]
    np.testing.assert_array_equal(table.X.toarray(), counts.loc[rows].to_numpy())
    np.testing.assert_array_equal(table.obsm["spatial"], chosen[["pixel_x", "pixel_y"]])
    np.testing.assert_array_equal(table.obs[["array_row", "array_col"]], chosen[["x", "y"]])
    assert table.obs["pathologist_label"].tolist() == ["invasive cancer"] * 4 + [""] * 6
    facts = json.loads(files.metadata.read_text())
    assert facts["pixel_size_um_estimated"] == pytest.approx(10, rel=1e-4)
    assert (facts["id"], facts["patient"], facts["subseries"]) == ("SPA154", "Patient A", "A1")
    assert (facts["fullres_px_width"], facts["fullres_px_height"]) == (640, 680)
    assert facts["spots_under_tissue"] == 10
    assert facts["local"]["selected_spots_without_counts"] == ["5x5"]


def test_pyramid_opens_as_a_slide(checkout, tmp_path):
    import openslide
    from PIL import Image

    files = opened(tmp_path, checkout=checkout).fetch("SPA154", tmp_path)
    slide = openslide.OpenSlide(str(files.wsi))
    assert slide.level_dimensions == ((640, 680), (320, 340), (160, 170))
    assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(10, rel=1e-3)
    source = np.asarray(Image.open(checkout / "data/ST-imgs/A/A1/HE_A1.png"))
    part = np.asarray(slide.read_region((250, 300), 0, (200, 100)).convert("RGB"))
    np.testing.assert_array_equal(part, source[300:400, 250:450])
    half = np.asarray(slide.read_region((0, 0), 1, (320, 340)).convert("RGB")).astype(float)
    means = source.reshape(340, 2, 320, 2, 3).mean((1, 3))
    assert abs(half - means).max() <= 0.5


def test_conversion_is_repeatable_and_done_once(checkout, tmp_path):
    source = opened(tmp_path, checkout=checkout)
    files = source.fetch("SPA154", tmp_path).items()
    again = Her2stOpen(tmp_path / "second", checkout=checkout).fetch("SPA154", tmp_path).items()
    for kind, path in files.items():
        assert path.read_bytes() == again[kind].read_bytes()
    stamps = {p: p.stat().st_mtime_ns for p in files.values()}
    source.fetch("SPA154", tmp_path)
    assert {p: p.stat().st_mtime_ns for p in files.values()} == stamps
    labels = checkout / "data/ST-pat/lbl/A1_labeled_coordinates.tsv"
    labels.write_text(labels.read_text().replace("invasive cancer", "adipose tissue"))
    source.fetch("SPA154", tmp_path)
    assert files["st"].stat().st_mtime_ns != stamps[files["st"]]


def test_smaller_copy_of_the_image_rescales_the_spots(tmp_path):
    import anndata

    full = opened(tmp_path, checkout=tiny_checkout(tmp_path / "full")).fetch("SPA154", tmp_path)
    half = Her2stOpen(
        tmp_path / "half", checkout=tiny_checkout(tmp_path / "small", (320, 340))
    ).fetch("SPA154", tmp_path)
    assert json.loads(half.metadata.read_text())["pixel_size_um_estimated"] == pytest.approx(20)
    np.testing.assert_allclose(
        anndata.read_h5ad(half.st).obsm["spatial"] * 2,
        anndata.read_h5ad(full.st).obsm["spatial"],
        rtol=1e-4,
    )


def test_pixels_that_are_not_square_are_resampled(checkout, tmp_path):
    """The same section on an image that is stretched by a quarter across."""
    import anndata
    import openslide
    from PIL import Image

    path = checkout / "data/ST-spotfiles/A1_selection.tsv"
    head, *lines = (line.split("\t") for line in path.read_text().splitlines())
    wide = [[*r[:4], f"{float(r[4]) * 1.25:.2f}", *r[5:]] for r in lines]
    path.write_text("\n".join("\t".join(row) for row in [head, *wide]) + "\n")
    image = checkout / "data/ST-imgs/A/A1/HE_A1.png"
    Image.open(image).resize((800, 680)).save(image)
    files = opened(tmp_path, checkout=checkout).fetch("SPA154", tmp_path)
    assert openslide.OpenSlide(str(files.wsi)).dimensions == (800, 850)
    facts = json.loads(files.metadata.read_text())
    assert facts["pixel_size_um_estimated"] == pytest.approx(8, rel=1e-3)
    assert (facts["fullres_px_width"], facts["fullres_px_height"]) == (800, 850)
    table = anndata.read_h5ad(files.st)
    known = {(int(r[0]), int(r[1])): 1.25 * np.array(r[4:6], float) for r in lines}
    cells = table.obs[["array_row", "array_col"]].itertuples(index=False, name=None)
    places = [known[cell] for cell in cells]
    np.testing.assert_allclose(table.obsm["spatial"], places, atol=0.02)


def spoil_number(root: Path) -> None:
    path = root / "data/ST-spotfiles/A1_selection.tsv"
    lines = path.read_text().splitlines()
    lines[3] = "\t".join(["3", "33", "n/a", *lines[3].split("\t")[3:]])
    path.write_text("\n".join(lines))


def spoil_packing(root: Path) -> None:
    path = root / "data/ST-cnts/A1.tsv.gz"
    whole = bytearray(path.read_bytes())
    whole[40:80] = bytes(40)
    path.write_bytes(whole)


def test_clone_is_an_input_and_gaps_are_named(checkout, tmp_path):
    source = opened(tmp_path, checkout=checkout)
    names = {p.relative_to(checkout).as_posix() for p in source.inputs("SPA154")}
    assert names == {
        "data/ST-cnts/A1.tsv.gz",
        "data/ST-spotfiles/A1_selection.tsv",
        "data/ST-pat/lbl/A1_labeled_coordinates.tsv",
        "data/ST-imgs/A/A1/HE_A1.png",
    }
    assert source.inputs("SPA148") == []
    with pytest.raises(FlagError, match="has no counts, selection, image of section B1"):
        source.fetch("SPA148", tmp_path)
    (checkout / "data/ST-imgs/A/A1/second.jpg").write_bytes(b"")
    with pytest.raises(FlagError, match=r"2 images: .*HE_A1\.png, .*second\.jpg"):
        source.fetch("SPA154", tmp_path)


def spoil_image(root: Path) -> None:
    (root / "data/ST-imgs/A/A1/HE_A1.png").write_bytes(b"version https://git-lfs")


def spoil_shape(root: Path) -> None:
    from PIL import Image

    Image.new("RGB", (640, 400)).save(root / "data/ST-imgs/A/A1/HE_A1.png")


def spoil_counts(root: Path) -> None:
    with gzip.open(root / "data/ST-cnts/A1.tsv.gz", "wt") as file:
        file.write("\tERBB2\n10x13\t0.5\n")


def spoil_line(root: Path) -> None:
    path = root / "data/ST-spotfiles/A1_selection.tsv"
    lines = path.read_text().splitlines()
    lines[3] = "\t".join([*lines[3].split("\t")[:4], "999", "1", "1"])
    path.write_text("\n".join(lines))


def spoil_column(root: Path) -> None:
    path = root / "data/ST-spotfiles/A1_selection.tsv"
    path.write_text(path.read_text().replace("new_x", "nx"))


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (spoil_image, "no readable image"),
        (spoil_shape, "another shape"),
        (spoil_counts, "does not hold counts"),
        (spoil_line, "no linear function"),
        (spoil_column, "lacks the column new_x"),
        (spoil_number, r"line 4: new_x is .*, which is not a number"),
        (spoil_packing, "no readable count matrix"),
    ],
)
def test_damaged_files_are_refused_and_leave_nothing(checkout, tmp_path, spoil, fault):
    spoil(checkout)
    with pytest.raises(FlagError, match=fault):
        opened(tmp_path, checkout=checkout).fetch("SPA154", tmp_path)
    assert not [p for p in (tmp_path / "open").rglob("*") if p.is_file()]


@pytest.fixture
def github(server, checkout):
    files = {p.relative_to(checkout).as_posix(): p for p in checkout.rglob("*") if p.is_file()}
    server.publish(REPO, COMMIT, {name: path.read_bytes() for name, path in files.items()})
    return {"api": server.url, "raw": f"{server.url}/raw"}


def test_fetched_files_give_the_same_slide_as_a_clone(server, github, checkout, tmp_path):
    fetched = opened(tmp_path, **github).fetch("SPA154", tmp_path).items()
    cloned = Her2stOpen(tmp_path / "b", checkout=checkout).fetch("SPA154", tmp_path).items()
    for kind, path in fetched.items():
        assert path.read_bytes() == cloned[kind].read_bytes()
    assert not [r for r in server.requests if r.authorized]  # no login is sent to others
    server.requests.clear()
    opened(tmp_path, **github).fetch("SPA154", tmp_path)
    assert server.requests == []


def test_fetching_resumes_and_refuses_corruption(server, github, tmp_path):
    name = f"/raw/{REPO}/{COMMIT}/data/ST-imgs/A/A1/HE_A1.png"
    source = opened(tmp_path, **github)
    server.faults[name] = Fault(cut=500, times=1)
    with pytest.raises(FlagError, match=r"HE_A1\.png.*resumes"):
        source.fetch("SPA154", tmp_path)
    source.fetch("SPA154", tmp_path)
    assert [r.range for r in server.transfers("HE_A1.png")] == [None, "bytes=500-"]
    source = Her2stOpen(tmp_path / "c", **github)
    server.faults[name] = Fault(corrupt=True, times=1)
    with pytest.raises(FlagError, match=r"HE_A1\.png .*corrupted: git digest"):
        source.fetch("SPA154", tmp_path)
    assert not (tmp_path / "c/raw/data/ST-imgs/A/A1/HE_A1.png").exists()
    server.faults[name] = Fault(ignore_range=True)
    partial = tmp_path / "c/raw/.download/partial/data/ST-imgs/A/A1"
    (next(p for p in partial.glob("*.lock"))).with_suffix("").write_bytes(b"junk")
    assert source.fetch("SPA154", tmp_path).wsi.exists()


@pytest.mark.parametrize(
    ("status", "fault"),
    [(404, "GitHub has no"), (403, "anonymous requests"), (500, "answered 500")],
)
def test_github_faults_are_named(server, github, tmp_path, status, fault):
    server.faults[f"/repos/{REPO}/git/trees/{COMMIT}"] = Fault(status=status)
    with pytest.raises(FlagError, match=fault):
        opened(tmp_path, **github).fetch("SPA154", tmp_path)


def test_github_out_of_reach(tmp_path, monkeypatch):
    isolate(monkeypatch, tmp_path)
    with pytest.raises(FlagError, match="cannot be reached"):
        opened(tmp_path, api="http://127.0.0.1:9").fetch("SPA154", tmp_path)
    with pytest.raises(FlagError, match="no web address"):
        opened(tmp_path, api="file:///etc").fetch("SPA154", tmp_path)
    with pytest.raises(FlagError, match="40 hexadecimal"):
        opened(tmp_path, commit="main").fetch("SPA154", tmp_path)


@needs_data
def test_real_section_comes_back_from_its_published_files(tmp_path):
    """A1 written back into the authors' formats, converted, and compared."""
    import anndata
    import openslide
    import pandas as pd

    known = anndata.read_h5ad(HER2ST / "st/A1.h5ad")[:, :1500]  # writing all genes takes long
    root = tmp_path / "clone"
    for folder in ("ST-cnts", "ST-spotfiles", "ST-imgs/A/A1"):
        (root / "data" / folder).mkdir(parents=True)
    counts = pd.DataFrame(known.X.toarray().astype(int), known.obs_names, known.var_names)
    counts.to_csv(root / "data/ST-cnts/A1.tsv.gz", sep="\t", compression="gzip")
    obs = known.obs
    selection = {"x": obs.array_row, "y": obs.array_col}
    selection |= {"new_x": obs.array_x_refined, "new_y": obs.array_y_refined}
    selection |= {"pixel_x": known.obsm["spatial"][:, 0], "pixel_y": known.obsm["spatial"][:, 1]}
    table = pd.DataFrame({**selection, "selected": 1})
    table.to_csv(root / "data/ST-spotfiles/A1_selection.tsv", sep="\t", index=False)
    slide = openslide.OpenSlide(str(HER2ST / "wsis/A1.tif"))
    pixels = slide.read_region((0, 0), 0, slide.dimensions).convert("RGB")
    pixels.save(root / "data/ST-imgs/A/A1/A1.png", compress_level=1)
    files = opened(tmp_path, checkout=root).fetch("SPA154", tmp_path)
    made = anndata.read_h5ad(files.st)
    assert list(made.obs_names) == padded(obs.array_row, obs.array_col)
    assert (made.X != known.X).nnz == 0
    np.testing.assert_allclose(made.obsm["spatial"], known.obsm["spatial"], atol=1)
    facts = json.loads(files.metadata.read_text())
    expected = json.loads((HER2ST / "metadata/A1.json").read_text())
    for key in ("pixel_size_um_estimated", "fullres_px_width", "spots_under_tissue"):
        assert facts[key] == pytest.approx(expected[key], rel=1e-3)
    assert openslide.OpenSlide(str(files.wsi)).dimensions == slide.dimensions


def test_published_spots_of_b4_give_its_pixel_size():
    """Four corners of data/ST-spotfiles/B4_selection.tsv; the image has 9272 x 9923 px."""
    import pandas as pd

    from flag_st.sources.legacy_st import fit_frame

    rows = [
        (8.965, 12.994, 2307.86, 3500.48),
        (28.992, 28.937, 8110.68, 8153.50),
        (5.839, 28.932, 1402.10, 8152.04),
        (7.890, 31.061, 1996.38, 8773.39),
    ]
    spots = pd.DataFrame(rows, columns=["new_x", "new_y", "pixel_x", "pixel_y"])
    frame = fit_frame(spots, (9272, 9923), Path("B4"))
    np.testing.assert_allclose(frame.um_per_px, [0.69025, 0.68528], rtol=1e-4)
    assert frame.scale.tolist() == [1, 1]
    assert frame.pixel_size == pytest.approx(0.68775, rel=1e-4)
