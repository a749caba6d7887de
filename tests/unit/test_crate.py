"""Crates of runs: what is in them, what is kept out, and which files are refused."""

import json
import stat
import zipfile
from datetime import datetime
from pathlib import Path

import pytest
import toy_results
from rocrate.rocrate import ROCrate

from flag_st.commands import cli
from flag_st.core.errors import FlagError
from flag_st.core.io import read_json
from flag_st.core.provenance import Record
from flag_st.crate.metadata import NAME, PROFILES
from flag_st.crate.portable import Names
from flag_st.crate.read import open_run
from flag_st.crate.write import write_crate

RUN = "toy/half/small/flag/seed0"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return toy_results.make(tmp_path_factory.mktemp("crate") / "results")


@pytest.fixture(scope="module")
def crate(results):
    path = results.parent / "crate.zip"
    write_crate(results, path)
    return path


def as_list(value) -> list:
    return value if isinstance(value, list) else [value]


def graph(crate: Path) -> dict:
    with zipfile.ZipFile(crate) as archive:
        return {entity["@id"]: entity for entity in json.loads(archive.read(NAME))["@graph"]}


def test_a_record_says_when_its_job_ended(tmp_path):
    Record("train", {}, {}, []).write(tmp_path / "run.json")
    ended = datetime.fromisoformat(read_json(tmp_path / "run.json")["ended"])
    assert abs((datetime.now(ended.tzinfo) - ended).total_seconds()) < 60


def test_the_same_results_give_the_same_bytes(results, crate, tmp_path):
    """Wherever they lie, and whenever: the dates are those of the records."""
    write_crate(results, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == crate.read_bytes()
    with zipfile.ZipFile(crate) as archive:
        names = archive.namelist()
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert names == [NAME, *sorted(names[1:])]
    assert graph(crate)["./"]["dateCreated"] == toy_results.ENDED


def test_the_library_reads_a_crate_of_the_profile(crate):
    found = ROCrate(crate)
    assert found.mainEntity.id == "workflow/Snakefile"
    assert found.mainEntity["programmingLanguage"].id.endswith("#snakemake")
    assert {"File", "SoftwareSourceCode", "ComputationalWorkflow"} == set(found.mainEntity.type)
    root = found.root_dataset
    assert {entity.id for entity in root["conformsTo"]} == set(PROFILES)
    assert all(root[key] for key in ("name", "description", "license", "datePublished"))
    run, *jobs = root["mentions"]
    assert run["instrument"].id == found.mainEntity.id
    assert run["object"][0].id == "configuration.yaml"
    assert run["startTime"] < run["endTime"] == toy_results.ENDED
    tools = {entity.id for entity in found.mainEntity["hasPart"]}
    assert len(jobs) > 10
    assert {job["instrument"].id for job in jobs} == tools
    assert all(job["endTime"] and job["result"] for job in jobs)
    assert run["resourceUsage"]["propertyID"] == "device"
    assert found.dereference("README.md")["about"].id == root.id
    # What one job made and another one read has one name.
    predicted = found.dereference(f"#predict/{RUN}/A1")["object"]
    assert predicted.id in {e.id for e in found.dereference(f"#train/{RUN}")["result"]}


def test_a_crate_has_tables_scores_records_and_settings_and_no_data(results, crate):
    with zipfile.ZipFile(crate) as archive:
        names = set(archive.namelist())
        table = archive.read("results/paper/tables/table_1.csv")
        assert b"weights" in archive.read("configuration.yaml")
    assert table == (results / "paper/tables/table_1.csv").read_bytes()
    assert {
        *("Snakefile", "workflow/rules/runs.smk", "config/methods.yaml", "constraints.txt"),
        *("results/experiments/table_1/scores.parquet", f"results/logs/train/{RUN}.json"),
        *("scripts/train.py", "results/toy/data/sources/A1.json"),
    } <= names
    assert not [name for name in names if name.endswith((".h5ad", ".h5", ".safetensors"))]
    entities = graph(crate)
    others = {str(e.get("name")): e for e in entities.values() if e["@id"].startswith("ni:")}
    model = results / RUN / "model.safetensors"
    found = others[f"results/{RUN}/model.safetensors"]
    assert found["sha256"] == toy_results.sha(model.read_bytes())
    assert found["contentSize"] == str(model.stat().st_size)
    assert others["outside/results.h5ad"]["sha256"] == toy_results.sha(b"counts")
    torch = entities["#torch-2.13.0"]
    assert torch["softwareVersion"] == "2.13.0"
    assert {"@id": torch["@id"]} in entities["workflow/Snakefile"]["softwareRequirements"]
    assert entities["#device-0"]["value"] == "cpu"


def test_predictions_are_in_it_if_asked_for(results, tmp_path):
    write_crate(results, tmp_path / "c.zip", predictions=True)
    with zipfile.ZipFile(tmp_path / "c.zip") as archive:
        name = f"results/{RUN}/predictions/A1.h5ad"
        assert archive.read(name) == (results / RUN / "predictions/A1.h5ad").read_bytes()
    assert open_run(tmp_path / "c.zip").jobs


def test_no_folder_of_a_person_or_a_machine_is_in_a_crate(results, crate, tmp_path):
    home = toy_results.make(tmp_path / "r", weights="at /home/jane/models/uni.bin, or ~/uni")
    write_crate(home, tmp_path / "c.zip")
    for path in (crate, tmp_path / "c.zip"):
        with zipfile.ZipFile(path) as archive:
            text = b"".join(map(archive.read, archive.namelist())).decode("latin-1")
        for word in ("jane", str(results.parent), str(tmp_path), str(Path.home()) + "/"):
            assert word not in text
    assert "at outside/uni.bin, or outside" in str(open_run(tmp_path / "c.zip").last.params)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("/data/x/results", "results"),
        ("/data/x/results/a/b", "results/a/b"),
        ("/data/x/results_old/b.h5", "outside/b.h5"),
        ("../jane/b.h5", "outside/b.h5"),
        ("~/models", "outside"),
        ("/home/jane.doe", "outside"),
        ("/data/jane/", "outside"),
        ("no weights in /srv/jane/m, see mean/median", "no weights in outside, see mean/median"),
        ("https://host/a/b and config/own.yaml at 2/3", None),
    ],
)
def test_paths_in_settings_get_names(text, name):
    assert Names("/data/x/results").value({"k": [text, 3]}) == {"k": [name or text, 3]}


