"""`flag-st predict` on disks that refuse to be written, killed at any point, and with unusual names."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from finished import output
from full_disk import full_disk
from stages import SPLIT
from toy_predicted import toy_predicted

from flag_st.commands.cli import main
from flag_st.commands.predict import predict
from flag_st.core.errors import FlagError
from flag_st.core.io import digest, save_arrays, write_json, writing
from flag_st.exported.model import open_model
from flag_st.outputs import folder as folders
from flag_st.outputs import h5ad, page
from flag_st.outputs.together import COHORT, EXPLORER
from flag_st.slides.cut import on_disk
from flag_st.slides.request import Request

(TEST,) = SPLIT["test"]
MADE = sorted([*folders.FILES, folders.PAGE, folders.RECORD])


@pytest.fixture(scope="module")
def asked(folder) -> Request:
    """The test slide at its own spots."""
    image = folder / f"results/tiny/data/raw/wsis/{TEST}.tif"
    spots = folder / output("prepare_slide", "spots", slide=TEST)
    return Request(image, "S", at=spots, force=True)


@pytest.fixture(scope="module")
def undisturbed(asked, model, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    predict([asked], model, out)
    return out / "S"


def same(found: Path, wanted: Path) -> bool:
    return digest(found) == digest(wanted)


# A disk that is full, or must not be written to


WRITERS: dict[str, Callable] = {name: write for name, (write, _) in folders.FILES.items()}
WRITERS |= {
    folders.PAGE: lambda made, path: page.write(made, path, {}),
    folders.RECORD: lambda made, path: write_json(path, list(range(9000))),
    "model.flag": lambda made, path: save_arrays(path, {"x": made.point}, {}),
}


@pytest.mark.parametrize("size", [0, 700])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_named_and_nothing_is_left(tmp_path, name, size, capfd):
    made = toy_predicted(spots=400)
    with full_disk(size), pytest.raises(FlagError) as error:
        WRITERS[name](made, tmp_path / name)
    assert f"cannot write {tmp_path / name} (File too large)" in str(error.value)
    assert "Remedy: free disk space" in str(error.value)
    assert not list(tmp_path.iterdir())
    assert "Traceback" not in capfd.readouterr().err


class Grey:
    """Patches of no slide."""

    shape = (200, 224, 224, 3)

    def __len__(self):
        return 200

    def __getitem__(self, rows):
        return np.full((rows.stop - rows.start, *self.shape[1:]), 128, np.uint8)


def test_a_disk_that_fills_while_patches_are_kept(tmp_path):
    """Methods that read pixels find them in a file meanwhile."""
    with (
        full_disk(1 << 20),
        pytest.raises(FlagError, match=r"cannot write .*slide \(File too"),
        writing(tmp_path / "slide") as temporary,
    ):
        temporary.mkdir()
        with on_disk(Grey(), np.arange(200).astype(str), temporary):
            raise AssertionError("a file of 30 MB was written")
    assert not list(tmp_path.iterdir())


def test_too_little_room_for_patches_is_told_before_they_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=20e6))
    monkeypatch.setattr(Grey, "__getitem__", None)
    with (
        pytest.raises(FlagError, match=r"200 patches take 0.0 GB; .* has 0.0 GB.*--pitch-um"),
        on_disk(Grey(), np.arange(200).astype(str), tmp_path),
    ):
        raise AssertionError("there is no room")


def test_a_table_that_does_not_fit_is_named_wherever_the_disk_is_full(tmp_path):
    """HDF5 reads again what it has written; no size of the disk may make it fail in its own way."""
    made = toy_predicted(spots=100)
    h5ad.write(made, tmp_path / "whole.h5ad")
    size = (tmp_path / "whole.h5ad").stat().st_size
    for room in range(0, size, size // 12):
        with (
            full_disk(room),
            pytest.raises(FlagError, match=r"cannot write .*table.h5ad \(File too"),
        ):
            h5ad.write(made, tmp_path / "table.h5ad")
    assert [path.name for path in tmp_path.iterdir()] == ["whole.h5ad"]


def test_the_command_ends_with_a_message_on_a_full_disk(asked, model, undisturbed, tmp_path):
    """Python itself crashed here when HDF5 had not been able to close its file."""
    words = ["predict", str(asked.path), "--model", str(model), "-o", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "flag_st", *words, "--at", str(asked.at), "--force"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert "1 of 1 slides were not made" in done.stderr
    assert "cannot write" in done.stderr
    assert not list((tmp_path / "out").iterdir())
    predict([asked], model, tmp_path / "out")  # the same folder, with room
    assert same(tmp_path / "out/S", undisturbed)


def test_a_folder_that_cannot_be_made_is_named(asked, model, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(FlagError, match=r"cannot write .*file/out/S \(Not a directory\).*Remedy"):
        predict([asked], model, tmp_path / "file/out")
    assert (tmp_path / "file").read_text() == "no folder"


def test_a_read_only_folder_is_named(asked, model, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o500)
    try:
        if os.access(out, os.W_OK):
            pytest.skip("this user may write to read-only folders")
        with pytest.raises(FlagError, match=r"cannot write .*out.*S.*Permission denied.*Remedy"):
            predict([asked], model, out)
    finally:
        out.chmod(0o700)


# Kills

#: Events of the interpreter after which something on the disk has changed or is about to.
CHANGES = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.link"}
WRITES = os.O_WRONLY | os.O_RDWR


def killed(number: int, below: Path, action: Callable[[], object]) -> bool:
    """Whether a copy of this process that does ``action`` dies at its ``number``-th change ``below``."""
    child = os.fork()
    if child == 0:
        left = number

        def count(event: str, words: tuple) -> None:
            nonlocal left
            if event not in CHANGES or not str(words[0]).startswith(str(below)):
                return
            if event == "open" and not (isinstance(words[2], int) and words[2] & WRITES):
                return
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(count)
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def finals(out: Path) -> list[str]:
    """Names of the folders that are there, without temporary ones."""
    return sorted(p.name for p in out.iterdir() if p.is_dir() and not p.name.startswith("."))


def test_a_command_killed_at_any_point_goes_on(asked, model, undisturbed, tmp_path):
    """One folder is killed ever later; each run finds what the one before has left."""
    out, number, deaths = tmp_path / "out", 1, 0
    out.mkdir()
    while killed(number, out, lambda: predict([asked], model, out, say=lambda line: None)):
        deaths += 1
        assert finals(out) in ([], ["S"])
        if finals(out):  # killed when all was done
            assert same(out / "S", undisturbed)
        number += 6
    assert deaths >= 4
    assert finals(out) == ["S"]
    assert sorted(path.name for path in out.iterdir()) == ["S", COHORT, EXPLORER]
    assert sorted(path.name for path in (out / "S").iterdir()) == MADE
    assert same(out / "S", undisturbed)


@pytest.mark.parametrize("number", range(1, 13))
def test_a_folder_that_is_replaced_is_the_former_or_the_new_one(tmp_path, number):
    """It was removed file by file, and a kill meanwhile left some of the former files."""

    def write(text: str) -> None:
        with writing(tmp_path / "slide") as temporary:
            temporary.mkdir()
            for name in ("a", "b", "c"):
                (temporary / name).write_text(text)

    write("former")
    died = killed(number, tmp_path, lambda: write("new"))
    if finals(tmp_path):
        texts = {(tmp_path / "slide" / name).read_text() for name in ("a", "b", "c")}
        assert texts in ({"former"}, {"new"}) if died else texts == {"new"}
    else:
        assert died
    write("again")
    assert [path.name for path in tmp_path.iterdir()] == ["slide"]
    assert (tmp_path / "slide/c").read_text() == "again"


# Names


def test_paths_with_blanks_and_umlauts(asked, model, undisturbed, tmp_path):
    import shutil

    place = tmp_path / "Fälle 2026 (neu)"
    place.mkdir()
    slide = shutil.copy(asked.path, place / "Schnitt Nr. 3 – Übersicht.tif")
    spots = shutil.copy(asked.at, place / "Spots für #3.h5ad")
    given = ["--model", str(shutil.copy(model, place / "ein Modell.flag"))]
    assert (
        main(
            [
                "predict",
                str(slide),
                *given,
                "-o",
                str(place / "aus gabe"),
                "--at",
                str(spots),
                "--force",
            ]
        )
        == 0
    )
    (made,) = (path for path in (place / "aus gabe").iterdir() if path.is_dir())
    assert made.name == "Schnitt_Nr._3_bersicht"
    assert sorted(path.name for path in made.iterdir()) == MADE
    maps = (made / "genes.ome.tif").stat().st_size
    assert maps == pytest.approx((undisturbed / "genes.ome.tif").stat().st_size, abs=200)


def test_a_gene_in_other_letters_is_recognised(asked, model):
    from dataclasses import replace

    gene = open_model(model).genes[0]
    with pytest.raises(FlagError, match=rf"does not predict {gene.lower()}\. .*write {gene}\."):
        predict([replace(asked, genes=(gene.lower(),))], model, "nowhere")
    assert not Path("nowhere").exists()
