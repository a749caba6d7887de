"""Time and memory to train each method (Table 11)."""

from flag_st.core.job import run

READS = ("runs", "history")


def main(job):
    import pandas as pd

    from flag_st.paper.experiment import Experiment
    from flag_st.paper.reported import read_reported
    from flag_st.paper.tables.costs import TRAINING_FACTS, training_costs
    from flag_st.paper.tables.facts import fact_sheet
    from flag_st.paper.tables.render import write

    experiment = Experiment.of(job.params.item)
    printed = read_reported(job.input.reported, experiment.reported)
    rows = training_costs(experiment, pd.read_parquet(job.input.runs), job.input.history)
    names = ["cohort", "label", "device"]
    write(*fact_sheet(experiment, rows, names, TRAINING_FACTS, printed), job.output)


if "snakemake" in globals():
    run(main, snakemake)
