"""What each method ran with, including every default (Table 5)."""

from flag_st.core.job import run

READS = ("runs",)


def main(job):
    import pandas as pd

    from flag_st.paper.experiment import Experiment
    from flag_st.paper.reported import read_reported
    from flag_st.paper.tables.render import write
    from flag_st.paper.tables.settings import settings_sheet

    experiment = Experiment.of(job.params.item)
    printed = read_reported(job.input.reported, experiment.reported)
    write(*settings_sheet(experiment, pd.read_parquet(job.input.runs), printed), job.output)


if "snakemake" in globals():
    run(main, snakemake)
