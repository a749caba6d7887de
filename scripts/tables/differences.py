"""How far every method is from one of them, with intervals over patients and tests over slides."""

from flag_st.core.job import run

READS = ("scores",)


def main(job):
    from flag_st.paper.collect import read_scores
    from flag_st.paper.experiment import Experiment
    from flag_st.paper.tables.differences import difference_sheet
    from flag_st.paper.tables.render import write

    experiment = Experiment.of(job.params.item)
    write(*difference_sheet(experiment, read_scores(job.input.scores)), job.output)


if "snakemake" in globals():
    run(main, snakemake)
