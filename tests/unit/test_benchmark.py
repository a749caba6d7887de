"""The benchmark measures what it says; no time is asserted."""

import json

import numpy as np
import pytest
from PIL import Image

from flag_st.commands import benchmark, benchmark_cases, benchmark_slides, cli
from flag_st.outputs import folder
from flag_st.slides.image import open_image


def test_exponent_of_a_power_law():
    sizes = [500, 1000, 2000]
    assert benchmark.exponent(sizes, [3e-9 * n**2 for n in sizes]) == pytest.approx(2)


def test_every_pair_names_a_case_and_a_shipped_entry():
    from flag_st.planning import config

    methods = config.load()["methods"]
    for theirs, ours, _ in benchmark.PAIRS.values():
        for case, entry, spots, _ in (theirs, ours):
            assert case in benchmark.CASES
            assert entry in methods
            assert spots > 0


def test_a_case_prints_its_numbers_as_json(capsys):
    words = ["benchmark", "--case", "construction", "--entry", "flag", "--spots", "60"]
    assert cli.main(words) == 0
    assert json.loads(capsys.readouterr().out)["seconds"] > 0


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("case", ["attention", "attention_by_messages"])
def test_attention_is_measured_with_and_without_gradients(case, training):
    assert benchmark.run_case(case, "flag", 60, {"training": training})["seconds"] > 0


@pytest.mark.parametrize("case", ["spot_draw", "spot_epoch"])
def test_hinge_is_measured_on_so_many_spots(case):
    found = benchmark.run_case(case, "hinge_budget_2", 40, {})
    assert found["spots_per_second"] == pytest.approx(40 / found["seconds"])


@pytest.mark.parametrize("case", ["new_slide", "new_slide_memory"])
def test_a_new_slide_is_made_whole(case, monkeypatch):
    made = {}
    one = folder.make

    def make(predictor, request, place):
        one(predictor, request, place)
        made.update(json.loads((place / folder.RECORD).read_text())["origin"], place=place)

    monkeypatch.setattr(folder, "make", make)
    found = benchmark.run_case(case, "flag", 40, {"sampling": {"steps": 2}})
    assert 20 <= found["spots"] <= 80
    assert found["spots_per_second"] == pytest.approx(found["spots"] / found["seconds"])
    assert found["cpu"] > 0
    assert made["draws"] == 1
    assert not made["place"].exists()  # nothing is left behind


def test_the_levels_of_the_slide_show_the_same_tissue(tmp_path):
    benchmark_slides.write_slide(tmp_path / "slide.tif", 2500.0)
    with open_image(tmp_path / "slide.tif") as image:
        assert image.pixel_um == pytest.approx(0.5)
        assert image.reader.downsamples == [1, 2, 4]
        fine = Image.fromarray(image.read((300, 700), 512, 1024)).resize((256, 256), 4)
        coarse = image.reader.square((600, 1400), 4.0, 256)
        assert np.abs(np.asarray(fine).astype(int) - coarse).mean() < 8


def test_an_unknown_case_lists_the_cases(capsys):
    assert cli.main(["benchmark", "--case", "speed"]) == 1
    assert "no benchmark 'speed'. Valid: " in capsys.readouterr().err


def test_floating_point_operations_are_those_of_the_network():
    """Twice as many spots in as many tiles of the same size take twice the operations."""
    size = dict(width=32, depth=2, heads=2, backbone={"width": 32, "depth": 1, "heads": 2})
    few = {"alignment": {"blocks": 1}}
    one, two = (benchmark_cases.evaluation("flag", n, **size, **few) for n in (30, 60))
    assert two["flop"] / one["flop"] == pytest.approx(2, rel=0.02)
    assert one["bound"] == pytest.approx(one["flop"] / one["rate"])


def test_report_has_ratios_and_a_picture(tmp_path):
    pairs = {"Draw": ("seconds", {"seconds": 8.0}, {"seconds": 0.5})}
    sizes = [500, 1000]
    grown = {
        "growth": [{"seconds": 1.0, "gib": 0.1}, {"seconds": 2.0, "gib": 0.2}],
        "construction": [{"seconds": 0.1}, {"seconds": 0.2}],
    }
    benchmark.report(tmp_path, pairs, sizes, grown, {1000: {"gib": 0.5}, 100_000: {"gib": 1.25}})
    text = (tmp_path / "speed.md").read_text()
    assert "| Draw | 8 s | 0.5 s | 16.0 × |" in text
    assert "exponent 1.00" in text
    assert "- 100,000 spots: 1.25 GiB" in text
    assert (tmp_path / "growth.png").stat().st_size > 1000
