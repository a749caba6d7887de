"""The explorer of new slides in a real browser, opened from a folder on disk."""

import re
import shutil
from dataclasses import replace

import chromium
import numpy as np
import pytest
from toy_predicted import NAMES, toy_predicted

from flag_st.outputs import explorer, together
from flag_st.outputs.folder import FILES, MAPS, write_files

BINARY = chromium.find()
pytestmark = pytest.mark.skipif(
    BINARY is None, reason="no Chromium on the path; name one in FLAG_ST_CHROMIUM"
)


@pytest.fixture(scope="module")
def slides():
    """Two slides, of which the second has one draw and a spot that is unlike training."""
    first, second = toy_predicted(), toy_predicted(spots=36, draws=1)
    second.trust.spots.loc[:, "verdict"] = "like training"
    second.trust.spots.loc[7, "verdict"] = "unlike training"
    return {"A": first, "B": replace(second, slide=replace(second.slide, id="B"))}


@pytest.fixture(scope="module")
def root(slides, tmp_path_factory):
    folder = tmp_path_factory.mktemp("a folder with spaces & é")
    for name, made in slides.items():
        (folder / name).mkdir()
        write_files(made, folder / name, {name: FILES[name] for name in (MAPS, explorer.NAME)}, {})
    together.write_explorer([folder / name for name in slides], folder / together.EXPLORER)
    return folder


@pytest.fixture
def page(root):
    with chromium.Page(BINARY) as tab:
        tab.open(root / together.EXPLORER)
        tab.until("slide && image.complete && image.naturalWidth > 0")
        yield tab


def choose(page, menu: str, value: str) -> None:
    page.run(f"$({menu!r}).value = {value!r}; $({menu!r}).dispatchEvent(new Event('change'))")


def read(page, spot: int) -> str:
    page.run(f"spot = {spot}; draw()")
    return page.run("$('readout').textContent")


def test_one_file_leads_to_all_slides_and_nothing_comes_from_elsewhere(page):
    assert page.errors == []
    assert {url.partition(":")[0] for url in page.requests} <= {"file", "data"}
    assert [url.rsplit("/", 2)[-2:] for url in page.requests if url.endswith(".js")] == [
        ["A", "explorer.js"]
    ]
    choose(page, "slide", "1")
    page.until("slide.spots.length === 36")
    assert page.run("$('about').textContent").startswith("B: like training.")
    assert page.errors == []


def test_there_is_no_truth_and_every_gene_can_be_read(page, slides):
    made = slides["A"]
    panels = page.run("[...document.querySelectorAll('canvas')].map(c => c.id).join()")
    assert panels == "image,prediction,spread,verdict"
    for gene in NAMES:
        choose(page, "gene", page.run(f"String(slide.genes.indexOf({gene!r}))"))
        text, column = read(page, 11), NAMES.index(gene)
        found = dict(re.findall(r"(prediction|spread) (-?\d+\.\d+)", text))
        assert float(found["prediction"]) == pytest.approx(made.point[11, column], abs=0.006)
        assert float(found["spread"]) == pytest.approx(made.spread[11, column], abs=0.006)
        assert "truth" not in text
        assert made.trust.genes.loc[gene, "verdict"] in text


def test_menus_without_a_choice_are_hidden(page):
    shown = (
        "[...document.querySelectorAll('select')].filter(s => s.offsetParent).map(s => s.id).join()"
    )
    assert page.run(shown) == "slide,gene"


def test_spots_have_the_colours_of_their_verdicts(page):
    choose(page, "slide", "1")
    page.until("slide.spots.length === 36")
    assert "unlike training" in read(page, 7)
    assert "unlike" not in read(page, 8).partition("Spot")[2]
    page.run("spot = -1; draw()")
    colour = """(spot => { const c = $('verdict'), at = frame(c), [x, y] = slide.position[spot];
      return [...c.getContext('2d').getImageData((x - at.left) * at.scale, (y - at.top) * at.scale, 1, 1).data]
        .slice(0, 3).join(); })"""
    assert page.run(f"{colour}(7)") == "213,94,0"
    assert page.run(f"{colour}(8)") == "0,114,178"
    assert page.run("values.spread") is None


def test_a_folder_that_is_not_there_is_named_and_the_page_goes_on(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "copy")
    shutil.rmtree(copy / "B")
    with chromium.Page(BINARY) as tab:
        tab.open(copy / together.EXPLORER)
        tab.until("slide")
        choose(tab, "slide", "1")
        tab.until("$('about').textContent.includes('B/explorer.js')")
        choose(tab, "slide", "0")
        tab.until("$('about').textContent.startsWith('New')")
        assert np.isfinite(tab.run("values.prediction[0]"))
