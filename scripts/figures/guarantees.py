"""Risk of the most certain spots, and coverage of calibrated intervals on each patient."""

from flag_st.core.job import run

READS = ("scores",)


def main(job):
    from flag_st.paper.collect import read_scores
    from flag_st.paper.experiment import Experiment
    from flag_st.paper.figures import guarantees, style

    style.use()
    experiment = Experiment.of(job.params.item)
    numbers = guarantees.guarantee_numbers(read_scores(job.input.scores), experiment)
    if len(numbers):
        figure = guarantees.draw(numbers, experiment)
    else:
        figure = style.message("Intervals were not scored: add intervals to defaults.metrics.")
    style.save(figure, numbers, job.output)


if "snakemake" in globals():
    run(main, snakemake)
