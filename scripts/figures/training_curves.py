"""Training and validation loss of every run that is trained in epochs."""

from flag_st.core.job import run

READS = ("history",)


def main(job):
    from flag_st.paper.experiment import Experiment
    from flag_st.paper.figures import curves, style

    style.use()
    experiment = Experiment.of(job.params.item)
    table, without = curves.read_histories(job.params.of["runs"], job.input.history)
    if len(table):
        figure = curves.draw(table, experiment)
    else:
        names = ", ".join(map(experiment.label, without))
        figure = style.message(f"No method here is trained in epochs: {names}.")
    style.save(figure, table, job.output)


if "snakemake" in globals():
    run(main, snakemake)
