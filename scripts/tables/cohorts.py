"""Sizes of the cohorts (Table 4)."""

from flag_st.core.job import run

READS = ("slides",)


def main(job):
    from flag_st.paper.facts import COHORT_FACTS, cohort_facts, fact_sheet
    from flag_st.paper.render import write
    from flag_st.paper.reported import read_reported

    item = job.params.item
    printed = read_reported(job.input.reported, item["reported"])
    rows = cohort_facts(job.params.of["slides"], job.input.slides)
    write(*fact_sheet(item, rows, ["cohort"], COHORT_FACTS, printed), job.output)


if "snakemake" in globals():
    run(main, snakemake)
