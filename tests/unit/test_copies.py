"""One section under two names is refused, and sections that only resemble each other are not."""

import json
import shutil
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest

from flag_st.commands import cli
from flag_st.core.code import ROOT
from flag_st.data.check_cohort import check_cohort
from flag_st.data.slide_files import SlideFiles
from flag_st.sources.folder import Folder
from flag_st.sources.synthetic import Synthetic

SECTIONS = ("P1S1", "P1S2", "P2S1")


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """Two adjacent sections of one patient and one of another, all on the same grid of pixels."""
    root = tmp_path_factory.mktemp("template")
    source = Synthetic(patients=2, sections=2, spots=(10, 10), genes=60)
    for name in SECTIONS:
        source.fetch(name, root)
    return root


@pytest.fixture
def root(template, tmp_path) -> Path:
    return shutil.copytree(template, tmp_path / "root")


def copied(root: Path, name: str, new: str, change=lambda table: table) -> None:
    """Another name for a section, whose table ``change`` changes."""
    for folder, suffix in (("st", "h5ad"), ("metadata", "json"), ("wsis", "tif")):
        shutil.copy(root / folder / f"{name}.{suffix}", root / folder / f"{new}.{suffix}")
    change(anndata.read_h5ad(root / f"st/{name}.h5ad")).write_h5ad(root / f"st/{new}.h5ad")


def found(root: Path) -> list[str]:
    source = Folder(root)
    files = {row.id: source.fetch(row.id, root / "raw") for row in source.slides()}
    return check_cohort(files, {}, {}).messages


def shuffled(table):
    random = np.random.default_rng(0)
    table = table[random.permutation(table.n_obs), random.permutation(table.n_vars)].copy()
    table.obs_names = [f"{name}-7" for name in table.obs_names]
    return table


def other_counts(table):
    table.X = np.random.default_rng(1).permuted(table.X.toarray(), axis=1)
    return table


COPIES = {
    "the same files": lambda table: table,
    "another order of genes and spots, and other barcodes": shuffled,
    "half of the spots": lambda table: table[::2].copy(),
    "half of the genes": lambda table: table[:, ::2].copy(),
}


@pytest.mark.parametrize("case", COPIES)
def test_a_section_under_another_name_is_named_with_it(root, case):
    copied(root, "P2S1", "copy", COPIES[case])
    messages = found(root)
    assert len(messages) == 1, messages
    assert messages[0].startswith("P2S1 and copy are the same section under two names: ")
    assert "have the same counts as a spot of the other" in messages[0]


def test_another_picture_does_not_hide_equal_counts(root):
    copied(root, "P1S1", "copy", shuffled)
    path = root / "metadata/copy.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"patient": "nobody"}))
    assert [m.partition(":")[0] for m in found(root)] == [
        "P1S1 and copy are the same section under two names"
    ]


def test_one_picture_with_other_counts_at_the_same_pixels_is_found(root):
    copied(root, "P2S1", "copy", other_counts)
    table = anndata.read_h5ad(root / "st/copy.h5ad")
    (message,) = [m for m in found(root) if "same section" in m]
    assert f"{table.n_obs} of the {table.n_obs} spots" in message
    assert "lie at the same pixels of the same picture" in message


def test_patches_alone_tell_it_too(root):
    from flag_st.data.prepare import prepare

    copied(root, "P2S1", "copy", other_counts)
    files = {}
    for name in ("P2S1", "copy"):
        whole = SlideFiles(
            root / f"st/{name}.h5ad", root / f"metadata/{name}.json", root / f"wsis/{name}.tif"
        )
        prepare(whole, name, root / "spots.h5ad", root / f"{name}.h5", check_places=False)
        files[name] = SlideFiles(whole.st, whole.metadata, patches=root / f"{name}.h5")
    (message,) = check_cohort(files, {}, {}).messages
    assert "lie at the same pixels of the same picture" in message
    with h5py.File(root / "copy.h5", "r+") as file:  # another scan has no pixel value in common
        file["img"][...] = 255 - file["img"][:]
    assert check_cohort(files, {}, {}).messages == []


def test_a_slide_is_found_among_the_counts_that_gene_models_learn_from(root):
    """They may be of no test slide, and another name must not hide that they are."""
    (root / "counts").mkdir()
    path = root / "counts/older.h5ad"
    shuffled(anndata.read_h5ad(root / "st/P1S1.h5ad")).write_h5ad(path)
    source = Folder(root)
    files = {row.id: source.fetch(row.id, root / "raw") for row in source.slides()}
    (message,) = check_cohort(files, {}, {}, {"older": path}).messages
    assert message.startswith("P1S1 and older are the same section under two names")


def test_each_further_name_is_one_fault(root):
    for name in ("copy1", "copy2", "copy3"):
        copied(root, "P2S1", name, shuffled)
    assert [message.partition(" are ")[0] for message in found(root)] == [
        f"P2S1 and copy{i}" for i in (1, 2, 3)
    ]


def test_adjacent_sections_of_one_patient_are_not_one(root):
    """They lie at the same pixels of their own pictures, and come from one block of tissue."""
    places = [anndata.read_h5ad(root / f"st/{name}.h5ad").obsm["spatial"] for name in SECTIONS]
    common = {tuple(p) for p in places[0].tolist()} & {tuple(p) for p in places[1].tolist()}
    assert len(common) > 0.5 * len(places[0])
    assert found(root) == []


def test_counts_that_tell_nothing_make_no_section_equal(root):
    """Where nearly all spots have one count of one gene, equal spots are no sign of anything."""
    for name in SECTIONS:
        path = root / f"st/{name}.h5ad"
        table = anndata.read_h5ad(path)
        random = np.random.default_rng(len(name) + ord(name[1]) + ord(name[3]))
        table.X = np.zeros(table.shape, np.float32)
        table.X[np.arange(table.n_obs), random.integers(0, 5, table.n_obs)] = random.integers(
            1, 4, table.n_obs
        )
        table.write_h5ad(path)
    files = {
        name: SlideFiles(
            root / f"st/{name}.h5ad", root / f"metadata/{name}.json", root / f"wsis/{name}.tif"
        )
        for name in SECTIONS
    }
    assert check_cohort(files, {}, {"check_places": False}).messages == []


def test_the_command_refuses_it_before_the_first_job(root, capsys):
    copied(root, "P1S2", "renamed")
    overlay = root / "small.yaml"
    overlay.write_text("panels: {hmhvg200: {size: 20}}\n")
    own = ["--configfile", str(ROOT / "config/own.yaml"), str(overlay), "--config", f"root={root}"]
    assert cli.main(["check", *own]) == 1
    said = capsys.readouterr().err
    assert "P1S2 and renamed are the same section under two names" in said
    assert "1 fault; nothing was run" in said
    (root / "st/renamed.h5ad").unlink()
    assert cli.main(["check", *own]) == 0
