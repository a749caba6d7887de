"""h5ad files in scanpy's convention as a source: what comes in, and everything that is refused."""

import json
from pathlib import Path

import anndata
import numpy as np
import own_sections
import pandas as pd
import pytest
from own_sections import (
    Own,
    assert_same,
    fetched,
    her2st_section,
    table_of,
    visium,
    write_image,
)

from flag_st.core.errors import FlagError
from flag_st.sources.anndata_files import AnnDataFiles


def made(tmp_path: Path, table: anndata.AnnData | None = None, own: Own | None = None, **params):
    """The source of one section ``S1`` and its image."""
    own, root = own or visium(), tmp_path / "files"
    write_image(root / "S1.tif", own_sections.picture(own), own.image_um)
    (table_of(own) if table is None else table).write_h5ad(root / "S1.h5ad")
    return AnnDataFiles(root=root, **params)


def test_a_section_of_scanpy_is_read(tmp_path):
    own = visium()
    source = made(tmp_path, own=own)
    assert [row.id for row in source.slides()] == ["S1"]
    assert {p.name for p in source.inputs("S1")} == {"S1.h5ad", "S1.tif"}
    table = fetched(source, tmp_path)
    assert_same(table, own)
    assert list(table.var["gene_ids"]) == own.ids
    assert table.uns["metadata"]["st_technology"] == "Visium"


@pytest.mark.parametrize("place", ["X", "raw", "layers/counts"])
def test_raw_counts_are_found_where_one_place_alone_has_them(tmp_path, place):
    own = visium()
    table = table_of(own)
    counts = table.X.copy()
    if place == "raw":
        table.raw = table.copy()
    if place == "layers/counts":
        table.layers["counts"] = counts
    if place != "X":
        table.X = np.log1p(counts.toarray())
        table.layers["scaled"] = counts.toarray() - 1.5
    assert_same(fetched(made(tmp_path, table, own), tmp_path), own)


def test_genes_that_were_filtered_come_back_from_raw(tmp_path):
    own = visium()
    table = table_of(own)
    table.raw = table.copy()
    part = table[:, :3].copy()
    assert_same(fetched(made(tmp_path, part, own), tmp_path), own)


def test_the_user_names_the_place_of_the_counts(tmp_path):
    own = visium()
    table = table_of(own)
    table.layers["spliced"] = table.X * 2
    source = made(tmp_path, table, own)
    with pytest.raises(FlagError, match="different counts in X and layers/spliced"):
        source.check("S1")
    named = AnnDataFiles(root=source.root, counts="X")
    assert_same(fetched(named, tmp_path), own)
    with pytest.raises(FlagError, match=r"has no layers/counts\. Valid: X, layers/spliced"):
        AnnDataFiles(root=source.root, counts="layers/counts").check("S1")


@pytest.mark.parametrize("version", ["", ".7"])
@pytest.mark.parametrize("symbols", [True, False])
def test_ensembl_ids_as_names(tmp_path, version, symbols):
    own = visium()
    table = table_of(own)
    table.var = pd.DataFrame(index=[f"{i}{version}" for i in own.ids])
    if symbols:
        table.var["gene_symbols"] = [*own.genes[:-1], ""]
    found = fetched(made(tmp_path, table, own), tmp_path)
    assert list(found.var["gene_ids"]) == own.ids
    assert list(found.var_names) == ([*own.genes[:-1], own.ids[-1]] if symbols else own.ids)


def test_spots_beside_the_tissue_are_left_out_and_told(tmp_path):
    own = visium()
    table = table_of(own)
    table.obs["in_tissue"] = ["1"] * (len(table) - 5) + ["0"] * 5
    found = fetched(made(tmp_path, table, own), tmp_path)
    assert list(found.obs_names) == own.matrix_barcodes[:-5]
    told = found.uns["metadata"]["local"]["told"]
    assert told == {"spots beside the tissue (in_tissue 0)": 5}


def test_a_file_without_rows_columns_and_flags_is_read(tmp_path):
    own = visium()
    table = table_of(own)
    table.obs = table.obs[[]]
    assert_same(fetched(made(tmp_path, table, own), tmp_path), own, tolerance_um=30)


def test_without_scale_factors_a_second_statement_of_the_pixel_size_is_needed(tmp_path):
    own = visium()
    table = table_of(own)
    del table.uns["spatial"]
    source = made(tmp_path, table, own)
    with pytest.raises(FlagError, match="has no scale factors"):
        source.check("S1")
    assert_same(fetched(AnnDataFiles(root=source.root, pixel_um=5.0), tmp_path), own)


def test_entries_of_other_sections_may_be_left_over(tmp_path):
    own = visium()
    table = table_of(own)
    table.uns["spatial"]["other"] = {"scalefactors": {"spot_diameter_fullres": 1.0}}
    table.obs["library_id"] = "library"
    assert_same(fetched(made(tmp_path, table, own), tmp_path), own)


