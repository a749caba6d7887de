"""Plumbing: registry, files, seeds, the slide contract, code digests."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import anndata
import numpy as np
import pandas as pd
import pytest
import toy

from flag_st.core import io, registry, seeds
from flag_st.core.errors import Faults, FlagError
from flag_st.core.extras import extra
from flag_st.data.slide import (
    TRANSFORMS,
    in_logarithm,
    read_expression,
    read_slide,
    write_prediction,
)
from flag_st.data.targets import Targets, writing_targets


@pytest.mark.parametrize(
    ("use", "params", "message"),
    [
        ("ridge.Ridge", {"components": "many"}, "components is a whole number, not 'many'"),
        ("ridge.Ridge", {"components": True, "centre": 3}, "not True; centre is .*not 3"),
        ("histogene.HisToGene", {"width": 6.5}, "width is a whole number, not 6.5"),
        ("histogene.HisToGene", {"training": {"lr": "1e-4"}}, "lr is a number.*write 1.0e-4"),
        ("histogene.HisToGene", {"training": {"compile": "yes"}}, "compile is true or false"),
        ("triplex.Triplex", {"fusion": {"heads": "4"}}, "fusion: heads is a whole number"),
    ],
)
def test_arguments_of_another_type_are_refused(use, params, message):
    """Before any job: a text for a number fails hours later otherwise, deep inside training."""
    with pytest.raises(FlagError, match=message):
        registry.build(f"flag_st.methods.{use}", params)


@dataclass(frozen=True)
class Lamp:
    """A group of options; the plug-in below has another default for its brightness."""

    brightness: float = 1.0
    colour: Literal["red", "green"] = "red"


DIM = Lamp(brightness=0.5)


class Room:
    def __init__(self, lamp: Lamp = DIM, size: int | None = None, walls: list[float] = ()):
        self.lamp, self.size, self.walls = lamp, size, walls


class Hall(Room):
    def __init__(self, doors: int, **more):
        super().__init__(**more)
        self.doors = doors


def test_a_nested_mapping_replaces_single_values_of_the_default():
    assert registry.build(f"{__name__}.Room", {"lamp": {"colour": "green"}}).lamp == Lamp(
        0.5, "green"
    )
    assert registry.build(f"{__name__}.Room").lamp is DIM
    known = registry.resolve(f"{__name__}.Hall", {"doors": 2, "lamp": {"brightness": 3}})
    lamp = {"brightness": 3, "colour": "red"}
    assert known == {"doors": 2, "lamp": lamp, "size": None, "walls": []}
    inside = registry.resolve(f"{__name__}.Room", {"walls": {"use": f"{__name__}.Room"}})["walls"]
    assert inside["params"]["lamp"] == {"brightness": 0.5, "colour": "red"}


@pytest.mark.parametrize(
    ("use", "params", "message"),
    [
        ("Room", {"lamp": {"colour": "blue"}}, "lamp: colour is one of red, green, not 'blue'"),
        ("Room", {"lamp": {"glow": 1}}, "lamp takes no argument glow. Valid: brightness, colour"),
        ("Room", {"lamp": 3}, "lamp is a mapping of brightness, colour, not 3"),
        ("Room", {"size": 2.5}, "size is a whole number or null, not 2.5"),
        ("Hall", {"size": 2}, "needs the argument doors"),
        ("Hall", {"doors": 1, "walls": 3, "size": "x"}, "size is a whole number or null"),
        ("Hall", {"doors": 1, "door": 3}, "takes no argument door. Valid: doors, lamp, size"),
    ],
)
def test_what_a_signature_does_not_allow_is_refused(use, params, message):
    with pytest.raises(FlagError, match=message):
        registry.build(f"{__name__}.{use}", params)


def test_values_of_other_types_are_checked_by_their_class():
    assert registry.build(f"{__name__}.Room", {"walls": "as one writes it"}).walls


def test_registry_lists_choices():
    with pytest.raises(FlagError, match=r"flag_st\.methods\.ridge"):
        registry.load("flag_st.methods.rigde.Ridge")
    with pytest.raises(FlagError, match=r"Valid: .*Ridge"):
        registry.load("flag_st.methods.ridge.Rigde")
    with pytest.raises(FlagError, match=r"component\. Valid: .*components"):
        registry.build("flag_st.methods.ridge.Ridge", {"component": 3})
    assert registry.defaults("flag_st.methods.ridge.Ridge")["components"] == 256


def test_a_missing_dependency_is_not_a_missing_plugin(tmp_path, monkeypatch):
    (tmp_path / "broken_plugin.py").write_text("import no_such_dependency\n")
    (tmp_path / "broken_line.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(FlagError, match=r"cannot be imported: .*no_such_dependency"):
        registry.load("broken_plugin.Thing")
    with pytest.raises(FlagError, match=r"SyntaxError.*broken_line\.py, line 1"):
        registry.load("broken_line.Thing")


def test_an_unfinished_class_is_refused_with_what_it_lacks():
    with pytest.raises(FlagError, match="Method lacks arrays, fit, predict, restore"):
        registry.build("flag_st.methods.base.Method")


def test_nothing_half_written_is_left(tmp_path):
    target = tmp_path / "a" / "x.json"
    with pytest.raises(RuntimeError), io.writing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert not target.exists()
    assert not list(target.parent.iterdir())
    target.write_text("old")
    with pytest.raises(RuntimeError), io.writing(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"


def test_the_digest_of_a_folder_passes_over_what_snakemake_puts_into_it(tmp_path):
    """Into folders that are outputs, and only after their digest was recorded."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "map.tif").write_text("map")
    known = io.digest(tmp_path)
    (tmp_path / "a" / ".snakemake_timestamp").touch()
    assert io.digest(tmp_path) == known
    (tmp_path / "a" / "other.tif").touch()
    assert io.digest(tmp_path) != known


