"""Every job that a configuration stands for, listed without Snakemake and without touching data."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, NamedTuple

from flag_st.planning.grid import Plan, RunKey
from flag_st.planning.rules import RULES

#: An experiment that reads any of these needs the predictions of its runs.
PREDICTED = {"scores", "predictions", "records"}


class Job(NamedTuple):
    """One job of the workflow; ``values`` are its wildcards in the order of the rule's key."""

    rule: str
    values: tuple[tuple[str, Any], ...]

    @property
    def wildcards(self) -> dict[str, Any]:
        return dict(self.values)

    def files(self, results: str) -> list[str]:
        """Paths of the job's outputs."""
        return RULES[self.rule].files(results, self.wildcards)


class Jobs(dict[Job, None]):
    """Jobs in the order in which they were added, each once."""

    def need(self, rule: str, slides: Iterable[str] = ("",), **known: Any) -> None:
        """Add one job per slide, with those of the ``known`` wildcards that the rule has."""
        names = RULES[rule].wildcards
        for slide in slides:
            values = {**known, "slide": slide}
            self[Job(rule, tuple((name, values[name]) for name in names))] = None


def list_jobs(config: dict[str, Any]) -> list[Job]:
    """Every job of the experiments to make, each once, in the order of the rules.

    Args:
        config: as ``flag_st.planning.config.load`` returns it.
    """
    plan, jobs = Plan(config), Jobs()
    for name in config["make"]:
        reads, runs = set(plan.reads(name)), plan.runs(name)
        for run in runs:
            _run(plan, run, jobs)
            if reads & PREDICTED:
                test = plan.split(run.cohort, run.split).test
                jobs.need("predict", test, **vars(run))
            if "scores" in reads:
                _scores(plan, name, run, jobs)
        if runs:
            _experiment(config["experiments"][name]["script"], name, reads, jobs)
    for cohort in {job.wildcards["cohort"]: None for job in jobs if job.rule == "train"}:
        jobs.need("retrieve", plan.slides(cohort), cohort=cohort)
        jobs.need("check_cohort", cohort=cohort)
        jobs.need("prepare_slide", plan.slides(cohort), cohort=cohort)
    jobs.need("report")
    order = {rule: number for number, rule in enumerate(RULES)}
    return sorted(jobs, key=lambda job: order[job.rule])


def _run(plan: Plan, run: RunKey, jobs: Jobs) -> None:
    """Training, and what it shares with other runs on the same cohort, split and panel."""
    config, split = plan.config, plan.split(run.cohort, run.split)
    method = config["methods"][run.method]
    encoder, gene_model = method["encoder"], method["gene_model"]
    fitted = config["encoders"][encoder].get("fits")
    known = {
        **vars(run),
        "encoder": encoder,
        "gene_model": gene_model,
        "scope": run.split if fitted else "data",
    }
    jobs.need("make_split", **known)
    jobs.need("select_panel", **known)
    if fitted:
        jobs.need("fit_encoder", **known)
    slides = (*split.train, *split.valid, *split.test)
    if field := plan.field(encoder):
        jobs.need("cut_patches", slides, field=field, **known)
    jobs.need("encode_patches", slides, **known)
    for name, corpus in plan.corpora(run).items():
        jobs.need("prepare_counts", corpus.counts, **known)
        jobs.need("fit_gene_model", **{**known, "gene_model": name})
    if gene_model:
        jobs.need("embed_genes", split.train, **known)
    for part in plan.parts(run.cohort, run.method):
        _run(plan, replace(run, method=part), jobs)
    jobs.need("train", **known)


def _scores(plan: Plan, experiment: str, run: RunKey, jobs: Jobs) -> None:
    """The scores of a run, and the intervals that they judge."""
    if plan.calibrated(run.method):
        jobs.need("calibrate", **vars(run))
    for rule in plan.scored_by(experiment):
        jobs.need(rule, **vars(run))


def _experiment(script: str, experiment: str, reads: set[str], jobs: Jobs) -> None:
    """What is made once per experiment."""
    if "scores" in reads:
        jobs.need("collect_scores", experiment=experiment)
    jobs.need("collect_runs", experiment=experiment)
    jobs.need("table" if script.startswith("tables/") else "figure", experiment=experiment)
    if script == "figures/gene_maps":
        jobs.need("explorer", experiment=experiment)
