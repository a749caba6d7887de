"""Coverage of predictive intervals, and ranks of the truth among the draws."""

from flag_st.core.job import run

READS = ("scores",)


def main(job):
    from flag_st.paper.collect import read_scores
    from flag_st.paper.experiment import Experiment
    from flag_st.paper.figures import calibration, style

    style.use()
    numbers = calibration.calibration_numbers(read_scores(job.input.scores))
    if len(numbers):
        figure = calibration.draw(numbers, Experiment.of(job.params.item))
    else:
        figure = style.message("The metric coverage was not computed: add it to defaults.metrics.")
    style.save(figure, numbers, job.output)


if "snakemake" in globals():
    run(main, snakemake)
