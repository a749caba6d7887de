"""Every HDF5 file of the pipeline on a full disk: one clear message, no traceback of HDF5, and no half file."""

import re
from pathlib import Path

import anndata
import numpy as np
import pytest
import toy_slides
from full_disk import full_disk

from flag_st.core.code import ROOT
from flag_st.core.errors import FlagError
from flag_st.core.hdf5 import write_table
from flag_st.data.prepare import prepare, prepare_counts
from flag_st.data.slide import write_prediction
from flag_st.data.slide_files import SlideFiles
from flag_st.data.targets import writing_targets
from flag_st.methods.base import Prediction
from flag_st.sources.synthetic import Synthetic

#: What the file of the pipeline is called in the test; nothing else may be in its folder.
NAME = "made.h5"


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> SlideFiles:
    return Synthetic(patients=1, sections=1, spots=(6, 6), genes=50).fetch(
        "P1S1", tmp_path_factory.mktemp("raw")
    )


def spots(files: SlideFiles, path: Path) -> None:
    prepare(files, "P1S1", path, path.parents[1] / "patches.h5")


def patches(files: SlideFiles, path: Path) -> None:
    prepare(files, "P1S1", path.parents[1] / "spots.h5ad", path)


def counts(files: SlideFiles, path: Path) -> None:
    prepare_counts(files.st, "P1S1", path)


def targets(files: SlideFiles, path: Path) -> None:
    names = [[f"{kind}{i}" for i in range(number)] for kind, number in (("s", 30), ("g", 20))]
    with writing_targets(path, "contextual", *names, 16) as put:
        for row in range(30):
            put(slice(row, row + 1), np.ones((1, 20, 16)))


def prediction(files: SlideFiles, path: Path) -> None:
    slide = toy_slides.toy_slide("S", spots=100, genes=50)
    facts = {"genes": [f"g{i}" for i in range(50)], "method": "mine", "unit": "log1p", "seed": 0}
    write_prediction(path, slide, Prediction(slide.expression[None]), facts)


def features(files: SlideFiles, path: Path) -> None:
    write_table(path, anndata.read_h5ad(files.st))


WRITERS = {w.__name__: w for w in (spots, patches, counts, targets, prediction, features)}


@pytest.mark.parametrize("room", [0, 900, 9000])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_is_named_and_nothing_is_left(files, tmp_path, writer, room, capfd):
    path = tmp_path / "folder" / NAME
    if writer == "spots" and room == 9000:  # the patches, which are larger, would be refused first
        pytest.skip("there is no size between those of the two files")
    with full_disk(room), pytest.raises(FlagError, match=r"cannot write .*\(File too large\)"):
        WRITERS[writer](files, path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    assert "Traceback" not in capfd.readouterr().err
    WRITERS[writer](files, path)  # the same place, with room
    assert path.is_file()


def test_tables_are_what_anndata_writes(files, tmp_path):
    table = anndata.read_h5ad(files.st)
    table.obs["text"] = ["a", "b"] * (table.n_obs // 2) + ["a"] * (table.n_obs % 2)
    write_table(tmp_path / "ours.h5ad", table.copy(), "gzip")
    table.write_h5ad(tmp_path / "theirs.h5ad", compression="gzip")
    ours, theirs = (anndata.read_h5ad(tmp_path / f"{name}.h5ad") for name in ("ours", "theirs"))
    assert ours.obs.equals(theirs.obs)
    assert ours.obs.dtypes.equals(theirs.obs.dtypes)
    assert ours.var.equals(theirs.var)
    assert (ours.X != theirs.X).nnz == 0
    assert ours.obsm["spatial"].tolist() == theirs.obsm["spatial"].tolist()
    assert ours.uns.keys() == theirs.uns.keys()
    backed = anndata.read_h5ad(tmp_path / "ours.h5ad", backed="r").to_memory()
    assert (backed.X != theirs.X).nnz == 0


def test_no_other_code_opens_an_hdf5_file_to_write():
    """What writes past ``core/hdf5.py`` crashes on a full disk."""
    past = re.compile(r"\.write_h5ad\(|h5py\.File\([^)]*[\"'](w|a|r\+|x)")
    found = [
        path.relative_to(ROOT).as_posix()
        for room in ("src", "scripts")
        for path in sorted((ROOT / room).rglob("*.py"))
        if past.search(path.read_text(encoding="utf-8"))
    ]
    assert found == ["src/flag_st/core/hdf5.py"]
