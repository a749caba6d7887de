"""Exported models: what they hold, what they must not hold, and which files are refused."""

import json
import shutil
import struct

import anndata
import numpy as np
import pytest
from finished import SAMPLES, do, each, make_run, output
from stages import SPLIT
from toy_slides import toy_cohort

from flag_st.commands.cli import main
from flag_st.commands.show import as_json, as_text
from flag_st.core.errors import FlagError
from flag_st.core.fitted import inside
from flag_st.core.io import load_arrays, save_arrays
from flag_st.core.seeds import Draws
from flag_st.data import spatial
from flag_st.data.lattice import array_pitch, layout
from flag_st.data.slide import read_expression, read_slide
from flag_st.exported.export import export
from flag_st.exported.licences import notes, portable, weights
from flag_st.exported.model import open_model
from flag_st.exported.privacy import spots_in
from flag_st.methods.base import load


def test_it_predicts_what_the_run_predicts(model, run, folder):
    """The method and the encoder of the file, on the patches of the test slide."""
    import h5py

    opened = open_model(model)
    (test,) = SPLIT["test"]
    slide = read_slide(folder / output("encode_patches", "features", slide=test))
    with h5py.File(folder / output("prepare_slide", "patches", slide=test)) as file:
        features = opened.encoder().encode(file["img"][:])
    assert np.array_equal(features, slide.features)
    made = opened.method().predict(slide, 2, Draws(opened.facts["seed"], test))
    wanted = anndata.read_h5ad(run / "predictions" / f"{test}.h5ad")
    assert np.array_equal(made.point.astype(np.float32), wanted.X)
    assert np.array_equal(made.samples[1].astype(np.float32), wanted.layers["draw_1"])


def test_its_header_says_where_it_comes_from(model):
    facts = open_model(model).facts
    assert facts["split"] == {p: {s: s[:2] for s in slides} for p, slides in SPLIT.items()}
    assert facts["platform"]["layout"] == "square"
    assert facts["platform"]["pitch_um"] == pytest.approx(200, abs=5)
    assert facts["platform"]["spot_um"] == 100
    assert facts["samples"] == 2
    assert facts["unit"] == "log1p"
    assert len(facts["genes"]) == 12
    assert facts["encoder_entry"]["name"] == "texture"
    assert facts["patches"] == {"size": 224, "um_per_px": 0.5}
    assert facts["licences"][0]["of"] == "cohort tiny"
    assert str(model.parent.parent) not in json.dumps(facts)  # no path of this machine


def test_the_command_states_the_licence_of_slides_that_no_list_has(run, tmp_path):
    path = tmp_path / "own.flag"
    assert main(["export", str(run), "-o", str(path), "--licence", "CC BY 4.0"]) == 0
    assert open_model(path).facts["licences"][0]["licence"] == "CC BY 4.0"
    assert "CC BY 4.0" in as_text(open_model(path))


def test_two_exports_are_equal_in_every_byte(model, run, tmp_path):
    export(run, tmp_path / "again.flag")
    assert (tmp_path / "again.flag").read_bytes() == model.read_bytes()