def test_arrays_keep_shape_and_bytes(tmp_path):
    arrays = {"b": np.arange(6.0).reshape(2, 3), "a": np.array(2.5), "n": io.pack_names(["x", "ü"])}
    for name in ("one", "two"):
        io.save_arrays(tmp_path / name, dict(reversed(arrays.items())), {"k": 1, "j": [2]})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    found, facts = io.load_arrays(tmp_path / "one")
    assert all(np.array_equal(found[k], v) and found[k].shape == v.shape for k, v in arrays.items())
    assert io.unpack_names(found["n"]) == ["x", "ü"]
    assert facts == {"contract": io.CONTRACT, "k": 1, "j": [2]}


@pytest.mark.parametrize("damage", ["truncated", "foreign", "other version"])
def test_damaged_models_are_refused_with_the_remedy(tmp_path, damage):
    path = tmp_path / "m.safetensors"
    io.save_arrays(path, {"a": np.ones(100)}, {})
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-50])
    elif damage == "foreign":
        path.write_text("hello")
    else:
        from safetensors.numpy import save_file

        save_file({"a": np.ones(2)}, path, metadata={"flag_st": json.dumps({"contract": 0})})
    with pytest.raises(FlagError, match=r"m\.safetensors.*Remedy: delete"):
        io.load_arrays(path)


def test_streams_belong_to_slide_and_draw():
    one, other = seeds.Draws(0, "A1"), seeds.Draws(0, "A2")
    assert one.numpy(3).random() == seeds.Draws(0, "A1").numpy(3).random()
    values = {one.numpy(0).random(), one.numpy(1).random(), other.numpy(0).random()}
    values |= {seeds.Draws(1, "A1").numpy(0).random(), one.torch(0).initial_seed()}
    assert len(values) == 5


