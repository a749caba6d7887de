"""Sizes of the cohorts (Table 4), or what there is of each patient (HINGE Table S1)."""

from flag_st.core.job import run

READS = ("slides",)


def main(job):
    from flag_st.paper.experiment import Experiment
    from flag_st.paper.reported import read_reported
    from flag_st.paper.tables import cohorts
    from flag_st.paper.tables.facts import fact_sheet
    from flag_st.paper.tables.render import write

    experiment = Experiment.of(job.params.item)
    printed = read_reported(job.input.reported, experiment.reported)
    files = job.params.of["slides"], job.input.slides
    if experiment.params.get("by") == "patient":
        names, facts, rows = ["cohort", "row"], cohorts.PATIENT_FACTS, cohorts.patient_facts(*files)
    else:
        names, facts, rows = ["cohort"], cohorts.COHORT_FACTS, cohorts.cohort_facts(*files)
    write(*fact_sheet(experiment, rows, names, facts, printed), job.output)


if "snakemake" in globals():
    run(main, snakemake)
