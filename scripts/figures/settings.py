"""Metrics against a setting of the method, such as its number of steps (HINGE Figures S7 and S8)."""

from flag_st.core.job import run

READS = ("scores", "runs")


def main(job):
    import pandas as pd

    from flag_st.paper.by_setting import by_setting
    from flag_st.paper.collect import read_scores
    from flag_st.paper.experiment import Experiment
    from flag_st.paper.figures import charts, style
    from flag_st.paper.reported import read_reported
    from flag_st.paper.summary import numbers_of

    style.use()
    experiment = Experiment.of(job.params.item)
    printed = read_reported(job.input.reported, experiment.reported)
    scores, runs = read_scores(job.input.scores), pd.read_parquet(job.input.runs)
    numbers = by_setting(experiment, numbers_of(experiment, scores, runs, printed), runs)
    style.save(charts.against_settings(numbers, experiment), numbers, job.output)


if "snakemake" in globals():
    run(main, snakemake)
