"""SSC with other numbers of neighbours, on the same predictions (Table 12)."""

from flag_st.core.job import run

READS = ("runs", "predictions", "spots")


def main(job):
    import pandas as pd

    from flag_st.paper.experiment import Experiment
    from flag_st.paper.predictions import pairs
    from flag_st.paper.reported import read_reported
    from flag_st.paper.rescore import ssc_of
    from flag_st.paper.tables.comparison import compare
    from flag_st.paper.tables.render import write

    experiment = Experiment.of(job.params.item)
    printed = read_reported(job.input.reported, experiment.reported)
    metrics = [column.metric for column in experiment.columns]
    neighbours = sorted({int(name.removeprefix("ssc_k")) for name in metrics})
    labels = {f"ssc_k{k}": (f"SSC, k = {k}", 1) for k in neighbours}
    scores, runs = ssc_of(pairs(job), neighbours), pd.read_parquet(job.input.runs)
    write(*compare(experiment, scores, runs, printed, labels), job.output)


if "snakemake" in globals():
    run(main, snakemake)
