"""The genes of each cohort's panel, most variable first (HINGE Figure S1)."""

from flag_st.core.job import run

READS = ("predictions", "spots")


def main(job):
    from flag_st.paper.experiment import Experiment
    from flag_st.paper.predictions import sections
    from flag_st.paper.tables.genes import gene_sheet
    from flag_st.paper.tables.render import write

    experiment = Experiment.of(job.params.item)
    tissues = {key["cohort"]: tissue for key, tissue, _ in sections(job, experiment)}
    write(*gene_sheet(experiment, tissues), job.output)


if "snakemake" in globals():
    run(main, snakemake)
