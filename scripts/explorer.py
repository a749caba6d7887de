"""Write the page on which one test slide per cohort can be explored spot by spot."""

from flag_st.core.job import run


def main(job):
    from flag_st.paper.experiment import Experiment
    from flag_st.paper.predictions import sections
    from flag_st.report.explorer import build

    experiment = Experiment.of(job.params.item)
    build(sections(job, experiment, spread=True), experiment, job.output.page)


if "snakemake" in globals():
    run(main, snakemake)
