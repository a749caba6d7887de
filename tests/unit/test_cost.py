"""What a configuration will cost: jobs, hours and disk, from declarations and from earlier runs."""

import json
import re

import pytest

from flag_st.commands import cli, plan
from flag_st.planning import config
from flag_st.planning.jobs import Job, list_jobs

SPLIT = {"scheme": "fixed", "train": ["P1S1", "P2S1"], "valid": ["P3S1"], "test": ["P4S1"]}


def tiny(tmp_path, **defaults):
    """Four sections, a linear model and one that aligns, one table."""
    return {
        "results": str(tmp_path / "results"),
        "make": ["table_1"],
        "defaults": {
            "cohorts": ["four"],
            "split": "tiny",
            "panel": "hmhvg50",
            "encoder": "texture",
            "gene_model": "coexpression",
            "methods": ["ridge", "flag"],
            "seeds": [0, 1, 2],
            "samples": 4,
            **defaults,
        },
        "cohorts": {
            "four": {
                "use": "flag_st.sources.synthetic.Synthetic",
                "params": {"patients": 4, "sections": 1},
            }
        },
        "splits": {"tiny": SPLIT},
        "methods": {"flag": {"runtime": 120, "threads": 2, "gpu": 1}},
    }


@pytest.fixture
def no_networks(monkeypatch):
    """Parameters are counted by a test of their own; it needs the whole numeric stack."""
    monkeypatch.setattr(plan, "_parameters", lambda entry, genes: 1000)


def numbers(jobs):
    found = {}
    for job in jobs:
        found[job.rule] = found.get(job.rule, 0) + 1
    return found


def test_every_job_is_listed_once(tmp_path):
    jobs = list_jobs(config.load(tiny(tmp_path)))
    assert len(set(jobs)) == len(jobs)
    assert numbers(jobs) == {
        "retrieve": 4,
        "check_cohort": 1,
        "prepare_slide": 4,
        "make_split": 1,
        "select_panel": 1,
        "encode_patches": 4,
        "fit_gene_model": 1,
        "embed_genes": 2,  # training slides alone
        "train": 1 + 3,  # ridge has no randomness to repeat
        "predict": 4,
        "evaluate": 4,
        "collect_scores": 1,
        "collect_runs": 1,
        "table": 1,
        "report": 1,
    }


def test_features_of_an_encoder_that_learns_belong_to_a_split(tmp_path):
    jobs = list_jobs(config.load(tiny(tmp_path, encoder="ssl_vit")))
    assert (
        Job("fit_encoder", (("cohort", "four"), ("split", "tiny"), ("encoder", "ssl_vit"))) in jobs
    )
    assert {j.wildcards["scope"] for j in jobs if j.rule == "encode_patches"} == {"tiny"}


def test_declared_resources_are_upper_bounds(tmp_path, no_networks):
    found = plan.estimate(config.load(tiny(tmp_path)))
    # ridge declares nothing: the rule's hour on one core; flag two hours on two cores and a GPU.
    assert found["train"].gpu_hours == pytest.approx(3 * 2)
    assert found["train"].cpu_hours == pytest.approx(1 + 3 * 2 * 2)
    assert found["make_split"].cpu_hours == pytest.approx(0.5)  # half an hour on one core
    assert plan.total(found).measured_times == 0


def test_disk_follows_the_shapes(tmp_path, no_networks):
    loaded = config.load(tiny(tmp_path))
    found = plan.estimate(loaded, spots=100)
    assert found["encode_patches"].bytes == 4 * 100 * 1024 * 4
    # 4 bytes × spots × genes × (draws, spread, point), or (the one draw, point)
    assert found["predict"].bytes == 4 * 100 * 50 * (3 * 6 + 2)
    assert found["embed_genes"].bytes == 2 * (2 * 50 * 64 + 100 * 50)  # static: one table
    assert found["train"].bytes == 4 * (plan.SMALL + 4000)
    contextual = config.load(tiny(tmp_path, gene_model="geneformer"))
    assert plan.estimate(contextual, 100)["embed_genes"].bytes == 2 * (
        2 * 100 * 50 * plan.TARGET_WIDTH + 100 * 50
    )


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def benchmark(seconds):
    return f"s\th:m:s\tmax_rss\n{seconds}\t0:00:01\t100.0\n"


def test_earlier_runs_replace_declarations(tmp_path, no_networks):
    results, run = tmp_path / "results", "four/tiny/hmhvg50/flag"
    for seed, seconds in ((0, 1800), (1, 5400)):
        put(results / f"benchmarks/train/{run}/seed{seed}.tsv", benchmark(seconds))
    for name in ("model.safetensors", "history.csv", "run.json"):
        put(results / run / "seed0" / name, "x" * 100)
    train = plan.estimate(config.load(tiny(tmp_path)))["train"]
    # Two measured, the third as their mean, and ridge as it declares: nothing like it was run.
    assert train.gpu_hours == pytest.approx(0.5 + 1.5 + 1.0)
    assert train.cpu_hours == pytest.approx(2 * 3.0 + 1)
    assert (train.measured_times, train.there, train.jobs) == (3, 1, 4)
    assert train.bytes == 3 * 300 + plan.SMALL + 4000


@pytest.mark.parametrize("text", ["", "s\n", "h:m:s\n0:01\n", "s\nNaN?\n"])
def test_a_benchmark_that_says_nothing_counts_as_none(tmp_path, no_networks, text):
    put(tmp_path / "results/benchmarks/train/four/tiny/hmhvg50/flag/seed0.tsv", text)
    assert plan.estimate(config.load(tiny(tmp_path)))["train"].measured_times == 0


def test_other_cohorts_tell_where_the_own_was_never_run(tmp_path, no_networks):
    loaded = config.load(tiny(tmp_path, cohorts=["four", "synthetic"], split="random"))
    put(
        tmp_path / "results/benchmarks/evaluate/synthetic/random/hmhvg50/flag/seed0.tsv",
        benchmark(36),
    )
    assert plan.estimate(loaded)["evaluate"].measured_times == 6


def test_command_prints_a_table_and_json(tmp_path, no_networks, capsys):
    overlay = tmp_path / "o.yaml"
    overlay.write_text(json.dumps(tiny(tmp_path)))
    assert cli.main(["plan", "--configfile", str(overlay)]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^train +4 +6\.0 +13\.0 ", text, re.M)
    assert "the times of 34 jobs are the limits that they ask for (runtime): upper bounds" in text
    assert "assumes 3000 spots" in text
    assert cli.main(["plan", "--configfile", str(overlay), "--json", "--spots", "9"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["total"]["jobs"] == 34
    assert list(found["stages"])[:3] == ["retrieve", "check_cohort", "prepare_slide"]


def test_a_sweep_of_everything_has_thousands_of_jobs(tmp_path):
    """All methods × cohorts × seeds; networks are counted, too.

    The cohorts of the paper have no counts without an image, on which some methods build.
    """
    lacking = {n for n in config.load()["methods"] if n.endswith("_others") or "_open" in n}
    everything = {
        "sweep": {
            "script": "tables/main",
            "title": "Everything",
            "methods": [
                n for n in config.load()["methods"] if "cellplm" not in n and n not in lacking
            ],
            "seeds": [0, 1, 2, 3, 4],
        }
    }
    loaded = config.load({"results": str(tmp_path), "make": ["sweep"], "experiments": everything})
    found = plan.estimate(loaded)
    assert plan.total(found).jobs >= 5000
    assert plan.total(found).gpu_hours > 1000
