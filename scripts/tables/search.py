"""Settings of each method chosen on validation slides, and the budget of the search."""

from flag_st.core.job import run

READS = ("runs", "history")


def main(job):
    import pandas as pd

    from flag_st.paper.render import write
    from flag_st.paper.search import candidates, search_sheet

    item = job.params.item
    table = candidates(item, pd.read_parquet(job.input.runs), job.input.history)
    write(search_sheet(item, table), table, job.output)


if "snakemake" in globals():
    run(main, snakemake)
