"""Folders of legacy Spatial Transcriptomics as a source: what comes in, and everything that is refused."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import openslide
import own_sections
import pandas as pd
import pytest
from own_sections import fetched, write_image

from flag_st.commands import cli
from flag_st.core.errors import FlagError
from flag_st.data.check_cohort import check_cohort
from flag_st.data.splits import expand
from flag_st.planning import config
from flag_st.slides.files import open_reader
from flag_st.sources.legacy_st_folder import LegacySTFolder

GENES = [f"ENSMUSG{i:011d}.{i % 4 + 1}" for i in range(6)]
EDGE = 30.0  # px from the image's border to the place 0 of the array


def made(root: Path, dense: bool = True, step: tuple[float, float] = (10.0, 12.0)) -> Path:
    """A section ``S1`` of 14 x 12 places, ``step`` px apart; tissue is where x exceeds 3.

    One selected spot has no counts, and counts are there of a place that the table does not list.
    """
    random = np.random.default_rng(0)
    cells = [(x, y) for x in range(1, 15) for y in range(1, 13) if not dense or (x + y) % 2 == 0]
    table = pd.DataFrame(cells, columns=["x", "y"])
    for axis, pixels in zip("xy", step, strict=True):
        table[f"new_{axis}"] = (table[axis] + random.normal(0, 0.03, len(table))).round(2)
        table[f"pixel_{axis}"] = (EDGE + pixels * table[f"new_{axis}"]).round(2)
    table["selected"] = (table["x"] > 3).astype(int)
    columns = ["x", "y", "new_x", "new_y", "pixel_x", "pixel_y", "selected"]
    root.mkdir(parents=True)
    table[columns].to_csv(root / "alignment_table_S1.tsv", sep="\t", index=False)
    names = [f"{x}x{y}" for x, y in cells[:-1]] + ["40x40"]
    counts = pd.DataFrame(random.poisson(3, (len(names), len(GENES))), names, GENES)
    counts.to_csv(root / "S1.tsv", sep="\t")
    size = (int(2 * EDGE + 15 * step[0]), int(2 * EDGE + 13 * step[1]))
    own = SimpleNamespace(
        size=size,
        position=table[["pixel_x", "pixel_y"]].to_numpy(),
        in_tissue=table["selected"].to_numpy(),
    )
    write_image(root / "S1.png", own_sections.picture(own), None)
    return root


def places(root: Path) -> pd.DataFrame:
    return pd.read_csv(root / "alignment_table_S1.tsv", sep="\t")


#: Shape → whether the array is dense, px per step, µm per pixel along x and y, and the size that is written.
SHAPES = {
    "dense, wide pixels": (True, (10.0, 12.0), (10.0, 100 / 12), (252, 216)),
    "dense, high pixels": (True, (12.0, 10.0), (100 / 12, 10.0), (240, 228)),
    "dense, square pixels": (True, (12.0, 12.0), (100 / 12, 100 / 12), (240, 216)),
    "sparse, wide pixels": (False, (20.0, 24.0), (10.0, 200 / 24), (432, 372)),
    "sparse, square but for the print": (False, (20.0, 20.1), (10.0, 9.95), (360, 321)),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_section_is_read_with_square_pixels(tmp_path, shape):
    dense, step, um, size = SHAPES[shape]
    root = made(tmp_path / "files", dense, step)
    source = LegacySTFolder(root)
    assert [row.id for row in source.slides()] == ["S1"]
    assert sorted(p.name for p in source.inputs("S1")) == sorted(p.name for p in root.iterdir())
    table = fetched(source, tmp_path)
    facts = table.uns["metadata"]
    assert (facts["fullres_px_width"], facts["fullres_px_height"]) == size
    with open_reader(table.uns["wsi"]) as image:
        assert image.size == size
    assert facts["pixel_size_um_estimated"] == pytest.approx(
        min(um) if max(um) > 1.01 * min(um) else np.mean(um), rel=2e-3
    )
    known = places(root).set_index(places(root)[["x", "y"]].astype(str).agg("x".join, axis=1))
    selected = known[known["selected"] == 1].index[:-1]  # the last one has no counts
    assert list(table.obs_names) == list(selected)
    wanted = known.loc[selected, ["pixel_x", "pixel_y"]].to_numpy() * um
    found = table.obsm["spatial"] * facts["pixel_size_um_estimated"]
    assert np.abs(found - wanted).max() < (0.5 if size[0] > 400 or max(um) > 1.01 * min(um) else 20)
    counts = pd.read_csv(root / "S1.tsv", sep="\t", index_col=0).loc[selected]
    np.testing.assert_array_equal(table.X.toarray(), counts.to_numpy())
    assert list(table.var_names) == list(table.var["gene_ids"]) == [g.split(".")[0] for g in GENES]
    told = facts["local"]["told"]
    assert told["selected spots without counts"] == 1
    assert told["spots with counts that are not selected"] == len(known) - len(selected)
    assert any("resampled to squares" in what for what in told) == (max(um) > 1.01 * min(um))


def test_the_resampled_picture_shows_each_spot_where_its_position_says(tmp_path):
    """A red dot at one spot of the lab's picture is found at that spot of the picture that is read."""
    from PIL import Image

    root = made(tmp_path / "files")
    pixels = np.asarray(Image.open(root / "S1.png")).copy()
    row = places(root).set_index(["x", "y"]).loc[(11, 9)]
    x, y = row["pixel_x"], row["pixel_y"]
    left, top = round(x) - 3, round(y) - 3
    pixels[top : top + 6, left : left + 6] = (255, 0, 0)
    Image.fromarray(pixels).save(root / "S1.png")
    files = LegacySTFolder(root).fetch("S1", tmp_path / "raw")
    slide = openslide.OpenSlide(str(files.wsi))
    seen = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB")).astype(int)
    red = np.argwhere((seen[..., 0] > 200) & (seen[..., 1:] < 60).all(-1))  # (n, 2) y and x
    table = anndata.read_h5ad(files.st)
    at = table.obsm["spatial"][list(table.obs_names).index("11x9")]
    # The middle of the square that was painted is up to half a pixel off the spot.
    moved = np.array([left + 3 - x, top + 3 - y]) * [1.2, 1.0]
    np.testing.assert_allclose(red.mean(0)[::-1] + 0.5, at + moved, atol=0.5)


