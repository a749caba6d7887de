"""The explorer of new slides: a script per slide beside one page, of bounded size and with every gene."""

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from toy_predicted import NAMES, toy_predicted

from flag_st.core.errors import FlagError
from flag_st.outputs import explorer, together
from flag_st.outputs.folder import FILES, MAPS, write_files
from flag_st.planning.rules import RULES
from flag_st.report.explorer import STEPS
from flag_st.slides.request import BESIDE, read_sheet


def unpacked(text, low, high, spots):
    steps = np.frombuffer(base64.b64decode(text), dtype="<u2").reshape(-1, spots).T  # (N, K)
    return low + steps / STEPS * (np.asarray(high) - low)


def read(path):
    """What the page is handed: the script is one call of its function."""
    (text,) = re.findall(r"^receive\((.*)\);\n$", path.read_text(encoding="utf-8"))
    return json.loads(text)


def test_every_gene_is_there_with_its_prediction_spread_and_verdicts(tmp_path):
    made = toy_predicted()
    explorer.write(made, tmp_path / explorer.NAME)
    found = read(tmp_path / explorer.NAME)
    assert sorted(found["genes"]) == sorted(NAMES)
    assert found["genes"][:2] == list(made.shown)
    columns = [NAMES.index(gene) for gene in found["genes"]]
    (method,) = found["methods"]
    low, high, top = (np.array(found[name]) for name in ("low", "high", "top"))
    point = unpacked(method["point"], low, high, len(made.slide))
    assert point == pytest.approx(made.point[:, columns], abs=4 / STEPS)
    spread = unpacked(method["spread"], 0 * top, top, len(made.slide))
    assert spread == pytest.approx(made.spread[:, columns], abs=4 / STEPS)
    assert found["position"] == pytest.approx(made.slide.position, abs=0.05)
    unlike = (made.trust.spots["verdict"] == "unlike training").to_list()
    assert [bool(u) for u in found["unlike"]] == unlike
    assert found["notes"][0].startswith("do not, ")  # of g0
    assert found["unit"] == "log1p counts"


def test_one_draw_has_no_spread(tmp_path):
    (method,) = explorer.data_of(toy_predicted(draws=1))["methods"]
    assert set(method) == {"name", "point"}


def test_a_large_slide_is_thinned_evenly_and_says_so(monkeypatch):
    made = toy_predicted(spots=2500)
    whole = explorer.data_of(made)
    assert "are shown" not in whole["about"]
    assert len(whole["spots"]) == 2500
    monkeypatch.setattr(explorer, "BUDGET", 600 * 2 * 2 * len(NAMES))
    found = explorer.data_of(made)
    count = len(found["spots"])
    assert 300 < count <= 600
    assert f"Of 2500 spots, {count} are shown" in found["about"]
    assert found["genes"] == whole["genes"]
    assert found["ends"] == whole["ends"]  # the colours are those of all spots
    kept = [whole["spots"].index(name) for name in found["spots"]]
    assert kept == sorted(kept)
    (few,), (all_of,) = found["methods"], whole["methods"]
    values = unpacked(few["point"], 0, 1, count)
    assert np.array_equal(values, unpacked(all_of["point"], 0, 1, 2500)[kept])
    # No part of the slide is left empty.
    position = np.array(found["position"])
    far = np.linalg.norm(made.slide.position[:, None] - position[None], axis=2).min(1)
    assert far.max() < 3 * 200.0


@pytest.mark.parametrize("room", [1, 7, 99, 100, 1000])
def test_never_more_spots_than_there_is_room(room):
    position = np.random.default_rng(0).uniform(0, [9000, 300], (100, 2))
    kept = explorer.thinned(position, room)
    assert len(kept) <= room
    assert len(kept) == len(set(kept.tolist()))
    assert (len(kept) == 100) == (room >= 100)


def test_the_page_stays_small_and_leads_to_every_slide(tmp_path):
    made = toy_predicted()
    trust = replace(made.trust, verdict="unlike training", reasons=["it is <b>blurred</b>"])
    folders = []
    for i in range(100):
        folder = tmp_path / f"S{i}"
        folder.mkdir()
        one = made if i else replace(made, trust=trust)
        if i < 2:
            write_files(one, folder, {name: FILES[name] for name in (MAPS, explorer.NAME)}, {})
        else:
            (folder / "run.json").write_bytes((tmp_path / "S1/run.json").read_bytes())
        folders.append(folder)
    together.write_explorer(folders, tmp_path / together.EXPLORER)
    text = (tmp_path / together.EXPLORER).read_text(encoding="utf-8")
    assert len(text) < 100_000
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert data["slides"][0] == {"label": "S0: unlike training", "source": "S0/explorer.js"}
    assert [s["source"] for s in data["slides"]] == [f"S{i}/explorer.js" for i in range(100)]
    assert (
        read(tmp_path / "S0/explorer.js")["about"] == "New: unlike training; it is <b>blurred</b>."
    )
    assert not re.search(r'(src|href)="', text)


def test_no_slide_is_called_like_a_file_beside_its_folder(tmp_path):
    """Otherwise its folder would take the place of the page of all slides, or be taken for it."""
    files = {
        path.removeprefix("new_slides/")
        for rule in RULES.values()
        for path in rule.outputs.values()
        if path.startswith("new_slides/") and "{" not in path
    }
    assert files | {together.EXPLORER} <= set(BESIDE)
    for name in BESIDE:
        (tmp_path / "sheet.tsv").write_text(f"slide\tname\na.tif\t{name}\n")
        with pytest.raises(FlagError, match="beside the folders of slides"):
            read_sheet(tmp_path / "sheet.tsv")
