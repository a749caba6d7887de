"""Time and memory to predict one slide (Table 10)."""

from flag_st.core.job import run

READS = ("predictions", "records")


def main(job):
    from flag_st.paper.facts import INFERENCE_FACTS, fact_sheet, inference_costs
    from flag_st.paper.render import write
    from flag_st.paper.reported import read_reported

    item = job.params.item
    printed = read_reported(job.input.reported, item["reported"])
    files = (job.params.of["predictions"], job.input.predictions, job.input.records)
    rows = inference_costs(item, *files)
    names = ["cohort", "label", "slide", "device"]
    write(*fact_sheet(item, rows, names, INFERENCE_FACTS, printed), job.output)


if "snakemake" in globals():
    run(main, snakemake)