@pytest.mark.parametrize("packed", ["S1.tsv", "alignment_table_S1.tsv"])
def test_tables_may_be_packed_and_spots_padded(tmp_path, packed):
    root = made(tmp_path / "files")
    wanted = fetched(LegacySTFolder(root), tmp_path)
    counts = pd.read_csv(root / "S1.tsv", sep="\t", index_col=0)
    counts.index = ["x".join(f"{int(n):03d}" for n in name.split("x")) for name in counts.index]
    counts.to_csv(root / "S1.tsv", sep="\t")
    path = root / packed
    (root / f"{packed}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert [row.id for row in LegacySTFolder(root).slides()] == ["S1"]
    found = fetched(LegacySTFolder(root), tmp_path / "packed")
    assert list(found.obs_names) == list(wanted.obs_names)
    np.testing.assert_array_equal(found.X.toarray(), wanted.X.toarray())


def test_a_sheet_names_files_and_patients(tmp_path):
    root = made(tmp_path / "files")
    (root / "run 1").mkdir()
    for old, new in {"S1.tsv": "stdata.tsv", "alignment_table_S1.tsv": "spots.tsv"}.items():
        (root / old).rename(root / "run 1" / new)
    (root / "S1.png").rename(root / "HE.png")
    sheet = tmp_path / "sheet.tsv"
    sheet.write_text(
        "slide\tpatient\tcounts\tspots\timage\nA\tmouse 7\trun 1/stdata.tsv\trun 1/spots.tsv\tHE.png\n"
    )
    source = LegacySTFolder(root, sheet)
    assert [(row.id, row.patient) for row in source.slides()] == [("A", "mouse 7")]
    assert fetched(source, tmp_path, "A").uns["metadata"]["patient"] == "mouse 7"


def test_another_array_states_its_distance(tmp_path):
    root = made(tmp_path / "files", dense=False, step=(20.0, 20.0))
    facts = fetched(LegacySTFolder(root, pitch_um=150.0, spot_um=110.0), tmp_path).uns["metadata"]
    assert facts["pixel_size_um_estimated"] == pytest.approx(7.5, rel=1e-3)
    assert (facts["inter_spot_dist"], facts["spot_diameter"]) == (150.0, 110.0)


# What is refused ---------------------------------------------------------------------------------


def table_of(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        path = root / "alignment_table_S1.tsv"
        change(places(root).astype(object)).to_csv(path, sep="\t", index=False)

    return spoil


def counts_of(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        counts = pd.read_csv(root / "S1.tsv", sep="\t", index_col=0)
        change(counts).to_csv(root / "S1.tsv", sep="\t")

    return spoil


def gone(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def cell(row: int, column: str, value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """A change of one value."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        table.loc[row, column] = value
        return table

    return change


def renamed(**names: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda table: table.rename(columns=names)


def scaled(axis: str, factor: float, offset: float = 0.0) -> Callable[[pd.DataFrame], pd.DataFrame]:
    column = f"pixel_{axis}"
    return lambda table: table.assign(**{column: table[column] * factor + offset})


def _lfs(root: Path) -> None:
    (root / "S1.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")


def _cut(root: Path) -> None:
    (root / "S1.png").write_bytes((root / "S1.png").read_bytes()[:9000])


def _other_section(root: Path) -> None:
    counts = pd.read_csv(root / "S1.tsv", sep="\t", index_col=0)
    counts.index = [f"{100 + i}x1" for i in range(len(counts))]
    counts.to_csv(root / "S1.tsv", sep="\t")


def _broken_gzip(root: Path) -> None:
    (root / "S1.tsv.gz").write_bytes(gzip.compress(b"x" * 5000)[:20])
    (root / "S1.tsv").unlink()


swapped = renamed(pixel_x="pixel_y", pixel_y="pixel_x")
exchanged = renamed(x="y", y="x")
WRONG = {
    "no counts": (gone("S1.tsv"), "slide S1: no file", "S1.tsv with its counts"),
    "no picture": (gone("S1.png"), "slide S1 has no image at full resolution", "column image"),
    "picture of Git LFS": (_lfs, "is a pointer of Git LFS", "git lfs pull"),
    "picture cut off": (_cut, "is damaged", "copy or download it again"),
    "packed counts cut off": (_broken_gzip, "S1.tsv.gz is no readable count matrix", ""),
    "no column": (table_of(renamed(new_x="nx")), "lacks the column new_x. Valid: x, y, nx", ""),
    "no flag": (table_of(renamed(selected="tissue")), "lacks the column selected", ""),
    "flag as text": (table_of(cell(70, "selected", "yes")), "line 72: selected is yes", "0 or 1"),
    "pixel as text": (table_of(cell(70, "pixel_y", "?")), "line 72: pixel_y is ?", "a number"),
    "pixel missing": (table_of(cell(70, "pixel_x", "")), "line 72: pixel_x is nan", "a number"),
    "half a place": (table_of(cell(70, "x", 12.5)), "line 72: x is 12.5", "a whole number"),
    "spot twice": (table_of(lambda t: pd.concat([t, t.tail(1)])), "lists a spot twice", ""),
    "no tissue": (table_of(lambda t: t.assign(selected=0)), "selects no spot", "column selected"),
    "names of spots": (
        counts_of(lambda c: c.rename(index={"5x5": "16.92x9.015"})),
        "have other names, such as 16.92x9.015",
        "x first",
    ),
    "genes as rows": (counts_of(lambda c: c.T), "rows are not spots", "genes as columns"),
    "rows twice": (
        counts_of(lambda c: c.rename(index={"5x5": "5x7"})),
        "names 1 spots twice, such as 5x7",
        "",
    ),
    "normalised": (counts_of(lambda c: np.log1p(c)), "does not hold counts", ""),
    "another section": (_other_section, "selects no spot that has counts (100x1 there", "same"),
    "outside the picture": (
        table_of(scaled("x", 1.4)),
        "spots under tissue lie outside the image of 210 x 216 px",
        "pixels of this image",
    ),
    "columns of pixels exchanged": (
        table_of(swapped),
        "pixel_x is no linear function of new_x",
        "",
    ),
    "places exchanged": (
        table_of(exchanged),
        "steps of the array from its place x, y",
        "x before y",
    ),
    "mirrored": (
        table_of(scaled("x", -1.0, 210.0)),
        "pixel_x falls while new_x rises",
        "neither turned nor mirrored",
    ),
    "one spot elsewhere": (table_of(cell(70, "pixel_x", 40)), "no linear function of new_x", ""),
    "one row": (
        table_of(lambda t: t[t["y"] == 5].assign(new_y=5.0)),
        "spots in one line only",
        "",
    ),
    "axes counted unlike": (
        table_of(lambda t: t.assign(pixel_y=30 + (t["pixel_y"] - 30) / 2)),
        "no image is stretched by 1.67",
        "alike along both axes",
    ),
    "pixels of no microscope": (
        table_of(lambda t: t.assign(**{f"pixel_{a}": t[f"pixel_{a}"] / 3 for a in "xy"})),
        "cannot have the pixel size",
        "from 0.05 to 20",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_refused(tmp_path, case):
    spoil, fault, remedy = WRONG[case]
    root = made(tmp_path / "files")
    spoil(root)
    source = LegacySTFolder(root)
    with pytest.raises(FlagError) as error:
        source.check("S1")
    assert fault in str(error.value)
    assert remedy in str(error.value)
    with pytest.raises(FlagError):
        source.fetch("S1", tmp_path / "raw")
    assert not list(tmp_path.glob("raw/*/*"))


def test_a_pixel_size_of_the_user_is_compared(tmp_path):
    root = made(tmp_path / "files", step=(12.0, 12.0))
    LegacySTFolder(root, pixel_um=8.4).check("S1")
    with pytest.raises(FlagError, match=r"differ by more than 5%: 4 µm by pixel_um, 8\.333 µm by"):
        LegacySTFolder(root, pixel_um=4.0).check("S1")


def test_all_faults_of_a_section_are_told_together_and_before_any_job(tmp_path, capsys):
    root = made(tmp_path / "files")
    gone("S1.png")(root)
    table_of(renamed(selected="tissue"))(root)
    overlay = tmp_path / "o.yaml"
    overlay.write_text(
        "make: [table_1]\n"
        "defaults: {cohorts: [mine], split: mine, encoder: texture, gene_model: null, methods: [ridge]}\n"
        "cohorts: {mine: {use: flag_st.sources.legacy_st_folder.LegacySTFolder, params: {root: null}}}\n"
        "splits: {mine: {scheme: fixed, train: [S1], valid: [S1], test: [S1]}}\n"
        "experiments: {table_1: {methods: [ridge]}}\n"
    )
    words = ["check", "--configfile", str(overlay), "--config", f"root={root}"]
    assert cli.main(words) == 1
    error = capsys.readouterr().err
    assert "slide S1: 2 faults" in error
    assert "lacks the column selected" in error
    assert "has no image at full resolution" in error


def test_a_folder_without_sections_is_refused(tmp_path):
    with pytest.raises(FlagError, match=r"holds none of tables alignment_table_SLIDE\.tsv"):
        LegacySTFolder(tmp_path).slides()
    with pytest.raises(FlagError, match="has no root"):
        LegacySTFolder().slides()


# The real cohort ---------------------------------------------------------------------------------


def mob_config(**overlay: object) -> dict:
    return config.load(overlay, ["config/mob.yaml"])


def test_the_cohort_s_networks_are_those_of_the_open_sections():
    """The overlay states them again, because an overlay cannot take them from another one."""
    ours, theirs = mob_config(), config.load({}, ["config/her2st_open.yaml"])
    used = {m for name in ours["make"] for m in ours["experiments"][name]["methods"]}
    for method in used - {"flag_calibrated", "flag_calibrated_noise"}:  # around TRIPLEX as it is
        known = config.merge(theirs["methods"][method], {})
        if sampling := ours["methods"][method].get("params", {}).get("sampling"):
            known["params"]["sampling"] = sampling  # fewer steps and draws, for the time
        assert ours["methods"][method] == known, method
    needed = {ours["methods"][m][key] for m in used for key in ("encoder", "gene_model")} - {None}
    assert needed == {"texture", "coexpression"}


def test_every_training_section_is_of_the_other_mouse():
    loaded = mob_config()
    source = LegacySTFolder(sheet=loaded["cohorts"]["mob"]["params"]["sheet"])
    patients = {row.id: row.patient for row in source.slides()}
    name = loaded["defaults"]["split"]
    folds = expand(name, loaded["splits"][name], source.slides()).values()
    assert sorted(fold.test for fold in folds) == [("MOB1",), ("MOB2",), ("MOB3",)]
    for fold in folds:
        trained, validated, (tested,) = (
            {patients[s] for s in part} for part in vars(fold).values()
        )
        assert trained.isdisjoint({tested})
        assert (validated == {tested}) == (tested == "mouse 1")


def explained(
    picture: np.ndarray, places: np.ndarray, radius: int, expression: np.ndarray
) -> float:
    """R² of a linear model of expression (N, C) by the ranks of the colours in squares around places (N, 2)."""
    corners = np.rint(places).astype(int) - radius
    squares = [picture[y : y + 2 * radius, x : x + 2 * radius].reshape(-1, 3) for x, y in corners]
    colours = np.array([[*square.mean(0), *square.std(0)] for square in squares])  # (N, 6)
    design = np.column_stack([colours.argsort(0).argsort(0), np.ones(len(colours))])  # (N, 7)
    left = expression - design @ np.linalg.lstsq(design, expression, rcond=None)[0]
    return float(1 - (left**2).sum() / (expression**2).sum())


def components(counts: np.ndarray) -> np.ndarray:
    """(N, 3) first principal components of log CP10K, centred."""
    values = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    left, size, _ = np.linalg.svd(values - values.mean(0), full_matrices=False)
    return left[:, :3] * size[:3]


def test_the_real_sections_are_read_and_registered(mob, tmp_path):
    """Colours explain expression best where the spots are, and hardly where the stretch is ignored."""
    source = LegacySTFolder(mob, "config/cohorts/mob.tsv")
    files = {row.id: source.fetch(row.id, tmp_path / "raw") for row in source.slides()}
    assert check_cohort(files, {}, {}).messages == []
    spots = {name: len(anndata.read_h5ad(f.st)) for name, f in files.items()}
    assert spots == {"MOB1": 379, "MOB2": 407, "MOB3": 438}
    for name, found in files.items():
        facts = json.loads(found.metadata.read_text())
        um = facts["pixel_size_um_estimated"]
        # The distance of 200 µm is two steps of 21.6 px along x and of 24.05 px along y.
        (resampled,) = [what for what in facts["local"]["told"] if "resampled" in what]
        assert resampled.startswith(("pixels of 4.626 x 4.157", "pixels of 4.627 x 4.15")), name
        assert um == pytest.approx(4.158, abs=0.002)
        assert facts["fullres_px_width"] == pytest.approx(2120, abs=1)
        assert facts["fullres_px_height"] == 1905
        table = anndata.read_h5ad(found.st)
        assert table.n_vars == 1000
        assert table.var_names.str.fullmatch(r"ENSMUSG\d{11}").all()
        with open_reader(found.wsi) as image:
            picture = image.thumbnail(max(image.size))
        at, expression = table.obsm["spatial"], components(table.X.toarray())
        here = explained(picture, at, round(50 / um), expression)
        assert here > 0.3, name
        for move in ((100, 0), (-100, 0), (0, 100), (0, -100)):
            moved = explained(picture, at + np.array(move) / um, round(50 / um), expression)
            assert moved < here - 0.03, (name, move)
        ignored = at * [facts["fullres_px_height"] / facts["fullres_px_width"], 1]
        assert explained(picture, ignored, round(50 / um), expression) < here / 2, name