def write_slide(directory: Path):
    """The files of one slide, spots in another order in each."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(3.0, (6, 4)).astype(np.float32)
    names, genes = [f"s{i}" for i in range(6)], list("ABCD")
    facts = {"contract": io.CONTRACT, "slide": "x", "patient": "p"}
    spots = anndata.AnnData(
        counts, obs=pd.DataFrame(index=names), var=pd.DataFrame(index=genes), uns=facts
    )
    spots.write_h5ad(directory / "spots.h5ad")
    order = rng.permutation(6)
    features = anndata.AnnData(
        rng.normal(size=(6, 3)).astype(np.float32),
        obs=pd.DataFrame(index=[names[i] for i in order]),
        obsm={"spatial_um": rng.random((6, 2))},
        uns=facts,
    )
    features.write_h5ad(directory / "features.h5ad")
    return counts, order


def test_files_are_joined_by_name(tmp_path):
    counts, order = write_slide(tmp_path)
    slide = read_slide(tmp_path / "features.h5ad", tmp_path / "spots.h5ad", ["C", "A"], "log1p")
    assert np.allclose(slide.expression, np.log1p(counts[order][:, [2, 0]]))
    assert slide.truth is slide.expression
    assert slide.without_truth().expression is None
    with pytest.raises(FlagError, match="expression must not be seen"):
        _ = slide.without_truth().truth
    assert np.allclose(slide.subset(np.array([3, 1])).expression, slide.expression[[3, 1]])


def test_units_of_expression(tmp_path):
    counts, _ = write_slide(tmp_path)
    names = np.array([f"s{i}" for i in range(6)])
    read = lambda unit: read_expression(tmp_path / "spots.h5ad", names, list("ABCD"), unit)  # noqa: E731
    assert np.allclose(read("log2p1"), np.log2(counts + 1))
    depth = counts.sum(1, keepdims=True)
    assert np.allclose(read("log1p_cp10k"), np.log1p(counts / depth * 1e4), atol=1e-5)
    files = (tmp_path / "features.h5ad", tmp_path / "spots.h5ad", ["A"])
    assert {read_slide(*files, unit).unit for unit in TRANSFORMS} == set(TRANSFORMS)


@pytest.mark.parametrize("unit", sorted(TRANSFORMS))
def test_a_logarithm_is_taken_once_whatever_the_unit(unit):
    """Seven counts of ten thousand are 3 in log2, and ln 8 in natural logarithm."""
    counts = np.array([[7.0]])
    value = TRANSFORMS[unit](counts, np.array([[1e4]])).item()
    for wanted, log in (("log1p", np.log(8)), ("log2", 3.0)):
        if unit == "counts":
            with pytest.raises(FlagError, match=r"in counts\. Valid: log1p, .*scaling"):
                in_logarithm(unit, wanted)
        else:
            assert value / in_logarithm(unit, wanted) == pytest.approx(log)


def test_missing_spots_genes_and_nan_are_named(tmp_path):
    write_slide(tmp_path)
    with pytest.raises(FlagError, match="lacks 1 genes, such as Z"):
        read_slide(tmp_path / "features.h5ad", tmp_path / "spots.h5ad", ["A", "Z"], "log1p")
    table = anndata.read_h5ad(tmp_path / "features.h5ad")
    table.X[2, 1] = np.nan
    table.write_h5ad(tmp_path / "features.h5ad")
    with pytest.raises(FlagError, match="NaN or infinite features in 1 of 6 spots"):
        read_slide(tmp_path / "features.h5ad")


def test_predictions_with_nan_or_a_wrong_shape_are_refused(tmp_path):
    from flag_st.methods.base import Prediction

    slide = toy.slide("a")
    facts = {
        "method": "m",
        "genes": [f"g{i}" for i in range(toy.GENES)],
        "unit": "log1p",
        "seed": 0,
    }
    good = np.zeros((2, len(slide), toy.GENES), np.float32)
    bad = good.copy()
    bad[1, 0, 0] = np.inf
    for samples, word in ((bad, "NaN or infinite"), (good[:, :, 1:], "of 40 spots and 12 genes")):
        with pytest.raises(FlagError, match=word):
            write_prediction(tmp_path / "p.h5ad", slide, Prediction(samples), facts)
    assert not list(tmp_path.iterdir())


def test_targets_are_read_by_name_and_in_any_order(tmp_path):
    values = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float16)
    mask = np.random.default_rng(1).random((5, 3)) < 0.5
    path = tmp_path / "t.h5"
    with writing_targets(path, "contextual", list("abcde"), ["G1", "G2", "G3"], 2) as put:
        put(slice(0, 3), values[:3], mask[:3])
        put(slice(3, 5), values[3:], mask[3:])
    targets = Targets.open(path, list("edcba"), ["G3", "G1"])
    found, known = targets.read(np.array([4, 0, 0]))
    assert np.allclose(found, values[[0, 4, 4]][:, [2, 0]])
    assert np.array_equal(known, mask[[0, 4, 4]][:, [2, 0]])
    with pytest.raises(FlagError, match="lacks 1 spots, such as zz"):
        Targets.open(path, ["zz"], ["G1"])


def test_all_faults_at_once():
    faults = Faults()
    faults.add("one", remedy="do this")
    faults.add("two", choices=["a", "b"])
    with pytest.raises(FlagError, match=r"(?s)2 faults.*1\. one.*do this.*2\. two\. Valid: a, b"):
        faults.raise_if_any("input")


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys; from flag_st.commands import cli; cli.parser().format_help();"
        "print([m for m in ('torch', 'numpy', 'pandas', 'anndata', 'yaml') if m in sys.modules])"
    )
    start = time.process_time()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert time.process_time() - start < 1
    assert os.environ["HF_HUB_OFFLINE"] == "1"


WRITER = """
import sys
from flag_st.core import io
with io.writing(sys.argv[1]) as temporary:
    temporary.write_text("of the other process")
    print(temporary, flush=True)
    sys.stdin.readline()
