"""The settings of each method chosen on validation slides, and the budget of the search."""

from flag_st.core.job import run

READS = ("runs", "history")


def main(job):
    import pandas as pd

    from flag_st.paper.experiment import Experiment
    from flag_st.paper.tables.render import write
    from flag_st.paper.tables.search import candidates, search_sheet

    experiment = Experiment.of(job.params.item)
    table = candidates(experiment, pd.read_parquet(job.input.runs), job.input.history)
    write(search_sheet(experiment, table), table, job.output)


if "snakemake" in globals():
    run(main, snakemake)
