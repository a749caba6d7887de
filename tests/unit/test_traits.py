"""What an entry says of its class is compared with the class, and a disagreement is refused."""

import pytest

from flag_st.commands.check import check
from flag_st.core import registry
from flag_st.core.errors import FlagError
from flag_st.planning import config
from flag_st.planning.traits import check_traits, stated


@pytest.mark.parametrize(
    ("layer", "name", "change", "message"),
    [
        ("methods", "ridge", {"stochastic": True}, "ridge says stochastic: true, but Ridge"),
        ("methods", "shuffled_profiles", {"stochastic": False}, "has stochastic: true"),
        ("methods", "oracle", {"needs_truth": False}, "write needs_truth: true in the entry"),
        ("methods", "ridge", {"needs_patches": True}, "write needs_patches: false"),
        ("encoders", "texture", {"fits": True}, "texture says fits: true, but Texture"),
        ("gene_models", "coexpression", {"fits": False}, "has fits: true"),
        ("metrics", "domains", {"downstream": False}, "write downstream: true"),
        ("metrics", "intervals", {"calibrated": False}, "write calibrated: true"),
        (
            "metrics",
            "ssim",
            {"downstream": True},
            "but Ssim with these params has downstream: false",
        ),
    ],
)
def test_a_disagreement_is_refused(layer, name, change, message):
    entry = config.load()[layer][name]
    plugin = registry.build(entry["use"], entry.get("params", {}))
    check_traits(layer, name, stated(layer, entry), plugin)
    with pytest.raises(FlagError, match=message):
        check_traits(layer, name, stated(layer, {**entry, **change}), plugin)


def test_check_names_both_the_entry_and_the_class(capsys):
    overlay = {"make": ["table_4"], "methods": {"training_mean": {"stochastic": True}}}
    assert check(config.load(overlay), data=False) == 1
    said = capsys.readouterr().err
    assert "methods.training_mean says stochastic: true, but TrainingMean" in said


@pytest.mark.parametrize(
    ("metric", "downstream", "message"),
    [
        ("ari_labels", False, "metric domains returns it. Remedy: write downstream: true in"),
        ("energy", True, "metric energy returns it. Remedy: add energy to defaults.metrics"),
        ("pccc", True, "shows pccc, which no metric returns. Valid: ari_clusters, "),
        ("ari_labels", True, ""),
        ("pcc", False, ""),
    ],
)
def test_check_finds_columns_that_would_be_empty(capsys, metric, downstream, message):
    shown = {"downstream": downstream, "params": {"columns": [{"metric": metric}]}}
    overlay = {
        "make": ["table_1"],
        "experiments": {"table_1": shown},
        "defaults": {"metrics": ["pcc", "domains"], "methods": ["ridge"]},
    }
    assert check(config.load(overlay), data=False) == bool(message)
    assert message in capsys.readouterr().err
