"""What is planned, without any data."""

import re

import pytest
from running import ROOT, snakemake

from flag_st import config
from flag_st.plan import Plan


def counts(text: str) -> dict[str, int]:
    """Job counts of a dry run's table."""
    return {name: int(n) for name, n in re.findall(r"^(\w+) +(\d+)$", text, re.M)}


def test_default_configuration_plans_the_paper_without_data(tmp_path):
    done = snakemake(tmp_path, "-n", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr[-3000:]
    jobs = counts(done.stdout)
    assert jobs["retrieve"] == jobs["prepare_slide"] == 36 + 23 + 23
    stages = (
        "check_cohort make_split select_panel encode_patches embed_genes train predict evaluate "
        "collect_scores table figure report"
    )
    assert not set(stages.split()) - set(jobs)
    for cohort in ("HER2ST", "KIDNEY", "PRAD"):
        assert f"results/{cohort}/random/hmhvg200/flag/seed2/model.safetensors" in done.stdout
    assert re.search(r"rule train:(?:(?!rule ).)*?gpu=1", done.stdout, re.S)
    assert not list(tmp_path.glob("results/**/*.h5ad"))


@pytest.mark.parametrize("overlay", ["demo.yaml"])
def test_shipped_overlays_plan(overlay, tmp_path):
    done = snakemake(tmp_path, "-n", "--configfile", str(ROOT / "config" / overlay))
    assert done.returncode == 0, done.stderr[-3000:]
    assert counts(done.stdout)["report"] == 1


def test_unknown_keys_are_refused_before_planning(tmp_path):
    overlay = tmp_path / "wrong.yaml"
    overlay.write_text("defaults: {sample: 3}\nmake: [table_99]\n")
    done = snakemake(tmp_path, "-n", "--configfile", str(overlay))
    assert done.returncode != 0
    assert "unknown key sample" in done.stdout + done.stderr


def test_truth_is_no_input_of_predict_but_for_declared_controls():
    plan = Plan(config.load())
    allowed = {n for n, e in plan.config["methods"].items() if e.get("needs_truth")}
    assert allowed == {"oracle", "node_only_oracle", "node_only_edm_oracle"}
