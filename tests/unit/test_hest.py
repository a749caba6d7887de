"""Slide sheets, and HEST-1k against a loopback hub."""

import csv
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hub_server import HubServer, isolate

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.sources.hest import Hest

PROJECT = Path(__file__).resolve().parents[2]
HER2ST = Path(os.environ.get("FLAG_ST_HER2ST", PROJECT.parent / "shared/data/her2st"))
needs_data = pytest.mark.skipif(
    not (HER2ST / "meta.csv").exists(), reason=f"no HER2ST sections at {HER2ST} (FLAG_ST_HER2ST)"
)
TOKEN = "hf_neverSeen"


# Slide sheets


def sheet(name: str) -> list[dict]:
    with open(PROJECT / "config/cohorts" / f"{name}.tsv", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.mark.parametrize(
    ("name", "slides", "patients", "largest"),
    [("her2st", 36, 8, 6), ("kidney", 23, 22, 2), ("prad", 23, 2, 15), ("dlpfc", 12, 3, 4)],
)
def test_sheets_hold_the_cohorts(name, slides, patients, largest):
    rows = Hest(f"config/cohorts/{name}.tsv").slides()
    assert len({r.id for r in rows}) == len(rows) == slides
    sizes = Counter(r.patient for r in rows)
    assert "" not in sizes
    assert (len(sizes), max(sizes.values())) == (patients, largest)
    assert {r.fold for r in rows} == {""}
    columns = ["slide", "patient", "section", "fold", "technology", "note"]
    assert list(sheet(name)[0]) == columns


def test_known_slides_of_the_sheets():
    her2st = {r.id: r for r in Hest("config/cohorts/her2st.tsv").slides()}
    known = {"SPA154": "A1", "SPA148": "B1", "SPA137": "C6", "SPA123": "G2", "SPA119": "H3"}
    assert {s: her2st[s].patient + her2st[s].section for s in known} == known
    kidney = {r.id: r.patient for r in Hest("config/cohorts/kidney.tsv").slides()}
    assert kidney["NCBI701"] == kidney["NCBI702"] != kidney["NCBI700"]
    prad = {r.id: r.patient for r in Hest("config/cohorts/prad.tsv").slides()}
    assert "MEND155" not in prad
    assert {s for s, p in prad.items() if p == "1"} == {f"MEND{i}" for i in (154, *range(156, 163))}
    cscc = {(r.patient, r.section): r.id for r in Hest("config/cohorts/cscc.tsv").slides()}
    assert cscc["2", "3"] == "NCBI768"  # P2_ST_rep3, the section of HINGE's ablations
    assert cscc["10", "3"] == "NCBI759"  # P10_ST_rep3, the default of its code
    assert sorted(cscc.values()) == [f"NCBI{n}" for n in range(759, 771)]
    dlpfc = {r.section: (r.id, r.patient) for r in Hest("config/cohorts/dlpfc.tsv").slides()}
    assert dlpfc["151507"] == ("MISC12", "Br5292")
    assert dlpfc["151669"] == ("MISC8", "Br5595")
    assert dlpfc["151673"] == ("MISC4", "Br8100")


@needs_data
def test_her2st_sheet_agrees_with_the_sections_at_hand():
    rows = {r.id: r for r in Hest("config/cohorts/her2st.tsv").slides()}
    with open(HER2ST / "meta.csv", encoding="utf-8") as file:
        for fact in csv.DictReader(file):
            row = rows[fact["hest_id"]]
            assert (row.patient + row.section, f"Patient {row.patient}") == (
                fact["id"],
                fact["patient"],
            )


def test_sheet_is_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len(Hest("config/cohorts/her2st.tsv").slides()) == 36
    (tmp_path / "mine.tsv").write_text("slide\tpatient\nX1\tP\n")
    assert [r.id for r in Hest("mine.tsv").slides()] == ["X1"]
    with pytest.raises(FlagError, match=r"absent\.tsv"):
        Hest("absent.tsv").slides()


def test_planning_imports_nothing_heavy():
    code = (
        "import sys, flag_st.sources.hest as h, flag_st.sources.her2st_github as g\n"
        "h.Hest('config/cohorts/prad.tsv').slides(); g.Her2stOpen().slides()\n"
        "heavy = 'numpy pandas anndata huggingface_hub PIL tifffile filelock torch'.split()\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
    )
    assert run.stdout.strip() == "[]"


def test_restriction_to_some_slides():
    hest = Hest("config/cohorts/her2st.tsv", slides=["SPA148", "SPA123"])
    assert [r.id for r in hest.slides()] == ["SPA123", "SPA148"]
    with pytest.raises(FlagError, match=r"no slide SPA999.*Valid: SPA119"):
        Hest("config/cohorts/her2st.tsv", slides=["SPA999"]).slides()


@pytest.mark.parametrize(
    ("folders", "fault"),
    [
        (["st", "metadata"], "do not make a slide"),
        (["metadata", "patches"], "do not make a slide"),
        (["st", "metadata", "wsi"], "unknown wsi"),
    ],
)
def test_folders_that_make_no_slide_are_refused(folders, fault):
    with pytest.raises(FlagError, match=fault):
        Hest("config/cohorts/her2st.tsv", folders=folders)


# HEST-1k


@pytest.fixture
def server(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path, TOKEN)
    names = {"st": "h5ad", "metadata": "json", "patches": "h5", "wsis": "tif"}
    files = {
        f"{folder}/{slide}.{suffix}": f"{folder} of {slide}".encode()
        for folder, suffix in names.items()
        for slide in ("SPA123", "SPA148", "SPA14")
    }
    key = "datasets/MahmoodLab/hest"
    with HubServer({key: files}, gated={key: {TOKEN}}, tokens={TOKEN}) as server:
        yield server


def hest(server, tmp_path, **options) -> Hest:
    params = {"sheet": "config/cohorts/her2st.tsv", "root": str(tmp_path / "hest")}
    params |= {"endpoint": server.url} | options
    return registry.build("flag_st.sources.hest.Hest", params)


def test_fetch_brings_the_files_of_one_slide(server, tmp_path):
    files = hest(server, tmp_path).fetch("SPA148", tmp_path / "cohort").items()
    root = tmp_path / "hest"
    assert files == {
        "st": root / "st/SPA148.h5ad",
        "metadata": root / "metadata/SPA148.json",
        "patches": root / "patches/SPA148.h5",
    }
    assert files["st"].read_text() == "st of SPA148"
    there = {p.name for p in root.glob("[!.]*/*")}
    assert there == {"SPA148.h5ad", "SPA148.json", "SPA148.h5"}
    assert not (tmp_path / "cohort").exists()


def test_slide_images_come_on_request(server, tmp_path):
    source = hest(server, tmp_path, folders=["st", "metadata", "wsis"])
    files = source.fetch("SPA148", tmp_path)
    assert files.wsi.read_text() == "wsis of SPA148"
    assert files.patches is None


def test_two_cohorts_share_the_files(server, tmp_path):
    hest(server, tmp_path).fetch("SPA148", tmp_path)
    server.requests.clear()
    other = tmp_path / "other.tsv"
    other.write_text("slide\tpatient\nSPA148\tB\n")
    hest(server, tmp_path, sheet=str(other)).fetch("SPA148", tmp_path)
    assert server.requests == []


def test_plan_of_a_cohort(server, tmp_path):
    source = hest(server, tmp_path, slides=["SPA123", "SPA148"])
    plan = source.plan()
    assert len(plan.wanted) == 6
    assert plan.need == sum(len(f"{n} of SPA123") * 2 for n in ("st", "metadata", "patches"))
    assert server.transfers() == []


def test_unknown_slide_and_absent_file(server, tmp_path):
    with pytest.raises(FlagError, match=r"no slide SPA14\."):  # on the hub, not in the sheet
        hest(server, tmp_path).fetch("SPA14", tmp_path)
    with pytest.raises(FlagError, match=r"no file st/SPA120\.h5ad.*st/SPA123\.h5ad"):
        hest(server, tmp_path).fetch("SPA120", tmp_path)
    assert not (tmp_path / "hest/st").exists()


def test_gate_is_explained_with_the_page_to_ask_at(server, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    page = r"https://huggingface\.co/datasets/MahmoodLab/hest"
    with pytest.raises(FlagError, match=f"needs a login.*{page}.*hf auth login"):
        hest(server, tmp_path).fetch("SPA148", tmp_path)


# The list of downloads


def test_downloads_are_listed_as_the_code_asks_for_them():
    from flag_st.sources import dlpfc, her2st_github

    with open(PROJECT / "config/sources.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    columns = "name address revision file bytes sha256 licence gated page"
    assert " ".join(rows[0]) == columns
    assert all(None not in r and None not in r.values() and r["name"] for r in rows)
    assert len({(r["name"], r["file"]) for r in rows}) == len(rows)
    assert all(r["page"] for r in rows if r["gated"].startswith("yes"))
    by_name = {r["name"]: r for r in rows}
    source = Hest("config/cohorts/her2st.tsv")
    hub = by_name["HEST-1k"]
    assert (hub["address"], hub["revision"]) == (source.hub.page, source.revision)
    assert {r["file"] for r in rows if r["name"] == "HEST-1k"} == {
        "st/{slide}.h5ad",
        "metadata/{slide}.json",
        "patches/{slide}.h5",
        "wsis/{slide}.tif",
    }
    for name, module in (("HER2ST", her2st_github), ("DLPFC layers", dlpfc)):
        assert by_name[name]["address"] == f"https://github.com/{module.REPO}"
        assert by_name[name]["revision"] == module.COMMIT
    assert by_name["DLPFC layers"]["file"] == dlpfc.FILE
