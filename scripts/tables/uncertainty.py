"""How much the scores of single draws of one trained model differ (Table 9)."""

from flag_st.core.job import run

READS = ("runs", "predictions", "spots")


def main(job):
    import pandas as pd

    from flag_st.core import registry
    from flag_st.paper.experiment import Experiment
    from flag_st.paper.predictions import pairs
    from flag_st.paper.reported import read_reported
    from flag_st.paper.rescore import of_draws
    from flag_st.paper.tables.comparison import compare
    from flag_st.paper.tables.render import write

    experiment = Experiment.of(job.params.item)
    printed = read_reported(job.input.reported, experiment.reported)
    metrics = {n: registry.build(experiment.metrics[n]) for n in ("pcc", "mse", "gsc", "ssc")}
    scores, runs = of_draws(pairs(job), metrics), pd.read_parquet(job.input.runs)
    write(*compare(experiment, scores, runs, printed), job.output)


if "snakemake" in globals():
    run(main, snakemake)
