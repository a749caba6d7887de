"""Time and memory to train each method (Table 11)."""

from flag_st.core.job import run

READS = ("runs", "history")


def main(job):
    import pandas as pd

    from flag_st.paper.facts import TRAINING_FACTS, fact_sheet, training_costs
    from flag_st.paper.render import write
    from flag_st.paper.reported import read_reported

    item = job.params.item
    printed = read_reported(job.input.reported, item["reported"])
    rows = training_costs(item, pd.read_parquet(job.input.runs), job.input.history)
    names = ["cohort", "label", "device"]
    write(*fact_sheet(item, rows, names, TRAINING_FACTS, printed), job.output)


if "snakemake" in globals():
    run(main, snakemake)
