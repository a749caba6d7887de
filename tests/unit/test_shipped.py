"""Entries with a shipped name and other settings make no run of the paper's."""

import pytest

from flag_st.planning import config
from flag_st.planning.shipped import differs, run_differs

FLAG = ("table_1", "flag")
#: Encoders side by side must see one field.
WIDE = {"encoders": {name: {"field_um": 224} for name in ("uni", "conch", "uni+conch")}}


def loaded(overlay: dict) -> dict:
    return config.load(overlay)


@pytest.mark.parametrize(
    ("overlay", "layer", "name", "expected"),
    [
        ({}, "methods", "flag", False),
        ({"methods": {"flag": {"params": {"width": 64}}}}, "methods", "flag", True),
        ({"methods": {"stem": {"params": {"batch": 7}}}}, "methods", "stem", True),
        ({"methods": {"flag": {"gpu": 0, "label": "ours"}}}, "methods", "flag", False),
        ({"encoders": {"uni": {"params": {"block": 5}}}}, "encoders", "uni", True),
        (WIDE, "encoders", "uni", True),
        ({"encoders": {"uni": {"params": {"weights": "mine.bin"}}}}, "encoders", "uni", False),
        ({"encoders": {"uni": {"params": {"batch": 4}}}}, "encoders", "uni", False),
        ({"panels": {"hmhvg200": {"size": 100}}}, "panels", "hmhvg200", True),
        ({"cohorts": {"PRAD": {"prepare": {"pixel_scale": 1.5}}}}, "cohorts", "PRAD", True),
        ({"cohorts": {"PRAD": {"licence": "asked"}}}, "cohorts", "PRAD", False),
    ],
)
def test_settings_that_decide_results_are_compared(overlay, layer, name, expected):
    assert differs(loaded(overlay), layer, name) == expected


def test_an_entry_of_its_own_and_none_differ_from_nothing():
    own = loaded({"encoders": {"uni_wide": {"base": "uni", "field_um": 224}}})
    assert not differs(own, "encoders", "uni_wide")
    assert not differs(own, "gene_models", None)


@pytest.mark.parametrize(
    "overlay",
    [
        {"methods": {"flag": {"params": {"width": 64}}}},
        WIDE,
        {"gene_models": {"geneformer": {"params": {"version": "v1"}}}},
        {"panels": {"hmhvg200": {"size": 100}}},
    ],
    ids=["method", "encoder", "gene model", "panel"],
)
def test_a_run_differs_by_whatever_it_uses(overlay):
    assert not run_differs(loaded({}), *FLAG)
    assert run_differs(loaded(overlay), *FLAG)
    assert not run_differs(loaded({"encoders": {"texture": {"field_um": 200}}}), *FLAG)