# What is refused ---------------------------------------------------------------------------------


def _normalised(table):
    table.X = np.log1p(table.X.toarray())


def _scaled(table):
    table.X = table.X.toarray() - 2.0


def _empty(table):
    table.X = table.X * 0


def _no_x(table):
    table.X = None


def _no_spatial(table):
    del table.obsm["spatial"]


def _nan(table):
    table.obsm["spatial"][3] = np.nan


def _text(table):
    table.obsm["spatial"] = table.obsm["spatial"].astype(str)


def _three(table):
    table.obsm["spatial"] = np.ones((len(table), 3))


def _hires(table):
    table.obsm["spatial"] *= 0.2


def _swapped(table):
    table.obsm["spatial"] = table.obsm["spatial"][:, ::-1].copy()


def _origin(table):
    table.obsm["spatial"][:] = 0
    table.obs = table.obs[[]]


def _repeated(table):
    table.obs_names = [*table.obs_names[:-1], table.obs_names[0]]


def _strange(table):
    table.obs["in_tissue"] = "yes"


def _beside(table):
    table.obs["in_tissue"] = False


def _two_libraries(table):
    table.uns["spatial"]["second"] = table.uns["spatial"]["library"]


def _two_sections(table):
    table.obs["library_id"] = ["library"] * 4 + ["second"] * (len(table) - 4)


def _other_picture(table):
    table.uns["spatial"]["library"]["images"]["hires"] = np.zeros((50, 70, 3))


def _other_pitch(table):
    table.uns["spatial"]["library"]["scalefactors"]["microns_per_pixel"] = 0.5


WRONG = {
    "normalised": (_normalised, "X holds fractions, as normalised expression does"),
    "scaled": (_scaled, "X holds negative values, as scaled expression does"),
    "empty": (_empty, "X holds no count above zero"),
    "no X": (_no_x, "holds no raw counts: it has no X, raw or layers"),
    "no positions": (_no_spatial, "has no obsm['spatial']"),
    "NaN position": (_nan, "1 spots have no position"),
    "text": (_text, "obsm['spatial'] has shape (70, 2) and type"),
    "three axes": (_three, "obsm['spatial'] has shape (70, 3)"),
    "hires pixels": (_hires, "the positions are in pixels of tissue_hires_image.png"),
    "x and y exchanged": (_swapped, "x and y are exchanged"),
    "all at the origin": (_origin, "puts most spots in one place"),
    "repeated barcodes": (_repeated, "names 1 barcodes twice"),
    "strange in_tissue": (_strange, "spots is yes, such as that of TTTT0079-1. Valid: 0, 1."),
    "no tissue": (_beside, "in_tissue is 0 for every spot"),
    "two libraries": (_two_libraries, "holds 2 sections: library, second"),
    "two sections": (_two_sections, "holds 2 sections: library, second"),
    "another picture": (_other_picture, "the positions are of an image of 350 x 250 px"),
    "two pixel sizes": (_other_pitch, "differ by more than 5%"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_refused(tmp_path, case):
    change, message = WRONG[case]
    table = table_of(visium())
    change(table)
    source = made(tmp_path, table)
    with pytest.raises(FlagError) as error:
        source.check("S1")
    assert message in str(error.value)
    with pytest.raises(FlagError):
        source.fetch("S1", tmp_path / "raw")
    assert not list(tmp_path.glob("raw/*/*"))


def test_a_damaged_file_and_a_missing_image_are_told_together(tmp_path):
    source = made(tmp_path)
    path = source.root / "S1.h5ad"
    path.write_bytes(path.read_bytes()[:2000])
    (source.root / "S1.tif").unlink()
    with pytest.raises(FlagError, match="2 faults") as error:
        source.check("S1")
    assert "is damaged or no h5ad" in str(error.value)
    assert "has no image at full resolution" in str(error.value)


@pytest.mark.parametrize("name", ["A1", "C4"])
def test_a_real_section_written_by_scanpy_s_convention_comes_back(tmp_path, her2st, name):
    own, files = her2st_section(her2st, name)
    root = tmp_path / "files"
    root.mkdir()
    table = table_of(own)
    table.write_h5ad(root / f"{name}.h5ad")
    sheet = tmp_path / "slides.tsv"
    sheet.write_text(f"slide\timage\tpixel_um\n{name}\t{files.wsi}\t{own.pixel_um}\n")
    source = AnnDataFiles(root=root, sheet=sheet, pitch_um=200.0)
    found = fetched(source, tmp_path, name)
    assert_same(found, own)
    facts = json.loads(files.metadata.read_text())
    assert found.uns["metadata"]["fullres_px_width"] == facts["fullres_px_width"]
