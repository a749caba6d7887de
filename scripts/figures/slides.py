"""The value of every test slide, by method, and tests against one of them (HINGE Figures 2 and S5)."""

from flag_st.core.job import run

READS = ("scores",)


def main(job):
    from flag_st.paper.by_slide import by_slide
    from flag_st.paper.collect import read_scores
    from flag_st.paper.experiment import Experiment
    from flag_st.paper.figures import charts, style

    style.use()
    experiment = Experiment.of(job.params.item)
    table = by_slide(experiment, read_scores(job.input.scores))
    style.save(charts.per_slide(table, experiment), table, job.output)


if "snakemake" in globals():
    run(main, snakemake)