def test_a_moved_results_folder_exports_the_same(model, run, folder, tmp_path):
    shutil.copytree(folder / "results", tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / run.relative_to(folder / "results")
    export(moved, tmp_path / "moved.flag")
    assert (tmp_path / "moved.flag").read_bytes() == model.read_bytes()


def known_rows(folder) -> list[np.ndarray]:
    """Expression (counts and logarithm) and features of all spots of training and validation."""
    tables = []
    for part in ("train", "valid"):
        for slide in SPLIT[part]:
            spots = folder / output("prepare_slide", "spots", slide=slide)
            features = read_slide(folder / output("encode_patches", "features", slide=slide))
            genes = list(anndata.read_h5ad(spots).var_names)
            counts = read_expression(spots, features.spots, genes, "counts")
            tables += [features.features, counts, np.log1p(counts)]
    return tables


def test_no_array_holds_a_spot(model, folder):
    """Of no spot is its vector of features, or of the panel's expression, in the file."""
    arrays, facts = load_arrays(model)
    genes = facts["genes"]
    seen = 0
    for slide in (s for part in ("train", "valid") for s in SPLIT[part]):
        features = read_slide(folder / output("encode_patches", "features", slide=slide))
        spots = folder / output("prepare_slide", "spots", slide=slide)
        for unit in ("counts", "log1p"):
            expression = read_expression(spots, features.spots, genes, unit)
            for table in (expression, features.features):
                for array in arrays.values():
                    if array.ndim == 0 or array.shape[-1] != table.shape[1]:
                        continue
                    seen += 1
                    rows = array.reshape(-1, table.shape[1]).astype(np.float64)
                    rows = rows[~np.isnan(rows).all(1)]  # of small slides, verdicts say nothing
                    apart = np.nanmax(abs(rows[:, None] - table[None]), 2)  # (R, N)
                    assert not rows.size or apart.min() > 1e-3
    assert seen
    assert not any(
        len(a) in (len(t) for t in known_rows(folder)) for a in arrays.values() if a.ndim
    )


@pytest.mark.parametrize(
    "disguise",
    [
        lambda x: x,
        lambda x: x[::-1][:5],
        lambda x: x.astype(np.float16),
        lambda x: (x - x.mean(0)) / (x.std(0) + 1e-6),
        lambda x: x.T.copy(),
        lambda x: x[None],
        lambda x: np.rint(np.expm1(x)).astype(np.int32)[3:8] if x.min() >= 0 else x,
    ],
)
def test_spots_are_found_in_any_disguise(folder, disguise):
    from flag_st.exported.run import Run

    run = Run(make_run(folder, "ridge"))
    genes = load(run.model)[1]["genes"]
    train = run.cohort("train", genes, "log1p", patches=False)
    assert spots_in({"bank": disguise(train.expression)}, list(train)) == "bank"
    assert spots_in({"keys": disguise(train.features)}, list(train)) == "keys"
    noise = np.random.default_rng(0).normal(size=(len(train.expression), 12))
    assert spots_in({"noise": noise, **load(run.model)[0].arrays()}, list(train)) is None


def test_an_array_without_numbers_holds_no_spots():
    """Such as the basis of a ridge on blank pictures, whose features do not vary."""
    train = toy_cohort(2)
    nothing = {"basis": np.empty((203, 0)), "weights": np.empty((0, 50))}
    assert spots_in(nothing, list(train)) is None


@pytest.mark.parametrize(("method", "why"), [("shuffled", "profiles"), ("oracle", "truth")])
def test_methods_that_keep_spots_or_need_the_truth_are_refused(folder, tmp_path, method, why):
    with pytest.raises(FlagError, match=why):
        export(make_run(folder, method), tmp_path / "model.flag")
    assert not list(tmp_path.iterdir())


def test_test_slides_are_not_opened(folder, run, tmp_path):
    """Without their files, the same model is written."""
    copy = shutil.copytree(folder / "results", tmp_path / "results")
    (test,) = SPLIT["test"]
    shutil.rmtree(copy / "tiny/data/slides" / test)
    (copy / f"tiny/data/features/texture/{test}.h5ad").unlink()
    export(copy / run.relative_to(folder / "results"), tmp_path / "model.flag")
    assert set(open_model(tmp_path / "model.flag").scores()) == {"pcc", "rmse", "spread"}


def test_inputs_that_changed_since_the_training_are_refused(folder, run, tmp_path):
    copy = shutil.copytree(folder / "results", tmp_path / "results")
    path = copy / "tiny/data/features/texture/P2S1.h5ad"
    table = anndata.read_h5ad(path)
    table.X = table.X + 1
    table.write_h5ad(path)
    with pytest.raises(FlagError, match=r"P2S1\.h5ad is not the file"):
        export(copy / run.relative_to(folder / "results"), tmp_path / "model.flag")


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert main(["export", str(tmp_path)]) == 1
    assert "no folder of a finished run" in capsys.readouterr().err


def changed(model, path, **facts):
    arrays, known = load_arrays(model)
    save_arrays(path, arrays, {**known, **facts})
    return path


def test_bad_files_are_refused_by_name(model, run, tmp_path):
    whole = model.read_bytes()
    cases = {
        "missing.flag": "does not exist",
        "empty.flag": "not a readable model",
        "text.flag": "not a readable model",
        "cut.flag": "not a readable model",
        "older.flag": "contract version 1",
        "run.flag": "no exported model but the model file of a run",
    }
    (tmp_path / "empty.flag").write_bytes(b"")
    (tmp_path / "text.flag").write_text("this is no model")
    (tmp_path / "cut.flag").write_bytes(whole[: len(whole) // 2])
    changed(model, tmp_path / "older.flag", contract=1)
    shutil.copy(run / "model.safetensors", tmp_path / "run.flag")
    for name, why in cases.items():
        with pytest.raises(FlagError, match=why) as error:
            open_model(tmp_path / name)
        assert name in str(error.value)
        assert "flag-st export" in str(error.value)


def test_another_encoder_is_refused(model, tmp_path):
    entry = open_model(model).facts["encoder_entry"]
    other = changed(model, tmp_path / "other.flag", encoder_entry={**entry, "digest": "f" * 64})
    with pytest.raises(FlagError, match="digest ffffffffffffffff"):
        open_model(other).encoder()


def test_another_method_is_refused(model, tmp_path):
    other = changed(model, tmp_path / "other.flag", use="flag_st.methods.gone.Gone")
    with pytest.raises(FlagError, match="another version"):
        open_model(other).method()


def test_headers_are_plain_json(model):
    """Whoever has no flag-st can still read what a file is."""
    raw = model.read_bytes()
    (length,) = struct.unpack("<Q", raw[:8])
    facts = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["flag_st"])
    assert facts["kind"] == "exported model"


def test_show_names_split_scores_and_needs(model, capsys):
    assert main(["show", str(model)]) == 0
    text = capsys.readouterr().out
    for word in ("noisy", "P1S1 (P1)", "square array", "log1p", "PCC"):
        assert word in text
    assert text.rstrip() == as_text(open_model(model))
    assert main(["show", str(model), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(json.dumps(as_json(open_model(model))))
    assert set(found["validation"]) == set(found["genes"])


UNI = {
    "use": "flag_st.encoders.vit.Uni",
    "params": {
        "repo": "MahmoodLab/UNI",
        "file": "pytorch_model.bin",
        "weights": "/home/me/uni.bin",
    },
}


def test_published_weights_are_named_and_their_place_is_not():
    entry = {"name": "uni", **UNI}
    (file,) = weights(entry)
    assert (file["repo"], file["file"]) == ("MahmoodLab/UNI", "pytorch_model.bin")
    assert "weights" not in portable(entry)["params"]
    parts = {"use": "flag_st.encoders.concat.Concat", "params": {"parts": {"a": UNI}}}
    assert "/home" not in json.dumps(portable(parts))
    assert portable({"use": "x.Y", "params": {"weights": 3}})["params"] == {"weights": 3}
    hest = {"name": "PRAD", "use": "flag_st.sources.hest.Hest"}
    cohort, model = notes(hest, [entry])
    assert cohort["licence"] == "CC BY-NC-SA 4.0"
    assert model == {
        "of": "UNI",
        "licence": "CC BY-NC-ND 4.0",
        "page": "https://huggingface.co/MahmoodLab/UNI",
    }


def test_the_licence_of_one_s_own_slides_is_what_the_export_states():
    own = {"name": "mine", "use": "flag_st.sources.spaceranger.SpaceRanger"}
    assert notes(own, [])[0]["licence"].endswith("no licence is stated")
    assert notes({**own, "licence": "CC BY 4.0"}, [])[0]["licence"] == "CC BY 4.0"
    # What is published has the licence of the list, whatever an entry says.
    hest = {"name": "PRAD", "use": "flag_st.sources.hest.Hest", "licence": "none"}
    assert notes(hest, [])[0]["licence"] == "CC BY-NC-SA 4.0"


def test_the_pitch_is_that_of_the_array_and_not_of_the_jitter():
    rng = np.random.default_rng(0)
    cells = np.stack(np.divmod(np.arange(400), 20), 1)
    square = cells * 200.0 + rng.normal(0, 12, (400, 2))
    assert spatial.pitch(square) < 195
    assert array_pitch(square) == pytest.approx(200, rel=0.01)
    assert layout(square) == "square"
    hexagonal = np.column_stack([cells[:, 1] + cells[:, 0] % 2 / 2, cells[:, 0] * 3**0.5 / 2]) * 100
    assert array_pitch(hexagonal) == pytest.approx(100)
    assert layout(hexagonal) == "hexagonal"
    assert array_pitch(np.zeros((1, 2))) == 1.0


def test_intervals_are_those_that_the_rule_calibrates(folder, run, model):
    given = {
        "model": output("train", "model", method="noisy"),
        "features": each("encode_patches", "features", "valid"),
        "spots": each("prepare_slide", "spots", "valid"),
        "patches": [],
        "split": output("make_split", "split"),
    }
    params = {"samples": SAMPLES, "patients": {s: s[:2] for part in SPLIT.values() for s in part}}
    do(folder, "calibrate", given, params, method="noisy")
    made = load_arrays(run / "calibration.safetensors")[0]
    kept = inside("intervals", open_model(model).arrays)
    assert kept.keys() == made.keys()
    for name, array in made.items():
        np.testing.assert_array_equal(kept[name], array)
    assert open_model(model).intervals.spot.patients == 1  # P2, who is not in training
    assert "rest on the validation slides of one patient" in as_text(open_model(model))


def test_a_model_says_if_training_met_the_validation_patients(folder, run, tmp_path):
    """The same run with one donor for training and validation guarantees nothing for another."""
    shutil.copytree(folder / "results", tmp_path / "results")
    record = tmp_path / "results" / "logs/make_split/tiny/s.json"
    facts = json.loads(record.read_text())
    facts["params"]["patients"] = dict.fromkeys(facts["params"]["patients"], "P")
    record.write_text(json.dumps(facts))
    moved = tmp_path / "results" / run.relative_to(folder / "results")
    export(moved, tmp_path / "met.flag")
    opened = open_model(tmp_path / "met.flag")
    assert as_json(opened)["intervals"]["guaranteed"]["90"] == 0
    assert "for a new patient nothing is guaranteed" in as_text(opened)
    assert "nothing is shown of a new patient" in as_text(opened)
