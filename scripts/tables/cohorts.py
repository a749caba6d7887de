"""Sizes of the cohorts (Table 4)."""

from flag_st.core.job import run

READS = ("slides",)


def main(job):
    from flag_st.paper.experiment import Experiment
    from flag_st.paper.reported import read_reported
    from flag_st.paper.tables.cohorts import COHORT_FACTS, cohort_facts
    from flag_st.paper.tables.facts import fact_sheet
    from flag_st.paper.tables.render import write

    experiment = Experiment.of(job.params.item)
    printed = read_reported(job.input.reported, experiment.reported)
    rows = cohort_facts(job.params.of["slides"], job.input.slides)
    write(*fact_sheet(experiment, rows, ["cohort"], COHORT_FACTS, printed), job.output)


if "snakemake" in globals():
    run(main, snakemake)
