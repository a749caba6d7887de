"""Metrics against the number of panel genes (Figures 2 and 4), or against genes per unit of width."""

from flag_st.core.job import run

READS = ("scores", "runs")


def main(job):
    import pandas as pd

    from flag_st.paper.collect import read_scores
    from flag_st.paper.experiment import Experiment
    from flag_st.paper.figures import charts, style
    from flag_st.paper.reported import read_reported
    from flag_st.paper.summary import numbers_of

    style.use()
    experiment = Experiment.of(job.params.item)
    printed = read_reported(job.input.reported, experiment.reported)
    scores, runs = read_scores(job.input.scores), pd.read_parquet(job.input.runs)
    numbers = numbers_of(experiment, scores, runs, printed)
    numbers["size"] = numbers["panel"].map(runs.groupby("panel")["genes"].first())
    draw = charts.OVER[experiment.params.get("over", "genes")]
    style.save(draw(numbers, experiment), numbers, job.output)


if "snakemake" in globals():
    run(main, snakemake)