def test_two_files_of_one_name_keep_a_place_each():
    found = Names("r").digests({"/a/m.h5": "1" * 64, "/b/m.h5": "2" * 64, "r/x": "3"})
    assert sorted(found.values()) == ["1" * 64, "2" * 64, "3"]
    assert "results/x" in found


def test_a_token_in_the_settings_is_refused(tmp_path):
    token = "hf_" + "a1B2" * 8
    results = toy_results.make(tmp_path / "r", weights=token)
    with pytest.raises(FlagError, match=r"would hold a token.*Remedy"):
        write_crate(results, tmp_path / "c.zip")
    assert not (tmp_path / "c.zip").exists()


def test_a_table_that_names_a_folder_is_there_by_digest(tmp_path, capsys):
    results = toy_results.make(tmp_path / "r", verdict="/home/jane/models")
    assert cli.main(["crate", str(results), "-o", str(tmp_path / "c.zip")]) == 0
    assert "table_1.csv is in the crate by its digest only" in capsys.readouterr().err
    with zipfile.ZipFile(tmp_path / "c.zip") as archive:
        assert "results/paper/tables/table_1.csv" not in archive.namelist()


def test_a_file_that_is_there_is_kept_unless_forced(results, tmp_path, capsys):
    out = tmp_path / "c.zip"
    out.write_text("mine")
    assert cli.main(["crate", str(results), "-o", str(out)]) == 1
    assert "is there already. Remedy: name another file, or add --force" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert cli.main(["crate", str(results), "-o", str(out), "--force"]) == 0
    assert zipfile.is_zipfile(out)
    assert [path.name for path in tmp_path.iterdir()] == ["c.zip"]


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda r: (r / "logs/report.json").unlink(), "index.html; .*report.log"),
        (lambda r: (r / RUN / "model.safetensors").unlink(), "model.safetensors, which does not exist"),
        (lambda r: (r / "paper/tables/table_1.csv").write_text("x"), "table_1.csv, which has changed"),
        (
            lambda r: (r / f"logs/train/{RUN}.json").unlink(),
            f"{RUN}/model.safetensors, which has no record",
        ),
    ],
)  # fmt: skip
def test_an_unfinished_run_is_refused(spoil, said, tmp_path):
    results = toy_results.make(tmp_path / "r")
    spoil(results)
    for action in (lambda: write_crate(results, tmp_path / "c.zip"), lambda: open_run(results)):
        with pytest.raises(FlagError, match=f"is not finished.*{said}.*Remedy: give the command"):
            action()
    assert not (tmp_path / "c.zip").exists()


def test_what_was_made_again_after_it_was_read_is_refused(tmp_path):
    results = toy_results.make(tmp_path / "r")
    record = results / f"logs/train/{RUN}.json"
    facts = read_json(record)
    model = results / RUN / "model.safetensors"
    model.write_text("trained anew")
    facts["outputs"] = {name: toy_results.sha(Path(name).read_bytes()) for name in facts["outputs"]}
    record.write_text(json.dumps(facts))
    with pytest.raises(FlagError, match=r"model.safetensors, which was made again after predict"):
        write_crate(results, tmp_path / "c.zip")


