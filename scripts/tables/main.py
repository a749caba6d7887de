"""Methods against metrics, beside the printed numbers: Table 1 and all tables of its shape."""

from flag_st.core.job import run

READS = ("scores", "runs")


def main(job):
    import pandas as pd

    from flag_st.paper.collect import read_scores
    from flag_st.paper.experiment import Experiment
    from flag_st.paper.reported import read_reported
    from flag_st.paper.tables.comparison import compare
    from flag_st.paper.tables.render import write

    experiment = Experiment.of(job.params.item)
    printed = read_reported(job.input.reported, experiment.reported)
    scores, runs = read_scores(job.input.scores), pd.read_parquet(job.input.runs)
    write(*compare(experiment, scores, runs, printed), job.output)


if "snakemake" in globals():
    run(main, snakemake)
