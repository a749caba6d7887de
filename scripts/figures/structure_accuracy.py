"""Structure against accuracy, between a null and the ceiling that the truth itself attains."""

from flag_st.core.job import run

READS = ("scores", "runs", "predictions", "spots")


def main(job):
    import pandas as pd

    from flag_st.paper.ability import add_ability
    from flag_st.paper.collect import read_scores
    from flag_st.paper.experiment import Experiment
    from flag_st.paper.figures import charts, style
    from flag_st.paper.predictions import spot_files, tissues
    from flag_st.paper.reported import read_reported
    from flag_st.paper.rescore import ceilings_of
    from flag_st.paper.summary import numbers_of

    style.use()
    experiment = Experiment.of(job.params.item)
    printed = read_reported(job.input.reported, experiment.reported)
    scores, runs = read_scores(job.input.scores), pd.read_parquet(job.input.runs)
    numbers = numbers_of(experiment, scores, runs, printed)
    ceilings = ceilings_of(tissues(job), spot_files(job))
    numbers = add_ability(numbers, experiment, ceilings)
    style.save(charts.structure_against_accuracy(numbers, experiment), numbers, job.output)


if "snakemake" in globals():
    run(main, snakemake)
