"""Every shipped entry of every layer is a class that can be built, and refuses what it does not know."""

import pytest

from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.encoders.base import Encoder
from flag_st.gene_models.base import GeneModel
from flag_st.metrics.base import Metric
from flag_st.planning import config
from flag_st.planning.grid import Plan, source_params
from flag_st.planning.traits import check_traits, stated
from flag_st.sources.base import Source

CONFIG = config.load()
BASES = {"cohorts": Source, "encoders": Encoder, "gene_models": GeneModel, "metrics": Metric}
ENTRIES = [(layer, name) for layer in BASES for name in CONFIG[layer]]


@pytest.mark.parametrize(("layer", "name"), ENTRIES)
def test_entry_builds(layer, name, root):
    entry = CONFIG[layer][name]
    plugin = registry.build(entry["use"], source_params(entry.get("params", {}), None))
    assert isinstance(plugin, BASES[layer])
    check_traits(layer, name, stated(layer, entry), plugin)
    if "env" in entry:
        assert (root / "envs" / f"{entry['env']}.yaml").exists()


@pytest.mark.parametrize(("layer", "name"), ENTRIES)
def test_unknown_arguments_are_refused(layer, name):
    entry = CONFIG[layer][name]
    params = source_params(entry.get("params", {}), None)
    with pytest.raises(FlagError, match="no_such_argument"):
        registry.build(entry["use"], {**params, "no_such_argument": 1})


def test_cohorts_of_the_paper_have_their_slides():
    plan = Plan(CONFIG)
    names = ("HER2ST", "KIDNEY", "PRAD", "cSCC", "DLPFC")
    sizes = {name: len(plan.rows(name)) for name in names}
    assert sizes == {"HER2ST": 36, "KIDNEY": 23, "PRAD": 23, "cSCC": 12, "DLPFC": 9}
    patients = {n: len({r.patient for r in plan.rows(n)}) for n in names[:4]}
    assert patients == {"HER2ST": 8, "KIDNEY": 22, "PRAD": 2, "cSCC": 4}


def test_the_folds_of_hinge_are_the_first_section_of_each_patient():
    plan = Plan(CONFIG)
    rows = {row.id: row for row in plan.rows("HER2ST")}
    folds = plan.expand_split("HER2ST", "hinge").values()
    tested = [(rows[s].patient, rows[s].section) for fold in folds for s in fold.test]
    assert tested == [(letter, "1") for letter in "ABCDEFGH"]
    assert all(len(fold.train) == 34 and len(fold.valid) == 1 for fold in folds)


def test_metric_columns_are_unique_and_described():
    from flag_st.scoring.slides import columns

    built = {n: registry.build(e["use"], e.get("params", {})) for n, e in CONFIG["metrics"].items()}
    for name, (label, direction) in columns(built).items():
        assert label, name
        assert direction in (-1, 0, 1), name
