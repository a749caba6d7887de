"""What each method ran with, every setting resolved (Table 5)."""

from flag_st.core.job import run

READS = ("runs",)


def main(job):
    import pandas as pd

    from flag_st.paper.facts import settings_sheet
    from flag_st.paper.render import write
    from flag_st.paper.reported import read_reported

    item = job.params.item
    printed = read_reported(job.input.reported, item["reported"])
    write(*settings_sheet(item, pd.read_parquet(job.input.runs), printed), job.output)


if "snakemake" in globals():
    run(main, snakemake)