"""


def writer(path: Path) -> tuple[subprocess.Popen, Path]:
    """A process that has written ``path`` under a temporary name and waits, and that name."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, Path(process.stdout.readline().strip())


def test_what_a_killed_writer_left_is_taken_away(tmp_path):
    process, left = writer(tmp_path / "x.h5")
    process.kill()
    process.communicate()
    assert left.exists()
    foreign = [tmp_path / f".x.00000000-1-00000000{k}.part.h5" for k in (1, 2)]
    for path in foreign:  # of another machine, whose processes are not seen here
        path.write_text("")
    os.utime(foreign[0], (1.6e9, 1.6e9))
    with io.writing(tmp_path / "x.h5") as temporary:
        assert not left.exists()
        temporary.write_text("whole")
    assert {p.name for p in tmp_path.iterdir()} == {"x.h5", foreign[1].name}


@pytest.mark.parametrize("first", ["this", "other"])
def test_of_two_writers_neither_renames_what_the_other_has_half_written(tmp_path, first):
    path = tmp_path / "x.h5"
    process, other = writer(path)
    with io.writing(path) as temporary:
        temporary.write_text("half ")
        assert other.read_text() == "of the other process"
        if first == "other":
            process.communicate("\n")
            assert path.read_text() == "of the other process"
        with open(temporary, "a") as file:
            file.write("and whole")
    assert path.read_text() == "half and whole"
    if first == "this":
        process.communicate("\n")
        assert path.read_text() == "of the other process"
    assert process.returncode == 0
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5"]


def test_a_folder_called_like_a_package_is_not_taken_for_it(tmp_path, monkeypatch):
    (tmp_path / "spatial_toolbox").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        FlagError, match=r"is a folder and no package.*pip install -e '\.\[slides\]'"
    ):
        extra("spatial_toolbox", "slides")
    assert extra("json", "slides").loads("1") == 1
