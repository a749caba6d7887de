"""The report and the explorer in a real browser: nothing fetched, nothing broken, all reachable."""

import json
import re

import chromium
import numpy as np
import pytest
from paper_example import GENES, PITCH, Study, write_report

from flag_st.paper.tissue import read_shown, read_spread, read_tissue

BINARY = chromium.find()
pytestmark = pytest.mark.skipif(
    BINARY is None, reason="no Chromium on the path; name one in FLAG_ST_CHROMIUM"
)
PHONE = {"width": 375, "height": 700}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return Study(tmp_path_factory.mktemp("study"), encoder="texture")


@pytest.fixture(scope="module")
def root(study, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(study, folder)
    return folder / "report"


@pytest.fixture(scope="module")
def tab(root):
    with chromium.Page(BINARY) as page:
        yield page


@pytest.fixture
def report(tab, root):
    tab.resize(1280, 800)
    tab.requests.clear()
    tab.open(root / "index.html")
    return tab


@pytest.fixture
def explorer(tab, root):
    tab.resize(1280, 800)
    tab.requests.clear()
    tab.open(root / "explorer" / "curves.html")
    tab.until("image.complete && image.naturalWidth > 0")
    return tab


def overflow(page) -> int:
    return page.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def names(page, what: str) -> list[str]:
    return json.loads(
        page.run(
            f"JSON.stringify([...document.querySelectorAll({what!r})].map(e => e.textContent))"
        )
    )


# --- report ---------------------------------------------------------------------------------------


def test_report_fetches_nothing_and_complains_of_nothing(report):
    assert [url for url in report.requests if not url.startswith(("file:", "data:"))] == []
    assert sum(url.startswith("file:") for url in report.requests) == 1
    assert report.errors == []
    assert report.run("[...document.images].every(i => i.naturalWidth > 0)")


WIDE = {"width": 2560, "height": 1440}


@pytest.mark.parametrize("size", [PHONE, {"width": 1280, "height": 800}, WIDE])
def test_report_does_not_scroll_sideways(report, size):
    report.resize(**size, mobile=size is PHONE)
    assert overflow(report) <= 0


def test_the_first_screen_shows_pictures_and_the_first_table(report):
    report.resize(width=1280, height=800)
    place = "document.querySelector({!r}).getBoundingClientRect()"
    assert 0 < report.run(place.format("#glance img") + ".bottom") < 800
    assert 0 < report.run(place.format("#tables") + ".bottom") < 800
    links = "[...document.querySelectorAll('#glance a')]"
    assert report.run(f"{links}.every(a => document.getElementById(a.hash.slice(1)))")
    assert report.run(f"{links}.every(a => a.textContent.trim().length > 0)")


def test_wide_tables_scroll_in_their_own_frame(report):
    report.resize(**PHONE, mobile=True)
    frames = "[...document.querySelectorAll('.scroll')]"
    assert report.run(f"{frames}.some(f => f.scrollWidth > f.clientWidth)")
    assert report.run(f"{frames}.every(f => f.tabIndex === 0 && f.getAttribute('aria-label'))")


def test_theme_can_be_switched_and_is_really_dark(report):
    colour = "getComputedStyle(document.body).backgroundColor"

    def light() -> float:
        return np.mean([int(n) for n in re.findall(r"\d+", report.run(colour))[:3]])

    report.run("document.documentElement.dataset.theme = 'light'")
    assert light() > 200
    report.run("document.getElementById('theme').click()")
    assert light() < 60


def test_every_link_of_the_contents_leads_somewhere(report):
    links = "[...document.querySelectorAll('nav a')]"
    assert report.run(f"{links}.length") >= 5
    assert report.run(f"{links}.every(a => document.getElementById(a.hash.slice(1)))")


# --- explorer -------------------------------------------------------------------------------------


def centre(page, panel: str, spot: int) -> tuple[float, float]:
    """Where a spot is on the screen."""
    script = f"""(() => {{
      const canvas = $({panel!r}), box = canvas.getBoundingClientRect(), at = frame(canvas);
      const [x, y] = slide.position[{spot}], ratio = box.width / canvas.width;
      return JSON.stringify([box.left + (x - at.left) * at.scale * ratio,
                             box.top + (y - at.top) * at.scale * ratio]);
    }})()"""
    return tuple(json.loads(page.run(script)))


def read(page) -> dict[str, float]:
    text = page.run("$('readout').textContent")
    return {
        name: float(v)
        for name, v in re.findall(r"(truth|prediction|difference|spread) (-?\d+\.\d+)", text)
    }


def select(page, name: str, text: str) -> None:
    page.run(
        f"""(() => {{ const s = $({name!r});
        s.value = [...s.options].find(o => o.text === {text!r}).value;
        s.dispatchEvent(new Event('change')); }})()"""
    )


def test_explorer_fetches_nothing_and_complains_of_nothing(explorer):
    assert {url.partition(":")[0] for url in explorer.requests} <= {"file", "data"}
    assert explorer.errors == []


def test_pointing_at_a_spot_reads_its_values(explorer, study):
    tissue = read_tissue(study.spots("A1"), GENES, "log1p")
    key = study.keys[0]
    point = read_shown(study.of(key, "A1.h5ad"), tissue, "flag")
    spread = read_spread(study.of(key, "A1.h5ad"), tissue, "flag")
    select(explorer, "gene", "GENE5")
    select(explorer, "method", "flag")
    for spot in (0, 29, 63):
        for panel in ("truth", "spread"):
            explorer.mouse("mouseMoved", *centre(explorer, panel, spot))
            found = read(explorer)
            assert found["truth"] == pytest.approx(tissue.truth[spot, 5], abs=0.006)
            assert found["prediction"] == pytest.approx(point.values[spot, 5], abs=0.006)
            assert found["difference"] == pytest.approx(
                found["prediction"] - found["truth"], abs=0.012
            )
            assert found["spread"] == pytest.approx(spread.values[spot, 5], abs=0.006)


def test_a_spot_has_the_colour_of_its_value(explorer):
    """The lowest truth is the first colour of viridis, the highest the last."""
    pixel = """((panel, spot) => {
      const c = $(panel), at = frame(c), [x, y] = slide.position[spot];
      return [...c.getContext('2d').getImageData((x - at.left) * at.scale, (y - at.top) * at.scale, 1, 1).data]
        .slice(0, 3).join();
    })"""
    explorer.run("spot = -1, draw()")
    extreme = "values.truth.indexOf(Math.{}(...values.truth))"
    select(
        explorer, "method", "oracle"
    )  # its values are the truth's, so the range is the truth's too
    explorer.run(
        "slide.ends[gene()] = [Math.min(...values.truth), Math.max(...values.truth)], draw()"
    )
    assert explorer.run(f"{pixel}('truth', {extreme.format('min')})") == "68,1,84"
    assert explorer.run(f"{pixel}('truth', {extreme.format('max')})") == "253,231,37"


def test_methods_of_one_prediction_have_no_draw_and_no_spread(explorer):
    select(explorer, "method", "ridge")
    assert names(explorer, "#kind option") == ["point estimate"]
    assert explorer.run("values.spread === null")
    select(explorer, "method", "flag")
    assert names(explorer, "#kind option") == ["point estimate", "one draw"]


def test_the_name_of_the_only_slide_is_shown(explorer):
    assert explorer.run("$('slide').options.length") == 1
    assert explorer.run("$('slide').offsetParent !== null")


def test_keys_change_gene_method_draw_and_zoom(explorer):
    explorer.run("document.activeElement.blur()")
    before = explorer.run("$('gene').selectedIndex")
    explorer.key("]")
    assert explorer.run("$('gene').selectedIndex") == before + 1
    explorer.key("[")
    assert explorer.run("$('gene').selectedIndex") == before
    explorer.key("d")
    assert explorer.run("$('kind').value") == "draw"
    explorer.key("m")
    assert explorer.run("$('method').selectedOptions[0].text") == "ridge"
    explorer.key("+")
    assert explorer.run("view.zoom") == pytest.approx(1.5)
    explorer.key("0")
    assert explorer.run("view.zoom") == 1


def test_arrows_walk_from_spot_to_spot(explorer):
    explorer.run("spot = 0, $('truth').focus()")
    explorer.key("ArrowRight")
    right = explorer.run("JSON.stringify(slide.position[spot])")
    explorer.key("ArrowDown")
    down = explorer.run("JSON.stringify(slide.position[spot])")
    (x0, y0), (x1, y1) = json.loads(right), json.loads(down)
    first = json.loads(explorer.run("JSON.stringify(slide.position[0])"))
    assert (x0 - first[0], y0 - first[1]) == (PITCH, 0)
    assert (x1 - x0, y1 - y0) == (0, PITCH)
    assert "spread" in explorer.run("$('readout').textContent")


def test_zooming_keeps_the_place_under_the_pointer(explorer):
    x, y = centre(explorer, "truth", 27)
    explorer.run("$('truth').focus()")
    explorer.mouse("mouseMoved", x, y)
    explorer.mouse("mouseWheel", x, y, deltaX=0, deltaY=-300)
    explorer.until("view.zoom > 1.5")
    assert centre(explorer, "truth", 27) == pytest.approx((x, y), abs=1)
    assert centre(explorer, "prediction", 27)[0] == pytest.approx(
        centre(explorer, "image", 27)[0]
        + (
            explorer.run(
                "$('prediction').getBoundingClientRect().left - $('image').getBoundingClientRect().left"
            )
        ),
        abs=1,
    )  # all maps move together


def test_dragging_moves_a_zoomed_map_and_stays_inside(explorer):
    explorer.run("zoom(4)")
    x, y = explorer.run("$('truth').getBoundingClientRect().x") + 100, 300
    before = explorer.run("view.x")
    explorer.mouse("mousePressed", x, y, button="left", buttons=1)
    explorer.mouse("mouseMoved", x - 40, y, button="left", buttons=1)
    explorer.mouse("mouseReleased", x - 40, y, button="left")
    assert explorer.run("view.x") > before
    explorer.run("move(1e9, 1e9)")
    edge = explorer.run("view.x + slide.bounds.width / view.zoom - slide.bounds.width")
    assert edge == pytest.approx(0, abs=1e-6)


def test_another_slide_keeps_gene_and_method(explorer):
    select(explorer, "gene", "GENE3")
    select(explorer, "method", "ridge")
    explorer.run("choose()")
    assert explorer.run("$('gene').selectedOptions[0].text") == "GENE3"
    assert explorer.run("$('method').selectedOptions[0].text") == "ridge"


def test_explorer_fits_a_phone(explorer):
    explorer.resize(**PHONE, mobile=True)
    assert overflow(explorer) <= 0
    widths = json.loads(
        explorer.run(
            "JSON.stringify([...document.querySelectorAll('canvas')].map(c => c.clientWidth))"
        )
    )
    assert all(150 <= width <= PHONE["width"] for width in widths)
    sizes = explorer.run(
        "Math.min(...[...document.querySelectorAll('button, label:not([hidden]) select')].map(b => b.offsetHeight))"
    )
    assert sizes >= 36  # large enough for a finger


def test_every_control_has_a_name(explorer):
    unnamed = """[...document.querySelectorAll('button, select, canvas')].filter(e =>
      !e.getAttribute('aria-label') && !e.labels?.length && !e.textContent.trim()).length"""
    assert explorer.run(unnamed) == 0


def test_dark_is_taken_from_the_system(root):
    with chromium.Page(BINARY, prefers_color_scheme="dark") as page:
        page.open(root / "explorer" / "curves.html")
        colours = re.findall(r"\d+", page.run("getComputedStyle(document.body).backgroundColor"))
    assert np.mean([int(c) for c in colours[:3]]) < 60