def test_what_is_no_folder_of_results_is_refused(tmp_path):
    with pytest.raises(FlagError, match=r"no folder of results.*Remedy"):
        write_crate(tmp_path, tmp_path / "c.zip")


def member(name: str, mode: int = 0o644) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, mode << 16
    return info


RECORD = "results/logs/report.json"
BAD = {
    "no zip": (lambda c, o: o.write_text("PK"), "no readable archive"),
    "no metadata": (lambda c, o: toy_results.rewrite(c, o, **{NAME: None}), f"it has no {NAME}"),
    "no JSON": (lambda c, o: toy_results.rewrite(c, o, **{NAME: b"{"}), "is not valid JSON"),
    "no graph": (lambda c, o: toy_results.rewrite(c, o, **{NAME: b"[]"}), "no metadata of a crate"),
    "no profile": (
        lambda c, o: toy_results.rewrite(c, o, **{NAME: b'{"@graph": [{"@id": "./"}]}'}),
        "is no crate of a run: it lacks https://w3id.org/ro/wfrun/process/0.5",
    ),
    "changed": (
        lambda c, o: toy_results.rewrite(c, o, **{RECORD: b"{}"}),
        f"{RECORD} differs from the digest",
    ),
    "missing": (lambda c, o: toy_results.rewrite(c, o, **{RECORD: None}), f"{RECORD} is missing"),
    "unlisted": (lambda c, o: toy_results.add(c, o, member("more.txt")), "more.txt is not listed"),
    "parent": (
        lambda c, o: toy_results.add(c, o, member("a/../../evil")),
        "a/../../evil' leads out of the archive",
    ),
    "root": (lambda c, o: toy_results.add(c, o, member("/evil")), "'/evil' leads out"),
    "backslash": (lambda c, o: toy_results.add(c, o, member("..\\evil")), "evil' leads out"),
    "link": (
        lambda c, o: toy_results.add(c, o, member("x", stat.S_IFLNK | 0o777), b"/etc/passwd"),
        "'x' is a link",
    ),
    "huge": (
        lambda c, o: toy_results.add(c, o, member("huge"), bytes(1 << 22)),
        "'huge' would grow to 4194304 bytes",
    ),
    "no record": (
        lambda c, o: toy_results.reseal(c, o, **{RECORD: b'{"rule": "report"}'}),
        f"{RECORD} is no record of a job",
    ),
    "twice": (lambda c, o: toy_results.add(c, o, member(RECORD)), "there twice"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", BAD)
def test_bad_archives_are_refused_by_name(case, crate, tmp_path, capsys):
    spoil, said = BAD[case]
    bad = tmp_path / "bad.zip"
    spoil(crate, bad)
    assert cli.main(["compare", str(crate), str(bad)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"flag-st: {bad}")
    assert said in told
    assert "Remedy: " in told
    assert [path.name for path in tmp_path.iterdir()] == ["bad.zip"]
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("results/experiments/table_1/scores.parquet", b"PAR1", "table_1 of"),
        ("results/paper/tables/table_1.csv", b"claim,cohort\na,b\n", "table_1 of"),
        ("results/toy/data/sources/A1.json", b"[]", "A1.json is no list of raw files"),
    ],
)
def test_members_that_cannot_be_read_are_refused(name, data, said, crate, tmp_path, capsys):
    """Their digests are right: somebody wrote them so."""
    bad = toy_results.reseal(crate, tmp_path / "bad.zip", **{name: data})
    other = toy_results.make(tmp_path / "r", values={"ridge": 0.0, "flag": 0.0})
    assert cli.main(["compare", str(other), str(bad)]) == 2
    assert said in capsys.readouterr().err


def test_a_damaged_archive_is_refused(crate, tmp_path, capsys):
    data = bytearray(crate.read_bytes())
    middle = data.index(b"results/paper/tables/table_1.csv") + 40
    data[middle : middle + 8] = b"damaged!"
    (tmp_path / "bad.zip").write_bytes(data)
    assert cli.main(["compare", str(crate), str(tmp_path / "bad.zip")]) == 2
    assert "bad.zip" in capsys.readouterr().err


def test_two_files_of_one_name_are_both_in_the_metadata(crate):
    """As the matrices of two sections that Space Ranger has written."""
    entities = graph(crate)
    named = [e for e in entities.values() if str(e.get("name")).startswith("outside/m.bin")]
    assert {e["sha256"] for e in named} == {toy_results.sha(b"x"), toy_results.sha(b"y")}
    used = {
        reference["@id"]
        for entity in entities.values()
        for key in ("object", "result")
        for reference in as_list(entity.get(key, []))
    }
    assert used <= set(entities)


def test_what_is_not_there_is_refused(tmp_path, capsys):
    assert cli.main(["compare", str(tmp_path / "a.zip"), str(tmp_path)]) == 2
    assert "a.zip does not exist. Remedy" in capsys.readouterr().err
